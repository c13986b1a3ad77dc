//! Opens the store of data sets and weights, and looks after it while the scheduler runs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::blobs::Blobs;
use crate::config::Config;
use crate::content::{Collected, Content, ContentLimits, IsNeeded};
use crate::content_records::VersionRecord;
use crate::driver::{Handle, Role, StateView};
use crate::grpc::jobs_that_need;
use crate::objects::Objects;
use crate::store::RedisStore;

/// How often what is not needed is looked for, at most; and a grace is looked at so many times.
const COLLECT_EVERY: Duration = Duration::from_secs(3600);
const LOOKS_A_GRACE: u32 = 4;
/// The folder of data sets and weights among the objects.
const FOLDER: &str = "content";

/// Opens the store beside the blobs.
pub(super) fn open(config: &Config, objects: &Objects, records: Arc<RedisStore>) -> Content {
    let limits = ContentLimits {
        user_bytes: (config.data_quota_gib > 0).then(|| u64::from(config.data_quota_gib) << 30),
        grace: config.data_grace,
    };
    Content::new(records, objects.below(FOLDER), limits)
}

/// Reads anew what others have written when this scheduler comes to lead, and while it leads removes what nobody needs.
pub(super) async fn tend(
    (content, blobs): (Content, Blobs),
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
                    let leads = role.borrow().leads();
                    // What belongs to another store is not ours to remove.
                    if leads && blobs.is_the_same().await {
                        blobs.tidy().await;
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
            let Collected { versions, packs, manifests, repacked } = collected;
            info!(versions, packs, manifests, repacked, "removed what no data set or weights need any more");
        }
        Ok(_) => {}
        Err(error) => warn!(%error, "data sets cannot be tidied up now, will try again"),
    }
}
