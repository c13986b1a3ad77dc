//! Makes a version whole on this machine, for an attempt.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use trainyard_content::{Kind, Manifest};
use trainyard_types::AttemptId;
use trainyard_types::reference::Reference;

use super::fetch_error::FetchError;
use super::make_whole::{Manner, Work, blocking};
use super::progress::{Progress, Teller};
use super::source::Version;
use super::store::Store;
use super::{Content, manifest_file};

/// How often an attempt is told how far its version has come.
pub const TELL_EVERY: Duration = Duration::from_secs(2);

/// A data set or weights that an attempt names.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The attempt.
    pub attempt: AttemptId,
    /// A data set, or weights.
    pub kind: Kind,
    /// The name and version in the cluster's store.
    pub reference: Reference,
}

/// A version that is whole.
#[derive(Debug, Clone)]
pub struct Obtained {
    /// The data set's data.yaml, or the one file of weights.
    pub file: PathBuf,
}

/// A version that somebody checks or fetches.
#[derive(Debug)]
pub struct InFlight {
    /// When it was whole last. Held by whoever works on it.
    whole: Mutex<Option<Instant>>,
    /// Bytes that have come, while a fetch is under way.
    pub progress: watch::Sender<Option<Progress>>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self { whole: Mutex::new(None), progress: watch::Sender::new(None) }
    }
}

impl Content {
    /// Fetches what is missing of a version, and checks what is there. It stays for as long as the attempt reads it.
    ///
    /// # Errors
    /// See [`FetchError`]. What came before stays, and is not fetched again.
    pub async fn obtain(&self, wanted: &Wanted) -> Result<Obtained, FetchError> {
        let (store, counts) = (self.store()?, &self.0.counts);
        let version = self.0.source.version(wanted.kind, &wanted.reference).await?;
        let _precedence = self.take_precedence();
        store.need(wanted.attempt, version.id);
        let mut teller = Teller::new(wanted.attempt, wanted.reference.to_string(), self.0.inbox.clone());
        let obtained = self.obtain_version(&store, &version, &mut teller, Manner::Attempt).await;
        match &obtained {
            Ok((_, true)) => counts.fetched.fetch_add(1, Ordering::Relaxed),
            Ok((_, false)) => counts.held.fetch_add(1, Ordering::Relaxed),
            Err(_) => counts.failed.fetch_add(1, Ordering::Relaxed),
        };
        if obtained.is_ok() {
            self.forget_unfetchable(&wanted.reference.to_string());
        }
        self.tell_held();
        obtained.map(|(file, _)| Obtained { file })
    }

    /// The file, and whether anything of the version was fetched.
    pub(super) async fn obtain_version(
        &self,
        store: &Arc<Store>,
        version: &Version,
        teller: &mut Teller,
        manner: Manner,
    ) -> Result<(PathBuf, bool), FetchError> {
        let (arrived, in_flight) = (Instant::now(), self.in_flight(version.id));
        let mut ticks = interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut whole = loop {
            tokio::select! {
                whole = in_flight.whole.lock() => break whole,
                _ = ticks.tick() => {
                    // Another attempt fetches it: that is this one's progress, too.
                    let progress = *in_flight.progress.borrow();
                    if let Some(progress) = progress {
                        teller.tell(progress).await;
                    }
                }
            }
        };
        // Whoever fetched it before may have been dropped.
        in_flight.progress.send_replace(None);
        store.counted().await;
        let manifest = Arc::new(self.manifest(store, version).await?);
        let file = main_file(store, version, &manifest)?;
        // Whoever had it before has just made it whole.
        if whole.is_some_and(|since| since >= arrived) && store.holds(version.id) {
            teller.tell_whole().await;
            return Ok((file, false));
        }
        let work = Work { content: self, store, version, manifest: &manifest, in_flight: &in_flight, manner };
        let fetches = work.make_whole(teller).await;
        in_flight.progress.send_replace(None);
        *whole = fetches.is_ok().then(Instant::now);
        fetches.map(|fetched| (file, fetched))
    }

    /// The version's list of files: the one that is here, or the scheduler's.
    async fn manifest(&self, store: &Arc<Store>, version: &Version) -> Result<Manifest, FetchError> {
        let (reader, id) = (Arc::clone(store), version.id);
        if let Some(manifest) = blocking(move || manifest_file::read(reader.layout(), id)).await? {
            return Ok(manifest);
        }
        let manifest = self.0.source.files(version).await?;
        let (writer, id) = (Arc::clone(store), version.id);
        let (manifest, written) = blocking(move || {
            let written = manifest_file::write(writer.layout(), id, &manifest);
            (manifest, written)
        })
        .await?;
        written.map_err(FetchError::at(&store.layout().manifest(id)))?;
        Ok(manifest)
    }
}

/// The file that a trainer is given: the data.yaml, or the one file of weights.
fn main_file(store: &Store, version: &Version, manifest: &Manifest) -> Result<PathBuf, FetchError> {
    let name = match version.kind {
        Kind::DataSet => "data.yaml",
        Kind::Weights => manifest.get(0).map_or("", |entry| entry.path),
    };
    if manifest.kind() != version.kind {
        return Err(FetchError::OtherVersion);
    }
    Ok(store.layout().tree(version.id).join(name))
}
