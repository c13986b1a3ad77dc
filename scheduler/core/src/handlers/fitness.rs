//! What agents' machines have of what jobs need, as far as it decides where jobs may go: and when no agent has it.

use std::collections::BTreeSet;

use trainyard_types::{AgentId, Ended, Fitness, JobId, JobState, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::explain::paths::bounded;
use crate::record::JobRecord;
use crate::state::agent::Agent;
use crate::state::queue::Request;
use crate::state::sight::JobPaths;

/// Agents that a sentence names one by one.
const NAMED: usize = 8;
/// Paths that an agent is remembered to lack by what it reported of attempts.
const MISSING: usize = 1024;

impl Core {
    /// An agent has said what its machine has, or is forgotten: who may be offered what follows from it. `before` is
    /// what it had said until then.
    pub(crate) fn see(&mut self, id: AgentId, before: &Fitness, out: &mut Changes) {
        let forgotten = Fitness::default();
        let now = self.agents.get(&id).map_or(&forgotten, |agent| &agent.condition.fitness);
        if !self.sight.note(id, before, now) {
            return;
        }
        if let Some(Agent { said_of, condition, .. }) = self.agents.get_mut(&id) {
            said_of.retain(|path, _| condition.fitness.missing_paths.contains(path));
        }
        self.queue.look_again(&self.sight, &self.jobs);
        self.fitness_changed = true;
        out.replan = true;
    }

    /// An attempt ended since its agent cannot see a path: nothing that names it is offered there until the agent
    /// says something else.
    pub(crate) fn lacks_path(&mut self, id: AgentId, ended: &Ended, out: &mut Changes) {
        let Some(unfit) = ended.unfit.as_ref().filter(|unfit| unfit.kind.is_of_path()) else { return };
        let Some(agent) = self.agents.get_mut(&id) else { return };
        if agent.said_of.len() < MISSING || agent.said_of.contains_key(&unfit.path) {
            agent.said_of.insert(unfit.path.clone(), unfit.message.clone());
        }
        let fitness = &mut agent.condition.fitness;
        if fitness.missing_paths.len() >= MISSING || fitness.missing_paths.contains(&unfit.path) {
            return;
        }
        let before = fitness.clone();
        fitness.missing_paths.push(unfit.path.clone());
        self.see(id, &before, out);
    }

    /// Whether a job that runs on one machine could run on another one that takes jobs now.
    pub(crate) fn would_do_elsewhere(&self, job: JobId, here: AgentId) -> bool {
        let Some(job) = self.jobs.get(&job) else { return false };
        let request = Request::from(&job.spec.resources);
        let lacking = self.sight.lacking(&JobPaths::of(job));
        self.agents.iter().any(|(id, agent)| {
            *id != here && !lacking.contains(id) && agent.is_open_to(&request) && agent.could_run(&request)
        })
    }

    /// Fails the jobs that every agent which could run them has said no to.
    pub(crate) fn fail_unreadable(&mut self, now: Time, out: &mut Changes) {
        let fresh = self.queue.take_fresh();
        let due: BTreeSet<Request> = if std::mem::take(&mut self.fitness_changed) {
            self.queue.ready().keys().filter(|request| request.paths.is_some()).cloned().collect()
        } else {
            fresh
        };
        for request in due {
            let Some(reason) = self.why_unreadable(&request) else { continue };
            let users = self.queue.ready().get(&request).into_iter().flat_map(|class| class.values());
            let jobs: Vec<JobId> = users.flat_map(|users| users.values()).flatten().copied().collect();
            for id in jobs {
                let Some(job) = self.jobs.get_mut(&id) else { continue };
                self.queue.remove(job);
                job.not_before = None;
                out.state(job, now, 0, JobState::Failed, reason.clone());
            }
        }
    }

    /// Why nobody will ever run such a job, if every agent that could has said no.
    fn why_unreadable(&self, request: &Request) -> Option<String> {
        let paths = request.paths.as_ref()?;
        let lacking = self.queue.lacking(request);
        let by_words = self.sight.is_inside(paths);
        // Most often one of those that lack nothing ends it.
        let mut others = self.agents.iter().filter(|(id, _)| !lacking.contains(id));
        if others.any(|(_, agent)| agent.could_run(request) && agent.says_no(paths, by_words).is_none()) {
            return None;
        }
        let mut named = Vec::new();
        for agent in self.agents.values().filter(|agent| agent.could_run(request)) {
            let (words, is_last) = agent.says_no(paths, by_words)?;
            if !is_last {
                return None;
            }
            named.push(format!("agent `{}`: {words}", agent.record.name));
        }
        (!named.is_empty()).then(|| {
            format!(
                "no agent that could run it can read what it names: {}; correct the path, or have it mounted and \
                 `yard retry`",
                bounded(named.into_iter(), NAMED)
            )
        })
    }

    /// As `ClusterView::request`.
    pub(crate) fn request(&self, job: &JobRecord) -> Request {
        self.view().request(job)
    }

    /// A job is known from now on, with all that became of it.
    pub(crate) fn note_seen(&mut self, job: &JobRecord) {
        let data = JobPaths::of(job).data;
        for attempt in job.attempts.iter().filter(|attempt| attempt.started.is_some()) {
            self.seen.add(&data, attempt.agent);
        }
    }

    /// A job is forgotten, and its attempts with it.
    pub(crate) fn forget_seen(&mut self, job: &JobRecord) {
        let data = JobPaths::of(job).data;
        for attempt in job.attempts.iter().filter(|attempt| attempt.started.is_some()) {
            self.seen.remove(&data, attempt.agent);
        }
    }
}
