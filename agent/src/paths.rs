//! Paths that jobs name: whether this machine can read them now. A share that does not answer blocks whoever asks
//! it, so each is asked on a thread of its own, one at a time for a path; one that stays away is left behind.

mod folders;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
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

use crate::advert::Advert;
use crate::core::Refusal;
use crate::data_roots::{self, What};
use crate::mounts::Mounts;

/// How often paths that were missed of late are looked for again: whoever mends one submits the job again at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The roots, and paths that were missed long ago, are looked at once in so many looks.
const SELDOM: u32 = 5;

/// A path that is missing for so long is forgotten: a job that still names it asks again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A path was missed of late for so long.
const OF_LATE: Duration = Duration::from_secs(600);

/// How long a share may take to answer before it counts as one that does not.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a share may take to answer before the agent's first Hello.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is seen whether another's question about the same path is answered.
const TURN: Duration = Duration::from_millis(20);

/// Paths that are remembered as missing; the longest known go first. The wire takes four times as many.
const MISSING: usize = 256;

/// Watches the data roots and the paths that jobs asked for in vain.
#[derive(Debug, Clone)]
pub struct Paths(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    roots: Vec<PathBuf>,
    patience: Duration,
    advert: watch::Sender<Advert>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    missing: BTreeMap<PathBuf, Lack>,
    /// What is being asked for, since when.
    asked: BTreeMap<PathBuf, Instant>,
}

/// What a job asked for in vain.
#[derive(Debug, Clone)]
struct Lack {
    what: What,
    /// What below it was not to be seen, if it was not the path itself.
    below: Option<PathBuf>,
    /// Of the path itself, as it was then: who changes a data.yaml may mean other folders by it. `None` while it is
    /// not known.
    stamp: Option<Stamp>,
    /// When it was noted, which tells it from a later lack of the same path, too.
    since: Instant,
}

type Stamp = (SystemTime, u64);

/// A path was not asked, or does not answer.
#[derive(Debug)]
enum Unasked {
    Stalled,
    /// The system has no thread left.
    NoThread(io::Error),
}

impl Paths {
    /// Of a machine on which jobs may read `roots`; at the latest after `stall_after` a share does not answer.
    pub fn new(roots: Vec<PathBuf>, stall_after: Duration, advert: watch::Sender<Advert>) -> Self {
        let patience = PATIENCE.min(stall_after);
        Self(Arc::new(Inner { roots, patience, advert, state: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work`, which asks for `path` and may block, on a thread of its own.
    async fn ask<T: Send + 'static>(
        &self,
        path: &Path,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unasked> {
        let began = Instant::now();
        while let Some(since) = self.take_turn(path, began) {
            // Nobody else waits for what has hung for long already.
            if since.elapsed() >= patience || began.elapsed() >= patience {
                return Err(Unasked::Stalled);
            }
            sleep(TURN).await;
        }
        let (answer, answered) = oneshot::channel();
        let (paths, asked) = (self.clone(), path.to_owned());
        let thread = std::thread::Builder::new().name("path".into()).spawn(move || {
            let found = work();
            paths.state().asked.remove(&asked);
            // Whoever asked may have gone on without it.
            let _unwanted = answer.send(found);
        });
        if let Err(error) = thread {
            self.state().asked.remove(path);
            return Err(Unasked::NoThread(error));
        }
        match timeout(patience, answered).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_)) | Err(_) => {
                let blocked = self.state().asked.len();
                warn!(path = %path.display(), blocked, "a path does not answer; the thread that asks is left behind");
                Err(Unasked::Stalled)
            }
        }
    }

    /// Begins to ask for `path`, unless somebody else does so; then since when.
    fn take_turn(&self, path: &Path, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let since = state.asked.get(path).copied();
        if since.is_none() {
            state.asked.insert(path.to_owned(), now);
        }
        since
    }

    /// The file that a job names, links in its folder resolved.
    ///
    /// # Errors
    /// How the attempt ends; a path that this machine lacks is noted as missing, so that the scheduler knows.
    pub async fn find(&self, what: What, named: &Path) -> Result<PathBuf, Refusal> {
        let (data, roots) = (named.to_owned(), self.0.roots.clone());
        let look = move || {
            let path =
                data_roots::resolve(what, &data, &roots).map_err(|error| error.explained(Mounts::now))?;
            let places = if what == What::Data { places_of(&path) } else { Vec::new() };
            Ok::<_, data_roots::DataError>((path, places))
        };
        let found = self.ask(named, self.0.patience, look).await;
        let (unfit, below) = match found {
            Ok(Ok((path, places))) => match self.silent(places).await {
                None => return Ok(path),
                Some(silent) => {
                    (self.stalled(named, &format!("{what} names {}, which", silent.display())), Some(silent))
                }
            },
            Ok(Err(error)) => match error.unfit() {
                Some(unfit) => (unfit, None),
                None => return Err(Refusal::new(EndReason::BadSpec, error.to_string())),
            },
            Err(Unasked::Stalled) => (self.stalled(named, &format!("{what} {}", named.display())), None),
            Err(Unasked::NoThread(error)) => {
                let text = format!("this agent cannot start a thread: {error}");
                return Err(Refusal::of_machine(UnfitKind::OutOfResources, text));
            }
        };
        if unfit.kind.is_of_path() {
            self.note(what, named, below);
        }
        Err(Refusal::unfit(unfit))
    }

    /// `subject` lies, as far as `named` is concerned, on a disk that does not answer.
    fn stalled(&self, named: &Path, subject: &str) -> Unfit {
        let text = format!(
            "{subject} cannot be read on this agent: its disk or share does not answer within {} s; see what is \
             mounted there",
            self.0.patience.as_secs()
        );
        Unfit::at(UnfitKind::PathUnreadable, named, text)
    }

    /// The first of `places` whose disk or share does not answer, whatever is there.
    async fn silent(&self, places: Vec<PathBuf>) -> Option<PathBuf> {
        let mut looks = JoinSet::new();
        for (at, place) in places.into_iter().enumerate() {
            let paths = self.clone();
            looks.spawn(async move {
                let asked = place.clone();
                let look = move || drop(fs::metadata(asked));
                let answer = paths.ask(&place, paths.0.patience, look).await;
                matches!(answer, Err(Unasked::Stalled)).then_some((at, place))
            });
        }
        let mut silent: Vec<(usize, PathBuf)> = looks.join_all().await.into_iter().flatten().collect();
        silent.sort();
        silent.into_iter().next().map(|(_, place)| place)
    }

    /// A path that a job names is missing here, or something that the file there names: `below`.
    pub fn note(&self, what: What, named: &Path, below: Option<PathBuf>) {
        let below = below.filter(|below| below != named);
        let dates = below.is_some();
        // First, as the date is entered into what it notes.
        self.mark(what, named, below);
        if dates {
            let (paths, named) = (self.clone(), named.to_owned());
            tokio::spawn(async move { paths.date(&named).await });
        }
    }

    fn mark(&self, what: What, named: &Path, below: Option<PathBuf>) {
        let mut state = self.state();
        let lack = Lack { what, below, stamp: None, since: Instant::now() };
        state.missing.insert(named.to_owned(), lack);
        if state.missing.len() > MISSING {
            let oldest =
                state.missing.iter().min_by_key(|(_, lack)| lack.since).map(|(path, _)| path.clone());
            oldest.and_then(|oldest| state.missing.remove(&oldest));
        }
        drop(state);
        warn!(path = %named.display(), "a job names a path that cannot be read here");
        self.tell();
    }

    /// Remembers how a file is now that names something missing.
    async fn date(&self, named: &Path) {
        let asked = named.to_owned();
        let stamp = self.ask(named, self.0.patience, move || stamp(&asked)).await.ok().flatten();
        if let Some(lack) = self.state().missing.get_mut(named) {
            lack.stamp = stamp;
        }
    }

    /// Looks at roots and missing paths until `end`.
    pub async fn keep(self, end: CancellationToken) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = 0_u32;
        while end.run_until_cancelled(ticks.tick()).await.is_some() {
            let (at_all, shared) = (looks.is_multiple_of(SELDOM), &self);
            let roots = async {
                if at_all {
                    shared.look_at_roots(shared.0.patience).await;
                }
            };
            let missing_for = if at_all { Duration::MAX } else { OF_LATE };
            let look = async { tokio::join!(roots, shared.look_for_missing(missing_for)) };
            if end.run_until_cancelled(look).await.is_none() {
                return;
            }
            looks = looks.wrapping_add(1);
        }
    }

    /// Looks at the roots for the first time.
    pub async fn begin(&self) {
        self.look_at_roots(FIRST_PATIENCE.min(self.0.patience)).await;
    }

    async fn look_at_roots(&self, patience: Duration) {
        let mut looks = JoinSet::new();
        for (at, root) in self.0.roots.iter().cloned().enumerate() {
            let paths = self.clone();
            looks.spawn(async move {
                let asked = root.clone();
                let problem = match paths.ask(&root, patience, move || problem(&asked, Mounts::now)).await {
                    Ok(problem) => problem,
                    Err(Unasked::Stalled) => "does not answer: see what is mounted there".into(),
                    Err(Unasked::NoThread(error)) => format!("cannot be asked: {error}"),
                };
                (at, DataRoot { path: root.display().to_string(), problem })
            });
        }
        let mut roots = looks.join_all().await;
        roots.sort_by_key(|(at, _)| *at);
        let roots: Vec<DataRoot> = roots.into_iter().map(|(_, root)| root).collect();
        self.0.advert.send_if_modified(|advert| {
            let before = advert.fitness.data_roots.clone().unwrap_or_default();
            for root in roots.iter().filter(|root| !before.contains(root)) {
                match root.problem.as_str() {
                    "" if before.is_empty() => {}
                    "" => info!(root = root.path, "a data root can be read again"),
                    problem => warn!(root = root.path, problem, "a data root cannot be used"),
                }
            }
            let changes = advert.fitness.data_roots.as_ref() != Some(&roots);
            advert.fitness.data_roots = Some(roots);
            changes
        });
    }

    /// Looks for what has been missing for no longer than so long.
    async fn look_for_missing(&self, no_longer: Duration) {
        let missing = self.state().missing.clone();
        let mut looks = JoinSet::new();
        for (named, lack) in missing.into_iter().filter(|(_, lack)| lack.since.elapsed() <= no_longer) {
            let paths = self.clone();
            looks.spawn(async move {
                let (asked, roots, known) = (named.clone(), paths.0.roots.clone(), lack.clone());
                let look = move || is_there(&asked, &known, &roots);
                // Where a place that the file names does not answer, the file itself may be asked for.
                let turn = lack.below.as_ref().unwrap_or(&named);
                let found = paths.ask(turn, paths.0.patience, look).await.unwrap_or(false);
                found.then_some((named, lack.since))
            });
        }
        let found: Vec<(PathBuf, Instant)> = looks.join_all().await.into_iter().flatten().collect();
        let mut state = self.state();
        for (named, since) in &found {
            // It may have been missed again meanwhile.
            if state.missing.get(named).is_some_and(|lack| lack.since == *since) {
                info!(path = %named.display(), "a path that was missing can be read");
                state.missing.remove(named);
            }
        }
        let before = state.missing.len();
        state.missing.retain(|_, lack| lack.since.elapsed() <= FORGOTTEN_AFTER);
        let forgets = state.missing.len() < before;
        drop(state);
        if forgets || !found.is_empty() {
            self.tell();
        }
    }

    fn tell(&self) {
        let missing: Vec<String> =
            self.state().missing.keys().map(|path| path.display().to_string()).collect();
        self.0.advert.send_if_modified(|advert| {
            let changes = advert.fitness.missing_paths != missing;
            advert.fitness.missing_paths = missing;
            changes
        });
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let known = fs::metadata(path).ok()?;
    Some((known.modified().ok()?, known.len()))
}

/// The places that a data.yaml names.
fn places_of(file: &Path) -> Vec<PathBuf> {
    let mut text = Vec::new();
    let read = File::open(file).and_then(|file| file.take(folders::BYTES).read_to_end(&mut text));
    read.map(|_| folders::named(file, &text)).unwrap_or_default()
}

/// Whether what a job asked for in vain can be read now, or may be meant otherwise.
fn is_there(named: &Path, lack: &Lack, roots: &[PathBuf]) -> bool {
    if data_roots::resolve(lack.what, named, roots).is_err() {
        return false;
    }
    let Some(below) = &lack.below else { return true };
    lack.stamp.is_some_and(|before| stamp(named) != Some(before)) || is_readable(below)
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
