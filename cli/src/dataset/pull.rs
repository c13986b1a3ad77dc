//! A pull: the files of a version into a folder, several at a time, each checked by its hash before it gets its name.
//! What is there already is not fetched again, and nothing of another content is replaced.

mod fetch;
mod folder;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;
use trainyard_content::{Digest, Kind, Manifest};
use trainyard_proto::pb;
use trainyard_types::size::{bytes, counted};

use self::fetch::{Fetch, Run};
use self::folder::{Folder, Present};
use super::hash_cache::HashCache;
use super::progress::Progress;
use super::store;
use crate::commands::Context;
use crate::failure::Failure;
use crate::terminal;

/// Streams at once.
const STREAMS: usize = 4;
/// Bytes of the files that one stream fetches; a larger file has a stream of its own.
const STREAM_BYTES: u64 = 32 << 20;
/// Files of one stream at most.
const STREAM_FILES: usize = 4096;

/// The folder and the numbers of files that a pull ends with.
#[derive(Debug)]
pub struct Pulled {
    /// The folder that the files lie in.
    pub folder: PathBuf,
    pub files: usize,
    /// Files that had to be fetched.
    pub fetched: usize,
}

/// Fetches the files of a version into `target`.
///
/// # Errors
/// The folder has other files; the scheduler cannot be reached, or sends something else than it promised.
pub async fn pull(
    context: &Context,
    kind: Kind,
    dataset: &pb::Dataset,
    target: &Path,
) -> Result<Pulled, Failure> {
    "stopped; the same command goes on where this one was".clone_into(&mut context.on_interrupt.borrow_mut());
    let manifest = Arc::new(store::manifest(&context.client, kind, dataset).await?);
    let folder = Arc::new(Folder::open(target, kind, dataset)?);
    let missing = missing_files(&folder, &manifest).await?;
    let sizes = missing.iter().filter_map(|at| manifest.get(*at)).map(|file| file.size_bytes);
    let total: u64 = sizes.sum();
    let there = manifest.len() - missing.len();
    if there > 0 && !missing.is_empty() {
        terminal::message(&format!(
            "{} of {} here already; fetching {}, {}",
            there,
            counted(manifest.len(), "file"),
            missing.len(),
            bytes(total)
        ));
    }
    let progress = Arc::new(Progress::new(context.output, "fetching", total));
    let fetch = Fetch {
        client: context.client.clone(),
        kind,
        dataset: dataset.clone(),
        manifest: Arc::clone(&manifest),
        folder: Arc::clone(&folder),
        progress: Arc::clone(&progress),
    };
    all_runs(&fetch, runs(&manifest, &missing)).await?;
    if !missing.is_empty() {
        progress.message(&format!(
            "fetched {}, {}, {}",
            counted(missing.len(), "file"),
            bytes(total),
            progress.rate()
        ));
    }
    Ok(Pulled { folder: target.to_path_buf(), files: manifest.len(), fetched: missing.len() })
}

/// The files that are not there with their content.
async fn missing_files(folder: &Arc<Folder>, manifest: &Arc<Manifest>) -> Result<Vec<usize>, Failure> {
    let (folder, manifest) = (Arc::clone(folder), Arc::clone(manifest));
    let look = move || {
        let cache = HashCache::load(folder.path());
        let mut seen = Vec::new();
        let mut missing = Vec::new();
        let mut others = super::bundle::Shown::default();
        for (at, file) in manifest.entries().enumerate() {
            match folder.look(file, &cache, &mut seen) {
                Present::Same => {}
                Present::No => missing.push(at),
                Present::Other(what) => others.add(what),
            }
        }
        cache.save(seen, false);
        others
            .failure(
                &format!(
                    "{} has files of other content; nothing was fetched",
                    terminal::shown(folder.path())
                ),
                "name another folder with --dir, or move these files away",
            )
            .map_err(|failure| Failure { exit: crate::failure::Exit::Failed, ..failure })?;
        Ok(missing)
    };
    tokio::task::spawn_blocking(look).await.map_err(|error| Failure::local(error.to_string()))?
}

/// Missing files, in portions that one stream fetches.
fn runs(manifest: &Manifest, missing: &[usize]) -> Vec<Run> {
    let mut runs: Vec<(Run, u64)> = Vec::new();
    for at in missing {
        let size = manifest.get(*at).map_or(0, |file| file.size_bytes);
        match runs.last_mut().filter(|(run, total)| total + size <= STREAM_BYTES && run.len() < STREAM_FILES)
        {
            Some((run, total)) => {
                run.push(*at);
                *total += size;
            }
            None => runs.push((vec![*at], size)),
        }
    }
    runs.into_iter().map(|(run, _)| run).collect()
}

/// Fetches all runs, some at once.
async fn all_runs(fetch: &Fetch, runs: Vec<Run>) -> Result<(), Failure> {
    let mut waiting = runs.into_iter();
    let mut active = JoinSet::new();
    loop {
        while active.len() < STREAMS
            && let Some(run) = waiting.next()
        {
            let fetch = fetch.clone();
            active.spawn(async move { fetch.run(&run).await });
        }
        match active.join_next().await {
            None => return Ok(()),
            // The others end with this function.
            Some(done) => done.map_err(|error| Failure::local(error.to_string()))??,
        }
    }
}

/// Said of bytes that do not have the hash that was promised.
fn wrong_content(path: &str, digest: Digest) -> Failure {
    let text = format!("`{}`: what came does not have the SHA-256 {digest}", terminal::clean(path));
    Failure::new(crate::failure::Exit::Refused, text)
        .hint("nothing of it was kept; try again, and if it stays so, tell who runs the cluster")
}

#[cfg(test)]
mod tests {
    use trainyard_content::Builder;

    use super::*;

    #[test]
    fn small_files_share_a_stream_and_large_ones_have_their_own() {
        let mut builder = Builder::new(Kind::DataSet);
        for (path, size) in
            [("a", 10), ("b", STREAM_BYTES + 1), ("c", 20), ("d", STREAM_BYTES - 20), ("data.yaml", 5)]
        {
            builder.add(path, size, Digest([0; 32])).unwrap();
        }
        let manifest = builder.finish().unwrap();
        assert_eq!(runs(&manifest, &[0, 1, 2, 3, 4]), [vec![0], vec![1], vec![2, 3], vec![4]]);
        assert_eq!(runs(&manifest, &[2, 4]), [vec![2, 4]]);
        assert_eq!(runs(&manifest, &[]), Vec::<Run>::new());
    }
}
