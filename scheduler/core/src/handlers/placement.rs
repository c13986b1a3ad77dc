//! What the policy decides is carried out here: jobs are placed, and preempted.

use trainyard_types::trainer::LogLevel;
use trainyard_types::{Assignment, AttemptId, EndReason, JobId, JobSpec, JobState, Time};

use crate::changes::Changes;
use crate::duration::about;
use crate::engine::Core;
use crate::gpu_name::with_article;
use crate::output::Command;
use crate::policy::{Change, ClusterView, Placement, PlacementPolicy, Preemption};
use crate::record::{AttemptRecord, ChoiceOption, EventBody};

/// Kinds of GPUs that a sentence names beside the chosen one.
const NAMED: usize = 4;

impl Core {
    /// The cluster as a policy sees it.
    pub(crate) fn view(&self) -> ClusterView<'_> {
        ClusterView::new(&self.config, &self.jobs, &self.agents, &self.users, &self.throughput)
    }

    /// The policy, and the cluster as it sees it.
    fn policy_and_view(&mut self) -> (&mut dyn PlacementPolicy, ClusterView<'_>) {
        let view = ClusterView::new(&self.config, &self.jobs, &self.agents, &self.users, &self.throughput);
        (&mut *self.policy, view)
    }

    /// Lets the policy take in what has changed.
    pub(crate) fn tell_policy(&mut self, now: Time, change: &Change<'_>) {
        let (policy, view) = self.policy_and_view();
        policy.observe(now, &view, change);
    }

    /// Lets the policy take in which jobs are ready now.
    pub(crate) fn follow_queue(&mut self, now: Time) {
        let (came, went) = self.jobs.take_queue_changes();
        if !came.is_empty() || !went.is_empty() {
            self.tell_policy(now, &Change::Ready { came: &came, went: &went });
        }
    }

    /// Starts the waiting jobs that the policy chooses.
    pub(crate) fn place(&mut self, now: Time, out: &mut Changes) {
        let (policy, view) = self.policy_and_view();
        policy.begin_round(now, &view);
        loop {
            let (policy, view) = self.policy_and_view();
            let Some(placement) = policy.next(now, &view) else { return };
            self.begin(now, placement, out);
        }
    }

    /// Starts a waiting job.
    fn begin(&mut self, now: Time, placement: Placement, out: &mut Changes) {
        let Placement { job: id, kind, locations } = placement;
        let Some((first, others)) = locations.split_first() else { return };
        let (policy, view) = self.policy_and_view();
        let expected = policy.expect(now, &view, id, &kind, first.agent);
        let Some(agent) = self.agents.get(first.agent) else { return };
        let session = agent.session().expect("only slots of agents with a session are offered");
        let (agent, agent_name) = (agent.record().id, agent.name().to_owned());
        let Some(mut job) = self.jobs.edit(now, id) else { return };
        let slots = u32::try_from(locations.len()).unwrap_or(u32::MAX);
        self.users.begin(&self.config, &job.user, now, job.spec.resources.device, slots);
        out.touch_user(&job.user);
        let number = u32::try_from(job.attempts.len()).map_or(u32::MAX, |attempts| attempts + 1);
        let attempt = AttemptId { job: id, number };
        self.agents.occupy(attempt, &kind, &locations);
        let (device, slot) = (kind.device().to_owned(), first.slot.clone());
        let reason = format!("placed on {device} of agent `{agent_name}`, which prepares it");
        let record = AttemptRecord {
            id: attempt,
            agent,
            agent_name,
            slot: slot.clone(),
            others: others.iter().map(|location| location.slot.clone()).collect(),
            device,
            choice: expected.choice,
            warm: expected.warm,
            expected_end: expected.end,
            batch_chosen: None,
            fetching: None,
            setup: None,
            last_sequence: 0,
            placed: now,
            started: None,
            released: None,
            ended: None,
        };
        let why = why_here(&record);
        job.begin_attempt(record, kind);
        job.not_before = None;
        out.state(&mut job, now, number, JobState::Starting, reason);
        job.estimate = job.estimate.or(expected.estimate);
        if let Some(message) = why {
            out.event(&mut job, now, number, EventBody::Log { level: LogLevel::Info, message });
        }
        let assignment = Box::new(Assignment {
            attempt,
            // The scheduler keeps the time; older agents refuse a spec with a limit.
            spec: JobSpec { time_limit: None, ..JobSpec::clone(&job.full_spec()) },
            slot,
            resume: job.checkpoint.clone(),
        });
        drop(job);
        out.command(Command::Assign { agent, session, assignment });
        self.tell_policy(now, &Change::Placed(id));
    }

    /// A running job has stored a checkpoint: the policy may want its slots for something better.
    pub(crate) fn consider_preemption(&mut self, now: Time, id: JobId, out: &mut Changes) {
        let (policy, view) = self.policy_and_view();
        if let Some(preemption) = policy.on_checkpoint(now, &view, id) {
            self.preempt(now, preemption, out);
        }
    }

    /// Tells an agent to end an attempt in favour of something better.
    fn preempt(&mut self, now: Time, preemption: Preemption, out: &mut Changes) {
        let Preemption { job: id, reason } = preemption;
        let Some(mut job) = self.jobs.edit(now, id) else { return };
        let Some(attempt) = job.live_attempt() else { return };
        let (attempt, agent) = (attempt.id, attempt.agent);
        if self.agents.session(agent).is_none() {
            return;
        }
        job.state_reason.clone_from(&reason);
        let log = EventBody::Log { level: LogLevel::Info, message: reason };
        out.event(&mut job, now, attempt.number, log);
        out.touch(id);
        out.stop(&self.agents, agent, attempt, EndReason::Preempted);
    }
}

/// A placement in one line; `None` where there was nothing to choose.
fn why_here(attempt: &AttemptRecord) -> Option<String> {
    let choice = attempt.choice.as_ref()?;
    let (chosen, others) = choice.options.split_first()?;
    let runtime = |option: &ChoiceOption| about(option.runtime.as_secs_f64() * 1000.0);
    let mut words = format!("why here: about {} on {}", runtime(chosen), with_article(&chosen.device));
    for other in others.iter().take(NAMED) {
        let is_free = if other.free == 0 { "busy" } else { "free" };
        words.push_str(&format!("; {} on {} ({is_free})", runtime(other), with_article(&other.device)));
    }
    if attempt.warm {
        words.push_str("; its data set is decoded there");
    }
    if choice.starving {
        words.push_str("; it had waited for as long as it must");
    }
    if let Some(victim) = choice.preempted_for {
        words.push_str(&format!("; job {victim} was preempted for it"));
    }
    Some(words)
}
