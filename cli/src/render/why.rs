//! Why a job runs where it does, and how far off what was expected of it was.

use std::fmt::Write as _;

use prost_types::Timestamp;
use trainyard_proto::pb;

use super::{TextTable, cell, seconds_between, span, time};
use crate::output::Output;
use crate::terminal::clean;

/// What was said of a job's start and end when it was first thought of, beside what came.
pub fn estimates(job: &pb::Job) -> Vec<(&'static str, String)> {
    let Some(said) = &job.first_estimate else { return Vec::new() };
    let placed = job.attempts.first().and_then(|attempt| attempt.placed_time.as_ref());
    let ended = job.end_time.as_ref().filter(|_| job.state() == pb::JobState::Succeeded);
    let pairs = [("start", said.start_time.as_ref(), placed), ("end", said.end_time.as_ref(), ended)];
    let compare = |(what, said, came): (_, Option<&Timestamp>, Option<&Timestamp>)| {
        let said = said?;
        let off = came.map(|came| deviation(said, came)).unwrap_or_default();
        Some((what, format!("{}{off}", time(Some(said)))))
    };
    pairs.into_iter().filter_map(compare).collect()
}

/// `, came 3m later`.
fn deviation(said: &Timestamp, came: &Timestamp) -> String {
    match seconds_between(said, came) {
        0 => ", as it came".to_owned(),
        late @ 1.. => format!(", came {} later", span(late)),
        early => format!(", came {} earlier", span(-early)),
    }
}

/// What a job waits for, as a sentence without its full stop: some begin with a verb of the job's, some have a subject of
/// their own.
fn sentence(waiting_for: &str) -> String {
    const VERBS: [&str; 5] = ["waits ", "needs ", "retries ", "is ", "has "];
    if VERBS.iter().any(|verb| waiting_for.starts_with(verb)) {
        return format!("It {waiting_for}");
    }
    let mut letters = waiting_for.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Why a job waits, and why each of its attempts went where it did.
pub fn explanation(output: Output, job: &pb::Job) -> String {
    let mut text = String::new();
    if !job.waiting_for.is_empty() {
        let _ = writeln!(text, "{}.", sentence(&clean(&job.waiting_for)));
    }
    for attempt in &job.attempts {
        let _ = writeln!(text, "{}", attempt_explanation(output, attempt));
    }
    if text.is_empty() {
        text.push_str("It was never placed.");
    }
    for (what, off) in estimates(job) {
        let _ = writeln!(text, "Its {what} was expected at {off}.");
    }
    text.trim_end().to_owned()
}

fn attempt_explanation(output: Output, attempt: &pb::Attempt) -> String {
    let (device, agent) = (clean(&attempt.device), clean(&attempt.agent_name));
    let placed = time(attempt.placed_time.as_ref());
    let mut text = format!("Attempt {}: {device} of {agent}, placed {placed}.", attempt.number);
    let choice = attempt.choice.clone().unwrap_or_default();
    if choice.options.is_empty() {
        text.push_str(" No other kind of GPU would have done.");
    }
    if choice.overdue {
        text.push_str(" It had waited for as long as it must, and went before everything that came later.");
    }
    if !choice.made_way_job_id.is_empty() {
        let _ = write!(text, " Job {} was preempted for it.", choice.made_way_job_id);
    }
    if attempt.warm {
        text.push_str(" The machine held its data set decoded.");
    }
    if attempt.expected_end_time.is_some() {
        let _ = write!(text, " It was to end at {}.", time(attempt.expected_end_time.as_ref()));
    }
    if choice.options.len() > 1 {
        let _ = write!(text, "\n{}", options(output, &choice.options));
    }
    text
}

fn options(output: Output, options: &[pb::PlacementOption]) -> String {
    let heads = ["GPU", "FREE", "WAITS", "TAKES", "DELAYS OTHERS", "SPEED"];
    let mut table = TextTable::new(output, &heads, 5);
    let seconds = |span: &Option<prost_types::Duration>| span.as_ref().map_or(0, |span| span.seconds);
    for (index, option) in options.iter().enumerate() {
        table.row(vec![
            cell(if index == 0 { format!("* {}", option.device) } else { format!("  {}", option.device) }),
            cell(format!("{} of {}", option.free, option.total)),
            cell(span(seconds(&option.waits))),
            cell(span(seconds(&option.takes))),
            cell(span(seconds(&option.delays_others))),
            cell(if option.measured { "measured" } else { "estimated" }),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;

    const PLAIN: Output = Output { format: Format::Table, colored: false, width: None };

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds: 1_700_000_000 + seconds, nanos: 0 })
    }

    #[test]
    fn what_a_job_waits_for_is_a_sentence_whoever_its_subject_is() {
        assert_eq!(sentence("waits for a CPU"), "It waits for a CPU");
        assert_eq!(
            sentence("the only GPU that would do is reserved"),
            "The only GPU that would do is reserved"
        );
        assert_eq!(sentence("no agent is connected"), "No agent is connected");
    }

    #[test]
    fn a_placement_tells_what_else_was_considered_and_how_far_off_the_estimates_were() {
        let length = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let option = |device: &str, free, takes, waits, others, measured| pb::PlacementOption {
            device: device.into(),
            free,
            total: 2,
            takes: length(takes),
            waits: length(waits),
            delays_others: length(others),
            measured,
        };
        let options =
            vec![option("RTX 5070", 1, 3600, 0, 60, true), option("RTX 4090", 0, 1800, 7200, 0, false)];
        let choice = pb::PlacementChoice { options, made_way_job_id: "019ab3c4".into(), overdue: false };
        let job = pb::Job {
            state: pb::JobState::Succeeded.into(),
            end_time: at(4000),
            attempts: vec![pb::Attempt {
                number: 1,
                agent_name: "lab-1".into(),
                device: "RTX 5070".into(),
                placed_time: at(0),
                expected_end_time: at(3600),
                choice: Some(choice),
                warm: true,
                ..Default::default()
            }],
            first_estimate: Some(pb::Estimate { make_time: at(0), start_time: at(0), end_time: at(3700) }),
            ..Default::default()
        };
        let wanted = "\
Attempt 1: RTX 5070 of lab-1, placed 2023-11-14T22:13:20Z. Job 019ab3c4 was preempted for it. The machine held its \
data set decoded. It was to end at 2023-11-14T23:13:20Z.
GPU         FREE    WAITS  TAKES  DELAYS OTHERS  SPEED
* RTX 5070  1 of 2  0s     1h00m  1m00s          measured
  RTX 4090  0 of 2  2h00m  30m    0s             estimated
Its start was expected at 2023-11-14T22:13:20Z, as it came.
Its end was expected at 2023-11-14T23:15:00Z, came 5m00s later.";
        assert_eq!(explanation(PLAIN, &job), wanted);
    }

    #[test]
    fn a_job_that_waits_tells_what_for_and_one_without_a_choice_that_there_was_none() {
        let job = pb::Job {
            waiting_for: "waits for an RTX 4090, where it takes about 5 min".into(),
            attempts: vec![pb::Attempt { number: 1, device: "CPU".into(), ..Default::default() }],
            ..Default::default()
        };
        let wanted = "\
It waits for an RTX 4090, where it takes about 5 min.
Attempt 1: CPU of , placed -. No other kind of GPU would have done.";
        assert_eq!(explanation(PLAIN, &job), wanted);
    }
}
