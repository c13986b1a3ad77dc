//! What the user named, made ready to be pushed: checked as a training would check it, before anything is sent.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;
use trainyard_content::Kind;
use trainyard_data::check::CheckReport;
use trainyard_data::packing::{Packed, PackingList, Unsent, pack};
use trainyard_types::size::{bytes, counted};

use super::bundle::{Bundle, Shown};
use super::naming;
use super::weights_file::{self, WrongFile};
use crate::failure::Failure;
use crate::terminal::{self, clean};

/// The data set of a data.yaml, or of a folder with one.
///
/// # Errors
/// It cannot be trained on, with file and line of what is wrong; it has files that no version may have.
pub async fn data_set(path: &Path, name: Option<&str>) -> Result<Bundle, Failure> {
    let file = naming::data_yaml(path)?;
    let name = name.map_or_else(|| naming::of_data_yaml(&file), naming::given)?;
    let (report, packed) = checked(file.clone()).await?;
    let warnings: Shown =
        report.warnings.iter().map(|warning| format!("warning: {}", clean(warning))).collect();
    warnings.counting(report.warning_count).lines().iter().for_each(|line| terminal::message(line));
    let shown = terminal::shown(&file);
    let count = report.error_count;
    let errors = counted(count, "error");
    Shown::from_iter(report.errors).counting(count).failure(
        &format!("{shown}: {errors}; nothing was sent"),
        "correct what is named and push again; `yard data push --dry-run` checks and sends nothing",
    )?;
    // Without errors it was packed.
    let packed = packed.ok_or_else(|| Failure::usage(format!("{shown} cannot be packed")))?;
    tell_about(&packed);
    refuse_clashes(&packed)?;
    let classes = packed.names.len();
    let description = format!(
        "{}, {classes} class{}",
        counted(packed.images, "image"),
        if classes == 1 { "" } else { "es" }
    );
    let bundle = Bundle { kind: Kind::DataSet, name, description, list: Arc::new(packed.list), source: file };
    bundle.check()?;
    Ok(bundle)
}

/// The check in a thread of its own, so that Ctrl-C ends the command meanwhile.
async fn checked(file: PathBuf) -> Result<(CheckReport, Option<Packed>), Failure> {
    let (done, packed) = oneshot::channel();
    thread::spawn(move || {
        let threads = thread::available_parallelism().map_or(2, usize::from);
        // Whoever asked may be gone.
        let _ = done.send(pack(&file, threads));
    });
    let packed = packed.await.map_err(|_| Failure::local("the check of the data set ended early"))?;
    packed.map_err(|error| Failure::local(error.to_string()).hint("run the same command again"))
}

/// Says what comes from elsewhere, and what stays behind.
fn tell_about(packed: &Packed) {
    for outside in &packed.outside {
        let folder = terminal::shown(&outside.folder);
        terminal::message(&format!("taken along from {folder}, as {}/", outside.taken_as));
    }
    let linked = packed.through_links.iter().map(|folder| terminal::shown(folder));
    let linked: Shown = linked.map(|folder| format!("taken along from {folder}, through links")).collect();
    linked.lines().iter().for_each(|line| terminal::message(line));
    if let Some(text) = unsent(&packed.unsent) {
        terminal::message(&text);
    }
}

/// `not sent: 214 files that the data set does not name (10.2 GiB), largest: videos/a.mp4`.
fn unsent(unsent: &Unsent) -> Option<String> {
    let (largest, _) = unsent.largest.as_ref()?;
    let files = counted(unsent.files, "file");
    let least = if unsent.has_more { "at least " } else { "" };
    let (size, largest) = (bytes(unsent.bytes), terminal::shown(largest));
    Some(format!("not sent: {least}{files} that the data set does not name ({size}), largest: {largest}"))
}

fn refuse_clashes(packed: &Packed) -> Result<(), Failure> {
    let told = |clash: &trainyard_data::packing::SamePath| {
        let [one, other] = clash.files.each_ref().map(|file| terminal::shown(file));
        format!("`{one}` and `{other}` would be one file, `{}`; rename one of them", clean(&clash.path))
    };
    let clashes: Shown = packed.clashes.iter().map(told).collect();
    clashes.failure("some files would be one, and nothing was sent", "correct what is named and push again")
}

/// Weights of a file.
///
/// # Errors
/// It is no file, or holds no weights.
pub fn weights(file: &Path, name: Option<&str>) -> Result<Bundle, Failure> {
    let name = name.map_or_else(|| naming::of_weights(file), naming::given)?;
    let shown = terminal::shown(file);
    let cannot = |error: std::io::Error| Failure::usage(format!("`{shown}` cannot be read: {error}"));
    let path = file.file_name().and_then(|name| name.to_str());
    let path =
        path.ok_or_else(|| Failure::usage(format!("`{shown}` has a name that is no text; rename it")))?;
    let list = PackingList::of_file(file, path).map_err(cannot)?;
    let opened = super::hashing::open_regular(file).map_err(cannot)?;
    match weights_file::check(opened, path).map_err(cannot)? {
        Ok(()) => {}
        Err(WrongFile::NoWeights) => {
            return Err(Failure::usage(format!("`{shown}` holds no weights"))
                .hint("give a .pt file as PyTorch writes it, or a .safetensors file"));
        }
        Err(WrongFile::NotWhole(why)) => {
            return Err(Failure::usage(format!("`{shown}` is not whole: {why}; nothing was sent"))
                .hint("fetch or copy the file again"));
        }
    }
    let description = bytes(list.total_bytes());
    let source = file.to_path_buf();
    let bundle = Bundle { kind: Kind::Weights, name, description, list: Arc::new(list), source };
    bundle.check()?;
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_behind_is_one_sentence() {
        let some = Unsent {
            files: 214,
            bytes: 10_952_166_604,
            largest: Some(("videos/a.mp4".into(), 5)),
            has_more: false,
        };
        let text = "not sent: 214 files that the data set does not name (10.2 GiB), largest: videos/a.mp4";
        assert_eq!(unsent(&some).as_deref(), Some(text));
        assert_eq!(unsent(&Unsent::default()), None);
    }

    #[tokio::test]
    async fn a_folder_without_a_data_yaml_and_one_that_cannot_be_trained_on_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let failure = data_set(folder.path(), None).await.unwrap_err();
        assert!(failure.message.contains("is a folder without a data.yaml"), "{failure:?}");
        std::fs::write(folder.path().join("data.yaml"), "train: images\nval: images\nnames: [a]\n").unwrap();
        let failure = data_set(folder.path(), Some("x")).await.unwrap_err();
        assert_eq!((failure.exit.code(), failure.details.len()), (2, 2), "{failure:?}");
        assert!(failure.details[0].contains("data.yaml:1: `train: images` was not found"), "{failure:?}");
        let failure = data_set(folder.path(), Some("a b")).await.unwrap_err();
        assert!(failure.message.starts_with("--name has the name `a b`"), "{failure:?}");
    }
}
