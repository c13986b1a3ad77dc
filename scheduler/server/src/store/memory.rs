//! The store's in-memory twin, for tests: the same promises but for surviving the process.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use trainyard_scheduler_core::{AgentRecord, EventRecord, JobRecord, ThroughputRecord, UserRecord, Write};
use trainyard_types::{AgentId, JobId, LeaderEpoch, Time};
use uuid::Uuid;

use super::notices::notices_of;
use super::notices::twin::NoticeState;
use super::{Campaigned, Candidate, Loaded, Pending, Store, StoreError};
use crate::access_records::{AccessRecords, AuditRecord};
use crate::content_records::ContentRecords;
use crate::sample::{AgentSamples, Resolution, Sample};

/// All that a store holds, in maps.
#[derive(Debug, Default)]
pub struct MemoryStore(
    Mutex<State>,
    Mutex<(AccessRecords, Vec<AuditRecord>)>,
    Mutex<ContentRecords>,
    Mutex<NoticeState>,
);

impl MemoryStore {
    /// Tokens and agents, and the audit.
    pub fn access_state(&self) -> MutexGuard<'_, (AccessRecords, Vec<AuditRecord>)> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Versions of data sets and weights.
    pub fn content_state(&self) -> MutexGuard<'_, ContentRecords> {
        self.2.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Webhooks and what they are called for.
    pub fn notice_state(&self) -> MutexGuard<'_, NoticeState> {
        self.3.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct State {
    epoch: LeaderEpoch,
    /// Whose lease it is, where it is reached, and until when.
    lease: Option<(Uuid, String, Instant)>,
    blobs: Option<Uuid>,
    jobs: BTreeMap<JobId, JobRecord>,
    agents: BTreeMap<AgentId, AgentRecord>,
    users: BTreeMap<String, UserRecord>,
    throughput: BTreeMap<String, ThroughputRecord>,
    events: BTreeMap<JobId, BTreeMap<u64, EventRecord>>,
    /// With the time of their arrival.
    telemetry: BTreeMap<(AgentId, Resolution), Vec<(Time, Sample)>>,
}

impl State {
    fn fence(&self, ours: LeaderEpoch) -> Result<(), StoreError> {
        if self.epoch == ours { Ok(()) } else { Err(StoreError::Fenced { ours, current: self.epoch }) }
    }

    fn campaign(&mut self, candidate: &Candidate) -> Result<Campaigned, StoreError> {
        let now = Instant::now();
        if self.epoch.0 == 0 && candidate.known.0 > 0 {
            return Err(StoreError::Lost);
        }
        match &self.lease {
            Some((holder, address, until))
                if !candidate.exclusive && *holder != candidate.instance && *until > now =>
            {
                return Ok(Campaigned::Held {
                    epoch: self.epoch,
                    address: address.clone(),
                    left: *until - now,
                });
            }
            Some(_) | None => {}
        }
        self.lease = Some((candidate.instance, candidate.address.clone(), now + candidate.lease));
        self.epoch.0 = self.epoch.0.max(candidate.known.0) + 1;
        Ok(Campaigned::Leads(self.epoch))
    }

    fn renew(&mut self, candidate: &Candidate, leader: LeaderEpoch) -> Result<(), StoreError> {
        self.fence(leader)?;
        let until = Instant::now() + candidate.lease;
        self.lease = Some((candidate.instance, candidate.address.clone(), until));
        Ok(())
    }

    fn resign(&mut self, candidate: &Candidate) {
        self.lease.take_if(|(holder, ..)| *holder == candidate.instance);
    }

    fn loaded(&self) -> Loaded {
        Loaded {
            jobs: self.jobs.values().cloned().collect(),
            agents: self.agents.values().cloned().collect(),
            users: self.users.values().cloned().collect(),
            throughput: self.throughput.values().cloned().collect(),
            quarantined: Vec::new(),
        }
    }

    fn commit(&mut self, leader: LeaderEpoch, writes: &[Write]) -> Result<(), StoreError> {
        self.fence(leader)?;
        // Of several writes of a job the first builds on what is stored; what is forgotten builds on nothing.
        let (mut built_on, mut newest) = (BTreeMap::new(), BTreeMap::new());
        let conflict = |job: JobId, stored, expected| {
            Err(StoreError::Conflict { job: job.to_string(), stored, expected })
        };
        for write in writes {
            match write {
                Write::Job(record) => {
                    let expected = record.revision - 1;
                    match newest.insert(record.id, record.revision) {
                        Some(before) if before != expected => return conflict(record.id, before, expected),
                        Some(_) => {}
                        None => drop(built_on.insert(record.id, expected)),
                    }
                }
                Write::Forget { job, .. } => {
                    built_on.remove(job);
                    newest.remove(job);
                }
                _ => {}
            }
        }
        for (job, expected) in built_on {
            let stored = self.jobs.get(&job).map_or(0, |stored| stored.revision);
            if stored != expected {
                return conflict(job, stored, expected);
            }
        }
        for write in writes {
            self.apply(write);
        }
        Ok(())
    }

    fn apply(&mut self, write: &Write) {
        match write {
            Write::JobGroup(batch) => self.jobs.extend(batch.jobs().map(|job| (job.id, job))),
            Write::Job(record) => {
                self.jobs.insert(record.id, (**record).clone());
            }
            Write::Progress(progress) => {
                if let Some(job) = self.jobs.get_mut(&progress.job) {
                    job.apply_progress(progress.clone());
                }
            }
            Write::Agent(record) => {
                self.agents.insert(record.id, record.clone());
            }
            Write::User(record) => {
                self.users.insert(record.name.clone(), record.clone());
            }
            Write::ForgetAgent(id) => drop(self.agents.remove(id)),
            Write::Throughput(record) => drop(self.throughput.insert(record.key(), record.clone())),
            Write::ForgetThroughput(key) => drop(self.throughput.remove(key)),
            Write::JobEvents { job, events } => {
                let stream = self.events.entry(*job).or_default();
                let last = stream.last_key_value().map_or(0, |(&cursor, _)| cursor);
                let new = events.iter().filter(|event| event.cursor > last);
                stream.extend(new.map(|event| (event.cursor, event.clone())));
            }
            Write::Forget { job, .. } => {
                self.jobs.remove(job);
                self.events.remove(job);
            }
            // Its jobs were forgotten one by one.
            Write::ForgetJobGroup(_) => {}
            Write::ForgetUser(name) => {
                self.users.remove(name);
            }
        }
    }
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn campaign<'a>(&'a self, candidate: &'a Candidate) -> Pending<'a, Campaigned> {
        Box::pin(async move { self.state().campaign(candidate) })
    }

    fn renew<'a>(&'a self, candidate: &'a Candidate, leader: LeaderEpoch) -> Pending<'a, ()> {
        Box::pin(async move { self.state().renew(candidate, leader) })
    }

    fn resign<'a>(&'a self, candidate: &'a Candidate) -> Pending<'a, ()> {
        Box::pin(async move {
            self.state().resign(candidate);
            Ok(())
        })
    }

    fn claim_blobs(&self, ours: Uuid) -> Pending<'_, Uuid> {
        Box::pin(async move { Ok(*self.state().blobs.get_or_insert(ours)) })
    }

    fn load(&self, _leader: LeaderEpoch) -> Pending<'_, Loaded> {
        self.peek()
    }

    fn peek(&self) -> Pending<'_, Loaded> {
        Box::pin(async move { Ok(self.state().loaded()) })
    }

    fn commit<'a>(&'a self, leader: LeaderEpoch, writes: &'a [Write]) -> Pending<'a, ()> {
        Box::pin(async move {
            self.state().commit(leader, writes)?;
            self.notice_state().add(notices_of(writes));
            Ok(())
        })
    }

    fn event_history(&self) -> u64 {
        u64::MAX
    }

    fn trim(&self, leader: LeaderEpoch, job: JobId, first: u64) -> Pending<'_, ()> {
        Box::pin(async move {
            let mut state = self.state();
            state.fence(leader)?;
            if let Some(events) = state.events.get_mut(&job) {
                events.retain(|&cursor, _| cursor >= first);
            }
            Ok(())
        })
    }

    fn events(&self, job: JobId, after: u64, limit: usize) -> Pending<'_, Vec<EventRecord>> {
        Box::pin(async move {
            let state = self.state();
            let events = state.events.get(&job).into_iter().flat_map(|events| events.range(after + 1..));
            Ok(events.map(|(_, event)| event.clone()).take(limit).collect())
        })
    }

    fn record<'a>(&'a self, now: Time, batches: &'a [AgentSamples]) -> Pending<'a, ()> {
        Box::pin(async move {
            for batch in batches {
                let mut state = self.state();
                let known = state.telemetry.entry((batch.agent, batch.resolution)).or_default();
                known.extend(batch.samples.iter().map(|sample| (now, sample.clone())));
                known.retain(|(arrived, _)| now.since(*arrived) <= batch.resolution.kept());
            }
            Ok(())
        })
    }

    fn telemetry(
        &self,
        agent: AgentId,
        resolution: Resolution,
        span: Range<Time>,
        limit: usize,
    ) -> Pending<'_, Vec<Sample>> {
        Box::pin(async move {
            let state = self.state();
            let known = state.telemetry.get(&(agent, resolution)).into_iter().flatten();
            let mut samples: Vec<Sample> = known
                .map(|(_, sample)| sample)
                .filter(|sample| span.contains(&sample.time))
                .cloned()
                .collect();
            samples.sort_by(|one, other| (one.time, &one.gpu).cmp(&(other.time, &other.gpu)));
            samples.truncate(limit);
            Ok(samples)
        })
    }
}
