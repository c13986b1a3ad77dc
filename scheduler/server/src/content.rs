//! Data sets and weights by content: which versions there are, and where their contents lie.
//!
//! Versions are records of the store, contents are packs of objects. A pack tells itself what it holds, so that whoever
//! comes to lead finds what broken pushes left, and nothing refers to a pack but versions.

mod catalog;
mod collection;
mod damage;
mod leading_out;
mod manifests;
mod own_paths;
mod packs;
mod permits;
mod places;
mod pushing;
mod reading;
mod repacking;
mod summary;
#[cfg(test)]
mod tests;
mod under_way;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use object_store::ObjectStore;
use tokio::sync::OnceCell;
use trainyard_content::{Digest, Kind, Manifest};
use trainyard_types::Reference;
use uuid::Uuid;

use crate::content_records::{ContentChange, VersionRecord};
use crate::store::{ContentStore, StoreError};

pub use catalog::{Busy, Unresolved};
pub use collection::{Collected, IsNeeded};
pub use permits::Permit;
pub use pushing::{PushError, Wanted};
pub use reading::{ReadError, Reader};
pub use summary::{Sample, Summary, SummaryError};

use catalog::Catalog;
use manifests::Manifests;
use permits::Permits;
use places::Places;
use repacking::Looked;
use under_way::UnderWay;

/// Pushes at a time: each may have two packs in memory.
const PUSHES: usize = 8;
/// Pushes of one user at a time.
const PUSHES_OF_ONE: usize = 3;
/// Reads at a time, and of one caller: each has some 4 MiB in memory.
const READS: usize = 256;
const READS_OF_ONE: usize = 32;
/// Attempts at a change of the records while others change them, too.
const ATTEMPTS: usize = 64;

/// Why the content of the cluster cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error(transparent)]
    Records(#[from] StoreError),
    #[error("the store of data sets cannot be used: {0}")]
    Objects(#[from] object_store::Error),
    /// A manifest has other bytes than were written.
    #[error("the manifest of {0} is damaged; push it again")]
    Manifest(Digest),
}

/// How many bytes a user may keep, and how long contents stay that no version needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentLimits {
    /// Bytes that the versions of one user may take; `None` for all there is.
    pub user_bytes: Option<u64>,
    /// How long what no version needs is kept, for pushes that broke off.
    pub grace: Duration,
}

/// Data sets and weights. Clones are one.
#[derive(Clone)]
pub struct Content(Arc<Inner>);

struct Inner {
    records: Arc<dyn ContentStore>,
    objects: Arc<dyn ObjectStore>,
    limits: ContentLimits,
    catalog: Mutex<Catalog>,
    /// Read anew by whoever comes to lead: meanwhile others have written.
    places: Mutex<Arc<OnceCell<Arc<Places>>>>,
    manifests: Manifests,
    /// Whoever reads a version's label files for its summary: one at a time.
    summaries: tokio::sync::Mutex<()>,
    pushes: Permits,
    under_way: UnderWay,
    reads: Permits,
    /// What a repacking has found nothing to do about.
    looked: Mutex<Looked>,
    /// Packs that versions need and that were not there when all packs were read.
    unknown_packs: Mutex<BTreeSet<Uuid>>,
    /// Versions of which all contents are read, since one was damaged.
    suspects: Mutex<BTreeSet<Digest>>,
    reads_for_damage: tokio::sync::Mutex<()>,
}

/// A version that a submission names: it stays until the submission is over.
pub struct Held {
    content: Content,
    pub version: Arc<VersionRecord>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.content.catalog().release(&self.version);
    }
}

/// Versions that are hidden since they are to be removed.
pub struct Removal {
    content: Content,
    pub versions: Vec<Arc<VersionRecord>>,
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.content.catalog().end_removal(&self.versions);
    }
}

/// Works on a manifest where nobody waits for it: a million files take a second.
async fn aside<T: Send + 'static>(
    manifest: &Arc<Manifest>,
    work: impl FnOnce(&Manifest) -> T + Send + 'static,
) -> T {
    let manifest = Arc::clone(manifest);
    match tokio::task::spawn_blocking(move || work(&manifest)).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

impl Content {
    pub fn new(records: Arc<dyn ContentStore>, objects: Arc<dyn ObjectStore>, limits: ContentLimits) -> Self {
        Self(Arc::new(Inner {
            records,
            objects,
            limits,
            catalog: Mutex::default(),
            places: Mutex::default(),
            manifests: Manifests::default(),
            summaries: tokio::sync::Mutex::default(),
            pushes: Permits::new(PUSHES, PUSHES_OF_ONE),
            under_way: UnderWay::default(),
            reads: Permits::new(READS, READS_OF_ONE),
            looked: Mutex::default(),
            unknown_packs: Mutex::default(),
            suspects: Mutex::default(),
            reads_for_damage: tokio::sync::Mutex::default(),
        }))
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.0.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This scheduler has come to lead: others may have written packs since it read them.
    pub fn forget_places(&self) {
        *self.0.places.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    async fn places(&self) -> Result<Arc<Places>, ContentError> {
        let cell = Arc::clone(&self.0.places.lock().unwrap_or_else(PoisonError::into_inner));
        let read = async || packs::find_all(&self.0.objects).await.map(Arc::new);
        Ok(Arc::clone(cell.get_or_try_init(read).await?))
    }

    /// Reads the records anew, if somebody has changed them.
    async fn refresh(&self) -> Result<(), ContentError> {
        let known = self.catalog().revision();
        if known != Some(self.0.records.content_revision().await?) {
            let records = self.0.records.content().await?;
            self.catalog().replace(records);
        }
        Ok(())
    }

    /// All versions that `sees` shows, by kind and name, the newest of a name first; with whether each is that.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn list(
        &self,
        sees: impl Fn(&str) -> bool,
    ) -> Result<Vec<(Arc<VersionRecord>, bool)>, ContentError> {
        self.refresh().await?;
        let catalog = self.catalog();
        let shown = catalog.all().filter(|(version, _)| sees(&version.user));
        Ok(shown.map(|(version, newest)| (Arc::clone(version), newest)).collect())
    }

    /// The version that a reference means.
    ///
    /// # Errors
    /// The records cannot be read. The inner error says that it means none, or several.
    pub async fn resolve(
        &self,
        kind: Kind,
        reference: &Reference,
        sees: impl Fn(&str) -> bool,
    ) -> Result<Result<Arc<VersionRecord>, Unresolved>, ContentError> {
        self.refresh().await?;
        Ok(self.catalog().resolve(kind, reference, sees))
    }

    /// The same for a submission, which keeps the version until it is over.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn hold(
        &self,
        kind: Kind,
        reference: &Reference,
        sees: impl Fn(&str) -> bool,
    ) -> Result<Result<Held, Unresolved>, ContentError> {
        self.refresh().await?;
        let mut catalog = self.catalog();
        let found = catalog.resolve(kind, reference, sees);
        Ok(found.map(|version| {
            catalog.hold(&version);
            Held { content: self.clone(), version }
        }))
    }

    /// Whether a version is the newest of its name.
    pub fn is_newest(&self, version: &VersionRecord) -> bool {
        self.catalog().versions(version.kind, &version.name).last().is_some_and(|last| last.id == version.id)
    }

    /// The user whose a name is, if it is there.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn owner(&self, kind: Kind, name: &str) -> Result<Option<String>, ContentError> {
        self.refresh().await?;
        Ok(self.catalog().owner(kind, name).map(str::to_owned))
    }

    /// Reads files of a version.
    ///
    /// # Errors
    /// The packs cannot be listed.
    pub async fn reader(
        &self,
        manifest: Arc<Manifest>,
        ranges: Vec<std::ops::Range<usize>>,
        offset: u64,
    ) -> Result<Reader, ContentError> {
        let places = self.places().await?;
        Ok(Reader::new(Arc::clone(&self.0.objects), places, manifest, ranges, offset))
    }

    /// A place among the reads under way, if there is one for this caller.
    pub fn read_permit(&self, caller: &str) -> Option<Permit> {
        self.0.reads.take(caller)
    }

    /// Makes the changes that `plan` draws from the catalogue, again when somebody else was faster.
    async fn change<T>(&self, plan: impl Fn(&Catalog) -> (Vec<ContentChange>, T)) -> Result<T, ContentError> {
        for _ in 0..ATTEMPTS {
            self.refresh().await?;
            let (revision, changes, answer) = {
                let catalog = self.catalog();
                let (changes, answer) = plan(&catalog);
                (catalog.revision().unwrap_or(0), changes, answer)
            };
            if changes.is_empty() || self.0.records.change_content(revision, &changes).await? {
                self.refresh().await?;
                return Ok(answer);
            }
        }
        Err(StoreError::Unavailable("others change the versions all the time".into()).into())
    }

    /// Hides versions that are to be removed.
    ///
    /// # Errors
    /// A submission names one of the versions, or somebody else removes it.
    pub fn begin_removal(&self, versions: Vec<Arc<VersionRecord>>) -> Result<Removal, Busy> {
        self.catalog().begin_removal(&versions)?;
        Ok(Removal { content: self.clone(), versions })
    }

    /// The versions that a reference means: all of a name without a version.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn all_of(
        &self,
        kind: Kind,
        reference: &Reference,
        sees: impl Fn(&str) -> bool,
    ) -> Result<Result<Vec<Arc<VersionRecord>>, Unresolved>, ContentError> {
        let newest = match self.resolve(kind, reference, &sees).await? {
            Ok(newest) => newest,
            Err(unresolved) => return Ok(Err(unresolved)),
        };
        if !reference.version().is_empty() {
            return Ok(Ok(vec![newest]));
        }
        let catalog = self.catalog();
        let all = catalog.versions(kind, reference.name()).iter().rev();
        Ok(Ok(all.filter(|version| sees(&version.user)).cloned().collect()))
    }

    /// Removes what a removal has hidden.
    ///
    /// # Errors
    /// The records cannot be changed; the versions are shown again.
    pub async fn remove(&self, removal: Removal) -> Result<(), ContentError> {
        let plan = |_: &Catalog| (removal.versions.iter().cloned().map(ContentChange::Remove).collect(), ());
        self.change(plan).await
    }
}
