//! A job's events in order, each once, whatever happens to the connection.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tonic::{Status, Streaming};
use trainyard_proto::pb;
use trainyard_proto::pb::job_event::Event;
use trainyard_proto::route::{Next, leader_of};

use crate::client::{Client, jittered};
use crate::failure::{Exit, Failure, is_temporary};
use crate::render::job::is_final;
use crate::terminal;

/// How long a server that has answered may be away before a watch gives up.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a server that has not answered yet may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const INITIAL_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// How far a stream of events is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only the events that are stored already.
    History,
    /// All events until the job ends.
    Follow,
}

/// The events of one job after a cursor.
pub struct EventStream<'a> {
    client: &'a Client,
    job: String,
    cursor: u64,
    mode: Mode,
    stream: Option<Streaming<pb::JobEvent>>,
    state: pb::JobState,
    /// Since when there has been no connection; `None` while there is one.
    disconnected_since: Option<Instant>,
    /// Whether the server has sent an event yet.
    connected: bool,
    /// Whether the server has answered that it stands by.
    answered: bool,
    backoff: Duration,
    /// Comes when nobody reads stdout any more.
    stdout_closed: Option<oneshot::Receiver<()>>,
}

impl<'a> EventStream<'a> {
    /// Nothing is asked before the first [`EventStream::next`].
    pub fn new(client: &'a Client, job: &str, cursor: u64, mode: Mode) -> Self {
        Self {
            client,
            job: job.to_owned(),
            cursor,
            mode,
            stream: None,
            state: pb::JobState::Unspecified,
            disconnected_since: None,
            connected: false,
            answered: false,
            backoff: INITIAL_BACKOFF,
            stdout_closed: terminal::stdout_closed(),
        }
    }

    /// The cursor of the last event that was given out.
    pub const fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The next event; `None` when there are no more.
    ///
    /// # Errors
    /// The server refuses, or stays away for five minutes; nobody reads stdout any more.
    pub async fn next(&mut self) -> Result<Option<pb::JobEvent>, Failure> {
        let Some(mut stdout_closed) = self.stdout_closed.take() else { return self.read().await };
        let event = tokio::select! {
            event = self.read() => event,
            Ok(()) = &mut stdout_closed => return Err(Failure::quiet(Exit::OutputClosed)),
        };
        self.stdout_closed = Some(stdout_closed);
        event
    }

    async fn read(&mut self) -> Result<Option<pb::JobEvent>, Failure> {
        loop {
            match self.next_message().await {
                // Sent before, by the connection that broke.
                Ok(Some(event)) if event.cursor <= self.cursor => {}
                Ok(Some(event)) => {
                    self.note(&event);
                    return Ok(Some(event));
                }
                Ok(None) if self.is_over().await? => return Ok(None),
                // The server ended the stream before the job: it is going down.
                Ok(None) => {
                    self.wait_to_reconnect(&Status::unavailable("the server ended the stream")).await?;
                }
                Err(status) if is_temporary(&status) => self.wait_to_reconnect(&status).await?,
                Err(status) => return Err(self.client.failure(&status)),
            }
        }
    }

    async fn next_message(&mut self) -> Result<Option<pb::JobEvent>, Status> {
        if self.stream.is_none() {
            let request = pb::WatchJobRequest {
                job_id: self.job.clone(),
                cursor: self.cursor,
                history_only: self.mode == Mode::History,
            };
            self.stream = Some(self.client.jobs().watch_job(request).await?.into_inner());
        }
        let Some(stream) = &mut self.stream else { return Ok(None) };
        stream.message().await
    }

    fn note(&mut self, event: &pb::JobEvent) {
        self.cursor = event.cursor;
        if let Some(Event::StateChange(change)) = &event.event {
            self.state = change.state();
        }
        if self.disconnected_since.take().is_some() && self.connected {
            terminal::message("the server is back");
        }
        self.connected = true;
        self.client.succeeded();
        self.backoff = INITIAL_BACKOFF;
    }

    /// Whether a stream that ended did so because there is no more.
    async fn is_over(&mut self) -> Result<bool, Failure> {
        self.stream = None;
        if self.mode == Mode::History || is_final(self.state) {
            return Ok(true);
        }
        // The last state change may lie before the cursor that this watch began at.
        match self.client.job(&self.job).await {
            Ok(job) => Ok(is_final(job.state())),
            Err(failure) if failure.exit == Exit::Unreachable => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Waits before the next connection, or gives up.
    async fn wait_to_reconnect(&mut self, status: &Status) -> Result<(), Failure> {
        self.stream = None;
        if self.disconnected_since.is_none() && self.connected {
            terminal::message("the connection is lost; trying again");
        }
        let since = *self.disconnected_since.get_or_insert_with(Instant::now);
        // A standby that answers is part of a cluster that will have a leader soon.
        self.answered |= leader_of(status).is_some();
        let timeout = if self.connected || self.answered { RECONNECT_TIMEOUT } else { CONNECT_TIMEOUT };
        let left = timeout.saturating_sub(since.elapsed());
        if left.is_zero() {
            return Err(self.client.failure(status));
        }
        match self.client.fail_over(status) {
            Next::Now => return Ok(()),
            Next::After(_) => tokio::time::sleep(jittered(self.backoff).min(left)).await,
        }
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        Ok(())
    }
}
