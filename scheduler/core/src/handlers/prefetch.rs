//! What the jobs name that will start next comes to their agents while the GPUs are still busy.

use std::collections::BTreeSet;
use std::path::Path;

use trainyard_types::{AgentId, Fetching, JobId, JobState, Reference, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::output::Command;
use crate::record::JobRecord;
use crate::state::path_visibility::JobPaths;
use crate::state::prefetches::{PrefetchKind, Wanted};

impl Core {
    /// Tells agents what to prefetch, one version each, if it is time to look. A cluster in which nothing waits, or no
    /// slot becomes free soon, costs nothing.
    pub(crate) fn prefetch(&mut self, now: Time, out: &mut Changes) {
        if self.jobs.queue().len() == 0 || !self.prefetches.begin_plan(now) {
            return;
        }
        self.forget_prefetched();
        let upcoming = self.policy.upcoming(now, &self.view());
        let mut busy = BTreeSet::new();
        for next in upcoming {
            let Some(agent) = self.agents.get(next.agent) else { continue };
            let Some(session) = agent.session().filter(|_| agent.fitness().prefetching.is_some()) else {
                continue;
            };
            let Some(wanted) = self.lacks(next.agent, next.job) else { continue };
            if !busy.insert(next.agent) {
                continue;
            }
            let told = self.prefetches.of(next.agent).filter(|told| told.is_under_way(now, session));
            // A plan that changes back and forth must not have everything begun and nothing whole.
            if told.is_some_and(|told| told.wanted == wanted || self.waits(told.wanted.job)) {
                continue;
            }
            let Wanted { kind, reference, .. } = wanted.clone();
            self.prefetches.tell(now, next.agent, session, wanted);
            out.command(Command::Prefetch { agent: next.agent, session, kind, reference });
        }
    }

    /// What agents hold by now may go the way of all versions; agents that are gone read nothing.
    fn forget_prefetched(&mut self) {
        let Self { prefetches, agents, .. } = self;
        prefetches.retain(|agent, told| {
            agents.get(agent).is_some() && !agents.statuses().holds(agent, told.wanted.reference.version())
        });
    }

    fn waits(&self, job: JobId) -> bool {
        self.jobs.get(job).is_some_and(|job| job.state == JobState::Queued)
    }

    /// The first thing that a job names and the agent does not hold.
    fn lacks(&self, agent: AgentId, job: JobId) -> Option<Wanted> {
        let record = self.jobs.get(job)?;
        let JobPaths { data, pretrained } = JobPaths::of(record);
        let named = [(PrefetchKind::DataSet, data), (PrefetchKind::Weights, pretrained)];
        named.into_iter().find_map(|(kind, path)| {
            let reference = Reference::of_path(Path::new(&path)).filter(Reference::is_exact)?;
            let is_held = self.agents.statuses().holds(agent, reference.version());
            (!is_held).then_some(Wanted { job, kind, reference })
        })
    }

    /// Whether an agent was told to prefetch this.
    pub(crate) fn prefetches(&self, agent: AgentId, path: &str) -> bool {
        self.prefetches.of(agent).is_some_and(|told| told.wanted.reference.to_string() == path)
    }

    /// How far what a waiting job names has come to a connected agent where it may start, and to which.
    pub(crate) fn prefetched_for(&self, job: &JobRecord) -> Option<(&str, &Fetching)> {
        let paths = JobPaths::of(job);
        let of = |agent| {
            let agent = self.agents.get(agent).filter(|agent| agent.session().is_some())?;
            let now = agent.fitness().prefetching.as_ref()?.now.as_ref()?;
            paths.each().any(|path| path == now.what).then_some((agent.name(), now))
        };
        self.prefetches.iter().find_map(|(agent, _)| of(agent))
    }
}
