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

/// How long a server may stay away before a watch gives up.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a server that has not answered yet may take.
const FIRST_PATIENCE: Duration = Duration::from_secs(3);
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How far to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// What is there already.
    History,
    /// Until the job ends.
    Follow,
}

/// The events of one job after a cursor.
pub struct Events<'a> {
    client: &'a Client,
    job: String,
    cursor: u64,
    mode: Mode,
    stream: Option<Streaming<pb::JobEvent>>,
    state: pb::JobState,
    /// Since when the server has been away.
    away: Option<Instant>,
    /// Whether it has sent anything yet.
    connected: bool,
    /// Whether it has said that it stands by.
    answered: bool,
    wait: Duration,
    /// Comes when nobody reads what is printed of them.
    unread: Option<oneshot::Receiver<()>>,
}

impl<'a> Events<'a> {
    /// Nothing is asked before the first [`Events::next`].
    pub fn new(client: &'a Client, job: &str, cursor: u64, mode: Mode) -> Self {
        Self {
            client,
            job: job.to_owned(),
            cursor,
            mode,
            stream: None,
            state: pb::JobState::Unspecified,
            away: None,
            connected: false,
            answered: false,
            wait: FIRST_WAIT,
            unread: terminal::unread(),
        }
    }

    /// Of the last event that was given out.
    pub const fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The next event; `None` when there are no more.
    ///
    /// # Errors
    /// The server refuses, or stays away for five minutes; nobody reads stdout any more.
    pub async fn next(&mut self) -> Result<Option<pb::JobEvent>, Failure> {
        let Some(mut unread) = self.unread.take() else { return self.read().await };
        let event = tokio::select! {
            event = self.read() => event,
            Ok(()) = &mut unread => return Err(Failure::quiet(Exit::Unread)),
        };
        self.unread = Some(unread);
        event
    }

    async fn read(&mut self) -> Result<Option<pb::JobEvent>, Failure> {
        loop {
            match self.advance().await {
                // Sent before, by the connection that broke.
                Ok(Some(event)) if event.cursor <= self.cursor => {}
                Ok(Some(event)) => {
                    self.seen(&event);
                    return Ok(Some(event));
                }
                Ok(None) if self.is_over().await? => return Ok(None),
                // The server ended the stream before the job: it is going down.
                Ok(None) => self.pause(&Status::unavailable("the server ended the stream")).await?,
                Err(status) if is_temporary(&status) => self.pause(&status).await?,
                Err(status) => return Err(self.client.failure(&status)),
            }
        }
    }

    async fn advance(&mut self) -> Result<Option<pb::JobEvent>, Status> {
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

    fn seen(&mut self, event: &pb::JobEvent) {
        self.cursor = event.cursor;
        if let Some(Event::StateChange(change)) = &event.event {
            self.state = change.state();
        }
        if self.away.take().is_some() && self.connected {
            terminal::message("the server is back");
        }
        self.connected = true;
        self.client.settled();
        self.wait = FIRST_WAIT;
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
    async fn pause(&mut self, status: &Status) -> Result<(), Failure> {
        self.stream = None;
        if self.away.is_none() && self.connected {
            terminal::message("the connection is lost; trying again");
        }
        let since = *self.away.get_or_insert_with(Instant::now);
        // A standby that answers is part of a cluster that will have a leader soon.
        self.answered |= leader_of(status).is_some();
        let patience = if self.connected || self.answered { PATIENCE } else { FIRST_PATIENCE };
        let left = patience.saturating_sub(since.elapsed());
        if left.is_zero() {
            return Err(self.client.failure(status));
        }
        match self.client.turn(status) {
            Next::Now => return Ok(()),
            Next::After(_) => tokio::time::sleep(jittered(self.wait).min(left)).await,
        }
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Ok(())
    }
}
