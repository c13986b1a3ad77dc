//! Why a queued job does not run, in words for its user.

use trainyard_types::{DeviceKind, JobId, JobState, Time};

use crate::duration::time_of_day;
use crate::engine::Core;
use crate::record::JobRecord;
use crate::state::agents::agent::AgentState;
use crate::state::fair_share::STAKE;
use crate::state::order_statistic::OrderedSet;
use crate::state::queue::Request;
use crate::state::slots::{self, Kind};

/// Where a queued job stands, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// From 1, over the whole queue.
    pub position: u32,
    /// A sentence without its full stop.
    pub reason: String,
    /// When it starts, as far as that can be told; `None` when nothing is known.
    pub estimated_start: Option<Time>,
    /// When it ends, by the policy `finish-time` only.
    pub estimated_end: Option<Time>,
}

impl Core {
    /// Why a job waits; `None` unless it is queued. Costs steps in the number of users who wait and, when
    /// no GPU fits, of agents.
    pub fn waiting(&self, now: Time, job: JobId) -> Option<Waiting> {
        let job = self.jobs.get(job).filter(|job| job.state == JobState::Queued)?;
        let mut ahead = self.ahead(now, job.id)?;
        let request = self.jobs.request(job);
        let (total, free) = self.fitting(&request);
        let mut estimated_start = self.estimate_start(now, &request, ahead, total);
        let mut estimated_end = None;
        let reason = match job.not_before {
            Some(time) if time > now => {
                estimated_start = estimated_start.map(|start| start.max(time));
                format!("retries at {} UTC, in {} s", time_of_day(time), time.since(now).as_secs_f64().ceil())
            }
            Some(_) | None if self.is_over_quota(&request, &job.user) => {
                estimated_start = None;
                let limit = self.limits(&job.user).running_gpus.unwrap_or_default();
                format!("{} uses as many GPUs as it may at a time (`running_gpus` is {limit})", job.user)
            }
            Some(_) | None => match self.policy.explain_wait(now, &self.view(), job.id).filter(|_| total > 0)
            {
                Some(wait) => {
                    ahead = wait.ahead;
                    (estimated_start, estimated_end) = (Some(wait.start), Some(wait.end));
                    wait.reason
                }
                None => self.why_busy(&request, ahead, total, free),
            },
        };
        let reason = match self.prefetched_for(job) {
            Some((agent, told)) => format!("{reason}; agent `{agent}` prefetches {}", told.in_words()),
            None => reason,
        };
        Some(Waiting {
            position: u32::try_from(ahead).map_or(u32::MAX, |ahead| ahead.saturating_add(1)),
            reason,
            estimated_start,
            estimated_end,
        })
    }

    /// Slots on offer that would do, and how many of them are free.
    fn fitting(&self, request: &Request) -> (usize, usize) {
        let excluded = self.jobs.queue().excluded(request);
        let kinds = self.agents.slots().kinds().iter().filter(|(kind, _)| kind.satisfies(request));
        kinds.fold((0, 0), |(total, free), (_, pool)| {
            let (seen, seen_free) = pool.without(excluded);
            (total + seen, free + seen_free)
        })
    }

    /// Slots are on offer that would do, or none is: what the job waits for.
    pub(crate) fn why_busy(&self, request: &Request, ahead: usize, total: usize, free: usize) -> String {
        if total == 0 && self.agents.iter().all(|(_, agent)| agent.state() != AgentState::Connected) {
            return "no agent is connected".to_owned();
        }
        if total == 0 {
            return self.waits_for_paths(request).unwrap_or_else(|| self.why_no_slot(request));
        }
        let noun = if request.device == DeviceKind::Cpu { "CPU slot" } else { "GPU" };
        let mut reason = match (total, free) {
            // Between two events every slot that a ready job could use is taken; it is about to be placed.
            (_, 1..) => format!("is about to be placed on a {noun}"),
            (1, 0) => format!("waits for the only {noun} that fits; it is busy"),
            (2, 0) => format!("waits for one of 2 {noun}s that fit; both are busy"),
            (_, 0) => format!("waits for one of {total} {noun}s that fit; all are busy"),
        };
        match ahead {
            0 => {}
            1 => reason.push_str("; 1 job is ahead"),
            _ => reason.push_str(&format!("; {ahead} jobs are ahead")),
        }
        reason.push_str(&self.view().left_out(request));
        reason
    }

    /// No slot on offer would do: is one away or in cooldown, or is there none at all?
    fn why_no_slot(&self, request: &Request) -> String {
        if let Some(closed) = self.closed_to(request) {
            return closed;
        }
        let wish = wish(request);
        let mut largest: Option<Kind> = None;
        for (_, agent) in self.agents.iter() {
            let name = agent.name();
            for (kind, _) in slots::of_inventory(&agent.record().inventory).into_values() {
                if kind.satisfies(request) {
                    match agent.state() {
                        AgentState::Connected | AgentState::Lost => {}
                        AgentState::Disconnected => {
                            return format!("needs {wish}; agent `{name}` has one, but is not connected");
                        }
                    }
                }
                let known = agent.state() != AgentState::Lost && kind != Kind::Cpu;
                if known && largest.as_ref().is_none_or(|largest| kind > *largest) {
                    largest = Some(kind);
                }
            }
        }
        match largest {
            _ if request.device == DeviceKind::Cpu => {
                format!("needs {wish}; no agent offers one (set `cpu_slots` of an agent)")
            }
            Some(largest) => {
                format!("needs {wish}; no agent has one (the largest is {})", sized(&largest))
            }
            None => format!("needs {wish}; no agent has a GPU"),
        }
    }

    /// Where a queued job stands: how many jobs would go first if all slots were alike and each attempt
    /// counted [`STAKE`]. Costs steps in the number of priorities and of users who wait, not of jobs.
    pub fn ahead(&self, now: Time, job: JobId) -> Option<usize> {
        let job = self.jobs.get(job)?;
        let (_, level) = self.jobs.queue().above(job.priority());
        let own = level?.get(&job.user).filter(|jobs| jobs.contains(&job.id))?.rank(&job.id);
        Some(self.ahead_of(now, job, own))
    }

    /// The same of a job that is not in the queue, and would come after all of its user's.
    pub(crate) fn ahead_of_new(&self, now: Time, job: &JobRecord) -> usize {
        let (_, level) = self.jobs.queue().above(job.priority());
        let own = level.and_then(|level| level.get(&job.user)).map_or(0, OrderedSet::len);
        self.ahead_of(now, job, own)
    }

    /// How many jobs go before one that comes after `own` others of its user.
    fn ahead_of(&self, now: Time, job: &JobRecord, own: usize) -> usize {
        let (mut ahead, level) = self.jobs.queue().above(job.priority());
        let step = |user: &str| (STAKE / u64::from(self.limits(user).weight.max(1))).max(1);
        let turn = self.share(now, &job.user).saturating_add(step(&job.user).saturating_mul(own as u64));
        ahead += own;
        for (user, jobs) in level.into_iter().flatten() {
            ahead += if *user == job.user {
                0
            } else {
                let first = self.share(now, user);
                // Of equal turns the user goes first whose name does.
                let before = if *user < job.user { turn.saturating_add(1) } else { turn };
                let turns = before.saturating_sub(first).div_ceil(step(user));
                jobs.len().min(usize::try_from(turns).unwrap_or(usize::MAX))
            };
        }
        ahead
    }
}

/// `a GPU with model 4090 or 5070 and at least 20 GB`.
fn wish(request: &Request) -> String {
    if request.device == DeviceKind::Cpu {
        return "a CPU slot".to_owned();
    }
    let models = (!request.models.is_empty()).then(|| format!("model {}", request.models.join(" or ")));
    let memory = (request.half_gib > 0).then(|| format!("at least {}", gigabytes(request.half_gib)));
    let wishes: Vec<String> = models.into_iter().chain(memory).collect();
    if wishes.is_empty() { "a GPU".to_owned() } else { format!("a GPU with {}", wishes.join(" and ")) }
}

/// `NVIDIA GeForce RTX 4090 with 24 GB`.
fn sized(kind: &Kind) -> String {
    format!("{} with {}", kind.device(), gigabytes(kind.half_gib()))
}

/// As users know GPU sizes: `12 GB`, `7.5 GB`.
fn gigabytes(half_gib: u64) -> String {
    let half = if half_gib % 2 == 1 { ".5" } else { "" };
    format!("{}{half} GB", half_gib / 2)
}
