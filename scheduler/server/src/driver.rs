//! The one task that owns the core: takes messages in, makes what follows durable, then publishes it.
//!
//! Writes come before everything else. Some messages are handled as one transaction: its writes are committed under
//! our leader epoch in one go, and only then are callers answered, commands sent, watchers woken and questions
//! answered. When a commit fails, nothing of the transaction is published: the core is dropped with all sessions,
//! and the state is read anew under a new epoch, so that a write still under way can no longer land.
//!
//! One of several schedulers leads, by a lease in the store; the others stand by, answer what can be read,
//! and wait for the lease to end.

mod acks;
mod census;
mod changed_jobs;
mod follower;
mod handle;
mod lease;
mod limits;
mod message;
mod metrics;
mod orphans;
mod role;
mod state_view;
mod store_away;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use trainyard_scheduler_core::{
    Accepted, Command, Core, CoreConfig, Event, EventBody, EventRecord, Hello, Refusal, Write,
};
use trainyard_service::{ServiceManager, Watchdog};
use trainyard_types::{AgentId, JobId, LeaderEpoch, Session};
use uuid::Uuid;

use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::event_history;
use crate::job_archive;
use crate::store::{Campaigned, Candidate, Store, StoreError};
use acks::without_old_acks;
pub use census::Census;
pub use changed_jobs::ChangedJobs;
use follower::Follower;
pub use handle::{Handle, RequestError, Unavailable};
use lease::Lease;
pub use limits::Limits;
pub use message::Opened;
use message::{Message, OpenReply, PendingReply, Question, Reply};
pub use metrics::{DriverMetrics, HeartbeatAges, Histogram};
use orphans::{blobs_at_stake, orphaned};
pub use role::Role;
pub use state_view::{EventMark, JobView, StateView};
pub use store_away::DiskProblem;
use store_away::READS_ANEW;

/// Messages that may wait; then their senders do.
const QUEUED_MESSAGES: usize = 1024;
/// Messages of one transaction, and so of one commit.
const MESSAGES_AT_ONCE: usize = 256;
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
        "blob_dir: `{place}` is not the store of blobs that belongs to this Redis (it is {ours}, Redis \
         expects {theirs}); all schedulers of one Redis must share one: mount it and set `blob_dir`"
    )]
    Blobs {
        /// The directory or the URL.
        place: String,
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
    /// The newest session; sessions count up over all leader epochs.
    last_session: Session,
    /// What users may do, as it was configured last.
    limits: watch::Receiver<Limits>,
    watchdog: Watchdog,
    disk_problem: DiskProblem,
}

/// Everything that lasts as long as one leader epoch of ours.
struct Leadership {
    leader: LeaderEpoch,
    lease: Lease,
    core: Core,
    sessions: BTreeMap<AgentId, OpenSession>,
    watchers: BTreeMap<JobId, watch::Sender<EventMark>>,
    changed_jobs: ChangedJobs,
    /// Sessions that ended by themselves, to be told to the core.
    closed: Vec<(AgentId, Session)>,
    /// Histories on their way to disk; the core asks for few at a time.
    archives: JoinSet<Event>,
    /// Jobs whose older events are on their way to disk.
    event_archives: JoinSet<JobId>,
    archiving_events: BTreeSet<JobId>,
    metrics: DriverMetrics,
}

struct OpenSession {
    session: Session,
    commands: mpsc::Sender<Command>,
}

/// What some messages came to.
#[derive(Default)]
struct Transaction {
    writes: Vec<Write>,
    commands: Vec<Command>,
    replies: Vec<PendingReply>,
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
        let (role, is) = watch::channel(Role::Unavailable("it has just started".into()));
        let (handle, messages) = Handle::new(QUEUED_MESSAGES, is.clone());
        let (clock, last_session, is_claimed) = (Clock::start(), Session(0), false);
        let (_never_changes, limits) = watch::channel(Limits::of(&config));
        let watchdog = ServiceManager::none().watchdog();
        let driver = Self {
            store,
            config,
            blobs,
            is_claimed,
            clock,
            candidate,
            messages,
            role,
            last_session,
            limits,
            watchdog,
            disk_problem: Box::new(|| None),
        };
        (driver, handle, is)
    }

    /// Gives signs of life there.
    #[must_use]
    pub fn with_watchdog(self, watchdog: Watchdog) -> Self {
        Self { watchdog, ..self }
    }

    /// Leads, or stands by, until `stop` is cancelled.
    ///
    /// # Errors
    /// The configuration does not fit the store.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Unusable> {
        loop {
            let since = Instant::now();
            self.take_limits();
            let Some(leader) = self.stand_by(&stop).await? else { return Ok(()) };
            let lease = lease::keep(Arc::clone(&self.store), self.candidate.clone(), leader, since);
            let end = match self.begin(leader, lease, &stop).await {
                Ok(Some(mut leadership)) => {
                    self.role.send_replace(Role::Leading);
                    self.serve(&mut leadership, &stop).await
                }
                Ok(None) => Ok(()),
                Err(cause) => Err(cause),
            };
            match end {
                Ok(()) => {
                    self.set_away("it is shutting down", None);
                    self.resign().await;
                    return Ok(());
                }
                Err(cause) => {
                    match &cause {
                        StoreError::Conflict { .. } | StoreError::Encode(_) => {
                            error!(%cause, leader_epoch = %leader, "store refused a transaction, reading it anew");
                        }
                        _ => warn!(%cause, leader_epoch = %leader, "stepping down, reading the store anew"),
                    }
                    self.set_away(READS_ANEW, Some(&cause));
                }
            }
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
                    () = self.watchdog.tick() => {}
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
                Err(Unusable::Blobs { place: self.blobs.place().to_owned(), ours, theirs })
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
    ) -> Result<Option<Leadership>, StoreError> {
        self.take_limits();
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
                core = &mut load => return Ok(Some(Leadership::new(leader, lease, core?))),
                Some(refused) = self.messages.recv() => drop(refused),
                () = self.watchdog.tick() => {}
            }
        }
    }

    /// Leads until stopped, until the lease is lost, or until the store fails.
    async fn serve(
        &mut self,
        leadership: &mut Leadership,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut messages = Vec::with_capacity(MESSAGES_AT_ONCE);
        loop {
            let (mut archived, mut new_limits) = (None, false);
            if leadership.closed.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    lost = &mut leadership.lease => return Err(lost.unwrap_or(StoreError::LeaseOver)),
                    count = self.messages.recv_many(&mut messages, MESSAGES_AT_ONCE) => {
                        if count == 0 { return Ok(()) }
                    }
                    () = next_tick(self.clock, &leadership.core) => {}
                    () = self.watchdog.tick() => {}
                    Ok(()) = self.limits.changed() => new_limits = true,
                    Some(Ok(event)) = leadership.archives.join_next() => archived = Some(event),
                    Some(Ok(job)) = leadership.event_archives.join_next() => {
                        leadership.archiving_events.remove(&job);
                    }
                }
            }
            let mut transaction = Transaction::default();
            if new_limits {
                self.take_limits();
                let Limits { usual, users } = Limits::of(&self.config);
                self.handle_event(leadership, Event::LimitsChanged { usual, users }, &mut transaction);
            }
            if let Some(event) = archived {
                self.handle_event(leadership, event, &mut transaction);
            }
            for (agent, session) in std::mem::take(&mut leadership.closed) {
                self.handle_event(leadership, Event::AgentDisconnected { agent, session }, &mut transaction);
            }
            let drained = messages.len() < MESSAGES_AT_ONCE;
            for message in messages.drain(..) {
                self.take_message(leadership, message, &mut transaction);
            }
            // Only once no heartbeat waits behind us can a lease be over.
            if drained && leadership.core.next_deadline().is_some_and(|deadline| deadline <= self.clock.now())
            {
                self.handle_event(leadership, Event::Tick, &mut transaction);
            }
            if !transaction.writes.is_empty() {
                tokio::select! {
                    // Those who wait for an answer hear why there is none.
                    committed = self.store.commit(leadership.leader, &transaction.writes) => {
                        if let Err(cause) = committed {
                            self.set_away(READS_ANEW, Some(&cause));
                            return Err(cause);
                        }
                    }
                    lost = &mut leadership.lease => return Err(lost.unwrap_or(StoreError::LeaseOver)),
                }
            }
            self.publish(leadership, transaction);
        }
    }

    fn take_message(&mut self, leadership: &mut Leadership, message: Message, transaction: &mut Transaction) {
        match message {
            Message::Tell(event, _place) => {
                self.handle_event(leadership, event, transaction);
            }
            Message::Request(event, reply) => {
                if let Some(result) = self.handle_event(leadership, event, transaction) {
                    transaction.replies.push(PendingReply { reply, result });
                }
            }
            Message::Open(hello, reply) => self.open(leadership, hello, reply, transaction),
            Message::Ask(question, _) => transaction.questions.push(question),
        }
    }

    fn handle_event(
        &self,
        leadership: &mut Leadership,
        event: Event,
        transaction: &mut Transaction,
    ) -> Option<Result<Accepted, Refusal>> {
        if let Event::AgentDisconnected { agent, session } = &event {
            leadership.forget(*agent, *session);
        }
        let before = blobs_at_stake(&leadership.core, &event);
        let begun = Instant::now();
        let output = leadership.core.handle(self.clock.now(), event);
        leadership.metrics.decided(begun.elapsed(), &output);
        if let Some((job, blobs)) = before {
            transaction.orphans.extend(orphaned(job, blobs, &output));
        }
        transaction.writes.extend(output.writes);
        transaction.commands.extend(output.commands);
        transaction.archive.extend(output.archive);
        output.reply
    }

    fn open(
        &mut self,
        leadership: &mut Leadership,
        hello: Hello,
        reply: OpenReply,
        transaction: &mut Transaction,
    ) {
        self.last_session.0 += 1;
        let (session, agent) = (self.last_session, hello.agent);
        let (sender, commands) = mpsc::channel(backlog(&hello));
        let answer = self.handle_event(leadership, Event::AgentConnected { session, hello }, transaction);
        if let Some(Err(refusal)) = answer {
            transaction.opened.push((agent, reply, Err(refusal)));
            return;
        }
        // An older session of this agent ends here: its channel is dropped.
        leadership.sessions.insert(agent, OpenSession { session, commands: sender });
        transaction.opened.push((agent, reply, Ok(Opened { session, leader: leadership.leader, commands })));
    }

    /// What is durable now may be seen: replies, commands, and those who watch.
    fn publish(&self, leadership: &mut Leadership, transaction: Transaction) {
        let now = self.clock.now();
        for write in &transaction.writes {
            leadership.metrics.written(write, &leadership.core);
            leadership.changed_jobs.written(write);
            match write {
                Write::Job(record) => leadership.wake(record.id, EventMark::of(record)),
                Write::Progress(progress) => {
                    leadership
                        .wake(progress.job, EventMark { last_cursor: progress.last_cursor, is_final: false });
                }
                Write::JobEvents { job, events } => {
                    log_states(*job, events);
                    self.archive_events(leadership, *job, events);
                }
                Write::Forget { job, .. } => {
                    leadership.watchers.remove(job);
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
        for (agent, reply, result) in transaction.opened {
            if let Err(Ok(opened)) = reply.send(result) {
                leadership.closed.push((agent, opened.session));
            }
        }
        for command in without_old_acks(transaction.commands) {
            leadership.send(command);
        }
        for job in transaction.archive {
            let Some(record) = leadership.core.job(job).cloned() else { continue };
            let (store, blobs) = (Arc::clone(&self.store), self.blobs.clone());
            leadership.archives.spawn(job_archive::archive(store, blobs, record));
        }
        let Leadership { core, watchers, changed_jobs, metrics, .. } = leadership;
        let mut state = StateView { core, now, elsewhere: None, watchers, changed_jobs, metrics };
        for PendingReply { reply, result } in transaction.replies {
            match reply {
                Reply::Job(reply) => {
                    drop(reply.send(result.and_then(|accepted| state.accepted_job(accepted))));
                }
                Reply::Agent(reply) => drop(reply.send(result.map(|_| ()))),
            }
        }
        for question in transaction.questions {
            question(&mut state);
        }
        self.blobs.remove_later(&transaction.orphans);
    }
}

impl Driver {
    /// Moves a job's older events out of the store, where it has many.
    fn archive_events(&self, leadership: &mut Leadership, job: JobId, events: &[EventRecord]) {
        if let Some(upto) = event_history::archive_upto(events, self.store.event_history())
            && leadership.archiving_events.insert(job)
        {
            let (store, blobs) = (Arc::clone(&self.store), self.blobs.clone());
            leadership.event_archives.spawn(event_history::archive_events(
                store,
                blobs,
                leadership.leader,
                job,
                upto,
            ));
        }
    }
}

/// One transaction may end and begin an attempt on each slot, and tell what has become of each that the agent holds.
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

impl Leadership {
    fn new(leader: LeaderEpoch, lease: Lease, core: Core) -> Self {
        let (sessions, watchers) = Default::default();
        let (closed, archives) = Default::default();
        let (event_archives, archiving_events, metrics) = Default::default();
        let changed_jobs = ChangedJobs::default();
        Self {
            leader,
            lease,
            core,
            sessions,
            watchers,
            changed_jobs,
            closed,
            archives,
            event_archives,
            archiving_events,
            metrics,
        }
    }

    /// Wakes those who watch a job.
    fn wake(&mut self, job: JobId, mark: EventMark) {
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
        | Command::Prefetch { agent, session, .. }
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

fn log_states(job: JobId, events: &[EventRecord]) {
    for event in events {
        if let EventBody::State { state, reason } = &event.body {
            info!(%job, attempt = event.attempt, %state, reason, "job changed state");
        }
    }
}
