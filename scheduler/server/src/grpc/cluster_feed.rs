//! What changes in the cluster, for all who watch it: one task looks once a second while anybody does, however many there
//! are. What it found is kept for a while, so that whoever was away for a moment is told what they missed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trainyard_proto::pb;
use trainyard_types::JobId;
use uuid::Uuid;

use super::hidden_jobs::{ShownAgent, in_job};
use super::{cluster, translate};
use crate::access::Caller;
use crate::driver::{Handle, StateView, Unavailable};

/// How often the task looks at the cluster.
const EVERY: Duration = Duration::from_secs(1);
/// Changes that are kept for those who come back; whoever was away for longer is told everything.
const KEPT: usize = 60;
/// Looks without a watcher before the task ends: who reloads a page is back by then.
const LINGER: u32 = 30;

/// The last change that a watcher was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedCursor {
    /// Of the task whose count it is.
    run: Uuid,
    count: u64,
}

/// The way to what changes.
#[derive(Clone, Default)]
pub struct ClusterFeed(Arc<Mutex<Option<Arc<Run>>>>);

/// One life of the task.
struct Run {
    id: Uuid,
    known: Mutex<Known>,
    /// The newest count; the reason for which there will be no other.
    newest: watch::Sender<Result<u64, Unavailable>>,
}

/// The agents as they were seen last, and the newest changes.
#[derive(Default)]
struct Known {
    agents: BTreeMap<String, Arc<ShownAgent>>,
    changes: VecDeque<Arc<Changes>>,
}

/// Agents and jobs that one look found changed.
struct Changes {
    count: u64,
    agents: Vec<Arc<ShownAgent>>,
    removed_agents: Vec<String>,
    jobs: Vec<pb::Job>,
    removed_jobs: Vec<String>,
    jobs_missed: bool,
}

/// Somebody who watches.
pub struct Subscription {
    run: Arc<Run>,
    newest: watch::Receiver<Result<u64, Unavailable>>,
    at: Option<FeedCursor>,
}

/// The leader's agents and changed jobs at one look.
struct Look {
    agents: Vec<ShownAgent>,
    /// Jobs that have changed, and those that are gone; `None` where there may be others.
    jobs: Option<(Vec<pb::Job>, Vec<String>)>,
}

impl ClusterFeed {
    /// Watches from a cursor on, or from the beginning. Starts the task if nobody has.
    pub fn subscribe(
        &self,
        driver: &Handle,
        tasks: &TaskTracker,
        closing: &CancellationToken,
        at: Option<FeedCursor>,
    ) -> Subscription {
        let mut current = lock(&self.0);
        let run = current.get_or_insert_with(|| {
            let (newest, _) = watch::channel(Ok(0));
            let run = Arc::new(Run { id: Uuid::new_v4(), known: Mutex::default(), newest });
            let (feed, driver, own) = (self.clone(), driver.clone(), Arc::clone(&run));
            tasks.spawn(
                closing.clone().run_until_cancelled_owned(async move { feed.look(&driver, &own).await }),
            );
            run
        });
        Subscription { run: Arc::clone(run), newest: run.newest.subscribe(), at }
    }

    async fn look(&self, driver: &Handle, run: &Arc<Run>) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut alone = 0;
        loop {
            ticks.tick().await;
            {
                // Nobody subscribes meanwhile.
                let mut current = lock(&self.0);
                alone = if run.newest.receiver_count() > 0 { 0 } else { alone + 1 };
                if alone > LINGER {
                    *current = None;
                    break;
                }
            }
            match driver.ask_leader(look).await {
                Ok(found) => run.take(found),
                Err(unavailable) => {
                    *lock(&self.0) = None;
                    drop(run.newest.send_replace(Err(unavailable)));
                    return;
                }
            }
        }
        // A scheduler that does not lead gathers nothing.
        let _stopped = driver.ask_leader(|state| state.changed_jobs.stop()).await;
    }
}

fn look(state: &mut StateView<'_>) -> Look {
    let agents = state.core.agents().map(|view| cluster::shown(state, &view)).collect();
    let jobs = state.changed_jobs.take().map(|changed| {
        let (mut jobs, mut removed) = (Vec::new(), Vec::new());
        for id in changed {
            match state.job(id) {
                Some(view) => jobs.push(translate::job(view, &Caller::Anybody)),
                None => removed.push(JobId::to_string(&id)),
            }
        }
        (jobs, removed)
    });
    Look { agents, jobs }
}

impl Run {
    /// Keeps what has changed, and wakes those who watch if anything has.
    fn take(&self, found: Look) {
        let mut known = lock(&self.known);
        let agents: BTreeMap<String, Arc<ShownAgent>> =
            found.agents.into_iter().map(|agent| (agent.id().to_owned(), Arc::new(agent))).collect();
        let is_new =
            |agent: &&Arc<ShownAgent>| known.agents.get(agent.id()).is_none_or(|old| !old.is_like(agent));
        let changed = agents.values().filter(is_new).cloned().collect();
        let removed_agents = known.agents.keys().filter(|id| !agents.contains_key(*id)).cloned().collect();
        let jobs_missed = found.jobs.is_none();
        let (jobs, removed_jobs) = found.jobs.unwrap_or_default();
        let count = *self.newest.borrow().as_ref().unwrap_or(&0) + 1;
        known.agents = agents;
        let changes = Changes { count, agents: changed, removed_agents, jobs, removed_jobs, jobs_missed };
        // The first look is the beginning, even of an empty cluster.
        if changes.is_empty() && count > 1 {
            return;
        }
        known.changes.push_back(Arc::new(changes));
        if known.changes.len() > KEPT {
            known.changes.pop_front();
        }
        drop(known);
        drop(self.newest.send_replace(Ok(count)));
    }

    /// What somebody missed who was told everything up to a count; `None` where not all of that is kept.
    fn since(&self, count: u64) -> Option<Vec<Arc<Changes>>> {
        let known = lock(&self.known);
        let first = known.changes.front().map_or(0, |changes| changes.count);
        let newest = known.changes.back().map_or(0, |changes| changes.count);
        if count + 1 < first || count > newest {
            return None;
        }
        Some(known.changes.iter().filter(|changes| changes.count > count).cloned().collect())
    }
}

impl Changes {
    fn is_empty(&self) -> bool {
        let Self { count: _, agents, removed_agents, jobs, removed_jobs, jobs_missed } = self;
        !jobs_missed
            && agents.is_empty()
            && removed_agents.is_empty()
            && jobs.is_empty()
            && removed_jobs.is_empty()
    }
}

impl Subscription {
    /// Waits for changes, as this caller may see them. May be dropped and called again.
    ///
    /// # Errors
    /// This scheduler leads no more.
    pub async fn next(&mut self, caller: &Caller) -> Result<Vec<pb::ClusterEvent>, Unavailable> {
        loop {
            let newest = self.newest.borrow_and_update().clone()?;
            let events = if newest == 0 { Vec::new() } else { self.missed(newest, caller) };
            if !events.is_empty() {
                return Ok(events);
            }
            if self.newest.changed().await.is_err() {
                return Err(Unavailable { leader: None, disk_full: false });
            }
        }
    }

    fn missed(&mut self, newest: u64, caller: &Caller) -> Vec<pb::ClusterEvent> {
        let run = self.run.id;
        let since = self.at.filter(|at| at.run == run).and_then(|at| self.run.since(at.count));
        let events = match since {
            Some(changes) => changes.iter().map(|changes| changes.event(run, caller)).collect(),
            None => vec![self.everything(newest, caller)],
        };
        if let Some(last) = events.last() {
            self.at = last.cursor.parse().ok();
        }
        events
    }

    /// All agents. Jobs are too many: whoever shows some lists those.
    fn everything(&self, newest: u64, caller: &Caller) -> pb::ClusterEvent {
        let known = lock(&self.run.known);
        // It may have found more by now.
        let count = known.changes.back().map_or(newest, |changes| changes.count);
        pb::ClusterEvent {
            cursor: FeedCursor { run: self.run.id, count }.to_string(),
            all_agents: true,
            agents: known.agents.values().map(|agent| agent.seen_by(caller)).collect(),
            jobs_missed: true,
            ..Default::default()
        }
    }
}

impl Changes {
    fn event(&self, run: Uuid, caller: &Caller) -> pb::ClusterEvent {
        let is_own = caller.sees_only().is_some();
        let jobs = self.jobs.iter().filter(|job| caller.sees(&job.user));
        pb::ClusterEvent {
            cursor: FeedCursor { run, count: self.count }.to_string(),
            agents: self.agents.iter().map(|agent| agent.seen_by(caller)).collect(),
            removed_agent_ids: self.removed_agents.clone(),
            jobs: jobs.map(|job| in_job(job.clone(), caller)).collect(),
            // Whose they were is not known any more.
            removed_job_ids: if is_own { Vec::new() } else { self.removed_jobs.clone() },
            jobs_missed: self.jobs_missed || is_own && !self.removed_jobs.is_empty(),
            ..Default::default()
        }
    }
}

impl std::fmt::Display for FeedCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.run.simple(), self.count)
    }
}

impl std::str::FromStr for FeedCursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (run, count) = text.split_once('.').ok_or(())?;
        Ok(Self { run: run.parse().map_err(drop)?, count: count.parse().map_err(drop)? })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run { id: Uuid::from_u128(7), known: Mutex::default(), newest: watch::channel(Ok(0)).0 }
    }

    fn agent(id: &str, seconds: i64, drained: bool) -> ShownAgent {
        let last_seen_time = Some(prost_types::Timestamp { seconds, nanos: 0 });
        ShownAgent::idle(pb::Agent { id: id.into(), last_seen_time, drained, ..Default::default() })
    }

    fn found(agents: Vec<ShownAgent>) -> Look {
        Look { agents, jobs: Some(Default::default()) }
    }

    #[test]
    fn what_changes_is_told_once_and_a_heartbeat_is_no_change() {
        let run = run();
        run.take(found(vec![agent("a", 1, false), agent("b", 1, false)]));
        run.take(found(vec![agent("a", 2, false), agent("b", 2, false)]));
        assert_eq!(*run.newest.borrow(), Ok(1));
        run.take(found(vec![agent("a", 3, true)]));
        let changes = run.since(1).unwrap();
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].agents.iter().map(|agent| agent.id()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(changes[0].removed_agents, ["b"]);
        assert!(run.since(2).unwrap().is_empty());
    }

    #[test]
    fn whoever_was_away_for_too_long_is_told_everything() {
        let run = Arc::new(run());
        for at in 0..=KEPT {
            run.take(found(vec![agent("a", 0, at % 2 == 0)]));
        }
        assert!(run.since(0).is_none() && run.since(1).is_some() && run.since(1000).is_none());
        let mut subscription = Subscription {
            newest: run.newest.subscribe(),
            at: Some(FeedCursor { run: Uuid::from_u128(8), count: 3 }),
            run: Arc::clone(&run),
        };
        let events = subscription.missed(1, &Caller::Anybody);
        assert!(events.len() == 1 && events[0].all_agents && events[0].jobs_missed);
        assert!(subscription.missed(1, &Caller::Anybody).is_empty());
        assert_eq!(events[0].cursor.parse(), Ok(subscription.at.unwrap()));
        assert_eq!("x.1".parse::<FeedCursor>(), Err(()));
    }
}
