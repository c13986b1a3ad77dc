//! Which jobs are expected to start next, and on which agents.
//!
//! Only slots count that become free soon: later the queue will be another one.

use std::time::Duration;

use trainyard_types::{AgentId, JobId, Time};

use super::ClusterView;

/// Slots that are expected to become free later are left alone.
pub(super) const HORIZON: Duration = Duration::from_secs(3600);
/// Slots of a kind that are looked at, and jobs for them.
pub(super) const UPCOMING: usize = 16;

/// A job that waits, and the agent where it is expected to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Upcoming {
    pub(crate) job: JobId,
    pub(crate) agent: AgentId,
}

/// Whether a slot whose attempt is expected to end at that time becomes free soon, or is overdue.
pub(super) fn is_soon(now: Time, end: Time) -> bool {
    end <= now + HORIZON
}

/// Gives each job the first of the slots that it may have: `jobs` in the order in which they go, `agents` in that in
/// which their slots become free.
pub(super) fn pair(
    view: &ClusterView<'_>,
    jobs: impl Iterator<Item = JobId>,
    mut agents: Vec<AgentId>,
) -> Vec<Upcoming> {
    let mut upcoming = Vec::new();
    for job in jobs {
        if agents.is_empty() {
            break;
        }
        let Some(record) = view.job(job) else { continue };
        let request = view.request(record);
        let excluded = view.excluded(&request);
        let goes =
            |agent: &AgentId| !excluded.contains(agent) && request.avoids.binary_search(agent).is_err();
        // Where several GPUs of a gang come together is decided otherwise.
        if request.gpus <= 1
            && let Some(at) = agents.iter().position(goes)
        {
            upcoming.push(Upcoming { job, agent: agents.remove(at) });
        }
    }
    upcoming
}
