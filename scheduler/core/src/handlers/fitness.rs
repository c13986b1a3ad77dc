//! What agents' machines have of what jobs need, as far as it decides where jobs may go: and when no agent has it.

use trainyard_types::{AgentId, Ended, Fitness, JobId, JobState, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::explain::paths::bounded;
use crate::state::agents::agent::Agent;
use crate::state::path_visibility::JobPaths;
use crate::state::queue::Request;

/// Agents that a sentence names one by one.
const NAMED: usize = 8;

impl Core {
    /// An agent has said what its machine has, or is forgotten. `before` is what it had said until then.
    pub(crate) fn follow_fitness(&mut self, id: AgentId, before: &Fitness, out: &mut Changes) {
        let forgotten = Fitness::default();
        let now = self.agents.get(id).map_or(&forgotten, Agent::fitness);
        if let Some(told) = now.prefetching.as_ref().and_then(|prefetching| prefetching.now.as_ref()) {
            self.throughput.fetches.note_size(told);
        }
        if self.jobs.note_fitness(id, before, now) {
            out.request_round();
        }
    }

    /// An attempt ended since its agent cannot read a path: nothing that names it is offered there until the agent
    /// says something else.
    pub(crate) fn note_missing_path(&mut self, id: AgentId, ended: &Ended, out: &mut Changes) {
        let Some(unfit) = ended.unfit.as_ref().filter(|unfit| unfit.kind.is_of_path()) else { return };
        if let Some(before) = self.agents.lacks_path(id, &unfit.path, &unfit.message) {
            self.follow_fitness(id, &before, out);
        }
    }

    /// Whether a job that runs on one machine could run on another one that takes jobs now.
    pub(crate) fn could_run_elsewhere(&self, job: JobId, here: AgentId) -> bool {
        let Some(job) = self.jobs.get(job) else { return false };
        let request = Request::from(&job.spec.resources);
        let excluded = self.jobs.visibility().excluded(&JobPaths::of(job));
        self.agents.iter().any(|(id, agent)| {
            id != here && !excluded.contains(&id) && agent.is_open_to(&request) && agent.could_run(&request)
        })
    }

    /// Fails the jobs that every agent which could run them has said no to.
    pub(crate) fn fail_unreadable(&mut self, now: Time, out: &mut Changes) {
        for request in self.jobs.take_requests_to_check() {
            let Some(reason) = self.why_unreadable(&request) else { continue };
            let users = self.jobs.queue().ready().get(&request).into_iter().flat_map(|class| class.values());
            let jobs: Vec<JobId> = users.flat_map(|users| users.values()).flatten().copied().collect();
            for id in jobs {
                let Some(mut job) = self.jobs.edit(now, id) else { continue };
                job.not_before = None;
                out.state(&mut job, now, 0, JobState::Failed, reason.clone());
            }
        }
    }

    /// Why nobody will ever run such a job, if every agent that could has said no.
    fn why_unreadable(&self, request: &Request) -> Option<String> {
        let paths = request.paths.as_ref()?;
        let excluded = self.jobs.queue().excluded(request);
        let by_words = self.jobs.visibility().is_inside(paths);
        // Most often one of those that lack nothing ends it.
        let mut others = self.agents.iter().filter(|(id, _)| !excluded.contains(id));
        if others
            .any(|(_, agent)| agent.could_run(request) && agent.why_unreadable(paths, by_words).is_none())
        {
            return None;
        }
        let mut named = Vec::new();
        for (_, agent) in self.agents.iter().filter(|(_, agent)| agent.could_run(request)) {
            let (words, is_last) = agent.why_unreadable(paths, by_words)?;
            if !is_last {
                return None;
            }
            named.push(format!("agent `{}`: {words}", agent.name()));
        }
        (!named.is_empty()).then(|| {
            format!(
                "no agent that could run it can read what it names: {}; correct the path, or have it mounted and \
                 `yard retry`",
                bounded(named.into_iter(), NAMED)
            )
        })
    }
}
