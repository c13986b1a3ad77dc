//! Downloads of artifacts: resumed where they stopped, verified, renamed into place, never outside the
//! folder that was named.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};
use trainyard_proto::pb;
use trainyard_proto::route::Next;

use crate::client::{Client, jittered};
use crate::failure::{Exit, Failure, is_temporary};
use crate::terminal::clean;

/// How often a download that broke off is taken up again without any progress in between.
const TRIES: u32 = 5;

/// What became of an artifact.
#[derive(Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The artifact was fetched to this path.
    Downloaded(PathBuf),
    /// This path held the artifact before.
    Present(PathBuf),
}

impl Fetched {
    /// Where the artifact lies.
    pub fn path(&self) -> &Path {
        match self {
            Self::Downloaded(path) | Self::Present(path) => path,
        }
    }
}

/// The path below a folder that `name` means. `None` if it would leave the folder, or could not be
/// told from its neighbours.
pub fn relative_path(name: &str) -> Option<PathBuf> {
    let plain = !name.is_empty() && name.len() <= 1024 && name == clean(name) && !name.contains(['\\', ':']);
    let path = Path::new(name);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    // `a//b` and `a/.` have the components of other names.
    let exact = path.components().collect::<PathBuf>().to_str() == Some(name);
    (plain && inside && exact).then(|| path.to_owned())
}

/// Fetches `artifact` of `job` to `dir`, unless it lies there already.
///
/// # Errors
/// A name that leaves `dir`; another file in its place without `force`; content that is not what was
/// promised; no server.
pub async fn fetch(
    client: &Client,
    job: &str,
    artifact: &pb::Artifact,
    dir: &Path,
    force: bool,
) -> Result<Fetched, Failure> {
    let name = clean(&artifact.name);
    let below = relative_path(&artifact.name).ok_or_else(|| {
        Failure::new(
            Exit::Refused,
            format!("artifact `{name}` was not fetched: its name leads out of the folder"),
        )
    })?;
    let target = dir.join(&below);
    let at = |error: std::io::Error| Failure::local(format!("{}: {error}", target.display()));
    let parent = make_folders(dir, below.parent().unwrap_or(Path::new(""))).map_err(at)?;
    if target.symlink_metadata().is_ok() {
        if target.is_file() && hash_file(&target).map_err(at)?.0 == artifact.sha256 {
            return Ok(Fetched::Present(target));
        }
        if !force {
            return Err(Failure::local(format!("{} is there with other content", target.display()))
                .hint("name another folder with `--dir`, or replace it with `--force`"));
        }
    }
    let part = parent.join(format!(".{}.part", artifact.sha256.get(..16).unwrap_or("download")));
    download(client, job, artifact, &part).await?;
    let (hash, _) = hash_file(&part).map_err(at)?;
    if hash != artifact.sha256 {
        // What lies there is worth nothing as a beginning either.
        fs::remove_file(&part).map_err(at)?;
        let text = format!("artifact `{name}`: its SHA-256 is {hash}, not {}", clean(&artifact.sha256));
        return Err(Failure::new(Exit::Refused, text).hint("nothing was kept; try again"));
    }
    fs::rename(&part, &target).map_err(at)?;
    Ok(Fetched::Downloaded(target))
}

/// Makes `below` in `dir`, and refuses a link in the way that leads out of `dir`.
pub(crate) fn make_folders(dir: &Path, below: &Path) -> std::io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let root = dir.canonicalize()?;
    let mut folder = dir.to_owned();
    for part in below.components() {
        folder.push(part);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !folder.canonicalize()?.starts_with(&root) {
            return Err(std::io::Error::other(format!(
                "{} leads out of {}",
                folder.display(),
                dir.display()
            )));
        }
    }
    Ok(folder)
}

/// SHA-256 in lower-case hexadecimal, and the length.
fn hash_file(path: &Path) -> std::io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut length = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((hex::encode(hasher.finalize()), length));
        }
        hasher.update(&buffer[..count]);
        length += count as u64;
    }
}

/// Appends to `part` until it is complete; what breaks off is taken up again.
async fn download(client: &Client, job: &str, artifact: &pb::Artifact, part: &Path) -> Result<(), Failure> {
    let mut failed = 0;
    loop {
        let before = part.metadata().map_or(0, |metadata| metadata.len());
        if before > artifact.size_bytes {
            fs::remove_file(part)?;
            continue;
        }
        if before == artifact.size_bytes && before > 0 {
            return Ok(());
        }
        let Err(status) = append(client, job, artifact, part, before).await? else { return Ok(()) };
        let after = part.metadata().map_or(0, |metadata| metadata.len());
        failed = if after > before { 1 } else { failed + 1 };
        if !is_temporary(&status) || failed >= TRIES {
            return Err(client.failure(&status));
        }
        if client.fail_over(&status) != Next::Now {
            tokio::time::sleep(jittered(std::time::Duration::from_millis(200 << failed))).await;
        }
    }
}

/// One stream from `offset` to its end. The outer error is of this machine's disk or the server's
/// protocol, the inner one of the stream.
async fn append(
    client: &Client,
    job: &str,
    artifact: &pb::Artifact,
    part: &Path,
    offset: u64,
) -> Result<Result<(), tonic::Status>, Failure> {
    let mut file = OpenOptions::new().create(true).append(true).open(part)?;
    let request = pb::DownloadArtifactRequest {
        job_id: job.to_owned(),
        name: artifact.name.clone(),
        offset,
        sha256: String::new(),
    };
    let mut stream = match client.artifacts().download_artifact(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    let mut position = offset;
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(status) => return Ok(Err(status)),
        };
        if message.offset != position || position + message.data.len() as u64 > artifact.size_bytes {
            let text =
                format!("artifact `{}`: the server sent other bytes than announced", clean(&artifact.name));
            return Err(Failure::new(Exit::Refused, text));
        }
        file.write_all(&message.data)?;
        position += message.data.len() as u64;
    }
    file.sync_all()?;
    if position == artifact.size_bytes {
        Ok(Ok(()))
    } else {
        Ok(Err(tonic::Status::unavailable("the download ended early")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_below_its_folder_or_is_refused() {
        for good in ["results.csv", "weights/best.safetensors", "a..b/c", ".hidden"] {
            assert_eq!(relative_path(good).as_deref(), Some(Path::new(good)));
        }
        let hostile = [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/..",
            "./x",
            "a//b",
            "a/",
            ".",
            "..",
            "a\\..\\x",
            "C:x",
            "a\nb",
            "\x1b[2J",
            "a\0b",
        ];
        for name in hostile {
            assert_eq!(relative_path(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_link_does_not_lead_out_of_the_folder() {
        let root = tempfile::tempdir().unwrap();
        let (dir, outside) = (root.path().join("dir"), root.path().join("outside"));
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir_all(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, dir.join("weights")).unwrap();
        assert!(make_folders(&dir, Path::new("weights/deep")).is_err());
        assert!(!outside.join("deep").exists());
        assert_eq!(make_folders(&dir, Path::new("a/b")).unwrap(), dir.join("a/b"));
    }
}
