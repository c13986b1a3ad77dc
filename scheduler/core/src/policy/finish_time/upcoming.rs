//! Which jobs of the queues are expected to start next.

use trainyard_types::{AgentId, Time};

use super::FinishTime;
use super::share_penalty::Shares;
use crate::policy::upcoming::{UPCOMING, is_soon, pair};
use crate::policy::{ClusterView, Upcoming};

impl FinishTime {
    /// The first jobs of each queue, on the GPUs of its kind that become free first.
    pub(super) fn upcoming_jobs(&self, now: Time, view: &ClusterView<'_>) -> Vec<Upcoming> {
        let mut upcoming = Vec::new();
        let mut shares = None;
        for (at, _) in self.queues.kinds() {
            let queue = self.queues.at(at);
            if queue.by_owner().is_empty() {
                continue;
            }
            let soon = queue.ends().iter().take(UPCOMING).take_while(|(end, _)| is_soon(now, *end));
            let agents: Vec<AgentId> =
                soon.filter_map(|(_, job)| queue.runner(*job)).map(|runner| runner.agent).collect();
            if agents.is_empty() {
                continue;
            }
            let shares = *shares.get_or_insert_with(|| Shares::active(now, view));
            let jobs = self.in_order_of(now, view, at, shares).take(UPCOMING);
            upcoming.extend(pair(view, jobs, agents));
        }
        upcoming
    }
}
