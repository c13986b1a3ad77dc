//! Opens the store of data sets and weights, and looks after it while the scheduler runs.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::local::LocalFileSystem;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use trainyard_files::create_private_folder;

use super::StartError;
use crate::config::Config;
use crate::content::{Collected, Content, ContentLimits, IsNeeded};
use crate::content_records::VersionRecord;
use crate::driver::{Handle, Role, StateView};
use crate::grpc::jobs_that_need;
use crate::store::RedisStore;

/// How often what is not needed is looked for, at most; and a grace is looked at so many times.
const COLLECT_EVERY: Duration = Duration::from_secs(3600);
const LOOKS_A_GRACE: u32 = 4;
/// An unfinished file that nothing was added to for so long is nobody's any more.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Opens the store in the directory of blobs.
///
/// # Errors
/// The directory cannot be used.
pub(super) fn open(config: &Config, records: Arc<RedisStore>) -> Result<Content, StartError> {
    let path = config.blobs().join("content");
    let error = |cause| StartError::Blobs { path: path.clone(), cause };
    create_private_folder(&path).and_then(|()| remove_unfinished(&path)).map_err(error)?;
    let objects = LocalFileSystem::new_with_prefix(&path).map_err(|cause| error(io::Error::other(cause)))?;
    let limits = ContentLimits {
        user_bytes: (config.data_quota_gib > 0).then(|| u64::from(config.data_quota_gib) << 30),
        grace: config.data_grace,
    };
    Ok(Content::new(records, Arc::new(objects.with_fsync(true)), limits))
}

/// Removes what processes that were killed left half-written: files of names with a `#`, which no object has.
fn remove_unfinished(root: &Path) -> io::Result<()> {
    for folder in std::fs::read_dir(root)? {
        let folder = folder?.path();
        for file in if folder.is_dir() { std::fs::read_dir(folder)? } else { continue } {
            let file = file?;
            let is_unfinished = file.file_name().to_string_lossy().contains('#');
            let age = SystemTime::now().duration_since(file.metadata()?.modified()?).unwrap_or_default();
            if is_unfinished && age > ABANDONED {
                std::fs::remove_file(file.path())?;
            }
        }
    }
    Ok(())
}

/// Reads anew what others have written when this scheduler comes to lead, and while it leads removes what nobody needs.
pub(super) async fn tend(
    content: Content,
    driver: Handle,
    mut role: watch::Receiver<Role>,
    grace: Duration,
    closing: CancellationToken,
) {
    let every = (grace / LOOKS_A_GRACE).clamp(Duration::from_secs(1), COLLECT_EVERY);
    let is_needed: Box<IsNeeded> = Box::new(move |version: &VersionRecord| {
        let (driver, wanted) = (driver.clone(), [version.reference().to_string()]);
        let ask = move |state: &mut StateView<'_>| !jobs_that_need(state, &wanted).is_empty();
        // What cannot be told stays.
        Box::pin(async move { driver.ask_leader(ask).await.unwrap_or(true) })
    });
    let tend = async {
        let mut due = Instant::now() + every;
        loop {
            match timeout_at(due, role.changed()).await {
                Ok(Ok(())) if role.borrow_and_update().leads() => content.forget_places(),
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    due = Instant::now() + every;
                    if role.borrow().leads() {
                        collect(&content, &is_needed).await;
                    }
                }
            }
        }
    };
    closing.run_until_cancelled(tend).await;
}

async fn collect(content: &Content, is_needed: &IsNeeded) {
    match content.collect(SystemTime::now(), is_needed).await {
        Ok(collected) if collected != Collected::default() => {
            let Collected { versions, packs, manifests } = collected;
            info!(versions, packs, manifests, "removed what no data set or weights need any more");
        }
        Ok(_) => {}
        Err(error) => warn!(%error, "data sets cannot be tidied up now, will try again"),
    }
}
