//! Sentences that every client shows as they are: why a job waits, why an attempt went where it did, what a person should
//! know of a machine. Clients add times, each in its own form. How a slot is, in a word, is in `slot_status`.

use trainyard_proto::pb;
use trainyard_scheduler_core::{AgentState, AgentView, AttemptRecord, JobRecord};
use trainyard_types::{JobState, Time};

/// Missing paths that a sentence names.
const PATHS: usize = 3;

/// What a job waits for, as a whole sentence: some reasons begin with a verb of the job's, some have a subject of their own.
pub fn waiting(reason: &str) -> String {
    const VERBS: [&str; 5] = ["waits ", "needs ", "retries ", "is ", "has "];
    if reason.is_empty() {
        return String::new();
    }
    if VERBS.iter().any(|verb| reason.starts_with(verb)) {
        return format!("It {reason}.");
    }
    let mut letters = reason.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).chain(['.']).collect())
}

/// Why an attempt was placed where it was, a sentence each; the options that were compared stand beside them.
pub fn placement(record: &AttemptRecord) -> Vec<String> {
    let mut reasons = Vec::new();
    let choice = record.choice.as_ref();
    if choice.is_none_or(|choice| choice.options.is_empty()) {
        reasons.push("No other kind of GPU would have done.".to_owned());
    }
    if choice.is_some_and(|choice| choice.starving) {
        let text = "It had waited for as long as it must, and went before everything that came later.";
        reasons.push(text.to_owned());
    }
    if let Some(victim) = choice.and_then(|choice| choice.preempted_for) {
        reasons.push(format!("Job {victim} was preempted for it."));
    }
    if record.warm {
        reasons.push("The machine held its data set decoded.".to_owned());
    }
    reasons
}

/// How much later than was first expected a job began and ended, as far as it has: in milliseconds, negative where it was
/// earlier. The end of a job that did not succeed is no measure.
pub fn deviations(record: &JobRecord) -> (Option<i64>, Option<i64>) {
    let Some(estimate) = &record.estimate else { return (None, None) };
    let between = |said: Time, came: Time| i64::try_from(i128::from(came.0) - i128::from(said.0)).ok();
    let placed = record.attempts.first().map(|attempt| attempt.placed);
    let ended = record.ended.filter(|_| record.state == JobState::Succeeded);
    (
        placed.and_then(|placed| between(estimate.start, placed)),
        ended.and_then(|ended| between(estimate.end, ended)),
    )
}

/// What of a machine is not as it should be, a sentence each without its full stop; `known` is what the scheduler has found.
pub fn notices(view: &AgentView<'_>, slots: &[pb::CpuSlot], known: Vec<String>) -> Vec<String> {
    let fitness = &view.status.fitness;
    let mut lines = Vec::new();
    if !view.status.unavailable.is_empty() {
        lines.push(view.status.unavailable.clone());
    }
    for root in fitness.data_roots.iter().flatten() {
        if !root.problem.is_empty() {
            lines.push(format!("{} cannot be read now: {}", root.path, root.problem));
        }
    }
    lines.extend(missing_paths(&fitness.missing_paths));
    let closed = slots.iter().filter_map(|slot| Some((slot.index, slot.unavailable.as_ref()?)));
    lines.extend(closed.map(|(index, why)| format!("CPU slot {index} takes no job: {}", why.message)));
    let inventory = &view.record.inventory;
    let has_nothing = inventory.gpus.is_empty() && inventory.cpu_slots == 0;
    if has_nothing && view.status.unavailable.is_empty() && view.state == AgentState::Connected {
        lines.push(NOTHING.to_owned());
    }
    lines.extend(known);
    lines
}

const NOTHING: &str = "has no GPU that NVIDIA's driver tells of, and no CPU slot: no job comes there until the driver is \
                       there, or `cpu_slots` is set";

fn missing_paths(paths: &[String]) -> Option<String> {
    let named = paths.iter().take(PATHS).cloned().collect::<Vec<_>>().join(", ");
    let what = match paths.len().checked_sub(PATHS) {
        Some(more @ 1..) => format!("{named} and {more} more"),
        _ => named,
    };
    (!what.is_empty()).then(|| format!("jobs asked for what cannot be read there: {what}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use trainyard_scheduler_core::{Choice, ChoiceOption, Estimate};
    use trainyard_types::{AgentId, AttemptId, JobId, JobSpec, ModelScale, Slot, TrainSpec};

    use super::*;

    #[test]
    fn what_a_job_waits_for_is_a_sentence_whoever_its_subject_is() {
        for (reason, sentence) in [
            ("waits for a CPU", "It waits for a CPU."),
            ("the only GPU that would do is reserved", "The only GPU that would do is reserved."),
            ("no agent is connected", "No agent is connected."),
            ("", ""),
        ] {
            assert_eq!(waiting(reason), sentence);
        }
    }

    fn attempt(choice: Option<Choice>) -> AttemptRecord {
        AttemptRecord {
            id: AttemptId { job: JobId(uuid::Uuid::nil()), number: 1 },
            agent: AgentId(uuid::Uuid::nil()),
            agent_name: "lab-1".into(),
            slot: Slot::Cpu(0),
            others: Vec::new(),
            device: "RTX 5070".into(),
            choice,
            warm: true,
            expected_end: None,
            batch_chosen: None,
            fetching: None,
            setup: None,
            last_sequence: 0,
            placed: Time(60_000),
            started: None,
            released: None,
            ended: None,
        }
    }

    #[test]
    fn a_placement_tells_what_else_was_considered_and_who_went_for_it() {
        let option = ChoiceOption {
            device: "RTX 5070".into(),
            free: 1,
            total: 2,
            runtime: Duration::from_secs(60),
            waits: Duration::ZERO,
            delays_others: Duration::ZERO,
            measured: true,
        };
        let victim = "019ab3c4-1f2e-7000-8000-000000000002";
        let choice =
            Choice { options: vec![option], preempted_for: Some(victim.parse().unwrap()), starving: true };
        let told = placement(&attempt(Some(choice))).join(" ");
        let wanted = format!(
            "It had waited for as long as it must, and went before everything that came later. Job {victim} was \
             preempted for it. The machine held its data set decoded."
        );
        assert_eq!(told, wanted);
        let alone = placement(&AttemptRecord { warm: false, ..attempt(None) });
        assert_eq!(alone, ["No other kind of GPU would have done."]);
    }

    #[test]
    fn estimates_are_compared_with_what_came_and_a_failure_is_no_measure() {
        let spec = JobSpec::new(TrainSpec::new(ModelScale::N, "/d/data.yaml"));
        let mut job = JobRecord::queued(JobId(uuid::Uuid::nil()), "ada".into(), Arc::new(spec), Time(0));
        assert_eq!(deviations(&job), (None, None));
        job.estimate = Some(Estimate { made: Time(0), start: Time(50_000), end: Time(200_000) });
        assert_eq!(deviations(&job), (None, None));
        job.attempts = vec![attempt(None)];
        (job.ended, job.state) = (Some(Time(150_000)), JobState::Succeeded);
        assert_eq!(deviations(&job), (Some(10_000), Some(-50_000)));
        job.state = JobState::Failed;
        assert_eq!(deviations(&job), (Some(10_000), None));
    }

    #[test]
    fn of_many_missing_paths_some_are_named() {
        let paths = |count: usize| (0..count).map(|at| format!("/{at}.yaml")).collect::<Vec<_>>();
        assert_eq!(missing_paths(&[]), None);
        let told = |count| missing_paths(&paths(count)).unwrap();
        assert!(told(3).ends_with(": /0.yaml, /1.yaml, /2.yaml"));
        assert!(told(4).ends_with(": /0.yaml, /1.yaml, /2.yaml and 1 more"));
    }
}
