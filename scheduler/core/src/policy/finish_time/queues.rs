//! Who waits for which kind of card, and who runs there until when: what the policy decides on.
//!
//! Must not know agents' sessions, stores or what users see. Everything here is derived from the jobs.
//!
//! Each waiting job has a seat in the line of one kind. Lines are kept by user, so that whose turn it is can
//! be asked anew each time, and in buckets of length, so that the place of a job among ten thousand others
//! costs a look at a few hundred numbers.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use trainyard_types::{AgentId, JobId, Time};

use super::FRESH;
use super::facts::Facts;
use super::starvation::Overdue;
use crate::record::Estimate;
use crate::spans::whole_millis;
use crate::state::ranked::Ranked;
use crate::state::sight::JobPaths;
use crate::state::slots::Kind;

/// Buckets of each doubling of a length, and all of them: from a second to thirty-four years.
const PER_OCTAVE: f64 = 8.0;
const BUCKETS: usize = 240;

/// Jobs by how long they take, in buckets that grow by a factor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Load {
    jobs: Vec<f64>,
    /// Milliseconds times cards.
    area: Vec<f64>,
}

impl Default for Load {
    fn default() -> Self {
        Self { jobs: vec![0.0; BUCKETS], area: vec![0.0; BUCKETS] }
    }
}

/// What stands before and behind a place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Around {
    pub(super) shorter: f64,
    pub(super) shorter_area: f64,
    pub(super) longer: f64,
}

impl Load {
    fn bucket(rank: u64) -> usize {
        #[expect(clippy::cast_precision_loss, reason = "a bucket is wider than the rounding")]
        let octaves = (rank.max(1024) as f64).log2() - 10.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative")]
        let bucket = (octaves * PER_OCTAVE) as usize;
        bucket.min(BUCKETS - 1)
    }

    pub(super) fn add(&mut self, rank: u64, area: f64) {
        let at = Self::bucket(rank);
        self.jobs[at] += 1.0;
        self.area[at] += area;
    }

    pub(super) fn remove(&mut self, rank: u64, area: f64) {
        let at = Self::bucket(rank);
        self.jobs[at] = (self.jobs[at] - 1.0).max(0.0);
        // What rounding leaves behind must not pile up in a bucket that is empty.
        self.area[at] = if self.jobs[at] == 0.0 { 0.0 } else { (self.area[at] - area).max(0.0) };
    }

    /// All jobs, and their area.
    pub(super) fn total(&self) -> (f64, f64) {
        (self.jobs.iter().sum(), self.area.iter().sum())
    }

    /// Those of a bucket of its own count half before and half behind.
    pub(super) fn around(&self, rank: u64) -> Around {
        let at = Self::bucket(rank);
        Around {
            shorter: self.jobs[..at].iter().sum::<f64>() + self.jobs[at] / 2.0,
            shorter_area: self.area[..at].iter().sum::<f64>() + self.area[at] / 2.0,
            longer: self.jobs[at + 1..].iter().sum::<f64>() + self.jobs[at] / 2.0,
        }
    }
}

/// The order of one user's jobs in a line: by priority, then the shorter first, then the earlier.
pub(super) type Place = (Reverse<i32>, u64, JobId);

/// Whose line it is: a user's, and of jobs that the same agents see.
pub(super) type LineOf = (Arc<str>, Option<Arc<JobPaths>>);

/// A waiting job's place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seat {
    pub(super) facts: Facts,
    /// The kind that it waits for; `None` while no card would do.
    pub(super) lane: Option<usize>,
    /// How long it takes there, times the root of its cards, in milliseconds.
    pub(super) rank: u64,
    /// How long it takes there, times its cards.
    pub(super) area: f64,
    /// Where it was last thought of, and when.
    pub(super) stamp: u64,
    pub(super) thought: Time,
    /// From when on it goes before all that came later.
    pub(super) overdue_at: Time,
    /// What was expected of it when it was first thought of.
    pub(super) estimate: Option<Estimate>,
}

/// A job at work.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Runner {
    pub(super) agent: AgentId,
    pub(super) gpus: u32,
    /// When it is expected to end.
    pub(super) end: Time,
}

impl Runner {
    /// What is left of it, times the root of its cards and times its cards, in milliseconds.
    fn left(&self, now: Time) -> (u64, f64) {
        let left = self.end.since(now).as_secs_f64() * 1000.0;
        let cards = f64::from(self.gpus);
        (whole_millis(left * cards.sqrt()), left * cards)
    }
}

/// The line for one kind of card.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) line: BTreeMap<LineOf, Ranked<Place>>,
    /// By priority, the higher first.
    loads: BTreeMap<Reverse<i32>, Load>,
    pub(super) waiting: usize,
    pub(super) running: BTreeMap<JobId, Runner>,
    /// The same by their ends.
    pub(super) ends: BTreeSet<(Time, JobId)>,
    /// The same by what is left of them, as of `running_as_of`.
    pub(super) running_load: Load,
    running_as_of: Time,
    /// Waiting jobs for each card, on average over the last hours: what a card of this kind is worth.
    pub(super) crowding: f64,
    as_of: Time,
}

/// Cards of an agent that are kept together for a job that needs several.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reservation {
    pub(super) lane: usize,
    pub(super) agent: AgentId,
    pub(super) job: JobId,
    /// When they are expected to be free.
    pub(super) at: Time,
    /// Jobs that make way for it at their next checkpoint.
    pub(super) victims: BTreeSet<JobId>,
}

/// All lines.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(super) kinds: Vec<Kind>,
    pub(super) lanes: Vec<Lane>,
    pub(super) seats: BTreeMap<JobId, Seat>,
    /// Ready jobs that have no seat yet: by priority, then by when they came.
    pub(super) standing: BTreeSet<(Reverse<i32>, JobId)>,
    pub(super) by_age: BTreeSet<(u64, JobId)>,
    pub(super) stamp: u64,
    /// The newest stamp before this decision.
    pub(super) thought_from: u64,
    /// When seated jobs become overdue.
    pub(super) patience: BTreeSet<(Time, JobId)>,
    /// Jobs that are.
    pub(super) overdue: Overdue,
    pub(super) reserved: Vec<Reservation>,
    /// Jobs that were told to make way, and for whom; for nobody when they move to a better card.
    pub(super) making_way: BTreeMap<JobId, Option<JobId>>,
    /// Waiting jobs for which another has made way, and which.
    pub(super) made_way: BTreeMap<JobId, JobId>,
    pub(super) last_victim: Option<JobId>,
    /// Jobs that make way for themselves, the kind of card that they move to, and how many.
    pub(super) moving: BTreeMap<JobId, (usize, u32)>,
    /// When each running job last stored a checkpoint, and how long it had taken to come to it.
    pub(super) checkpoints: BTreeMap<JobId, (Time, Duration)>,
    /// Within a decision: how long it takes until so many cards of a lane are together for a job of such a length.
    pub(super) together: BTreeMap<(usize, u32, u64), f64>,
    /// Seated jobs that need several cards.
    pub(super) gangs: usize,
    /// When to think again although nothing has happened.
    pub(super) rethink: Option<Time>,
}

impl Plan {
    /// The lane of a kind, new if need be.
    pub(super) fn lane(&mut self, kind: &Kind) -> usize {
        if let Some(at) = self.kinds.iter().position(|known| known == kind) {
            return at;
        }
        self.kinds.push(kind.clone());
        self.lanes.push(Lane::default());
        self.kinds.len() - 1
    }

    pub(super) fn find(&self, kind: &Kind) -> Option<usize> {
        self.kinds.iter().position(|known| known == kind)
    }

    /// A job became ready.
    pub(crate) fn arrive(&mut self, job: JobId, priority: i32) {
        if !self.seats.contains_key(&job) {
            self.standing.insert((Reverse(priority), job));
        }
    }

    /// A job waits no more.
    pub(crate) fn leave(&mut self, job: JobId, priority: i32) {
        self.standing.remove(&(Reverse(priority), job));
        self.moving.remove(&job);
        self.made_way.remove(&job);
        if let Some(seat) = self.stand_up(job) {
            self.patience.remove(&(seat.overdue_at, job));
            self.overdue.remove(&seat.facts.request, &seat.facts.user, seat.facts.created, job);
            self.gangs -= usize::from(seat.facts.request.gpus > 1);
        }
    }

    /// Takes a job out of its line; the caller seats it again, or lets it go.
    pub(super) fn stand_up(&mut self, job: JobId) -> Option<Seat> {
        let seat = self.seats.remove(&job)?;
        self.by_age.remove(&(seat.stamp, job));
        if let Some(lane) = seat.lane {
            let lane = &mut self.lanes[lane];
            let priority = Reverse(seat.facts.priority);
            if let Some(load) = lane.loads.get_mut(&priority) {
                load.remove(seat.rank, seat.area);
                if load.total().0 == 0.0 {
                    lane.loads.remove(&priority);
                }
            }
            lane.waiting -= 1;
            let whose = seat.facts.line();
            if let Some(line) = lane.line.get_mut(&whose) {
                line.remove(&(Reverse(seat.facts.priority), seat.rank, job));
                if line.is_empty() {
                    lane.line.remove(&whose);
                }
            }
        }
        Some(seat)
    }

    /// Puts a job into a line. Its stamp is the newest.
    pub(super) fn sit_down(&mut self, job: JobId, mut seat: Seat) {
        self.stamp += 1;
        seat.stamp = self.stamp;
        self.by_age.insert((seat.stamp, job));
        if let Some(lane) = seat.lane {
            let lane = &mut self.lanes[lane];
            lane.loads.entry(Reverse(seat.facts.priority)).or_default().add(seat.rank, seat.area);
            lane.waiting += 1;
            let place = (Reverse(seat.facts.priority), seat.rank, job);
            lane.line.entry(seat.facts.line()).or_default().insert(place);
        }
        self.seats.insert(job, seat);
    }

    /// Jobs whose patience is over go before all others from now on.
    pub(super) fn grow_impatient(&mut self, now: Time) {
        while let Some(&(time, job)) = self.patience.first()
            && time <= now
        {
            self.patience.pop_first();
            if let Some(seat) = self.seats.get(&job) {
                let Facts { request, user, created, .. } = &seat.facts;
                self.overdue.insert(request, user, *created, job);
            }
        }
    }

    /// What an agent's cards are kept for, if they are.
    pub(super) fn kept(&self, lane: usize, agent: AgentId) -> Option<&Reservation> {
        self.reserved.iter().find(|kept| (kept.lane, kept.agent) == (lane, agent))
    }

    /// Cards of a lane that jobs are on their way to which make way for themselves, but for one of them.
    pub(super) fn claimed(&self, lane: usize, but_for: JobId) -> usize {
        let claims = self.moving.iter().filter(|&(&job, &(to, _))| to == lane && job != but_for);
        claims.map(|(_, &(_, gpus))| gpus as usize).sum()
    }

    /// When a waiting job was thought of last that this decision did not think of.
    pub(super) fn left_out(&self) -> Option<Time> {
        let (_, job) = self.by_age.first().filter(|&&(stamp, _)| stamp <= self.thought_from)?;
        self.seats.get(job).map(|seat| seat.thought)
    }

    /// When a job that runs is expected to end.
    pub(crate) fn expected_end(&self, job: JobId) -> Option<Time> {
        self.lanes.iter().find_map(|lane| lane.running.get(&job)).map(|runner| runner.end)
    }

    /// Whether a job was told to make way.
    pub(crate) fn makes_way(&self, job: JobId) -> bool {
        self.making_way.contains_key(&job)
    }

    /// Whether somebody was told to make way for this job.
    pub(super) fn is_promised(&self, job: JobId) -> bool {
        self.making_way.values().any(|&beneficiary| beneficiary == Some(job))
    }
}

impl Lane {
    /// What of its waiting jobs goes before and behind one: of a higher priority all, of a lower one nothing.
    pub(super) fn around(&self, priority: i32, rank: u64) -> Around {
        let mut around = Around::default();
        for (&Reverse(other), load) in &self.loads {
            let part = match other.cmp(&priority) {
                Ordering::Greater => {
                    let (shorter, shorter_area) = load.total();
                    Around { shorter, shorter_area, longer: 0.0 }
                }
                Ordering::Equal => load.around(rank),
                Ordering::Less => Around { longer: load.total().0, ..Around::default() },
            };
            around.shorter += part.shorter;
            around.shorter_area += part.shorter_area;
            around.longer += part.longer;
        }
        around
    }

    /// A job works here, or is expected to end at another time.
    pub(super) fn run(&mut self, job: JobId, runner: Runner) {
        self.stop(job);
        let (rank, area) = runner.left(self.running_as_of);
        self.running_load.add(rank, area);
        self.ends.insert((runner.end, job));
        self.running.insert(job, runner);
    }

    /// A job works here no more.
    pub(super) fn stop(&mut self, job: JobId) {
        if let Some(runner) = self.running.remove(&job) {
            let (rank, area) = runner.left(self.running_as_of);
            self.running_load.remove(rank, area);
            self.ends.remove(&(runner.end, job));
        }
    }

    /// When the card becomes free that comes after so many others; behind the last one, when that does.
    pub(super) fn nth_end(&self, behind: usize) -> Option<Time> {
        let nth = if behind < self.ends.len() { self.ends.iter().nth(behind) } else { self.ends.last() };
        nth.map(|&(end, _)| end)
    }

    /// Brings what is left of the running jobs up to `now`, unless it is as good as new.
    pub(super) fn age(&mut self, now: Time) {
        if now.since(self.running_as_of) < FRESH {
            return;
        }
        self.running_as_of = now;
        self.running_load = Load::default();
        for runner in self.running.values() {
            let (rank, area) = runner.left(now);
            self.running_load.add(rank, area);
        }
    }

    /// Brings the crowding up to `now`, before what it is about changes.
    pub(super) fn settle(&mut self, now: Time, cards: usize, memory: Duration) {
        let span = now.since(self.as_of).as_secs_f64();
        if span > 0.0 {
            let kept = (-span / memory.as_secs_f64()).exp();
            #[expect(clippy::cast_precision_loss, reason = "counts of jobs and cards")]
            let each = self.waiting as f64 / cards.max(1) as f64;
            self.crowding = self.crowding * kept + each * (1.0 - kept);
            self.as_of = now;
        }
    }
}
