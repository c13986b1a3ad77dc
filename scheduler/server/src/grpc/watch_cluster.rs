//! One stream for whoever shows the cluster: its changes, and the events of the jobs that are looked at.

use tokio::sync::mpsc;
use tokio_stream::StreamMap;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use trainyard_proto::pb;

use super::cluster_feed::{FeedCursor, Subscription};
use super::status::ApiError;
use super::{Context, jobs};
use crate::access::Caller;

/// Messages that may wait for a slow watcher; then nothing is read for it, and it is told later what it missed.
const BACKLOG: usize = 4;
/// Jobs that one may name.
const JOBS: usize = 64;
/// Events of a job in one message.
const EVENTS: usize = 256;

type JobEvents = StreamMap<String, ReceiverStream<Result<pb::JobEvent, Status>>>;

struct Watcher {
    context: Context,
    caller: Caller,
    feed: Subscription,
    jobs: JobEvents,
    events: mpsc::Sender<Result<pb::ClusterEvent, Status>>,
}

/// Follows the cluster and some jobs.
///
/// # Errors
/// A job is not there, a cursor is none, or this scheduler does not lead.
pub async fn watch(
    context: &Context,
    caller: Caller,
    request: pb::WatchClusterRequest,
) -> Result<ReceiverStream<Result<pb::ClusterEvent, Status>>, ApiError> {
    let pb::WatchClusterRequest { cursor, jobs: named } = request;
    if named.len() > JOBS {
        let text = format!("has {} jobs; name at most {JOBS}", named.len());
        return Err(ApiError::field("jobs", text));
    }
    let at = match cursor.as_str() {
        "" => None,
        text => {
            let wrong = || ApiError::field("cursor", "is none of this call's; leave it out to begin anew");
            Some(text.parse::<FeedCursor>().map_err(|()| wrong())?)
        }
    };
    // A standby says so at once.
    context.driver.ask_leader(|_| ()).await?;
    let mut jobs = JobEvents::new();
    for request in named {
        let (job, events) = jobs::watch(context, caller.clone(), request).await?;
        jobs.insert(job.to_string(), events);
    }
    let feed = context.feed.subscribe(&context.driver, &context.tasks, &context.closing, at);
    let (events, stream) = mpsc::channel(BACKLOG);
    let watcher = Watcher { context: context.clone(), caller, feed, jobs, events };
    context.tasks.spawn(watcher.run());
    Ok(ReceiverStream::new(stream))
}

impl Watcher {
    /// Sends events until the watcher is gone, or the scheduler leads no more or ends.
    async fn run(mut self) {
        let (closing, events) = (self.context.closing.clone(), self.events.clone());
        let end = tokio::select! {
            end = self.follow() => end,
            () = events.closed() => return,
            () = closing.cancelled() => Err(ApiError::SHUTTING_DOWN.into()),
        };
        if let Err(status) = end {
            // The client may be gone by now.
            let _ = events.send(Err(status)).await;
        }
    }

    async fn follow(&mut self) -> Result<(), Status> {
        let mut some = Vec::new();
        loop {
            let is_watching = !self.jobs.is_empty();
            let (mut told, mut of_jobs) = (Vec::new(), false);
            tokio::select! {
                changes = self.feed.next(&self.caller) => told = changes.map_err(ApiError::from)?,
                count = next_events(&mut self.jobs, &mut some), if is_watching => of_jobs = count > 0,
            }
            if of_jobs {
                told = by_job(some.drain(..))?;
            }
            for event in told {
                if self.events.send(Ok(event)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// What has come of jobs; a job that is over comes no more.
async fn next_events(jobs: &mut JobEvents, some: &mut Vec<(String, Result<pb::JobEvent, Status>)>) -> usize {
    jobs.next_many(some, EVENTS).await
}

/// Events in messages of one job each.
fn by_job(
    events: impl Iterator<Item = (String, Result<pb::JobEvent, Status>)>,
) -> Result<Vec<pb::ClusterEvent>, Status> {
    let mut told: Vec<pb::ClusterEvent> = Vec::new();
    for (job_id, event) in events {
        let event = event?;
        match told.iter_mut().find(|told| told.job_id == job_id) {
            Some(same) => same.job_events.push(event),
            None => told.push(pb::ClusterEvent { job_id, job_events: vec![event], ..Default::default() }),
        }
    }
    Ok(told)
}
