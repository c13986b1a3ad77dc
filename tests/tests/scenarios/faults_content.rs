//! Data sets are pushed, fetched, trained on and removed while whoever takes part is killed or cut off at random. What
//! was acknowledged comes back whole, and what was removed leaves nothing.
//!
//! `TRAINYARD_FAULT_SEED` repeats a run's choices, `TRAINYARD_FAULT_PUSHES` makes it longer, and `TRAINYARD_FAULT_S3=1`
//! keeps the files in a server that speaks S3, which is killed as well.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use trainyard_proto::pb;
use trainyard_tests::faults::client::{Client, leader};
use trainyard_tests::faults::members::{Member, Members};
use trainyard_tests::faults::net::{Net, Node};
use trainyard_tests::faults::number;
use trainyard_tests::faults::object_store::ObjectStore;
use trainyard_tests::faults::verdict;
use trainyard_tests::images::bitmap;
use trainyard_tests::jobs::tiny;
use trainyard_tests::process::binary;

const SCHEDULERS: usize = 2;
const AGENTS: usize = 2;
const SLOTS: u32 = 2;
const LAPTOPS: usize = 2;
/// Data sets that each laptop keeps changing.
const FOLDERS: usize = 2;
const EPOCHS: u32 = 1;
/// How long contents stay that nobody needs.
const GRACE: Duration = Duration::from_secs(4);
const BEAT: Duration = Duration::from_millis(250);
/// How long one call of a laptop may take in all, with those that are repeated.
const PATIENCE: Duration = Duration::from_secs(240);

/// What was acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    /// Versions that were pushed and not removed.
    kept: BTreeSet<String>,
    /// Names of jobs, none of them cancelled.
    jobs: BTreeMap<String, bool>,
    counts: BTreeMap<&'static str, u32>,
}

impl Acknowledged {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

/// Somebody's machine, with folders that change all the time.
struct Laptop<'a> {
    number: usize,
    node: Node,
    urls: Vec<String>,
    dir: PathBuf,
    rng: StdRng,
    pushes: u64,
    all: &'a RefCell<Acknowledged>,
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().context("a name")?);
        if path.is_dir() { copy_folder(&path, &target)? } else { fs::copy(&path, &target).map(drop)? }
    }
    Ok(())
}

impl Laptop<'_> {
    /// Runs `yard`, or kills it in the middle: then there is no answer.
    async fn yard(&mut self, arguments: &[&str]) -> Result<Option<(i32, String)>> {
        let mut command = tokio::process::Command::from(self.node.command(&binary("yard")?));
        command.args(arguments).env("YARD_SERVER", self.urls.join(","));
        command.env("XDG_CACHE_HOME", self.dir.join("cache")).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = command.spawn()?.wait_with_output();
        let output = if self.rng.random_ratio(1, 4) {
            let moment = Duration::from_millis(self.rng.random_range(5..400));
            match timeout(moment, output).await {
                Ok(output) => output?,
                Err(_) => {
                    self.all.borrow_mut().count("clients killed");
                    return Ok(None);
                }
            }
        } else {
            output.await?
        };
        let said = if output.status.success() { output.stdout } else { output.stderr };
        Ok(Some((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())))
    }

    /// Runs it again until it answers with one of `codes`.
    async fn insist(&mut self, arguments: &[&str], codes: &[i32]) -> Result<(i32, String)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.yard(arguments).await? {
                Some((code, said)) if codes.contains(&code) => return Ok((code, said.trim().to_owned())),
                Some((code, said)) if Instant::now() > deadline => bail!("{arguments:?}: {code}, {said}"),
                _ => {}
            }
        }
    }

    fn folder(&self, number: usize) -> PathBuf {
        self.dir.join(format!("set-{}-{number}", self.number))
    }

    /// Other boxes in some labels, now and then another image, and rarely a large one.
    fn change(&mut self, folder: &Path) -> Result<()> {
        let images: Vec<PathBuf> = fs::read_dir(folder.join("images/train"))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        for _ in 0..self.rng.random_range(1..4) {
            let image = images.choose(&mut self.rng).context("an image")?;
            let stem = image.file_stem().context("a stem")?.to_string_lossy().into_owned();
            let mut side = || self.rng.random_range(0.1..0.4);
            let text = format!("0 0.5 0.5 {:.9} {:.9}\n", side(), side());
            fs::write(folder.join(format!("labels/train/{stem}.txt")), text)?;
        }
        if self.rng.random_ratio(1, 4) {
            let image = images.choose(&mut self.rng).context("an image")?;
            let suffix = image.extension().context("an extension")?.to_string_lossy().into_owned();
            let name = format!("images/train/more-{}.{suffix}", self.rng.random_range(0..20));
            fs::copy(image, folder.join(name))?;
        }
        if self.rng.random_ratio(1, 8) {
            fs::write(folder.join("images/train/large.bmp"), bitmap(1024, || self.rng.random()))?;
        }
        Ok(())
    }

    async fn push(&mut self, number: usize) -> Result<()> {
        let folder = self.folder(number);
        self.change(&folder)?;
        let (_, version) = self.insist(&["data", "push", &folder.display().to_string()], &[0]).await?;
        let mut all = self.all.borrow_mut();
        all.kept.insert(version);
        all.count("pushes");
        drop(all);
        self.pushes += 1;
        Ok(())
    }

    /// A version of one of its folders that is there.
    fn kept(&mut self) -> Option<String> {
        let own = format!("set-{}-", self.number);
        let all = self.all.borrow();
        let own: Vec<&String> = all.kept.iter().filter(|version| version.starts_with(&own)).collect();
        own.choose(&mut self.rng).map(|version| (*version).clone())
    }

    /// Fetches a version, and makes sure by all its hashes that it is the one.
    async fn fetch(&mut self, version: &str) -> Result<()> {
        let there = self.dir.join("fetched");
        let words = there.display().to_string();
        self.insist(&["data", "pull", version, "-d", &words], &[0]).await?;
        let (name, _) = version.split_once('@').context("a version")?;
        let (_, again) = self.insist(&["data", "push", &words, "--name", name, "--dry-run"], &[0]).await?;
        ensure!(again == version, "{version} came back as {again}");
        fs::remove_dir_all(there)?;
        self.all.borrow_mut().count("fetches");
        Ok(())
    }

    async fn remove(&mut self, version: &str) -> Result<()> {
        self.insist(&["data", "show", version], &[0]).await.context("before it is removed")?;
        // An answer may have been lost, and then there is none any more.
        loop {
            match self.insist(&["data", "rm", version], &[0, 4]).await? {
                (0, _) => break,
                (_, said) if said.contains("there is no") || said.contains("has no version") => break,
                (_, said) if said.contains("is needed by") => return Ok(()),
                // It is about to be submitted or removed.
                _ => {}
            }
        }
        let mut all = self.all.borrow_mut();
        all.kept.remove(version);
        all.count("removals");
        Ok(())
    }

    async fn train(&mut self, client: &mut Client, version: &str) -> Result<()> {
        let name = format!("job-{}-{}", self.number, self.rng.random::<u64>());
        let spec =
            pb::JobSpec { name: name.clone(), max_retries: Some(100), ..tiny(Path::new(version), EPOCHS) };
        let request =
            pb::SubmitJobRequest { request_id: name.clone(), spec: Some(spec), validate_only: false };
        let submitted = client.call(|mut jobs| {
            let request = request.clone();
            async move { jobs.submit_job(request).await }
        });
        submitted.await?;
        let mut all = self.all.borrow_mut();
        all.jobs.insert(name, false);
        all.count("jobs");
        Ok(())
    }

    /// Does one thing after the other until it has pushed so often.
    async fn work(&mut self, pushes: u64) -> Result<()> {
        let mut client = Client::new(&self.urls, Instant::now() + PATIENCE * 100);
        while self.pushes < pushes {
            let kept = self.kept();
            match (self.rng.random_range(0..10), kept) {
                (0, Some(version)) => self.train(&mut client, &version).await?,
                (1 | 2, Some(version)) => self.fetch(&version).await?,
                (3..=5, Some(version)) => self.remove(&version).await?,
                _ => {
                    let number = self.rng.random_range(0..FOLDERS);
                    self.push(number).await?;
                }
            }
        }
        Ok(())
    }
}

/// Whoever takes part and can be killed.
struct Storm {
    members: Members,
    store: Option<ObjectStore>,
    rng: StdRng,
    /// To whom something happens, whether a cut, and until when.
    active: Vec<(usize, bool, Instant)>,
    can_cut: bool,
    counts: BTreeMap<String, u32>,
}

impl Storm {
    fn all(&mut self) -> Vec<&mut Member> {
        self.members.all().chain(self.store.as_mut().map(|store| &mut store.member)).collect()
    }

    fn strike(&mut self) -> Result<()> {
        let mut whom = self.rng.random_range(0..1 + SCHEDULERS + AGENTS);
        // The object store takes some ten seconds to be back.
        if self.store.is_some() && self.rng.random_ratio(1, 30) {
            whom = 1 + SCHEDULERS + AGENTS;
        }
        if self.active.iter().any(|(struck, ..)| *struck == whom) {
            return Ok(());
        }
        let is_cut = self.can_cut && self.rng.random_ratio(1, 3);
        let lasts = Duration::from_millis(self.rng.random_range(50..3000));
        let mut all = self.all();
        let member = &mut all[whom];
        if is_cut {
            member.node.cut()?;
        } else {
            member.kill()?;
        }
        let what = format!("{} {}", member.name, if is_cut { "cut off" } else { "killed" });
        *self.counts.entry(what).or_default() += 1;
        self.active.push((whom, is_cut, Instant::now() + lasts));
        Ok(())
    }

    fn heal(&mut self, now: Instant) -> Result<()> {
        let active = std::mem::take(&mut self.active);
        let (over, active): (Vec<_>, Vec<_>) = active.into_iter().partition(|(.., until)| *until <= now);
        self.active = active;
        for (whom, is_cut, _) in over {
            let all = self.all();
            if is_cut {
                all[whom].node.heal()?;
            }
        }
        // Those that were killed, and those that have ended by themselves, as a service manager does.
        let down: Vec<usize> =
            self.active.iter().filter(|(_, is_cut, _)| !is_cut).map(|(whom, ..)| *whom).collect();
        for (whom, member) in self.all().into_iter().enumerate() {
            if !down.contains(&whom) {
                member.start()?;
            }
        }
        Ok(())
    }

    async fn rage(&mut self) -> Result<()> {
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = beats.tick().await;
            self.heal(now)?;
            if self.active.len() < 2 && self.rng.random_ratio(1, 3) {
                self.strike()?;
            }
        }
    }

    /// Packs and manifests that are stored.
    fn objects(&self) -> Result<usize> {
        if let Some(store) = &self.store {
            return store.objects();
        }
        let count = |folder: &str| {
            let listed = fs::read_dir(self.members.path("blobs/content").join(folder));
            // What a killed scheduler has left half-written has a `#` in its name, and goes ten minutes later.
            let is_whole = |entry: &fs::DirEntry| !entry.file_name().to_string_lossy().contains('#');
            listed.map_or(0, |listed| listed.flatten().filter(is_whole).count())
        };
        Ok(count("packs") + count("manifests"))
    }
}

async fn run(net: Net, seed: u64) -> Result<()> {
    let pushes = number("TRAINYARD_FAULT_PUSHES", 16);
    let can_cut = net.can_cut();
    let mut members = Members::new(net, SCHEDULERS, AGENTS, SLOTS)?;
    let store = (number("TRAINYARD_FAULT_S3", 0) > 0).then(|| members.add_object_store()).transpose()?;
    for scheduler in &mut members.schedulers {
        scheduler.set("TRAINYARD_SCHEDULER__DATA_GRACE", format!("{}s", GRACE.as_secs()));
    }
    for member in members.all() {
        member.start()?;
    }
    let (urls, all) = (members.urls.clone(), RefCell::default());
    let mut laptops = Vec::new();
    for number in 0..LAPTOPS {
        let dir = members.path(&format!("laptop-{number}"));
        let rng = StdRng::seed_from_u64(seed + 1 + number as u64);
        let laptop =
            Laptop { number, node: members.place()?, urls: urls.clone(), dir, rng, pushes: 0, all: &all };
        let generated = laptop.dir.join("generated");
        fs::create_dir_all(&laptop.dir)?;
        let made = std::process::Command::new(binary("yard")?)
            .arg("demo-data")
            .arg(&generated)
            .args(["--train", "24", "--val", "6", "--size", "64"])
            .output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for folder in 0..FOLDERS {
            copy_folder(&generated, &laptop.folder(folder))?;
        }
        laptops.push(laptop);
    }
    let rng = StdRng::seed_from_u64(seed);
    let mut storm = Storm { members, store, rng, active: vec![], can_cut, counts: BTreeMap::new() };
    let begun = Instant::now();
    {
        let [one, other] = &mut laptops[..] else { bail!("two laptops") };
        let each = pushes.div_ceil(LAPTOPS as u64);
        let work = async { tokio::try_join!(one.work(each), other.work(each)) };
        tokio::select! {
            done = work => done.map(drop)?,
            raged = storm.rage() => raged?,
        }
    }
    storm.heal(Instant::now() + PATIENCE)?;
    println!("{:?} of faults: {:?}", begun.elapsed(), storm.counts);
    let mut client = Client::new(&urls, Instant::now() + PATIENCE);
    client.all_ended(Instant::now() + PATIENCE).await?;
    let led = leader(&urls).await.context("nobody leads")?;
    let mut client = Client::new(&urls[led..=led], Instant::now() + PATIENCE);
    let Acknowledged { kept, jobs, counts } = all.take();
    verdict::check(&mut client, &jobs, EPOCHS).await?;
    println!("{counts:?}; {} versions are kept", kept.len());
    for version in &kept {
        laptops[0].fetch(version).await.with_context(|| format!("{version} was acknowledged"))?;
    }
    for name in kept.iter().filter_map(|version| Some(version.split_once('@')?.0)).collect::<BTreeSet<_>>() {
        laptops[0].remove(name).await?;
    }
    let deadline = Instant::now() + GRACE * 2 + PATIENCE;
    let mut beats = interval(BEAT * 4);
    while storm.objects()? > 0 {
        beats.tick().await;
        ensure!(Instant::now() < deadline, "{} objects stay that nobody needs", storm.objects()?);
    }
    println!("everything came back whole, and nothing stays, after {:?}", begun.elapsed());
    Ok(())
}

#[test]
fn what_was_pushed_comes_back_whole_whoever_is_killed_or_cut_off() {
    let seed = number("TRAINYARD_FAULT_SEED", rand::random_range(0..1 << 32));
    println!("TRAINYARD_FAULT_SEED={seed}");
    let (net, why_not) = Net::new();
    if let Some(cause) = why_not {
        println!("links are not cut, for want of rights: {cause:#}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(net, seed)).map_err(|error| format!("seed {seed}: {error:#}")).unwrap();
}
