//! The end of an attempt: what becomes of its job, and of what it held.

use std::time::Duration;

use trainyard_types::{AttemptId, EndReason, Ended, JobState, Slot, Time};

use crate::changes::Changes;
use crate::config::CoreConfig;
use crate::duration::in_words;
use crate::engine::Core;
use crate::policy::Change;
use crate::record::{AttemptEnd, AttemptRecord, JobRecord};
use crate::retry::{self, Verdict};
use crate::state::failures::{Failure, FailureSite};

/// A machine that lacked a path so often, and took it back each time, is asked again after a wait that doubles.
const ASKED_AT_ONCE: u32 = 3;

impl Core {
    /// Ends a live attempt, frees its slot, and decides what becomes of its job.
    pub(crate) fn end_attempt(
        &mut self,
        now: Time,
        time: Time,
        id: AttemptId,
        ended: Ended,
        out: &mut Changes,
    ) {
        let Some(attempt) = self.jobs.live_attempt(id.job) else { return };
        let (agent, slot) = (attempt.agent, attempt.slot.clone());
        self.note_missing_path(agent, &ended, out);
        let blames = ended.reason.counts_as_retry() || ended.reason.is_cut_off();
        let elsewhere = blames && self.could_run_elsewhere(id.job, agent);
        let is_at_fault = self.agents.get(agent).is_some_and(|agent| agent.is_at_fault(&slot));
        let Some(mut job) = self.jobs.edit(now, id.job) else { return };
        let cancelled = job.cancel_requested;
        let ran_before = job.ran;
        let told_to_stop = job.spec.time_limit.filter(|_| job.out_of_time);
        let epochs_done = job.progress.as_ref().map_or(0, |progress| progress.epochs_done);
        let (is_stepless, is_quick) = (!job.has_stepped(), job.is_quick(time));
        let Some(attempt) = job.live_attempt_mut() else { return };
        let ran = attempt.ran(time);
        let Ended { reason: cause_of_end, message, artifacts, unfit } = ended;
        // An attempt may have ended by itself before it heard that its time was over.
        let limit = told_to_stop
            .filter(|&limit| cause_of_end == EndReason::Preempted || ran_before.saturating_add(ran) >= limit)
            .filter(|_| cause_of_end != EndReason::Completed && !cancelled);
        // It was told of a preemption; agents know of no time limits.
        let reason = if limit.is_some() { EndReason::TimeLimit } else { cause_of_end };
        let name = attempt.place();
        let held = attempt.holds_slots().then(|| attempt.slots().cloned().collect::<Vec<Slot>>());
        let quick = is_quick && retry::is_bad(reason, unfit.as_ref());
        attempt.ended =
            Some(AttemptEnd { time, reason, message: message.clone(), unfit: unfit.clone(), quick });
        job.ran = ran_before.saturating_add(ran);
        job.out_of_time = limit.is_some();
        let verdict = retry::verdict(reason, cancelled, limit.is_some());
        let (state, sentence) = match verdict {
            Verdict::Succeed => {
                job.hand_in(artifacts);
                (JobState::Succeeded, format!("trained to the end on {name}"))
            }
            Verdict::Cancel if cancelled => (JobState::Cancelled, "its user cancelled it".to_owned()),
            Verdict::Cancel => (JobState::Cancelled, detailed("its agent cancelled it", &message)),
            Verdict::Fail => (JobState::Failed, limit.map_or_else(|| failure(reason, message), over_limit)),
            Verdict::Retry | Verdict::Requeue => {
                let healthy = match &slot {
                    Slot::Gpu(gpu) if !is_at_fault => Some(gpu.clone()),
                    Slot::Gpu(_) | Slot::Cpu(_) => None,
                };
                let site = FailureSite { agent, name };
                let failure =
                    Failure { reason, unfit, epochs_done, healthy, site, is_stepless, is_quick, elsewhere };
                requeue_or_fail(&mut job, &self.config, now, verdict, &failure, &message)
            }
        };
        out.state(&mut job, time, id.number, state, sentence);
        if state == JobState::Queued {
            out.request_round();
        }
        if reason == EndReason::Completed {
            self.users.completed(&job.user, u64::try_from(ran.as_millis()).unwrap_or(u64::MAX));
            out.touch_user(&job.user);
        }
        drop(job);
        if reason == EndReason::Completed {
            self.observe_end(id.job, out);
        }
        if limit.is_none() {
            self.counters.attempt_ended(cause_of_end, self.agents.get(agent), &slot);
        }
        match held {
            Some(slots) => self.release_slots(now, id, &slots, out),
            None => {
                self.agents.end_hand_in(agent, id);
                self.tell_policy(now, &Change::Released(id.job));
            }
        }
        self.start_cooldown(now, id, cause_of_end);
        self.judge_machine(now, id, out);
    }
}

/// Whether a job whose attempt ended badly is tried again, and what is said of it.
fn requeue_or_fail(
    job: &mut JobRecord,
    config: &CoreConfig,
    now: Time,
    verdict: Verdict,
    failure: &Failure,
    message: &str,
) -> (JobState, String) {
    let (reason, place, cause) = (failure.reason, &failure.site.name, cause(failure.reason));
    let consequence = job.failures.add(failure);
    let counts = verdict == Verdict::Retry && !consequence.is_spared;
    job.crashes = job.crashes.saturating_add(counts.into());
    let (crashes, forgiven) = (job.crashes, job.spec.max_retries);
    if counts && crashes > forgiven {
        let what = format!("crashed {} (`max_retries` is {forgiven})", times(crashes));
        return (JobState::Failed, detailed(&what, message));
    }
    if let Some(what) = consequence.given_up {
        return (JobState::Failed, detailed(&what, message));
    }
    let waits = consequence.waits.or_else(|| asked_in_vain(job).checked_sub(ASKED_AT_ONCE));
    // Those that are charged and those that are not lengthen the wait together.
    let delay = waits.map(|waits| {
        let charged = if verdict == Verdict::Retry { crashes } else { 0 };
        let first = u32::from(charged == 0 || consequence.is_spared);
        retry::delay(config, charged.saturating_add(waits).saturating_add(first))
    });
    job.not_before = delay.map(|delay| now + delay);
    let seconds = delay.unwrap_or_default().as_secs_f64();
    let what = match (counts, delay) {
        (true, _) => format!("retry {crashes} of {forgiven} is due in {seconds} s after {cause}"),
        (false, Some(_)) if verdict == Verdict::Retry => {
            format!(
                "is tried again in {seconds} s, elsewhere if it can, after {cause} on {place}, at no charge"
            )
        }
        (false, Some(_)) => {
            let count = if reason == EndReason::Stalled { job.failures.stalls } else { job.failures.unfit };
            let row = if count > 1 { format!(", {count} in a row") } else { String::new() };
            format!("is tried again in {seconds} s after {cause} on {place}{row}")
        }
        (false, None) => format!("waits for a slot again after {cause} on {place}"),
    };
    (JobState::Queued, detailed(&what, message))
}

/// How often the machine of a job's newest attempt lacked a path for it, if that is why that attempt ended: a share
/// may come and go.
fn asked_in_vain(job: &JobRecord) -> u32 {
    let lacked = |attempt: &&AttemptRecord| {
        let unfit = attempt.ended.as_ref().and_then(|end| end.unfit.as_ref());
        unfit.is_some_and(|unfit| unfit.kind.is_of_path())
    };
    let Some(newest) = job.attempts.last().filter(lacked) else { return 0 };
    let there = job.attempts.iter().filter(lacked).filter(|attempt| attempt.agent == newest.agent);
    u32::try_from(there.count()).unwrap_or(u32::MAX)
}

fn over_limit(limit: Duration) -> String {
    format!("its time limit of {} is over; its newest checkpoint is kept", in_words(limit))
}

/// `what: message`, or only `what`.
fn detailed(what: &str, message: &str) -> String {
    if message.is_empty() { what.to_owned() } else { format!("{what}: {message}") }
}

fn times(count: u32) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        _ => format!("{count} times"),
    }
}

/// What ended an attempt, as a noun.
fn cause(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Completed => "completion",
        EndReason::BadSpec => "a bad spec",
        EndReason::GpuOom => "running out of GPU memory",
        EndReason::HostOom => "running out of main memory",
        EndReason::TrainerCrash => "a crash of the trainer",
        EndReason::GpuFault => "a fault of the GPU",
        EndReason::AgentLost => "the loss of the agent",
        EndReason::Preempted => "a preemption",
        EndReason::Drained => "a drain of the agent",
        EndReason::Cancelled => "a cancellation",
        EndReason::TimeLimit => "the end of its time limit",
        EndReason::AgentUnfit => "a lack of the machine",
        EndReason::Stalled => "a stall",
    }
}

/// Why trying again cannot help: the trainer's own words, as long as it has some.
fn failure(reason: EndReason, message: String) -> String {
    if message.is_empty() { format!("failed after {}", cause(reason)) } else { message }
}
