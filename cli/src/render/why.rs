//! Why a job runs where it does, and how far off what was expected of it was.

use std::fmt::Write as _;

use prost_types::Timestamp;
use trainyard_proto::pb;

use super::{TextTable, cell, span, time};
use crate::output::Output;
use crate::terminal::clean;

/// What was said of a job's start and end when it was first thought of, and how far off that was.
pub fn estimates(job: &pb::Job) -> Vec<(&'static str, String)> {
    let Some(said) = &job.first_estimate else { return Vec::new() };
    let pairs = [
        ("start", said.start_time.as_ref(), &said.start_deviation),
        ("end", said.end_time.as_ref(), &said.end_deviation),
    ];
    let told = |(what, said, late): (_, Option<&Timestamp>, &Option<prost_types::Duration>)| {
        let off = late.as_ref().map(|late| deviation(late.seconds)).unwrap_or_default();
        Some((what, format!("{}{off}", time(Some(said?)))))
    };
    pairs.into_iter().filter_map(told).collect()
}

/// `, came 3m later`.
fn deviation(late: i64) -> String {
    match late {
        0 => ", as it came".to_owned(),
        late @ 1.. => format!(", came {} later", span(late)),
        early => format!(", came {} earlier", span(-early)),
    }
}

/// Why a job waits, and why each of its attempts went where it did.
pub fn explanation(output: Output, job: &pb::Job) -> String {
    let mut text = String::new();
    if !job.waiting_for.is_empty() {
        // Schedulers before this one tell no sentence.
        let sentence = Some(&job.waiting_sentence).filter(|sentence| !sentence.is_empty());
        let _ = writeln!(text, "{}", clean(sentence.unwrap_or(&job.waiting_for)));
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
    for reason in &attempt.placement_reasons {
        let _ = write!(text, " {}", clean(reason));
    }
    if attempt.expected_end_time.is_some() {
        let _ = write!(text, " It was to end at {}.", time(attempt.expected_end_time.as_ref()));
    }
    let compared = attempt.choice.as_ref().map_or(&[][..], |choice| &choice.options);
    if compared.len() > 1 {
        let _ = write!(text, "\n{}", options(output, compared));
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
        let choice = pb::PlacementChoice { options, ..Default::default() };
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
                placement_reasons: vec![
                    "Job 019ab3c4 was preempted for it.".into(),
                    "The machine held its data set decoded.".into(),
                ],
                ..Default::default()
            }],
            first_estimate: Some(pb::Estimate {
                make_time: at(0),
                start_time: at(0),
                end_time: at(3700),
                start_deviation: length(0),
                end_deviation: length(300),
            }),
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
            waiting_sentence: "It waits for an RTX 4090, where it takes about 5 min.".into(),
            attempts: vec![pb::Attempt {
                number: 1,
                device: "CPU".into(),
                placement_reasons: vec!["No other kind of GPU would have done.".into()],
                ..Default::default()
            }],
            ..Default::default()
        };
        let wanted = "\
It waits for an RTX 4090, where it takes about 5 min.
Attempt 1: CPU of , placed -. No other kind of GPU would have done.";
        assert_eq!(explanation(PLAIN, &job), wanted);
    }
}
