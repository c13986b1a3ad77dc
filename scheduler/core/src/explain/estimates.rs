//! When a waiting job will start, as far as that can be told.
//!
//! Known are the expected ends of running attempts and how long attempts of late took. Of other things,
//! such as jobs that are yet to come, nothing is known; and where nothing is known nothing is said.

use std::time::Duration;

use trainyard_types::{JobId, Time};

use crate::engine::Core;
use crate::state::queue::Request;

impl Core {
    /// When a job that runs is expected to end.
    pub fn estimated_end(&self, job: JobId) -> Option<Time> {
        let attempt = self.jobs.live_attempt(job)?.id;
        self.policy.expected_end(job).or_else(|| self.jobs.expected_ends().of(attempt))
    }

    /// When a job with this request starts behind `ahead` others, on `slots` slots that would do; `None`
    /// when nothing is known.
    pub(crate) fn estimate_start(
        &self,
        now: Time,
        request: &Request,
        ahead: usize,
        slots: usize,
    ) -> Option<Time> {
        if slots == 0 {
            return None;
        }
        let near = self.jobs.expected_ends().near(request);
        if let Some(&end) = near.get(ahead) {
            return Some(end.max(now));
        }
        // Beyond what is known one by one, slots become free at the pace of the usual length of a run.
        let usual = self.usual_run()?;
        let rounds = u32::try_from(ahead / slots).ok()?.saturating_add(1);
        Some(match near.get(ahead % slots) {
            Some(&end) => end.max(now) + usual.saturating_mul(rounds - 1),
            None => now + usual.saturating_mul(rounds),
        })
    }

    /// The mean over users of how long their attempts run.
    fn usual_run(&self) -> Option<Duration> {
        let runs = self.users.iter().filter_map(|user| user.record().typical_run);
        let (sum, count) =
            runs.fold((0_u64, 0_u64), |(sum, count), run| (sum.saturating_add(run), count + 1));
        Some(Duration::from_millis(sum.checked_div(count)?))
    }
}
