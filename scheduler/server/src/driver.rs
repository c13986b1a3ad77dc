//! The one task that owns the core: takes messages in, makes what follows durable, then lets it be seen.
//!
//! Writes come before everything else. A batch of messages is handled, its writes are committed under our
//! leader epoch in one go, and only then are callers answered, commands sent, watchers woken and questions
//! answered. When a commit fails, nothing of the batch is let out: the core is dropped with all sessions,
//! and the state is read anew under a new epoch, so that a write still under way can no longer land.

mod inbox;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use trainyard_scheduler_core::{
    Accepted, Command, Core, CoreConfig, Event, EventBody, EventRecord, Hello, JobRecord, Output, Refusal,
    Write,
};
use trainyard_types::{AgentId, GpuTelemetry, JobId, LeaderEpoch, ReportBody, Session};
use uuid::Uuid;

use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::store::{Campaign, Store, StoreError};
pub use inbox::{Census, Handle, JobView, Live, Mark, Opened, RequestError, Unavailable};
use inbox::{Message, Owed, Question};

/// Messages that may wait; then their senders do.
const INBOX: usize = 1024;
/// Messages of one batch, and so of one commit.
const BATCH: usize = 256;
/// Commands that may wait for an agent to read them; then its session is closed.
const SESSION_BACKLOG: usize = 256;
/// How often an idle scheduler looks whether it still leads.
const CHECK_EVERY: Duration = Duration::from_secs(2);
const RELOAD_DELAY: Duration = Duration::from_millis(50);
const RELOAD_DELAY_MAX: Duration = Duration::from_secs(2);

/// Why the driver has ended other than on request. A restart is the way out of none of these by itself.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Deposed(#[from] StoreError);

/// Owns the store's connection and, while it leads, the core.
pub struct Driver {
    store: Arc<dyn Store>,
    config: CoreConfig,
    blobs: Blobs,
    clock: Clock,
    /// Names us in the store: another scheduler there makes us yield.
    instance: Uuid,
    messages: mpsc::Receiver<Message>,
    serving: watch::Sender<bool>,
    /// Grows over all epochs.
    last_session: Session,
}

/// Everything that lasts as long as one epoch of ours.
struct Term {
    leader: LeaderEpoch,
    core: Core,
    sessions: BTreeMap<AgentId, OpenSession>,
    watchers: BTreeMap<JobId, watch::Sender<Mark>>,
    /// Sessions that ended by themselves, to be told to the core.
    closed: Vec<(AgentId, Session)>,
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
    opened: Vec<(AgentId, oneshot::Sender<Opened>, Opened)>,
    questions: Vec<Question>,
    /// Blobs that no record needs any more.
    orphans: Vec<(JobId, String)>,
}

impl Driver {
    /// A driver, the way to it, and whether it serves.
    pub fn new(
        store: Arc<dyn Store>,
        config: CoreConfig,
        blobs: Blobs,
    ) -> (Self, Handle, watch::Receiver<bool>) {
        let (handle, messages) = Handle::new(INBOX);
        let (serving, is_serving) = watch::channel(false);
        let clock = Clock::start();
        let instance = Uuid::new_v4();
        let last_session = Session(0);
        let driver = Self { store, config, blobs, clock, instance, messages, serving, last_session };
        (driver, handle, is_serving)
    }

    /// Leads until `stop` is cancelled.
    ///
    /// # Errors
    /// Another scheduler leads, or the store is not ours to use.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Deposed> {
        let mut how = Campaign::Take;
        while let Some(mut term) = self.begin(how, &stop).await? {
            how = Campaign::Renew;
            self.serving.send_replace(true);
            let end = self.serve(&mut term, &stop).await;
            self.serving.send_replace(false);
            match end {
                Ok(()) => return Ok(()),
                Err(fenced @ StoreError::Fenced { .. }) => return Err(fenced.into()),
                Err(cause @ (StoreError::Conflict { .. } | StoreError::Encode(_))) => {
                    error!(%cause, leader_epoch = %term.leader, "store refused a batch, reading it anew");
                }
                Err(cause @ (StoreError::Unavailable(_) | StoreError::Schema { .. })) => {
                    warn!(%cause, leader_epoch = %term.leader, "store is lost, reading it anew");
                }
            }
        }
        Ok(())
    }

    /// Comes to lead; `None` when stopped before. Turns messages down meanwhile.
    async fn begin(&mut self, how: Campaign, stop: &CancellationToken) -> Result<Option<Term>, Deposed> {
        let mut delay = Duration::ZERO;
        loop {
            let (store, config, now) = (Arc::clone(&self.store), self.config.clone(), self.clock);
            let instance = self.instance;
            let attempt = async move {
                sleep(delay).await;
                let leader = store.campaign(instance, how).await?;
                let loaded = store.load(leader).await?;
                let (jobs, agents) = (loaded.jobs.len(), loaded.agents.len());
                info!(leader_epoch = %leader, jobs, agents, quarantined = loaded.quarantined.len(), "leading");
                Ok((leader, Core::load(config, now.now(), loaded.jobs, loaded.agents)))
            };
            tokio::pin!(attempt);
            let result = loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(None),
                    result = &mut attempt => break result,
                    Some(refused) = self.messages.recv() => drop(refused),
                }
            };
            match result {
                Ok((leader, core)) => return Ok(Some(Term::new(leader, core))),
                Err(fatal @ (StoreError::Fenced { .. } | StoreError::Schema { .. })) => {
                    return Err(fatal.into());
                }
                Err(cause) => {
                    delay = (delay * 2).clamp(RELOAD_DELAY, RELOAD_DELAY_MAX);
                    warn!(%cause, retry_in = ?delay, "store cannot be read");
                }
            }
        }
    }

    /// Leads until stopped, or until the store fails.
    async fn serve(&mut self, term: &mut Term, stop: &CancellationToken) -> Result<(), StoreError> {
        let mut check = interval(CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut messages = Vec::with_capacity(BATCH);
        loop {
            let mut must_commit = false;
            if term.closed.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    count = self.messages.recv_many(&mut messages, BATCH) => {
                        if count == 0 { return Ok(()) }
                    }
                    () = next_tick(self.clock, &term.core) => {}
                    _ = check.tick() => must_commit = true,
                }
            }
            let mut batch = Batch::default();
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
            if must_commit || !batch.writes.is_empty() {
                self.store.commit(term.leader, &batch.writes).await?;
            }
            self.let_out(term, batch);
        }
    }

    fn take_message(&mut self, term: &mut Term, message: Message, batch: &mut Batch) {
        match message {
            Message::Tell(event) => {
                self.take_in(term, event, batch);
            }
            Message::Request(event, reply) => {
                if let Some(result) = self.take_in(term, event, batch) {
                    batch.owed.push(Owed { reply, result });
                }
            }
            Message::Open(hello, telemetry, reply) => self.open(term, hello, telemetry, reply, batch),
            Message::Ask(question) => batch.questions.push(question),
        }
    }

    fn take_in(&self, term: &mut Term, event: Event, batch: &mut Batch) -> Option<Result<Accepted, Refusal>> {
        if let Event::AgentDisconnected { agent, session } = &event {
            term.forget(*agent, *session);
        }
        let before = blobs_at_stake(&term.core, &event);
        let output = term.core.handle(self.clock.now(), event);
        if let Some((job, blobs)) = before {
            batch.orphans.extend(orphaned(job, blobs, &output));
        }
        batch.writes.extend(output.writes);
        batch.commands.extend(output.commands);
        output.reply
    }

    fn open(
        &mut self,
        term: &mut Term,
        hello: Hello,
        telemetry: Vec<GpuTelemetry>,
        reply: oneshot::Sender<Opened>,
        batch: &mut Batch,
    ) {
        self.last_session.0 += 1;
        let (session, agent) = (self.last_session, hello.agent);
        let (sender, commands) = mpsc::channel(SESSION_BACKLOG);
        // An older session of this agent ends here: its channel is dropped.
        term.sessions.insert(agent, OpenSession { session, commands: sender });
        self.take_in(term, Event::AgentConnected { session, hello }, batch);
        self.take_in(term, Event::Heartbeat { agent, session, telemetry }, batch);
        batch.opened.push((agent, reply, Opened { session, leader: term.leader, commands }));
    }

    /// What is durable now may be seen.
    fn let_out(&self, term: &mut Term, batch: Batch) {
        let now = self.clock.now();
        for write in &batch.writes {
            match write {
                Write::Job(record) => term.wake(record),
                Write::JobEvents { job, events } => log_states(*job, events),
                Write::Agent(_) => {}
            }
        }
        // Where a receiver is gone, the caller no longer waits.
        for (agent, reply, opened) in batch.opened {
            if let Err(unwanted) = reply.send(opened) {
                term.closed.push((agent, unwanted.session));
            }
        }
        for command in batch.commands {
            term.send(command);
        }
        let mut live = Live { core: &term.core, now, watchers: &mut term.watchers };
        for Owed { reply, result } in batch.owed {
            let view = match result {
                Ok(accepted) => live.job(accepted.job).ok_or(Refusal::UnknownJob(accepted.job)),
                Err(refusal) => Err(refusal),
            };
            let _ = reply.send(view);
        }
        for question in batch.questions {
            question(&mut live);
        }
        self.blobs.remove_later(&batch.orphans);
    }
}

/// Returns when the core's next deadline has come.
async fn next_tick(clock: Clock, core: &Core) {
    match core.next_deadline() {
        Some(deadline) => sleep(deadline.since(clock.now())).await,
        None => std::future::pending().await,
    }
}

impl Term {
    fn new(leader: LeaderEpoch, core: Core) -> Self {
        let (sessions, watchers) = Default::default();
        Self { leader, core, sessions, watchers, closed: Vec::new() }
    }

    /// Wakes those who watch a job.
    fn wake(&mut self, record: &JobRecord) {
        if let Some(watcher) = self.watchers.get(&record.id) {
            let mark = Mark::of(record);
            watcher.send_replace(mark);
            if mark.is_final || watcher.receiver_count() == 0 {
                self.watchers.remove(&record.id);
            }
        }
    }

    /// Passes a command to its session, if that is still open. A session that does not drain is closed.
    fn send(&mut self, command: Command) {
        let (Command::Assign { agent, session, .. }
        | Command::Stop { agent, session, .. }
        | Command::Revoke { agent, session, .. }
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
        Write::Job(_) | Write::Agent(_) | Write::JobEvents { .. } => None,
    });
    let Some(record) = written else { return Vec::new() };
    let files = record.checkpoint.iter().flat_map(|checkpoint| &checkpoint.files);
    for named in files.chain(&record.artifacts) {
        blobs.remove(&named.sha256);
    }
    blobs.into_iter().map(|blob| (job, blob)).collect()
}
