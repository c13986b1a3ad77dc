//! Everything is killed, paused, cut off and filled up in random order under load; every job ends once, and
//! nothing that was told of it is missing or doubled.
//!
//! `TRAINYARD_FAULT_SEED` repeats a run's choices, `TRAINYARD_FAULT_JOBS` and `TRAINYARD_FAULT_SECONDS` make
//! it longer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, MissedTickBehavior, interval};
use trainyard_proto::pb;
use trainyard_tests::faults::client::{Client, leader};
use trainyard_tests::faults::members::{Member, Members};
use trainyard_tests::faults::net::Net;
use trainyard_tests::faults::number;
use trainyard_tests::faults::verdict;
use trainyard_tests::jobs::tiny;

const EPOCHS: u32 = 4;
const SCHEDULERS: usize = 3;
const AGENTS: usize = 3;
const SLOTS: u32 = 4;
/// How often something may happen.
const BEAT: Duration = Duration::from_millis(200);
/// Faults at a time.
const AT_ONCE: usize = 3;
/// How long everything may take to end once all is healed.
const HEALING: Duration = Duration::from_secs(180);

/// Whom something happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    Redis,
    Scheduler(usize),
    Agent(usize),
}

/// What happens, for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Killed,
    Terminated,
    Paused,
    Cut,
    DiskFull,
}

/// What kind of member it happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Leader,
    Standby,
    Redis,
    Agent,
    Trainer,
}

/// Every kind of fault; `docs/reference/faults.md` lists them with what follows.
const KINDS: [(Role, What); 14] = [
    (Role::Leader, What::Killed),
    (Role::Leader, What::Terminated),
    (Role::Leader, What::Paused),
    (Role::Leader, What::Cut),
    (Role::Standby, What::Killed),
    (Role::Standby, What::Cut),
    (Role::Redis, What::Killed),
    (Role::Redis, What::Paused),
    (Role::Redis, What::Cut),
    (Role::Redis, What::DiskFull),
    (Role::Agent, What::Killed),
    (Role::Agent, What::Paused),
    (Role::Agent, What::Cut),
    (Role::Trainer, What::Killed),
];

struct Fault {
    whom: Whom,
    what: What,
    until: Instant,
}

struct Faults {
    members: Members,
    rng: StdRng,
    active: Vec<Fault>,
    /// What is still to happen before everything may happen again.
    deck: Vec<(Role, What)>,
    counts: BTreeMap<(Role, What), u32>,
    can_cut: bool,
}

impl Faults {
    fn member(&mut self, whom: Whom) -> &mut Member {
        match whom {
            Whom::Redis => &mut self.members.redis,
            Whom::Scheduler(at) => &mut self.members.schedulers[at],
            Whom::Agent(at) => &mut self.members.agents[at],
        }
    }

    /// Whether this machine lets it happen.
    fn is_possible(&self, (_, what): (Role, What)) -> bool {
        match what {
            What::Cut => self.can_cut,
            What::DiskFull => self.members.can_fill_disk(),
            What::Killed | What::Terminated | What::Paused => true,
        }
    }

    /// The next of everything that can happen, in an order of its own each time.
    async fn strike(&mut self) -> Result<()> {
        if self.deck.is_empty() {
            self.deck = KINDS.into_iter().filter(|&kind| self.is_possible(kind)).collect();
            self.deck.shuffle(&mut self.rng);
        }
        let leader = leader(&self.members.urls).await;
        for at in (0..self.deck.len()).rev() {
            let kind = self.deck[at];
            if self.try_strike(leader, kind)? {
                self.deck.remove(at);
                *self.counts.entry(kind).or_default() += 1;
                break;
            }
        }
        Ok(())
    }

    /// Whether it has happened; not to somebody to whom something happens already.
    fn try_strike(&mut self, leader: Option<usize>, (role, what): (Role, What)) -> Result<bool> {
        let agent = Whom::Agent(self.rng.random_range(0..AGENTS));
        let whom = match (role, leader) {
            (Role::Trainer, _) => return Ok(self.kill_a_trainer(agent)),
            (Role::Leader | Role::Standby, None) => return Ok(false),
            (Role::Leader, Some(at)) => Whom::Scheduler(at),
            (Role::Standby, Some(at)) => {
                Whom::Scheduler((at + self.rng.random_range(1..SCHEDULERS)) % SCHEDULERS)
            }
            (Role::Redis, _) => Whom::Redis,
            (Role::Agent, _) => agent,
        };
        if self.active.iter().any(|fault| fault.whom == whom) {
            return Ok(false);
        }
        match what {
            What::Killed => self.member(whom).kill()?,
            What::Terminated => self.member(whom).terminate()?,
            What::Paused => self.member(whom).pause(true)?,
            What::Cut => self.member(whom).node.cut()?,
            What::DiskFull => self.members.fill_disk(true)?,
        }
        // Longer and shorter than the leader's lease of 1.5 s and the agents' of 4 s.
        let lasts = Duration::from_millis(self.rng.random_range(100..6000));
        self.active.push(Fault { whom, what, until: Instant::now() + lasts });
        Ok(true)
    }

    fn kill_a_trainer(&mut self, agent: Whom) -> bool {
        let trainers = self.member(agent).trainers();
        if trainers.is_empty() {
            return false;
        }
        let trainer = trainers[self.rng.random_range(0..trainers.len())];
        // It may just have ended by itself.
        kill(Pid::from_raw(trainer), Signal::SIGKILL).is_ok()
    }

    /// Ends what has lasted long enough, and starts what has ended by itself.
    fn heal(&mut self, now: Instant) -> Result<()> {
        let (over, active): (Vec<Fault>, Vec<Fault>) =
            std::mem::take(&mut self.active).into_iter().partition(|fault| fault.until <= now);
        self.active = active;
        for Fault { whom, what, .. } in over {
            match what {
                What::Killed | What::Terminated => self.member(whom).start()?,
                What::Paused => self.member(whom).pause(false)?,
                What::Cut => self.member(whom).node.heal()?,
                What::DiskFull => self.members.fill_disk(false)?,
            }
        }
        let is_down =
            |whom| self.active.iter().any(|fault| fault.whom == whom && fault.what != What::DiskFull);
        let schedulers = (0..SCHEDULERS).map(Whom::Scheduler);
        let agents = (0..AGENTS).map(Whom::Agent);
        let up: Vec<Whom> =
            schedulers.chain(agents).chain([Whom::Redis]).filter(|whom| !is_down(*whom)).collect();
        for whom in up {
            self.member(whom).start()?;
        }
        Ok(())
    }

    /// Lets things happen until `end`, or until everything has happened once, and heals everything.
    async fn rage(&mut self, end: Instant) -> Result<()> {
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let possible = KINDS.into_iter().filter(|&kind| self.is_possible(kind)).count();
        let last = end + HEALING / 2;
        while Instant::now() < end || (self.counts.len() < possible && Instant::now() < last) {
            let now = beats.tick().await;
            self.heal(now)?;
            if self.active.len() < AT_ONCE && self.rng.random_ratio(1, 2) {
                self.strike().await?;
            }
        }
        self.heal(Instant::now() + HEALING)?;
        anyhow::ensure!(self.counts.len() == possible, "not everything has happened: {:?}", self.counts);
        Ok(())
    }
}

/// Submits all jobs evenly over `span`, and cancels some of them; the names, and which were cancelled.
async fn submit(
    client: &mut Client,
    data: &std::path::Path,
    (jobs, span): (u64, Duration),
    mut rng: StdRng,
    names: &RefCell<BTreeMap<String, bool>>,
) -> Result<()> {
    let begun = Instant::now();
    for number in 0..jobs {
        let due = begun + span.mul_f64(number as f64 / jobs as f64);
        tokio::time::sleep_until(due).await;
        let name = format!("job-{number}");
        let spec = pb::JobSpec {
            name: name.clone(),
            max_retries: Some(100),
            ..tiny(&data.join("data.yaml"), EPOCHS)
        };
        let request =
            pb::SubmitJobRequest { request_id: name.clone(), spec: Some(spec), validate_only: false };
        let submitted = client.call(|mut jobs| {
            let request = request.clone();
            async move { jobs.submit_job(request).await }
        });
        let job_id = submitted.await?.job_id;
        let cancelled = rng.random_ratio(1, 20);
        names.borrow_mut().insert(name, cancelled);
        if cancelled {
            let request = pb::CancelJobRequest { job_id };
            let ended = client.call(|mut jobs| {
                let request = request.clone();
                async move { jobs.cancel_job(request).await }
            });
            ended.await?;
        }
    }
    Ok(())
}

async fn run(net: Net, seed: u64) -> Result<()> {
    let jobs = number("TRAINYARD_FAULT_JOBS", 120);
    let span = Duration::from_secs(number("TRAINYARD_FAULT_SECONDS", 25));
    let can_cut = net.can_cut();
    let mut members = Members::new(net, SCHEDULERS, AGENTS, SLOTS)?;
    anyhow::ensure!(!geteuid().is_root() || members.can_fill_disk(), "root, and Redis' disk is not mounted");
    for member in members.all() {
        member.start()?;
    }
    let (data, urls) = (members.data.clone(), members.urls.clone());
    let begun = Instant::now();
    let deadline = begun + span + HEALING * 2;
    let rng = StdRng::seed_from_u64(seed);
    let mut faults = Faults { members, rng, active: vec![], deck: vec![], counts: BTreeMap::new(), can_cut };
    let names = RefCell::default();
    let mut client = Client::new(&urls, deadline);
    let submitting = submit(&mut client, &data, (jobs, span), StdRng::seed_from_u64(!seed), &names);
    let (submitted, raged) = tokio::join!(submitting, faults.rage(begun + span));
    submitted.context("submitting")?;
    raged.context("making faults")?;
    println!("{:?} of faults: {:?}", begun.elapsed(), faults.counts);
    client.all_ended(deadline).await?;
    // What a standby shows is a moment old; who leads, shows all.
    let led = leader(&urls).await.context("nobody leads")?;
    let mut client = Client::new(&urls[led..=led], deadline);
    verdict::check(&mut client, &names.take(), EPOCHS).await?;
    println!("{jobs} jobs ended, each once, after {:?}", begun.elapsed());
    Ok(())
}

#[test]
fn every_job_ends_once_whatever_is_killed_paused_cut_off_or_full() {
    let seed = number("TRAINYARD_FAULT_SEED", rand::random_range(0..1 << 32));
    println!("TRAINYARD_FAULT_SEED={seed}");
    let (net, why_not) = Net::new();
    if let Some(cause) = why_not {
        // Who may do it and cannot would else believe that links were cut.
        assert!(!geteuid().is_root(), "root, and no network namespaces: {cause:#}");
        println!("links are not cut and no disk is filled, for want of rights: {cause:#}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(net, seed)).map_err(|error| format!("seed {seed}: {error:#}")).unwrap();
}
