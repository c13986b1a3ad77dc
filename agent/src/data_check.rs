//! Data sets that submissions name, looked at for the scheduler before a job queues.
//!
//! The trainer's own check does it, in a process of its own that is confined as trainers are. It ends when its time is over,
//! and when nobody waits for it any more. What it finds out changes nothing here.

mod process;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use trainyard_proto::convert::agent::{DataChecked, data_checked};
use trainyard_proto::pb::agent_message::Message as ToScheduler;
use trainyard_types::{DataCheck, DataToCheck, EndReason, UnfitKind};

use crate::config::Config;
use crate::disk::path_monitor::PathMonitor;
use crate::identity::Identity;
use crate::message::{DataCheckRequest, PathUse, agent_message};

/// Checks that run at a time; trainings go on beside them.
const AT_ONCE: usize = 2;

/// The longest check, whatever the scheduler wishes.
const LONGEST: Duration = Duration::from_secs(60);

/// The configuration, identity and data roots that checks work with.
#[derive(Clone)]
pub struct DataCheckContext {
    /// The agent's configuration.
    pub config: Arc<Config>,
    /// The agent to which the processes of checks belong.
    pub identity: Identity,
    /// Finds what is named in the data roots.
    pub paths: PathMonitor,
}

/// Looks at data sets, a few at a time.
pub struct DataChecker {
    context: DataCheckContext,
    requests: mpsc::Receiver<DataCheckRequest>,
    running: JoinSet<()>,
    /// The data sets of the checks that run, by task.
    data: HashMap<Id, PathBuf>,
}

impl DataChecker {
    /// A checker that takes `requests`.
    pub fn new(context: DataCheckContext, requests: mpsc::Receiver<DataCheckRequest>) -> Self {
        Self { context, requests, running: JoinSet::new(), data: HashMap::new() }
    }

    /// Looks at what is asked until `end`.
    pub async fn run(mut self, end: CancellationToken) {
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                Some(ended) = self.running.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    self.data.remove(&id);
                }
                request = self.requests.recv(), if self.running.len() < AT_ONCE => match request {
                    Some(request) => self.start(request),
                    None => return,
                },
            }
        }
    }

    fn start(&mut self, request: DataCheckRequest) {
        let (context, data) = (self.context.clone(), request.data.data.clone());
        let is_running = self.data.values().any(|running| *running == data);
        let task = self.running.spawn(async move {
            let deadline = request.came + request.time_limit.min(LONGEST);
            let look = async {
                if is_running {
                    return DataChecked::NotChecked("it is being looked at already".into());
                }
                let looked = timeout_at(deadline, look(&context, &request.data)).await;
                looked.unwrap_or_else(|_| DataChecked::NotChecked("its check takes too long".into()))
            };
            let answer = tokio::select! {
                answer = look => answer,
                () = request.answers.closed() => return,
            };
            debug!(data = %request.data.data.display(), ?answer, "a data set was looked at");
            let answer = agent_message(ToScheduler::DataChecked(data_checked(request.id, answer)));
            // The connection may have ended.
            let _gone = request.answers.send(answer).await;
        });
        self.data.insert(task.id(), data);
    }
}

/// Whether the data.yaml is here and something that it names is not: that may lie on another machine, and may be a slip.
fn names_what_is_missing(check: &DataCheck) -> bool {
    let is_missing = check.unfit.as_ref().is_some_and(|unfit| unfit.kind == UnfitKind::PathMissing);
    is_missing && check.has_data_yaml && !check.errors.is_empty()
}

/// Looks at one data set.
async fn look(context: &DataCheckContext, data: &DataToCheck) -> DataChecked {
    let file = match context.paths.look(PathUse::Data, &data.data).await {
        Ok(file) => file,
        Err(unseen) if unseen.refusal.reason == EndReason::BadSpec => {
            return DataChecked::Checked(DataCheck::new(&[unseen.refusal.message], &[], None));
        }
        Err(unseen) => return DataChecked::NotSeen(unseen.refusal.message),
    };
    let roots = context.paths.responsive_roots();
    match process::run(&context.config, &context.identity, roots, &DataToCheck { data: file, ..data.clone() })
        .await
    {
        Ok(check) if names_what_is_missing(&check) => DataChecked::SeenInPart(check.bounded()),
        Ok(DataCheck { unfit: Some(unfit), .. }) => DataChecked::NotSeen(unfit.message),
        Ok(check) => DataChecked::Checked(check.bounded()),
        Err(message) => DataChecked::NotChecked(message),
    }
}
