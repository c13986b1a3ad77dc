//! The one task that owns the core: takes messages in, makes what follows durable, then lets it be seen.
//!
//! Writes come before everything else. A batch of messages is handled, its writes are committed under our
//! leader epoch in one go, and only then are callers answered, commands sent, watchers woken and questions
//! answered. When a commit fails, nothing of the batch is let out: the core is dropped with all sessions,
//! and the state is read anew under a new epoch, so that a write still under way can no longer land.
//!
//! One of several schedulers leads, by a lease in the store; the others stand by, answer what can be read,
//! and wait for the lease to end.

mod follower;
mod inbox;
mod lease;
mod meters;
mod role;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use trainyard_scheduler_core::{
    Accepted, Command, Core, CoreConfig, Event, EventBody, EventRecord, Hello, Output, Refusal, Write,
};
use trainyard_types::{AgentId, AttemptId, JobId, LeaderEpoch, ReportBody, Session};
use uuid::Uuid;

use crate::archive;
use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::history;
use crate::store::{Campaigned, Candidate, Store, StoreError};
use follower::Follower;
pub use inbox::{Census, Handle, JobView, Live, Mark, Opened, RequestError, Unavailable};
use inbox::{Message, OpenReply, Owed, Question, Reply};
use lease::Lease;
pub use meters::{HeartbeatAges, Histogram, Meters};
pub use role::Role;

/// Messages that may wait; then their senders do.
const INBOX: usize = 1024;
/// Messages of one batch, and so of one commit.
const BATCH: usize = 256;
/// Commands that may wait for an agent to read them, beside those that follow from its size; then its session
/// is closed.
const SESSION_BACKLOG: usize = 256;
/// How often a standby looks whether it may lead, at least.
const POLL: Duration = Duration::from_millis(500);
/// What an ended lease is given to be gone from the store.
const LEASE_MARGIN: Duration = Duration::from_millis(10);
const RELOAD_DELAY: Duration = Duration::from_millis(50);
const RELOAD_DELAY_MAX: Duration = Duration::from_secs(2);

/// Why the driver has ended other than on request. A restart is no way out by itself.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The replicas do not share a directory.
    #[error(
        "blob_dir: `{dir}` is not the directory of blobs that belongs to this Redis (it is {ours}, Redis \
         expects {theirs}); all schedulers of one Redis must share one: mount it and set `blob_dir`"
    )]
    Blobs {
        /// As configured.
        dir: PathBuf,
        /// What lies there.
        ours: Uuid,
        /// What belongs to the store.
        theirs: Uuid,
    },
}

/// Owns the store's connection and, while it leads, the core.
pub struct Driver {
    store: Arc<dyn Store>,
    config: CoreConfig,
    blobs: Blobs,
    /// Whether the blobs are known to belong to the store.
    is_claimed: bool,
    clock: Clock,
    candidate: Candidate,
    messages: mpsc::Receiver<Message>,
    role: watch::Sender<Role>,
    /// Grows over all epochs.
    last_session: Session,
}

/// Everything that lasts as long as one epoch of ours.
struct Term {
    leader: LeaderEpoch,
    lease: Lease,
    core: Core,
    sessions: BTreeMap<AgentId, OpenSession>,
    watchers: BTreeMap<JobId, watch::Sender<Mark>>,
    /// Sessions that ended by themselves, to be told to the core.
    closed: Vec<(AgentId, Session)>,
    /// Histories on their way to disk; the core asks for few at a time.
    archives: JoinSet<Event>,
    /// Jobs whose older events are on their way to disk.
    put_away: JoinSet<JobId>,
    putting_away: BTreeSet<JobId>,
    meters: Meters,
}

struct OpenSession {
    session: Session,
    commands: mpsc::Sender<Command>,
}

/// What a batch of messages came to.
#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    commands: Vec<Command>,
    owed: Vec<Owed>,
    /// Agents that asked to be let in, and whether they are.
    opened: Vec<(AgentId, OpenReply, Result<Opened, Refusal>)>,
    questions: Vec<Question>,
    /// Blobs that no record needs any more.
    orphans: Vec<(JobId, String)>,
    /// Jobs whose history is to be archived.
    archive: Vec<JobId>,
}

impl Driver {
    /// A driver, the way to it, and what it is at the moment.
    pub fn new(
        store: Arc<dyn Store>,
        config: CoreConfig,
        blobs: Blobs,
        candidate: Candidate,
    ) -> (Self, Handle, watch::Receiver<Role>) {
        let (role, is) = watch::channel(Role::Away("it has just started".into()));
        let (handle, messages) = Handle::new(INBOX, is.clone());
        let (clock, last_session, is_claimed) = (Clock::start(), Session(0), false);
        let driver =
            Self { store, config, blobs, is_claimed, clock, candidate, messages, role, last_session };
        (driver, handle, is)
    }

    /// Leads, or stands by, until `stop` is cancelled.
    ///
    /// # Errors
    /// The configuration does not fit the store.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Unusable> {
        loop {
            let since = Instant::now();
            let Some(leader) = self.stand_by(&stop).await? else { return Ok(()) };
            let lease = lease::keep(Arc::clone(&self.store), self.candidate.clone(), leader, since);
            let end = match self.begin(leader, lease, &stop).await {
                Ok(Some(mut term)) => {
                    self.role.send_replace(Role::Leading);
                    self.serve(&mut term, &stop).await
                }
                Ok(None) => Ok(()),
                Err(cause) => Err(cause),
            };
            let away = |text: &str| self.role.send_replace(Role::Away(text.into()));
            match end {
                Ok(()) => {
                    away("it is shutting down");
                    self.resign().await;
                    return Ok(());
                }
                Err(cause @ (StoreError::Conflict { .. } | StoreError::Encode(_))) => {
                    error!(%cause, leader_epoch = %leader, "store refused a batch, reading it anew");
                }
                Err(cause) => warn!(%cause, leader_epoch = %leader, "stepping down, reading the store anew"),
            }
            away("it reads its store anew");
        }
    }

    /// Whoever stands by need not wait for the lease's end.
    async fn resign(&self) {
        match self.store.resign(&self.candidate).await {
            Ok(()) => info!("lease given back"),
            Err(cause) => warn!(%cause, "lease cannot be given back, it ends by itself"),
        }
    }

    /// Answers what can be read while another leads; the epoch, once this scheduler comes to lead, or `None`
    /// when stopped before.
    async fn stand_by(&mut self, stop: &CancellationToken) -> Result<Option<LeaderEpoch>, Unusable> {
        let mut follower = Follower::new(Arc::clone(&self.store), self.config.clone(), self.clock);
        let mut wait = Duration::ZERO;
        loop {
            let (store, candidate) = (Arc::clone(&self.store), self.candidate.clone());
            let campaign = async move {
                sleep(wait).await;
                store.campaign(&candidate).await
            };
            tokio::pin!(campaign);
            let result = loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(None),
                    result = &mut campaign => break result,
                    Some(message) = self.messages.recv() => follower.take(message),
                    () = follower.refresh() => {}
                }
            };
            let result = match result {
                Ok(campaigned) => self.claim_blobs().await?.map(|()| campaigned),
                Err(cause) => Err(cause),
            };
            match result {
                Ok(Campaigned::Leads(epoch)) => {
                    self.candidate.known = epoch;
                    return Ok(Some(epoch));
                }
                Ok(Campaigned::Held { epoch, address, left }) => {
                    self.candidate.known = self.candidate.known.max(epoch);
                    let leader: Arc<str> = address.into();
                    follower.follow(&leader);
                    let before = self.role.send_replace(Role::Standby(Arc::clone(&leader)));
                    if before != Role::Standby(Arc::clone(&leader)) {
                        info!(%leader, leader_epoch = %epoch, "standing by");
                    }
                    wait = POLL.min(left + LEASE_MARGIN);
                }
                Err(cause) => {
                    follower.lose();
                    wait = (wait * 2).clamp(RELOAD_DELAY, RELOAD_DELAY_MAX);
                    self.store_is_away(&cause);
                }
            }
        }
    }

    /// Says once what is wrong with the store.
    fn store_is_away(&self, cause: &StoreError) {
        let now = Role::Away(cause.to_string().into());
        if self.role.send_replace(now.clone()) == now {
            return;
        }
        match cause {
            StoreError::Schema { .. } | StoreError::Lost => error!(%cause, "store must not be used, waiting"),
            _ => warn!(%cause, "store cannot be used, trying again"),
        }
    }

    /// Makes sure that the blobs belong to the store; the inner error is the store's.
    async fn claim_blobs(&mut self) -> Result<Result<(), StoreError>, Unusable> {
        if self.is_claimed {
            return Ok(Ok(()));
        }
        let ours = self.blobs.id();
        match self.store.claim_blobs(ours).await {
            Ok(theirs) if theirs == ours => {
                self.is_claimed = true;
                Ok(Ok(()))
            }
            Ok(theirs) => {
                self.resign().await;
                Err(Unusable::Blobs { dir: self.blobs.root().to_owned(), ours, theirs })
            }
            Err(cause) => Ok(Err(cause)),
        }
    }

    /// Reads what there is; `None` when stopped before. Turns messages down meanwhile.
    async fn begin(
        &mut self,
        leader: LeaderEpoch,
        mut lease: Lease,
        stop: &CancellationToken,
    ) -> Result<Option<Term>, StoreError> {
        let (store, config, clock) = (Arc::clone(&self.store), self.config.clone(), self.clock);
        let load = async move {
            let loaded = store.load(leader).await?;
            let (jobs, agents) = (loaded.jobs.len(), loaded.agents.len());
            info!(leader_epoch = %leader, jobs, agents, quarantined = loaded.quarantined.len(), "leading");
            Ok::<_, StoreError>(Core::load(config, clock.now(), loaded.into()))
        };
        tokio::pin!(load);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                lost = &mut lease => return Err(lost.unwrap_or(StoreError::LeaseOver)),
                core = &mut load => return Ok(Some(Term::new(leader, lease, core?))),
                Some(refused) = self.messages.recv() => drop(refused),
            }
        }
    }

    /// Leads until stopped, until the lease is lost, or until the store fails.
    async fn serve(&mut self, term: &mut Term, stop: &CancellationToken) -> Result<(), StoreError> {
        let mut messages = Vec::with_capacity(BATCH);
        loop {
            let mut archived = None;
            if term.closed.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    lost = &mut term.lease => return Err(lost.unwrap_or(StoreError::LeaseOver)),
                    count = self.messages.recv_many(&mut messages, BATCH) => {
                        if count == 0 { return Ok(()) }
                    }
                    () = next_tick(self.clock, &term.core) => {}
                    Some(Ok(event)) = term.archives.join_next() => archived = Some(event),
                    Some(Ok(job)) = term.put_away.join_next() => {
                        term.putting_away.remove(&job);
                    }
                }
            }
            let mut batch = Batch::default();
            if let Some(event) = archived {
                self.take_in(term, event, &mut batch);
            }
            for (agent, session) in std::mem::take(&mut term.closed) {
                self.take_in(term, Event::AgentDisconnected { agent, session }, &mut batch);
            }
            let drained = messages.len() < BATCH;
            for message in messages.drain(..) {
                self.take_message(term, message, &mut batch);
            }
            // Only once no heartbeat waits behind us can a lease be over.
            if drained && term.core.next_deadline().is_some_and(|deadline| deadline <= self.clock.now()) {
                self.take_in(term, Event::Tick, &mut batch);
            }
            if !batch.writes.is_empty() {
                tokio::select! {
                    committed = self.store.commit(term.leader, &batch.writes) => committed?,
                    lost = &mut term.lease => return Err(lost.unwrap_or(StoreError::LeaseOver)),
                }
            }
            self.let_out(term, batch);
        }
    }

    fn take_message(&mut self, term: &mut Term, message: Message, batch: &mut Batch) {
        match message {
            Message::Tell(event, _place) => {
                self.take_in(term, event, batch);
            }
            Message::Request(event, reply) => {
                if let Some(result) = self.take_in(term, event, batch) {
                    batch.owed.push(Owed { reply, result });
                }
            }
            Message::Open(hello, reply) => self.open(term, hello, reply, batch),
            Message::Ask(question, _) => batch.questions.push(question),
        }
    }

    fn take_in(&self, term: &mut Term, event: Event, batch: &mut Batch) -> Option<Result<Accepted, Refusal>> {
        if let Event::AgentDisconnected { agent, session } = &event {
            term.forget(*agent, *session);
        }
        let before = blobs_at_stake(&term.core, &event);
        let begun = Instant::now();
        let output = term.core.handle(self.clock.now(), event);
        term.meters.decided(begun.elapsed(), &output);
        if let Some((job, blobs)) = before {
            batch.orphans.extend(orphaned(job, blobs, &output));
        }
        batch.writes.extend(output.writes);
        batch.commands.extend(output.commands);
        batch.archive.extend(output.archive);
        output.reply
    }

    fn open(&mut self, term: &mut Term, hello: Hello, reply: OpenReply, batch: &mut Batch) {
        self.last_session.0 += 1;
        let (session, agent) = (self.last_session, hello.agent);
        let (sender, commands) = mpsc::channel(backlog(&hello));
        let answer = self.take_in(term, Event::AgentConnected { session, hello }, batch);
        if let Some(Err(refusal)) = answer {
            batch.opened.push((agent, reply, Err(refusal)));
            return;
        }
        // An older session of this agent ends here: its channel is dropped.
        term.sessions.insert(agent, OpenSession { session, commands: sender });
        batch.opened.push((agent, reply, Ok(Opened { session, leader: term.leader, commands })));
    }

    /// What is durable now may be seen.
    fn let_out(&self, term: &mut Term, batch: Batch) {
        let now = self.clock.now();
        for write in &batch.writes {
            term.meters.written(write, &term.core);
            match write {
                Write::Job(record) => term.wake(record.id, Mark::of(record)),
                Write::Progress(progress) => {
                    term.wake(progress.job, Mark { last_cursor: progress.last_cursor, is_final: false });
                }
                Write::JobEvents { job, events } => {
                    log_states(*job, events);
                    self.put_away(term, *job, events);
                }
                Write::Forget { job, .. } => {
                    term.watchers.remove(job);
                    self.blobs.remove_pieces_later(*job);
                }
                Write::JobGroup(_)
                | Write::Agent(_)
                | Write::ForgetAgent(_)
                | Write::User(_)
                | Write::Throughput(_)
                | Write::ForgetThroughput(_)
                | Write::ForgetJobGroup(_)
                | Write::ForgetUser(_) => {}
            }
        }
        // Where a receiver is gone, the caller no longer waits.
        for (agent, reply, result) in batch.opened {
            if let Err(Ok(opened)) = reply.send(result) {
                term.closed.push((agent, opened.session));
            }
        }
        for command in without_old_acks(batch.commands) {
            term.send(command);
        }
        for job in batch.archive {
            let Some(record) = term.core.job(job).cloned() else { continue };
            let (store, blobs) = (Arc::clone(&self.store), self.blobs.clone());
            term.archives.spawn(archive::archive(store, blobs, record));
        }
        let Term { core, watchers, meters, .. } = term;
        let mut live = Live { core, now, elsewhere: None, watchers, meters };
        for Owed { reply, result } in batch.owed {
            match reply {
                Reply::Job(reply) => {
                    drop(reply.send(result.and_then(|accepted| live.accepted_job(accepted))));
                }
                Reply::Agent(reply) => drop(reply.send(result.map(|_| ()))),
            }
        }
        for question in batch.questions {
            question(&mut live);
        }
        self.blobs.remove_later(&batch.orphans);
    }
}

impl Driver {
    /// Moves a job's older events out of the store, where it has many.
    fn put_away(&self, term: &mut Term, job: JobId, events: &[EventRecord]) {
        if let Some(upto) = history::due(events, self.store.event_history())
            && term.putting_away.insert(job)
        {
            let (store, blobs) = (Arc::clone(&self.store), self.blobs.clone());
            term.put_away.spawn(history::put_away(store, blobs, term.leader, job, upto));
        }
    }
}

/// One batch may end and begin an attempt on each slot, and tell what has become of each that the agent holds.
fn backlog(hello: &Hello) -> usize {
    let slots = hello.inventory.gpus.len().saturating_add(hello.inventory.cpu_slots as usize);
    SESSION_BACKLOG.saturating_add(slots.saturating_mul(2)).saturating_add(hello.attempts.len())
}

/// Returns when the core's next deadline has come.
async fn next_tick(clock: Clock, core: &Core) {
    match core.next_deadline() {
        Some(deadline) => sleep(deadline.since(clock.now())).await,
        None => std::future::pending().await,
    }
}

impl Term {
    fn new(leader: LeaderEpoch, lease: Lease, core: Core) -> Self {
        let (sessions, watchers) = Default::default();
        let (closed, archives) = Default::default();
        let (put_away, putting_away, meters) = Default::default();
        Self { leader, lease, core, sessions, watchers, closed, archives, put_away, putting_away, meters }
    }

    /// Wakes those who watch a job.
    fn wake(&mut self, job: JobId, mark: Mark) {
        if let Some(watcher) = self.watchers.get(&job) {
            watcher.send_replace(mark);
            if mark.is_final || watcher.receiver_count() == 0 {
                self.watchers.remove(&job);
            }
        }
    }

    /// Passes a command to its session, if that is still open. A session that does not drain is closed.
    fn send(&mut self, command: Command) {
        let (Command::Assign { agent, session, .. }
        | Command::Stop { agent, session, .. }
        | Command::Revoke { agent, session, .. }
        | Command::ClearGpu { agent, session, .. }
        | Command::Ack { agent, session, .. }) = command;
        let Some(open) = self.sessions.get(&agent).filter(|open| open.session == session) else { return };
        if open.commands.try_send(command).is_err() {
            warn!(%agent, %session, "agent does not read its commands, closing its session");
            self.sessions.remove(&agent);
            self.closed.push((agent, session));
        }
    }

    fn forget(&mut self, agent: AgentId, session: Session) {
        if self.sessions.get(&agent).is_some_and(|open| open.session == session) {
            self.sessions.remove(&agent);
        }
    }
}

/// One acknowledgement says all that earlier ones of the same attempt did.
fn without_old_acks(commands: Vec<Command>) -> Vec<Command> {
    let mut newest: BTreeMap<(Session, AttemptId), u64> = BTreeMap::new();
    for command in &commands {
        if let Command::Ack { session, attempt, sequence, .. } = command {
            let known = newest.entry((*session, *attempt)).or_default();
            *known = (*known).max(*sequence);
        }
    }
    let mut commands = commands;
    commands.retain(|command| match command {
        Command::Ack { session, attempt, sequence, .. } => {
            // A repeat is not said twice either.
            let is_newest = newest.get(&(*session, *attempt)) == Some(sequence);
            is_newest && newest.remove(&(*session, *attempt)).is_some()
        }
        _ => true,
    });
    commands
}

fn log_states(job: JobId, events: &[EventRecord]) {
    for event in events {
        if let EventBody::State { state, reason } = &event.body {
            info!(%job, attempt = event.attempt, %state, reason, "job changed state");
        }
    }
}

/// The blobs that a checkpoint's report may make superfluous: the stored one's, and its own.
fn blobs_at_stake(core: &Core, event: &Event) -> Option<(JobId, BTreeSet<String>)> {
    let Event::Report { report, .. } = event else { return None };
    let ReportBody::CheckpointStored(reported) = &report.body else { return None };
    let job = core.job(report.attempt.job)?;
    let stored = job.checkpoint.iter().flat_map(|checkpoint| &checkpoint.files);
    Some((job.id, stored.chain(&reported.files).map(|file| file.sha256.clone()).collect()))
}

/// Those that the written record does not name. A report that was not taken in writes none.
fn orphaned(job: JobId, mut blobs: BTreeSet<String>, output: &Output) -> Vec<(JobId, String)> {
    let written = output.writes.iter().find_map(|write| match write {
        Write::Job(record) if record.id == job => Some(record),
        _ => None,
    });
    let Some(record) = written else { return Vec::new() };
    let files = record.checkpoint.iter().flat_map(|checkpoint| &checkpoint.files);
    for named in files.chain(&record.artifacts) {
        blobs.remove(&named.sha256);
    }
    blobs.into_iter().map(|blob| (job, blob)).collect()
}
