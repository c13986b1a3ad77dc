//! What the user named, made ready to be pushed: checked as a training would check it, before anything is sent.

use std::io::Read;
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
    let shown = clean(&file.display().to_string());
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
        let folder = clean(&outside.folder.display().to_string());
        terminal::message(&format!("taken along from {folder}, as {}/", outside.taken_as));
    }
    if let Some(text) = unsent(&packed.unsent) {
        terminal::message(&text);
    }
}

/// `not sent: 214 files that the data set does not name (10.2 GiB), largest: videos/a.mp4`.
fn unsent(unsent: &Unsent) -> Option<String> {
    let (largest, _) = unsent.largest.as_ref()?;
    let files = counted(unsent.files, "file");
    let least = if unsent.has_more { "at least " } else { "" };
    let (size, largest) = (bytes(unsent.bytes), clean(&largest.display().to_string()));
    Some(format!("not sent: {least}{files} that the data set does not name ({size}), largest: {largest}"))
}

fn refuse_clashes(packed: &Packed) -> Result<(), Failure> {
    let told = |clash: &trainyard_data::packing::SamePath| {
        let [one, other] = clash.files.each_ref().map(|file| file.display());
        format!("`{one}` and `{other}` would be one file, `{}`; rename one of them", clash.path)
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
    let shown = clean(&file.display().to_string());
    let cannot = |error: std::io::Error| Failure::usage(format!("`{shown}` cannot be read: {error}"));
    let path = file.file_name().and_then(|name| name.to_str());
    let path =
        path.ok_or_else(|| Failure::usage(format!("`{shown}` has a name that is no text; rename it")))?;
    let list = PackingList::of_file(file, path).map_err(cannot)?;
    let mut head = [0; 9];
    let head_bytes =
        super::hashing::open_regular(file).and_then(|mut opened| opened.read(&mut head)).map_err(cannot)?;
    if !is_weights(path, &head[..head_bytes]) {
        return Err(Failure::usage(format!("`{shown}` holds no weights"))
            .hint("give a .pt file as PyTorch writes it, or a .safetensors file"));
    }
    let description = bytes(list.total_bytes());
    let source = file.to_path_buf();
    let bundle = Bundle { kind: Kind::Weights, name, description, list: Arc::new(list), source };
    bundle.check()?;
    Ok(bundle)
}

/// Whether a file of this name that begins so may be weights: a page of a web server that is called so is none.
fn is_weights(name: &str, head: &[u8]) -> bool {
    let ending = Path::new(name).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    match ending.to_ascii_lowercase().as_str() {
        // An archive, or a pickle as old versions wrote it.
        "pt" | "pth" => head.starts_with(b"PK\x03\x04") || head.starts_with(&[0x80]),
        // Eight bytes of length, then JSON.
        "safetensors" => head.get(8) == Some(&b'{'),
        _ => false,
    }
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

    #[test]
    fn a_web_page_is_no_weights() {
        assert!(is_weights("a.pt", b"PK\x03\x04....."));
        assert!(is_weights("a.safetensors", b"\x40\0\0\0\0\0\0\0{"));
        for (name, head) in [
            ("a.pt", &b"<!doctype"[..]),
            ("a.safetensors", b"<!doctype"),
            ("a.pt", b""),
            ("a.zip", b"PK\x03\x04"),
        ] {
            assert!(!is_weights(name, head), "{name}");
        }
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
