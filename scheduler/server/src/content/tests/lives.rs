//! Pushes, reads, removals, collections and repackings at once, in one process after the other, each of which dies at some step. What
//! was acknowledged comes back whole, and what nobody needs goes.
//!
//! `TRAINYARD_CONTENT_SEED` repeats one run, `TRAINYARD_CONTENT_SEEDS` says how many there are.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use object_store::ObjectStore as _;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use tokio_stream::StreamExt as _;

use super::mortal::{Life, Objects, Records};
use super::*;

/// Processes that die one after the other.
const LIVES: u64 = 6;
/// Users of each, at once.
const USERS: usize = 3;
/// What each of them does.
const DEEDS: usize = 6;
/// Different contents: versions have many in common.
const CONTENTS: usize = 9;

fn number(variable: &str) -> Option<u64> {
    let given = std::env::var(variable).ok()?;
    Some(given.parse().unwrap_or_else(|_| panic!("{variable} is `{given}`, no number")))
}

/// Versions that were acknowledged and not removed, with their files.
type Kept = BTreeMap<(String, Digest), Vec<(String, Vec<u8>)>>;

struct World {
    objects: Arc<InMemory>,
    records: Arc<MemoryStore>,
    kept: RefCell<Kept>,
    /// Now, in the eyes of collections: each looks a while later.
    now: RefCell<SystemTime>,
    /// Packs that collections have written anew.
    repacked: Cell<usize>,
}

/// Why something was not done.
#[derive(Debug)]
enum Undone {
    /// The process may have died.
    Failed(String),
    Wrong(String),
}

fn failed(error: impl std::fmt::Display) -> Undone {
    Undone::Failed(error.to_string())
}

impl World {
    fn process(&self, life: &Arc<Life>) -> Content {
        let objects = Objects { objects: Arc::clone(&self.objects), life: Arc::clone(life) };
        let records = Records { records: Arc::clone(&self.records), life: Arc::clone(life) };
        let limits = ContentLimits { user_bytes: None, grace: GRACE };
        Content::new(Arc::new(records), Arc::new(objects), limits)
    }

    async fn push(&self, content: &Content, name: &str, rng: &mut StdRng) -> Result<(), Undone> {
        let mut files = vec![("data.yaml".to_owned(), b"names: [a]".to_vec())];
        let count = rng.random_range(1..5);
        for number in (0..CONTENTS).sample(rng, count) {
            files.push((format!("images/{number}.jpg"), format!("content {number}").into_bytes()));
        }
        files.sort();
        let borrowed: Vec<(&str, &[u8])> =
            files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
        let wanted = Wanted { name: name.into(), ..wanted("ada", &borrowed) };
        let mut pushing = content.push(wanted).await.map_err(failed)?;
        let missing = pushing.missing().to_vec();
        for at in missing {
            if rng.random_ratio(1, 20) {
                pushing.break_off().await;
                return Ok(());
            }
            let bytes = Bytes::copy_from_slice(&files[at as usize].1);
            pushing.take(bytes).await.map_err(failed)?;
            tokio::task::yield_now().await;
        }
        match pushing.finish(Time(1)).await {
            Ok(version) => {
                self.kept.borrow_mut().insert((name.to_owned(), version.id), files);
                Ok(())
            }
            // It says so, and is pushed again.
            Err(PushError::Gone) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    fn draw(&self, name: &str, rng: &mut StdRng) -> Option<(String, Digest)> {
        let kept = self.kept.borrow();
        let own: Vec<_> = kept.keys().filter(|(kept, _)| kept == name).cloned().collect();
        own.choose(rng).cloned()
    }

    async fn find(
        &self,
        content: &Content,
        (name, id): &(String, Digest),
    ) -> Result<Arc<VersionRecord>, Undone> {
        let reference = Reference::exact(name, &id.to_string());
        let found = content.resolve(Kind::DataSet, &reference, |_| true).await.map_err(failed)?;
        found.map_err(|why| Undone::Wrong(format!("{reference} was acknowledged: {why:?}")))
    }

    async fn read(&self, content: &Content, key: &(String, Digest)) -> Result<(), Undone> {
        let expected: Vec<u8> = self.kept.borrow()[key].iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        let version = self.find(content, key).await?;
        let manifest = content.manifest(&version).await.map_err(failed)?;
        let all = std::iter::once(0..manifest.len()).collect();
        let mut reader = content.reader(manifest, all, 0).await.map_err(failed)?;
        let mut bytes = Vec::new();
        while let Some(more) = reader.next().await.map_err(failed)? {
            bytes.extend_from_slice(&more);
        }
        if bytes == expected { Ok(()) } else { Err(Undone::Wrong(format!("{key:?} is another one"))) }
    }

    async fn remove(&self, content: &Content, key: &(String, Digest)) -> Result<(), Undone> {
        let version = self.find(content, key).await?;
        // Whatever comes of it, the version is not counted on any more.
        self.kept.borrow_mut().remove(key);
        let removal = content.begin_removal(vec![version]).map_err(|busy| failed(format!("{busy:?}")))?;
        content.remove(removal).await.map_err(failed)
    }

    async fn use_it(&self, content: &Content, name: &str, rng: &mut StdRng) -> Result<(), Undone> {
        for _ in 0..DEEDS {
            match (rng.random_range(0..6), self.draw(name, rng)) {
                (0 | 1, Some(key)) => self.read(content, &key).await?,
                (2 | 3, Some(key)) => self.remove(content, &key).await?,
                _ => self.push(content, name, rng).await?,
            }
        }
        Ok(())
    }

    async fn collect(&self, content: &Content) -> Result<(), Undone> {
        for _ in 0..2 * DEEDS {
            let now = *self.now.borrow() + GRACE / 3;
            *self.now.borrow_mut() = now;
            let is_needed: Box<IsNeeded> = Box::new(|_| Box::pin(async { false }));
            let collected = content.collect(now, &*is_needed).await.map_err(failed)?;
            self.repacked.set(self.repacked.get() + collected.repacked);
        }
        Ok(())
    }

    /// One life of a process, with all its users at once.
    async fn live(&self, life: &Arc<Life>, rng: &mut StdRng) -> Result<(), String> {
        let content = self.process(life);
        let mut own: Vec<StdRng> = (0..USERS).map(|_| StdRng::from_rng(rng)).collect();
        let [first, second, third] = &mut own[..] else { return Err("three users".into()) };
        let (a, b, c, d) = tokio::join!(
            self.use_it(&content, "first", first),
            self.use_it(&content, "second", second),
            self.use_it(&content, "third", third),
            self.collect(&content),
        );
        for done in [a, b, c, d] {
            match done {
                Ok(()) => {}
                Err(Undone::Failed(_)) if life.is_over() => {}
                Err(Undone::Failed(text) | Undone::Wrong(text)) => return Err(text),
            }
        }
        Ok(())
    }

    async fn objects(&self) -> usize {
        self.objects.list(None).collect::<Vec<_>>().await.len()
    }
}

/// Returns how many packs were written anew.
async fn run(seed: u64) -> Result<usize, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let now = RefCell::new(SystemTime::now());
    let (objects, records, kept, repacked) = Default::default();
    let world = World { objects, records, kept, now, repacked };
    for _ in 0..LIVES {
        let life = Life::new(rng.random_range(5..300), rng.random());
        world.live(&life, &mut rng).await?;
    }
    let content = world.process(&Life::new(u64::MAX, 0));
    let told = |undone: Undone| format!("{undone:?}");
    let kept: Vec<(String, Digest)> = world.kept.borrow().keys().cloned().collect();
    for key in &kept {
        world.read(&content, key).await.map_err(told)?;
    }
    // What is written anew in peace is there all the same, and so it is for the next process.
    world.collect(&content).await.map_err(told)?;
    for content in [&content, &world.process(&Life::new(u64::MAX, 0))] {
        for key in &kept {
            world.read(content, key).await.map_err(told)?;
        }
    }
    let versions = content.list(|_| true).await.map_err(|error| error.to_string())?;
    let versions: Vec<_> = versions.into_iter().map(|(version, _)| version).collect();
    let removal = content.begin_removal(versions).map_err(|busy| format!("{busy:?}"))?;
    content.remove(removal).await.map_err(|error| error.to_string())?;
    world.collect(&content).await.map_err(told)?;
    match world.objects().await {
        0 => Ok(world.repacked.get()),
        left => Err(format!("{left} objects stay that nobody needs")),
    }
}

#[tokio::test]
async fn whenever_a_process_dies_what_was_acknowledged_is_there_and_nothing_else_stays() {
    let first = number("TRAINYARD_CONTENT_SEED");
    let seeds = if first.is_some() { 1 } else { number("TRAINYARD_CONTENT_SEEDS").unwrap_or(300) };
    let first = first.unwrap_or_else(|| rand::random_range(0..1 << 40));
    println!("TRAINYARD_CONTENT_SEED={first} and the {seeds} from there on");
    let mut repacked = 0;
    for seed in first..first + seeds {
        repacked += run(seed).await.unwrap_or_else(|wrong| panic!("TRAINYARD_CONTENT_SEED={seed}: {wrong}"));
    }
    assert!(seeds == 1 || repacked > 0, "no pack was mostly dead");
    println!("{repacked} packs were written anew");
}

#[tokio::test]
async fn a_process_that_dies_at_any_step_of_a_repacking_loses_nothing_and_leaves_nothing() {
    let large = vec![7; 10_000];
    let (yaml, kept, gone) = (("data.yaml", &b"y"[..]), ("kept", &b"kept"[..]), ("gone", &large[..]));
    let is_needed: Box<IsNeeded> = Box::new(|_| Box::pin(async { false }));
    let (mut steps, mut repacked_by_it) = (0, 0);
    loop {
        let now = RefCell::new(SystemTime::now());
        let (objects, records, none, repacked) = Default::default();
        let world = World { objects, records, kept: none, now, repacked };
        let immortal = || world.process(&Life::new(u64::MAX, 0));
        let content = immortal();
        let (_, both) = push(&content, "ada", &[yaml, gone, kept], 4096).await.unwrap();
        let small = Wanted { name: "small".into(), ..wanted("ada", &[yaml, kept]) };
        let small = content.push(small).await.unwrap().finish(Time(2)).await.unwrap();
        let removal = content.begin_removal(vec![both]).unwrap();
        content.remove(removal).await.unwrap();
        let life = Life::new(steps, steps);
        let at = |graces: u32| SystemTime::now() + GRACE * graces;
        let collected = world.process(&life).collect(at(1), &*is_needed).await;
        repacked_by_it += collected.map_or(0, |collected| collected.repacked);
        // Another process goes on from there, and one more.
        for graces in [0, 2, 4, 6] {
            let content = immortal();
            for later in [graces, graces + 2] {
                content.collect(at(later), &*is_needed).await.unwrap();
                let all = content.list(|_| true).await.unwrap();
                assert_eq!((all.len(), all[0].0.id), (1, small.id), "step {steps}");
                assert_eq!(super::read(&content, &all[0].0, 0).await.unwrap(), b"ykept", "step {steps}");
            }
        }
        // One pack and the list of files.
        assert_eq!(world.objects().await, 2, "step {steps}");
        if !life.is_over() {
            break;
        }
        steps += 1;
    }
    assert!(steps > 10 && repacked_by_it > 0, "{steps} {repacked_by_it}");
}
