//! What would become of a job that is not submitted yet. Nothing is decided or changed here.

use std::sync::Arc;
use std::time::Duration;

use trainyard_types::{DeviceKind, JobId, JobSpec, Time};

use crate::duration::about;
use crate::engine::Core;
use crate::gpu_name::with_article;
use crate::policy::PlanOption;
use crate::record::JobRecord;
use crate::state::queue::Request;
use crate::state::slots::{Kind, SlotPool};

/// Where a job could go, and when it would be done, if it came now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Kinds of GPUs on offer that would do, the one first that it is expected to get.
    pub options: Vec<PlanOption>,
    /// `None` when nothing is known.
    pub start: Option<Time>,
    /// `None` when nothing is known.
    pub end: Option<Time>,
    /// What it would wait for, a sentence without its full stop; empty where it would start at once.
    pub waiting_for: String,
}

impl Core {
    /// What would become of a user's job if it were submitted now; the spec is valid.
    pub fn plan(&self, now: Time, user: &str, spec: JobSpec) -> Plan {
        let job = JobRecord::queued(JobId::MAX, user.into(), Arc::new(spec), now);
        let request = self.jobs.request_of_new(&job);
        let compared = self.policy.plan(now, &self.view(), &job, &request);
        let options = compared.unwrap_or_else(|| self.kinds_for(&request));
        let (total, free) = options.iter().fold((0, 0), |(total, free), option| {
            (total + option.total as usize, free + option.free as usize)
        });
        if self.is_over_quota(&request, user) {
            let limit = self.limits(user).running_gpus.unwrap_or_default();
            let waiting_for =
                format!("{user} uses as many GPUs as it may at a time (`running_gpus` is {limit})");
            return Plan { options, waiting_for, ..Plan::default() };
        }
        let ahead = self.ahead_of_new(now, &job);
        let first = options.first();
        let Some((waits, takes)) = first.and_then(|first| Some((first.waits?, first.takes?))) else {
            // Of policies that do not compare only places in the queue are known.
            let is_free = free >= request.gpus as usize;
            let start = if is_free { Some(now) } else { self.estimate_start(now, &request, ahead, total) };
            let waiting_for =
                if is_free { String::new() } else { self.why_busy(&request, ahead, total, free) };
            return Plan { options, start, end: None, waiting_for };
        };
        let waiting_for = match first {
            Some(first) if waits > Duration::ZERO => {
                let (device, runtime) = (with_article(&first.device), about(takes.as_secs_f64() * 1000.0));
                format!("waits for {device}, where it takes about {runtime}")
            }
            _ => String::new(),
        };
        let start = now + waits;
        Plan { options, start: Some(start), end: Some(start + takes), waiting_for }
    }

    /// The kinds on offer that would do, the smallest first, as they are.
    fn kinds_for(&self, request: &Request) -> Vec<PlanOption> {
        let excluded = self.view().excluded(request).into_owned();
        let count = |slots: usize| u32::try_from(slots).unwrap_or(u32::MAX);
        let kinds = self.agents.slots().kinds().iter().filter(|(kind, _)| kind.satisfies(request));
        let option = |(kind, pool): (&Kind, &SlotPool)| {
            let (total, free) = pool.without(&excluded);
            let (waits, takes, measured) = (None, None, false);
            let device = kind.device().to_owned();
            PlanOption { device, free: count(free), total: count(total), waits, takes, measured }
        };
        kinds.map(option).filter(|option| option.total > 0).collect()
    }

    pub(crate) fn is_over_quota(&self, request: &Request, user: &str) -> bool {
        request.device == DeviceKind::Gpu && self.gpus_left(user) == 0
    }
}
