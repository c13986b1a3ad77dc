//! A job's events in order, each once, whatever happens to the connection.

use tokio::sync::oneshot;
use tonic::{Status, Streaming};
use trainyard_proto::pb;
use trainyard_proto::pb::job_event::Event;

use crate::client::Client;
use crate::failure::{Exit, Failure, is_temporary};
use crate::reconnect::Reconnect;
use crate::render::job::is_final;
use crate::terminal;

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
    reconnect: Reconnect<'a>,
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
            reconnect: Reconnect::new(client),
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
        self.reconnect.progressed();
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
        self.reconnect.wait(status).await
    }
}
