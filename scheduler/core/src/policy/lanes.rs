//! Who waits for which kind of card, and who runs there until when: what the policy decides on.
//!
//! Must not know agents' sessions, stores or what users see. Everything here is derived from the jobs.
//!
//! Each waiting job has a seat in the line of one kind. Lines are kept by user, so that whose turn it is can
//! be asked anew each time, and in buckets of length, so that the place of a job among ten thousand others
//! costs a look at a few hundred numbers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use trainyard_types::{AgentId, JobId, Time};

use crate::learned::Workload;
use crate::queue::Request;
use crate::slots::Kind;

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

/// What the policy knows of a job that waits.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Facts {
    pub(super) user: Arc<str>,
    pub(super) priority: i32,
    pub(super) request: Request,
    pub(super) workload: Workload,
    pub(super) data: PathBuf,
    pub(super) epochs: u32,
    /// The share of its epochs that its newest checkpoint has.
    pub(super) done: f64,
    /// Whether it has to be resumed.
    pub(super) resumes: bool,
    /// How long it had waited before it was queued the last time.
    pub(super) waited: Duration,
    /// When it was queued the last time.
    pub(super) since: Time,
    pub(super) created: Time,
}

/// The order of one user's jobs in a line: by priority, then the shorter first, then the earlier.
pub(super) type Place = (Reverse<i32>, u64, JobId);

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
    /// Where it was last thought of.
    pub(super) stamp: u64,
    /// From when on it goes before all that came later.
    pub(super) overdue_at: Time,
}

/// A job at work.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Runner {
    pub(super) agent: AgentId,
    pub(super) gpus: u32,
    /// When it is expected to end.
    pub(super) end: Time,
}

/// The line for one kind of card.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Lane {
    pub(super) line: BTreeMap<Arc<str>, BTreeSet<Place>>,
    pub(super) load: Load,
    pub(super) waiting: usize,
    pub(super) running: BTreeMap<JobId, Runner>,
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
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(super) kinds: Vec<Kind>,
    pub(super) lanes: Vec<Lane>,
    pub(super) seats: BTreeMap<JobId, Seat>,
    /// Ready jobs that have no seat yet, by when they came.
    pub(super) standing: BTreeSet<JobId>,
    pub(super) by_age: BTreeSet<(u64, JobId)>,
    pub(super) stamp: u64,
    /// When seated jobs become overdue.
    pub(super) patience: BTreeSet<(Time, JobId)>,
    /// Jobs that are, by their submission.
    pub(super) overdue: BTreeSet<(Time, JobId)>,
    pub(super) reserved: Vec<Reservation>,
    /// Jobs that were told to make way, and for whom; for nobody when they move to a better card.
    pub(super) making_way: BTreeMap<JobId, Option<JobId>>,
    /// Waiting jobs for which another has made way, and which.
    pub(super) made_way: BTreeMap<JobId, JobId>,
    pub(super) last_victim: Option<JobId>,
    /// Jobs that make way for themselves, and the kind of card that they move to.
    pub(super) moving: BTreeMap<JobId, usize>,
    /// When each running job last stored a checkpoint, and how long it had taken to come to it.
    pub(super) checkpoints: BTreeMap<JobId, (Time, Duration)>,
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
    pub(crate) fn arrive(&mut self, job: JobId) {
        if !self.seats.contains_key(&job) {
            self.standing.insert(job);
        }
    }

    /// A job waits no more.
    pub(crate) fn leave(&mut self, job: JobId) {
        self.standing.remove(&job);
        if let Some(seat) = self.stand_up(job) {
            self.patience.remove(&(seat.overdue_at, job));
            self.overdue.remove(&(seat.facts.created, job));
            self.gangs -= usize::from(seat.facts.request.gpus > 1);
            self.moving.remove(&job);
            self.made_way.remove(&job);
        }
    }

    /// Takes a job out of its line; the caller seats it again, or lets it go.
    pub(super) fn stand_up(&mut self, job: JobId) -> Option<Seat> {
        let seat = self.seats.remove(&job)?;
        self.by_age.remove(&(seat.stamp, job));
        if let Some(lane) = seat.lane {
            let lane = &mut self.lanes[lane];
            lane.load.remove(seat.rank, seat.area);
            lane.waiting -= 1;
            if let Some(line) = lane.line.get_mut(&seat.facts.user) {
                line.remove(&(Reverse(seat.facts.priority), seat.rank, job));
                if line.is_empty() {
                    lane.line.remove(&seat.facts.user);
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
            lane.load.add(seat.rank, seat.area);
            lane.waiting += 1;
            let place = (Reverse(seat.facts.priority), seat.rank, job);
            match lane.line.get_mut(&seat.facts.user) {
                Some(line) => drop(line.insert(place)),
                None => drop(lane.line.insert(Arc::clone(&seat.facts.user), [place].into())),
            }
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
                self.overdue.insert((seat.facts.created, job));
            }
        }
    }

    /// Whether somebody was told to make way for this job.
    pub(super) fn is_promised(&self, job: JobId) -> bool {
        self.making_way.values().any(|&beneficiary| beneficiary == Some(job))
    }
}

impl Lane {
    /// How long its waiting jobs take on average.
    pub(super) fn load_mean(&self) -> Option<Duration> {
        let (jobs, area) = (self.load.jobs.iter().sum::<f64>(), self.load.area.iter().sum::<f64>());
        (jobs > 0.0).then(|| Duration::from_millis(as_rank(area / jobs)))
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

    /// The running jobs by what is left of them.
    pub(super) fn running_load(&self, now: Time) -> Load {
        let mut load = Load::default();
        for runner in self.running.values() {
            let left = runner.end.since(now).as_secs_f64() * 1000.0;
            let cards = f64::from(runner.gpus);
            load.add(as_rank(left * cards.sqrt()), left * cards);
        }
        load
    }
}

/// Whole milliseconds.
pub(super) fn as_rank(millis: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; saturates")]
    let rank = millis.max(0.0) as u64;
    rank
}
