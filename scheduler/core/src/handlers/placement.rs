//! What the policy decides is carried out here: jobs are placed, and preempted.

use std::time::Duration;

use trainyard_types::trainer::LogLevel;
use trainyard_types::{Assignment, AttemptId, EndReason, JobId, JobSpec, JobState, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::output::Command;
use crate::policy::{Change, ClusterView, Placement, PlacementPolicy, Preemption, view_of};
use crate::record::{AttemptRecord, ChoiceOption, EventBody};
use crate::spans::about;

/// Kinds of GPUs that a sentence names beside the chosen one.
const NAMED: usize = 4;

impl Core {
    /// The cluster as a policy sees it.
    pub(crate) fn view(&self) -> ClusterView<'_> {
        view_of!(self)
    }

    /// The policy, and the cluster as it sees it.
    fn policy_and_view(&mut self) -> (&mut dyn PlacementPolicy, ClusterView<'_>) {
        let view = view_of!(self);
        (&mut *self.policy, view)
    }

    /// Lets the policy take in what has changed.
    pub(crate) fn tell_policy(&mut self, now: Time, change: &Change<'_>) {
        let (policy, view) = self.policy_and_view();
        policy.observe(now, &view, change);
    }

    /// Lets the policy take in which jobs are ready now.
    pub(crate) fn follow_queue(&mut self, now: Time) {
        let (came, went) = self.queue.take_changes();
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
        let (Some(job), Some(agent)) = (self.jobs.get_mut(&id), self.agents.get_mut(&first.agent)) else {
            return;
        };
        let session = agent.session.expect("only slots of agents with a session are offered");
        self.queue.remove(job);
        for location in &locations {
            self.slots.take(&kind, location);
        }
        let slots = u32::try_from(locations.len()).unwrap_or(u32::MAX);
        self.users.begin(&self.config, &job.user, now, job.spec.resources.device, slots);
        out.touch_user(&job.user);
        let number = u32::try_from(job.attempts.len()).map_or(u32::MAX, |attempts| attempts + 1);
        let attempt = AttemptId { job: job.id, number };
        let (device, slot) = (kind.device().to_owned(), first.slot.clone());
        agent.running.extend(locations.iter().map(|location| (location.slot.clone(), attempt)));
        self.ends.begin(attempt, kind);
        job.not_before = None;
        job.attempts.push(AttemptRecord {
            id: attempt,
            agent: agent.record.id,
            agent_name: agent.record.name.clone(),
            slot: slot.clone(),
            others: others.iter().map(|location| location.slot.clone()).collect(),
            device: device.clone(),
            choice: expected.choice,
            warm: expected.warm,
            expected_end: expected.end,
            batch_chosen: None,
            setup: None,
            last_sequence: 0,
            placed: now,
            started: None,
            released: None,
            ended: None,
        });
        let reason = format!("placed on {device} of agent `{}`, which prepares it", agent.record.name);
        out.state(job, now, number, JobState::Starting, reason);
        job.estimate = job.estimate.or(expected.estimate);
        let why = job.attempts.last().and_then(why_here);
        if let Some(message) = why {
            out.event(job, now, number, EventBody::Log { level: LogLevel::Info, message });
        }
        let assignment = Box::new(Assignment {
            attempt,
            // The scheduler keeps the time; older agents refuse a spec with a limit.
            spec: JobSpec { time_limit: None, ..JobSpec::clone(&job.full_spec()) },
            slot,
            resume: job.checkpoint.clone(),
        });
        out.command(Command::Assign { agent: agent.record.id, session, assignment });
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
        let Preemption { job: id, reason: why } = preemption;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(attempt) = job.live_attempt() else { return };
        let (attempt, agent) = (attempt.id, attempt.agent);
        let Some(session) = self.agents.get(&agent).and_then(|agent| agent.session) else { return };
        job.state_reason.clone_from(&why);
        out.event(job, now, attempt.number, EventBody::Log { level: LogLevel::Info, message: why });
        out.touch(id);
        let (reason, grace) = (EndReason::Preempted, Duration::ZERO);
        out.command(Command::Stop { agent, session, attempt, reason, grace });
    }
}

/// A placement in one line; `None` where there was nothing to choose.
fn why_here(attempt: &AttemptRecord) -> Option<String> {
    let choice = attempt.choice.as_ref()?;
    let (chosen, others) = choice.options.split_first()?;
    let takes = |option: &ChoiceOption| about(option.takes.as_secs_f64() * 1000.0);
    let mut words = format!("why here: about {} on a {}", takes(chosen), chosen.device);
    for other in others.iter().take(NAMED) {
        let is_free = if other.free == 0 { "busy" } else { "free" };
        words.push_str(&format!("; {} on a {} ({is_free})", takes(other), other.device));
    }
    if attempt.warm {
        words.push_str("; its data set is decoded there");
    }
    if choice.overdue {
        words.push_str("; it had waited for as long as it must");
    }
    if let Some(victim) = choice.made_way {
        words.push_str(&format!("; job {victim} made way"));
    }
    Some(words)
}
