//! When a stream that broke off is opened again: after growing pauses, until the server has stayed away too long.

use std::time::{Duration, Instant};

use tonic::Status;
use trainyard_proto::route::{Next, leader_of};

use crate::client::{Client, jittered};
use crate::failure::Failure;
use crate::terminal;

/// How long a server that has answered may be away before its caller gives up.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a server that has not answered yet may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const INITIAL_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// The pauses of one stream.
pub struct Reconnect<'a> {
    client: &'a Client,
    /// Since when there has been no connection; `None` while there is one.
    disconnected_since: Option<Instant>,
    /// Whether the server has sent anything yet.
    connected: bool,
    /// Whether the server has answered that it stands by, or that its caller is to come again.
    answered: bool,
    backoff: Duration,
}

impl<'a> Reconnect<'a> {
    /// For a stream that is not open yet.
    pub const fn new(client: &'a Client) -> Self {
        Self { client, disconnected_since: None, connected: false, answered: false, backoff: INITIAL_BACKOFF }
    }

    /// Something came that brings the caller on.
    pub fn progressed(&mut self) {
        if self.disconnected_since.take().is_some() && self.connected {
            terminal::message("the server is back");
        }
        self.connected = true;
        self.client.succeeded();
        self.backoff = INITIAL_BACKOFF;
    }

    /// Waits before the next connection, or gives up.
    ///
    /// # Errors
    /// What `status` means for the user, when the server has been away for too long.
    pub async fn wait(&mut self, status: &Status) -> Result<(), Failure> {
        if self.disconnected_since.is_none() && self.connected {
            terminal::message("the connection is lost; trying again");
        }
        self.pause(status).await
    }

    /// The same where the server is there and asks to come again; `words` say that once.
    ///
    /// # Errors
    /// The server was away for too long: it is given up.
    pub async fn wait_as_told(&mut self, status: &Status, words: &str) -> Result<(), Failure> {
        self.answered = true;
        if self.disconnected_since.is_none() {
            terminal::message(words);
        }
        self.pause(status).await
    }

    async fn pause(&mut self, status: &Status) -> Result<(), Failure> {
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
