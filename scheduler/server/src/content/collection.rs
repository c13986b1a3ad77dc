//! Removes what no version needs, in two steps: condemned first, removed when it was for as long as a push may pause. Then
//! packs are written anew of which little is needed.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use object_store::ObjectStoreExt as _;
use tracing::warn;
use uuid::Uuid;

use super::catalog::Catalog;
use super::places::Places;
use super::{Content, ContentError, packs};
use crate::content_records::VersionRecord;

/// Tells whether a job that is not over needs a version.
pub type IsNeeded = dyn Fn(&VersionRecord) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync;

/// Numbers of versions and objects that a collection has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Versions of jobs' weights that no job needs.
    pub versions: usize,
    pub packs: usize,
    pub manifests: usize,
    /// Packs of which the little that versions need was written anew.
    pub repacked: usize,
}

impl Content {
    /// Removes once what no version and no job needs.
    ///
    /// # Errors
    /// The stores. What was removed until then is removed.
    pub async fn collect(&self, now: SystemTime, is_needed: &IsNeeded) -> Result<Collected, ContentError> {
        let grace = self.0.limits.grace;
        let mut collected =
            Collected { versions: self.drop_jobs_weights(now, is_needed).await?, ..Collected::default() };
        let places = self.places().await?;
        // A push that ends from here on may have changed the records after they are read.
        let moment = places.moment();
        self.refresh().await?;
        let live = self.live();
        if self.must_read_packs_anew(&places, &live) {
            self.forget_places();
            return Ok(collected);
        }
        for pack in places.condemn(&live, moment, grace, now) {
            match self.0.objects.delete(&packs::path(pack)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {
                    places.removed(pack);
                    collected.packs += 1;
                }
                Err(cause) => warn!(%pack, %cause, "pack cannot be removed, it stays for now"),
            }
        }
        collected.manifests = self.drop_manifests(now).await?;
        // Last: a store without room for a copy is made room in.
        match self.repack(now).await {
            Ok(repacked) => collected.repacked = repacked,
            Err(error) => {
                warn!(%error, "packs that are mostly dead cannot be written anew now, will try again");
            }
        }
        Ok(collected)
    }

    /// Whether versions need packs that were written since all packs were read here: by a scheduler that led before, and did
    /// not know yet that it leads no more. Once for each of them, as a pack may be damaged or gone.
    fn must_read_packs_anew(&self, places: &Places, live: &HashSet<Uuid>) -> bool {
        let unknown = places.unknown(live);
        let mut before = self.0.unknown_packs.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !unknown.is_subset(&before);
        *before = unknown;
        is_new
    }

    /// The packs that versions need.
    fn live(&self) -> HashSet<Uuid> {
        self.catalog().all().flat_map(|(version, _)| &version.packs).map(|pack| pack.id).collect()
    }

    /// Weights that were kept for jobs which are over by now.
    async fn drop_jobs_weights(&self, now: SystemTime, is_needed: &IsNeeded) -> Result<usize, ContentError> {
        self.refresh().await?;
        let of_jobs = |catalog: &Catalog| {
            let all = catalog.all().map(|(version, _)| version).filter(|version| version.is_of_job);
            all.cloned().collect::<Vec<_>>()
        };
        let candidates = of_jobs(&self.catalog());
        let mut dropped = 0;
        for version in candidates {
            let made = SystemTime::UNIX_EPOCH + Duration::from_millis(version.created.0);
            let is_old = now.duration_since(made).is_ok_and(|age| age >= self.0.limits.grace);
            if !is_old || is_needed(&version).await {
                continue;
            }
            if let Ok(removal) = self.begin_removal(vec![version]) {
                self.remove(removal).await?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }
}
