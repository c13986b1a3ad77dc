//! What a training reads: its data set, and the weights that it begins with. Names of the store stay names, paths become
//! absolute.

use std::path::Path;

use trainyard_content::Kind;
use trainyard_proto::pb;
use trainyard_types::Reference;
use trainyard_types::train::JOB_WEIGHTS;

use crate::commands::submit::{draw_request_id, submit_job};
use crate::commands::{Context, sweep};
use crate::dataset::naming::{self, Named};
use crate::dataset::{preflight, push, store};
use crate::failure::Failure;
use crate::proto_json::to_json;
use crate::terminal;
use crate::values::absolute_path;

/// What the job's spec says of its data set, and the name that the job has when the user gives none. With `push` the word
/// is a path, as only those can be pushed.
///
/// # Errors
/// A folder that holds no data set, a name that is none.
pub fn data_and_name(word: &Path, push: bool) -> Result<(String, String), Failure> {
    if !push && let Named::InStore(reference) = naming::named(word)? {
        naming::tell_name_apart(word, "data set");
        return Ok((reference.to_string(), reference.name().to_owned()));
    }
    let file = naming::data_yaml(&absolute_path(word))?;
    let folder = file.parent().and_then(Path::file_name).unwrap_or_default();
    Ok((file.to_string_lossy().into_owned(), folder.to_string_lossy().into_owned()))
}

/// A path that is on no machine: nothing lies in a file.
const NO_DATA: &str = "/dev/null/data.yaml";
/// How a violation begins that is about the data set.
const ABOUT_DATA: &str = "spec.train.data: ";

/// Has the scheduler check everything of a job but its data set, which it does not have yet: a push may take hours.
///
/// # Errors
/// The job would be refused; the scheduler cannot be reached.
pub async fn check_before_push(
    context: &Context,
    mut spec: pb::JobSpec,
    sweep: &[pb::SweepAxis],
) -> Result<(), Failure> {
    NO_DATA.clone_into(&mut spec.train.get_or_insert_default().data);
    let checked = if sweep.is_empty() {
        submit_job(&context.client, &draw_request_id(), spec, true).await.map(drop)
    } else {
        sweep::ask(context, spec, sweep.to_vec(), true).await.map(drop)
    };
    let is_data_alone = |failure: &Failure| match &failure.details[..] {
        [] => failure.message.starts_with(ABOUT_DATA),
        fields => fields.iter().all(|field| field.starts_with(ABOUT_DATA)),
    };
    match checked {
        Err(failure) if !is_data_alone(&failure) => Err(failure.details(["nothing was pushed".to_owned()])),
        _ => Ok(()),
    }
}

/// Pushes a data set of this machine, once it and the rest of the job are found to be right. Returns its version; nothing
/// where a dry run is over, since a version that is not stored cannot be trained on.
///
/// # Errors
/// It cannot be trained on; the job is wrong; the scheduler refuses or cannot be reached.
pub async fn push_data(
    context: &Context,
    word: &Path,
    checked: impl Future<Output = Result<(), Failure>>,
    dry_run: bool,
) -> Result<Option<Reference>, Failure> {
    if !word.exists() {
        let word = terminal::clean(&word.display().to_string());
        return Err(Failure::usage(format!("--push: `{word}` is not on this machine"))
            .hint("give a data.yaml or a folder with one; what is pushed already needs no --push"));
    }
    checked.await?;
    let bundle = preflight::data_set(word, None).await?;
    let dataset =
        if dry_run { push::rehearse(context, &bundle).await? } else { push::push(context, &bundle).await? };
    let version = Reference::exact(&dataset.name, &dataset.version);
    context.on_interrupt.borrow_mut().clear();
    if !dry_run {
        terminal::message(&format!("stored as {}", push::shown(&dataset)));
        return Ok(Some(version));
    }
    if store::get(&context.client, Kind::DataSet, &version).await.is_ok() {
        return Ok(Some(version));
    }
    let shown = push::shown(&dataset);
    terminal::message(&format!(
        "it would be stored as {shown}; nothing was sent, and the job is valid as far as it is known without it"
    ));
    context.output.document(&to_json("Dataset", &dataset))?;
    Ok(None)
}

/// Weights as the job's spec names them: in the store, of a job, or by an absolute path. Empty, it begins from scratch.
///
/// # Errors
/// A name that is none.
pub fn weights_in_full(text: &str) -> Result<String, Failure> {
    let word = Path::new(text);
    if text.is_empty() || (text.starts_with(JOB_WEIGHTS) && !word.exists()) {
        return Ok(text.to_owned());
    }
    match naming::named(word)? {
        Named::InStore(reference) => {
            naming::tell_name_apart(word, "weights");
            Ok(reference.to_string())
        }
        Named::Path(path) => Ok(absolute_path(&path).to_string_lossy().into_owned()),
    }
}

/// `job:ID` with the whole id, of which people write the beginning; anything else as it is.
///
/// # Errors
/// There is no such job, or more than one.
pub async fn with_whole_job_id(context: &Context, pretrained: &str) -> Result<String, Failure> {
    match pretrained.strip_prefix(JOB_WEIGHTS) {
        Some(id) => Ok(format!("{JOB_WEIGHTS}{}", context.client.job_id(id).await?)),
        None => Ok(pretrained.to_owned()),
    }
}
