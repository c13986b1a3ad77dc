//! What the connection asks of those who look at data sets.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use trainyard_proto::pb;
use trainyard_types::DataToCheck;

/// Requests that may wait. Those that come beside them are not answered, and the scheduler goes on without.
const WAITING: usize = 8;

/// A data set to look at.
#[derive(Debug)]
pub struct DataCheckRequest {
    /// Names the check for the scheduler.
    pub id: u64,
    /// The data set to look at.
    pub data: DataToCheck,
    /// How long the scheduler waits for the answer.
    pub time_limit: Duration,
    /// When the request came.
    pub came: Instant,
    /// Where the answer goes; closed when nobody waits for it any more.
    pub answers: mpsc::Sender<pb::AgentMessage>,
}

/// The way of requests to the task that runs checks.
#[derive(Debug, Clone)]
pub struct DataCheckRequests(mpsc::Sender<DataCheckRequest>);

impl DataCheckRequests {
    /// The way for requests, and its end.
    pub fn channel() -> (Self, mpsc::Receiver<DataCheckRequest>) {
        let (sender, requests) = mpsc::channel(WAITING);
        (Self(sender), requests)
    }

    /// Passes a request on, unless too many wait.
    pub fn send(&self, request: DataCheckRequest) {
        // Dropped, it has no answer, which is one.
        let _too_many = self.0.try_send(request);
    }
}
