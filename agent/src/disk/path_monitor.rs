//! Whether this machine can read the paths that jobs name, and the data roots.
//!
//! A share that does not answer blocks whoever reads it. So each path is read on a thread of its own, and one at a time. A
//! thread that gets no answer is left behind.

mod data_yaml;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use trainyard_types::faults::{self, Place};
use trainyard_types::{DataRoot, EndReason, Unfit, UnfitKind};

use super::data_roots;
use super::mounts::Mounts;
use crate::agent_status::AgentStatus;
use crate::message::{PathUse, Refusal};

/// How often it is checked whether paths that were missed recently are there: a person who mends one submits the job
/// again at once.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The roots, and paths that were missed longer ago, are checked once in so many checks.
const SELDOM_EVERY: u32 = 5;

/// A path that is missing for so long is forgotten: a job that still names it asks again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// For so long a path counts as missed recently.
const RECENT: Duration = Duration::from_secs(600);

/// How long a share may take to answer before it counts as unresponsive.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// How long a share may take to answer before the agent's first Hello.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How often a task checks whether another task's reading of the same path has ended.
const TURN_POLL: Duration = Duration::from_millis(20);

/// So many paths are remembered as missing, the newest ones. The wire takes four times as many.
const MISSING: usize = 256;

/// Watches the data roots, and the paths that jobs named and that were missing. Clones share what they know.
#[derive(Debug, Clone)]
pub struct PathMonitor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    roots: Vec<PathBuf>,
    /// How long a share may take to answer.
    answer_within: Duration,
    status: watch::Sender<AgentStatus>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    missing: BTreeMap<PathBuf, MissingPath>,
    /// Versions of the cluster's store that cannot be fetched, as jobs name them. Whoever tells of them looks after them.
    unfetchable: BTreeSet<String>,
    /// The paths that are being read, and since when.
    being_read: BTreeMap<PathBuf, Instant>,
}

/// A path that a job named and that was missing.
#[derive(Debug, Clone)]
struct MissingPath {
    path_use: PathUse,
    /// The path below it that is missing, if it is not the path itself.
    below: Option<PathBuf>,
    /// Time and size of the path itself when it was noted: whoever changes a data.yaml may mean other folders by it.
    /// `None` while they are not known.
    stamp: Option<Stamp>,
    /// When it was noted. This also tells it from a later note of the same path.
    since: Instant,
}

/// When a file was changed last, and its size in bytes.
type Stamp = (SystemTime, u64);

/// Why a path was not read.
#[derive(Debug)]
enum ReadError {
    /// Its disk or share does not answer.
    Unresponsive,
    /// The system has no thread left.
    NoThread(io::Error),
}

/// A path that a job cannot use here.
#[derive(Debug)]
pub struct Unseen {
    /// How an attempt ends that needs it.
    pub refusal: Refusal,
    /// The path that is missing, if it is one that the file names.
    below: Option<PathBuf>,
}

impl From<Refusal> for Unseen {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, below: None }
    }
}

impl PathMonitor {
    /// A monitor of the roots that jobs may read. A share is unresponsive at the latest after `stall_after`.
    pub fn new(roots: Vec<PathBuf>, stall_after: Duration, status: watch::Sender<AgentStatus>) -> Self {
        let answer_within = ANSWER_WITHIN.min(stall_after);
        Self(Arc::new(Inner { roots, answer_within, status, state: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work`, which reads `path` and may block, on a thread of its own.
    async fn read<T: Send + 'static>(
        &self,
        path: &Path,
        answer_within: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let began = Instant::now();
        while let Some(since) = self.take_turn(path, began) {
            // Nobody else waits for what has been hanging for long already.
            if since.elapsed() >= answer_within || began.elapsed() >= answer_within {
                return Err(ReadError::Unresponsive);
            }
            sleep(TURN_POLL).await;
        }
        let (answer, answered) = oneshot::channel();
        let (monitor, reads) = (self.clone(), path.to_owned());
        let thread = std::thread::Builder::new().name("path".into()).spawn(move || {
            let found = work();
            monitor.state().being_read.remove(&reads);
            // The caller may have gone on without it.
            let _unwanted = answer.send(found);
        });
        if let Err(error) = thread {
            self.state().being_read.remove(path);
            return Err(ReadError::NoThread(error));
        }
        match timeout(answer_within, answered).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_)) | Err(_) => {
                let blocked = self.state().being_read.len();
                warn!(path = %path.display(), blocked, "a path does not answer; the thread that asks is left behind");
                Err(ReadError::Unresponsive)
            }
        }
    }

    /// Begins to read `path`, unless another task does so; then returns since when.
    fn take_turn(&self, path: &Path, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let since = state.being_read.get(path).copied();
        if since.is_none() {
            state.being_read.insert(path.to_owned(), now);
        }
        since
    }

    /// The roots that answered when they were asked last: the others would block whoever opens them.
    pub fn responsive_roots(&self) -> Vec<PathBuf> {
        let status = self.0.status.borrow();
        let known = status.fitness.data_roots.as_deref().unwrap_or_default();
        let blocks = |root: &PathBuf| {
            let of_root = |known: &&DataRoot| known.path == root.display().to_string();
            known.iter().find(of_root).is_some_and(|known| known.problem.starts_with(UNRESPONSIVE))
        };
        self.0.roots.iter().filter(|root| !blocks(root)).cloned().collect()
    }

    /// The file that a job names, links in its folder resolved.
    ///
    /// # Errors
    /// How the attempt ends; a path that this machine lacks is noted as missing, so that the scheduler knows.
    pub async fn find(&self, path_use: PathUse, named: &Path) -> Result<PathBuf, Refusal> {
        let unseen = match self.look(path_use, named).await {
            Ok(path) => return Ok(path),
            Err(unseen) => unseen,
        };
        if unseen.refusal.unfit.as_ref().is_some_and(|unfit| unfit.kind.is_of_path()) {
            self.note(path_use, named, unseen.below);
        }
        Err(unseen.refusal)
    }

    /// As [`Self::find`], and notes nothing.
    ///
    /// # Errors
    /// The path is not there, cannot be read, or lies outside of the data roots.
    pub async fn look(&self, path_use: PathUse, named: &Path) -> Result<PathBuf, Unseen> {
        let (data, roots) = (named.to_owned(), self.0.roots.clone());
        let work = move || {
            let path =
                data_roots::resolve(path_use, &data, &roots).map_err(|error| error.explained(Mounts::now))?;
            let places = if path_use == PathUse::Data { places_of(&path) } else { Vec::new() };
            Ok::<_, data_roots::DataError>((path, places))
        };
        let found = self.read(named, self.0.answer_within, work).await;
        let (unfit, below) = match found {
            Ok(Ok((path, places))) => match self.first_unresponsive(places).await {
                None => return Ok(path),
                Some(place) => {
                    let subject = format!("{path_use} names {}, which", place.display());
                    (self.unresponsive_path(named, &subject), Some(place))
                }
            },
            Ok(Err(error)) => match error.unfit() {
                Some(unfit) => (unfit, None),
                None => return Err(Refusal::new(EndReason::BadSpec, error.to_string()).into()),
            },
            Err(ReadError::Unresponsive) => {
                (self.unresponsive_path(named, &format!("{path_use} {}", named.display())), None)
            }
            Err(ReadError::NoThread(error)) => {
                let text = format!("this agent cannot start a thread: {error}");
                return Err(Refusal::of_machine(UnfitKind::OutOfResources, text).into());
            }
        };
        Err(Unseen { refusal: Refusal::unfit(unfit), below })
    }

    /// That `subject`, which the job means by `named`, lies on a disk or share that does not answer.
    fn unresponsive_path(&self, named: &Path, subject: &str) -> Unfit {
        let text = format!(
            "{subject} cannot be read on this agent: its disk or share does not answer within {} s; see what is \
             mounted there",
            self.0.answer_within.as_secs()
        );
        Unfit::at(UnfitKind::PathUnreadable, named, text)
    }

    /// The first of `places` whose disk or share does not answer, whatever is there.
    async fn first_unresponsive(&self, places: Vec<PathBuf>) -> Option<PathBuf> {
        let mut reads = JoinSet::new();
        for (at, place) in places.into_iter().enumerate() {
            let monitor = self.clone();
            reads.spawn(async move {
                let path = place.clone();
                let work = move || drop(fs::metadata(path));
                let answer = monitor.read(&place, monitor.0.answer_within, work).await;
                matches!(answer, Err(ReadError::Unresponsive)).then_some((at, place))
            });
        }
        let mut unresponsive: Vec<(usize, PathBuf)> = reads.join_all().await.into_iter().flatten().collect();
        unresponsive.sort();
        unresponsive.into_iter().next().map(|(_, place)| place)
    }

    /// Notes that a path that a job names is missing here, or `below`, which the file at that path names.
    pub fn note(&self, path_use: PathUse, named: &Path, below: Option<PathBuf>) {
        let below = below.filter(|below| below != named);
        let is_below = below.is_some();
        // First, as the stamp is added to that note.
        self.add_missing(path_use, named, below);
        if is_below {
            let (monitor, named) = (self.clone(), named.to_owned());
            tokio::spawn(async move { monitor.stamp_missing(&named).await });
        }
    }

    fn add_missing(&self, path_use: PathUse, named: &Path, below: Option<PathBuf>) {
        let mut state = self.state();
        let missing_path = MissingPath { path_use, below, stamp: None, since: Instant::now() };
        state.missing.insert(named.to_owned(), missing_path);
        if state.missing.len() > MISSING {
            let oldest =
                state.missing.iter().min_by_key(|(_, missing)| missing.since).map(|(path, _)| path.clone());
            oldest.and_then(|oldest| state.missing.remove(&oldest));
        }
        drop(state);
        warn!(path = %named.display(), "a job names a path that cannot be read here");
        self.tell();
    }

    /// Tells which versions of the cluster's store cannot be fetched now, as jobs name them.
    pub fn set_unfetchable(&self, versions: BTreeSet<String>) {
        self.state().unfetchable = versions;
        self.tell();
    }

    /// Remembers time and size of a file that names something missing.
    async fn stamp_missing(&self, named: &Path) {
        let path = named.to_owned();
        let stamp = self.read(named, self.0.answer_within, move || stamp(&path)).await.ok().flatten();
        if let Some(missing_path) = self.state().missing.get_mut(named) {
            missing_path.stamp = stamp;
        }
    }

    /// Checks roots and missing paths until `end`.
    pub async fn run(self, end: CancellationToken) {
        let mut ticks = interval(CHECK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut checks = 0_u32;
        while end.run_until_cancelled(ticks.tick()).await.is_some() {
            let (all_are_due, shared) = (checks.is_multiple_of(SELDOM_EVERY), &self);
            let roots = async {
                if all_are_due {
                    shared.check_roots(shared.0.answer_within).await;
                }
            };
            let missing_for = if all_are_due { Duration::MAX } else { RECENT };
            let check = async { tokio::join!(roots, shared.check_missing(missing_for)) };
            if end.run_until_cancelled(check).await.is_none() {
                return;
            }
            checks = checks.wrapping_add(1);
        }
    }

    /// Checks the roots for the first time.
    pub async fn begin(&self) {
        self.check_roots(FIRST_ANSWER_WITHIN.min(self.0.answer_within)).await;
    }

    async fn check_roots(&self, answer_within: Duration) {
        let mut reads = JoinSet::new();
        for (at, root) in self.0.roots.iter().cloned().enumerate() {
            let monitor = self.clone();
            reads.spawn(async move {
                let path = root.clone();
                let problem =
                    match monitor.read(&root, answer_within, move || problem(&path, Mounts::now)).await {
                        Ok(problem) => problem,
                        Err(ReadError::Unresponsive) => format!("{UNRESPONSIVE}: see what is mounted there"),
                        Err(ReadError::NoThread(error)) => format!("cannot be asked: {error}"),
                    };
                (at, DataRoot { path: root.display().to_string(), problem })
            });
        }
        let mut roots = reads.join_all().await;
        roots.sort_by_key(|(at, _)| *at);
        let roots: Vec<DataRoot> = roots.into_iter().map(|(_, root)| root).collect();
        self.0.status.send_if_modified(|status| {
            let before = status.fitness.data_roots.clone().unwrap_or_default();
            for root in roots.iter().filter(|root| !before.contains(root)) {
                match root.problem.as_str() {
                    "" if before.is_empty() => {}
                    "" => info!(root = root.path, "a data root can be read again"),
                    problem => warn!(root = root.path, problem, "a data root cannot be used"),
                }
            }
            let changes = status.fitness.data_roots.as_ref() != Some(&roots);
            status.fitness.data_roots = Some(roots);
            changes
        });
    }

    /// Checks the paths that have been missing for no longer than so long.
    async fn check_missing(&self, no_longer: Duration) {
        let missing = self.state().missing.clone();
        let mut reads = JoinSet::new();
        for (named, missing_path) in
            missing.into_iter().filter(|(_, missing)| missing.since.elapsed() <= no_longer)
        {
            let monitor = self.clone();
            reads.spawn(async move {
                let (path, roots, known) = (named.clone(), monitor.0.roots.clone(), missing_path.clone());
                let work = move || is_there(&path, &known, &roots);
                // Where a place that the file names does not answer, the file itself may be asked for.
                let turn = missing_path.below.as_ref().unwrap_or(&named);
                let found = monitor.read(turn, monitor.0.answer_within, work).await.unwrap_or(false);
                found.then_some((named, missing_path.since))
            });
        }
        let found: Vec<(PathBuf, Instant)> = reads.join_all().await.into_iter().flatten().collect();
        let mut state = self.state();
        for (named, since) in &found {
            // It may have been missed again meanwhile.
            if state.missing.get(named).is_some_and(|missing| missing.since == *since) {
                info!(path = %named.display(), "a path that was missing can be read");
                state.missing.remove(named);
            }
        }
        let before = state.missing.len();
        state.missing.retain(|_, missing| missing.since.elapsed() <= FORGOTTEN_AFTER);
        let forgets = state.missing.len() < before;
        drop(state);
        if forgets || !found.is_empty() {
            self.tell();
        }
    }

    fn tell(&self) {
        let state = self.state();
        let paths = state.missing.keys().map(|path| path.display().to_string());
        let missing: Vec<String> = paths.chain(state.unfetchable.iter().cloned()).collect();
        drop(state);
        self.0.status.send_if_modified(|status| {
            let changes = status.fitness.missing_paths != missing;
            status.fitness.missing_paths = missing;
            changes
        });
    }
}

/// How the problem of a root begins that did not answer.
const UNRESPONSIVE: &str = "does not answer";

fn stamp(path: &Path) -> Option<Stamp> {
    let known = fs::metadata(path).ok()?;
    Some((known.modified().ok()?, known.len()))
}

/// The places that a data.yaml names.
fn places_of(file: &Path) -> Vec<PathBuf> {
    let mut text = Vec::new();
    let read = File::open(file).and_then(|file| file.take(data_yaml::BYTES).read_to_end(&mut text));
    read.map(|_| data_yaml::named(file, &text)).unwrap_or_default()
}

/// Whether a path that was missing can be read now, or may mean something else now.
fn is_there(named: &Path, missing_path: &MissingPath, roots: &[PathBuf]) -> bool {
    if data_roots::resolve(missing_path.path_use, named, roots).is_err() {
        return false;
    }
    let Some(below) = &missing_path.below else { return true };
    missing_path.stamp.is_some_and(|before| stamp(named) != Some(before)) || is_readable(below)
}

/// Whether something can be read at `path`: a byte of a file, an entry of a folder.
fn is_readable(path: &Path) -> bool {
    match path.read_dir() {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            File::open(path).and_then(|mut file| file.read(&mut [0])).is_ok()
        }
        Err(_) => false,
    }
}

/// Why jobs can read nothing in a root, without the root's name; empty when they can. `mounts` are asked for only
/// where they may be why.
fn problem(root: &Path, mounts: impl FnOnce() -> Mounts) -> String {
    let not_mounted = || mounts().complaint_above(root);
    match root.read_dir().map(|mut entries| entries.next()) {
        Ok(Some(Ok(_))) => String::new(),
        Ok(Some(Err(error))) => format!("cannot be read: {error}"),
        Ok(None) => not_mounted()
            .map(|complaint| format!("is empty and not mounted: {complaint}; mount it"))
            .unwrap_or_default(),
        Err(error) => {
            let known = faults::of_error(Place::Path, &error);
            let meaning = known.map_or_else(|| error.to_string(), |row| row.meaning.to_owned());
            not_mounted().map_or_else(
                || format!("cannot be read: {meaning}"),
                |complaint| format!("cannot be read: {meaning}; {complaint}; mount it"),
            )
        }
    }
}
