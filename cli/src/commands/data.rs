//! `yard data` and `yard weights`: what the cluster's store has.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use trainyard_content::Kind;
use trainyard_proto::pb;
use trainyard_types::reference::Reference;
use trainyard_types::train::JOB_WEIGHTS;

use crate::commands::Context;
use crate::dataset::bundle::Bundle;
use crate::dataset::{preflight, pull, push, store};
use crate::failure::{Exit, Failure, NOT_FOUND_HINT};
use crate::proto_json::to_json;
use crate::render;
use crate::terminal::{self, clean};

/// Push data sets to the cluster, list, show, fetch and remove them
///
/// A data set is pushed under a name. Each push of other content is a new version of that name; jobs keep the version that
/// they were submitted with.
#[derive(Debug, Args)]
pub struct DataCommand {
    #[command(subcommand)]
    order: DataOrder,
}

#[derive(Debug, Subcommand)]
enum DataOrder {
    /// Check a data set, send what the cluster does not have, and print the version
    Push(Push),
    #[command(flatten)]
    Stored(Stored),
}

/// Push weights to begin with to the cluster, list, show, fetch and remove them
#[derive(Debug, Args)]
pub struct WeightsCommand {
    #[command(subcommand)]
    order: WeightsOrder,
}

#[derive(Debug, Subcommand)]
enum WeightsOrder {
    /// Send a weights file if the cluster does not have it, and print the version
    Push(PushWeights),
    #[command(flatten)]
    Stored(Stored),
}

#[derive(Debug, Args)]
struct Push {
    /// A data.yaml, or a folder with one
    path: PathBuf,
    /// What to call it [default: the folder's name]
    #[arg(long)]
    name: Option<String>,
    /// Check it and print the version that it would be; send nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct PushWeights {
    /// A .pt or .safetensors file
    file: PathBuf,
    /// What to call it [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    /// Check it and print the version that it would be; send nothing
    #[arg(long)]
    dry_run: bool,
}

/// What is done with what is stored.
#[derive(Debug, Subcommand)]
enum Stored {
    /// List the newest version of each name, or all versions of one
    List(List),
    /// Show a version
    Show(Show),
    /// Fetch a version's files
    Pull(Pull),
    /// Remove a version, or a name with all its versions; refused while a job needs it
    Rm(Remove),
}

#[derive(Debug, Args)]
struct List {
    /// Only this name, with all its versions
    name: Option<String>,
}

#[derive(Debug, Args)]
struct Show {
    /// Which one: NAME for the newest, or NAME@VERSION with the version's first digits
    #[arg(value_name = "NAME[@VERSION]", value_parser = reference)]
    which: Reference,
    /// List its files, too
    #[arg(long)]
    files: bool,
}

#[derive(Debug, Args)]
struct Pull {
    /// Which one: NAME for the newest, or NAME@VERSION with the version's first digits
    #[arg(value_name = "NAME[@VERSION]", value_parser = reference)]
    which: Reference,
    /// Where to: of a data set a folder that is empty or not there [default: ./NAME; of weights this folder]
    #[arg(short, long)]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Remove {
    /// Which one: NAME for all its versions, or NAME@VERSION with the version's first digits
    #[arg(value_name = "NAME[@VERSION]", value_parser = reference)]
    which: Reference,
}

fn reference(text: &str) -> Result<Reference, String> {
    if let Some(job) = text.strip_prefix(JOB_WEIGHTS) {
        return Err(format!(
            "names a job; `yard artifacts {job} get weights/best.safetensors` fetches its best weights"
        ));
    }
    text.parse().map_err(|error: trainyard_types::reference::ReferenceError| error.to_string())
}

impl DataCommand {
    /// Does what was ordered.
    ///
    /// # Errors
    /// The data set cannot be trained on; the scheduler refuses or cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.order {
            DataOrder::Push(Push { path, name, dry_run }) => {
                let bundle = preflight::data_set(&path, name.as_deref()).await?;
                push_bundle(context, &bundle, dry_run).await
            }
            DataOrder::Stored(stored) => stored.run(context, Kind::DataSet).await,
        }
    }
}

impl WeightsCommand {
    /// Does what was ordered.
    ///
    /// # Errors
    /// The file holds no weights; the scheduler refuses or cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.order {
            WeightsOrder::Push(PushWeights { file, name, dry_run }) => {
                let bundle = preflight::weights(&file, name.as_deref())?;
                push_bundle(context, &bundle, dry_run).await
            }
            WeightsOrder::Stored(stored) => stored.run(context, Kind::Weights).await,
        }
    }
}

async fn push_bundle(context: &Context, bundle: &Bundle, dry_run: bool) -> Result<(), Failure> {
    let dataset =
        if dry_run { push::rehearse(context, bundle).await? } else { push::push(context, bundle).await? };
    if !context.output.for_people() {
        return context.output.document(&to_json("Dataset", &dataset));
    }
    context.output.line(&push::shown(&dataset))?;
    let use_it = match bundle.kind {
        Kind::DataSet => format!("`yard train {}` trains on it", bundle.name),
        Kind::Weights => format!("`yard train DATA --pretrained {}` begins with it", bundle.name),
    };
    terminal::message(&if dry_run { "nothing was sent".to_owned() } else { format!("stored; {use_it}") });
    Ok(())
}

impl Stored {
    async fn run(self, context: &Context, kind: Kind) -> Result<(), Failure> {
        match self {
            Self::List(List { name }) => list(context, kind, name.as_deref()).await,
            Self::Show(Show { which, files }) => show(context, kind, &which, files).await,
            Self::Pull(Pull { which, dir }) => pull_version(context, kind, &which, dir).await,
            Self::Rm(Remove { which }) => remove(context, kind, &which).await,
        }
    }
}

async fn list(context: &Context, kind: Kind, name: Option<&str>) -> Result<(), Failure> {
    let versions = store::list(&context.client, kind, name).await?;
    if let Some(name) = name.filter(|_| versions.is_empty()) {
        return Err(no_such_name(context, kind, name).await);
    }
    if !context.output.for_people() {
        let versions: Vec<Value> = versions.iter().map(|one| to_json("Dataset", one)).collect();
        return context.output.list(&json!({ "datasets": versions }), "datasets");
    }
    if versions.is_empty() {
        let (what, command) = match kind {
            Kind::DataSet => ("data sets", "yard data push DIR"),
            Kind::Weights => ("weights", "yard weights push FILE"),
        };
        terminal::message(&format!("no {what}; `{command}` stores some"));
        return Ok(());
    }
    let table = match name {
        Some(_) => render::dataset::versions(context.output, &versions),
        None => render::dataset::names(context.output, &versions),
    };
    context.output.line(&table)
}

/// As `show` says of a name that nothing has: the scheduler knows what comes near to it.
async fn no_such_name(context: &Context, kind: Kind, name: &str) -> Failure {
    if let Ok(reference) = name.parse::<Reference>()
        && reference.version().is_empty()
        && let Err(failure) = store::get(&context.client, kind, &reference).await
    {
        return failure;
    }
    let are = if kind == Kind::Weights { "are no weights" } else { "is no data set" };
    let text = format!("there {are} called `{}`", clean(name));
    store::advised(Failure::new(Exit::Refused, text).hint(NOT_FOUND_HINT), kind)
}

async fn show(context: &Context, kind: Kind, which: &Reference, files: bool) -> Result<(), Failure> {
    let dataset = store::get(&context.client, kind, which).await?;
    let manifest = if files { Some(store::manifest(&context.client, kind, &dataset).await?) } else { None };
    if context.output.for_people() {
        context.output.line(&render::dataset::version(&dataset))?;
        for file in manifest.iter().flat_map(|manifest| manifest.entries()) {
            context.output.line(&render::dataset::file(file))?;
        }
        return Ok(());
    }
    let Some(manifest) = manifest else { return context.output.document(&to_json("Dataset", &dataset)) };
    let file = |file: trainyard_content::Entry<'_>| json!({ "path": file.path, "sizeBytes": file.size_bytes.to_string(), "sha256": file.digest.to_string() });
    let files: Vec<Value> = manifest.entries().map(file).collect();
    context.output.list(&json!({ "dataset": to_json("Dataset", &dataset), "files": files }), "files")
}

async fn pull_version(
    context: &Context,
    kind: Kind,
    which: &Reference,
    dir: Option<PathBuf>,
) -> Result<(), Failure> {
    let dataset = store::get(&context.client, kind, which).await?;
    let dir = dir.unwrap_or_else(|| match kind {
        Kind::DataSet => PathBuf::from(which.name()),
        Kind::Weights => PathBuf::from("."),
    });
    let pulled = pull::pull(context, kind, &dataset, &dir).await?;
    let folder = pulled.folder.display().to_string();
    if !context.output.for_people() {
        return context.output.document(&json!({
            "dataset": to_json("Dataset", &dataset),
            "dir": folder,
            "files": pulled.files,
            "fetched": pulled.fetched,
        }));
    }
    context.output.line(&clean(&folder))?;
    if pulled.fetched == 0 {
        terminal::message(&format!("{} was there already", push::shown(&dataset)));
    }
    Ok(())
}

async fn remove(context: &Context, kind: Kind, which: &Reference) -> Result<(), Failure> {
    let gone: Vec<pb::Dataset> = store::delete(&context.client, kind, which).await?;
    if !context.output.for_people() {
        let gone: Vec<Value> = gone.iter().map(|one| to_json("Dataset", one)).collect();
        return context.output.list(&json!({ "datasets": gone }), "datasets");
    }
    for dataset in &gone {
        context.output.line(&format!("removed {}", push::shown(dataset)))?;
    }
    Ok(())
}
