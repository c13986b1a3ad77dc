//! Jobs for people: the list, and everything about one.

use std::fmt::Write as _;

use prost_types::Timestamp;
use serde_json::Value;
use trainyard_proto::pb;
use trainyard_types::{ModelScale, TrainSpec};

use super::{
    TextTable, cell, name_cell, seconds_between, short, short_length, span, state_cell, time, training, why,
};
use crate::output::Output;
use crate::proto_json::to_json;
use crate::terminal::clean;

const MAP: &str = "metrics/mAP50-95(B)";

/// The list of jobs, as seen at `now`.
pub fn list(output: Output, jobs: &[pb::Job], now: &Timestamp) -> String {
    let heads = [
        "ID",
        "NAME",
        "USER",
        "STATE",
        "PROGRESS",
        "mAP50-95",
        "STARTS IN",
        "ENDS IN",
        "AGE",
        "WHERE / WAITING FOR",
    ];
    let mut table = TextTable::new(output, &heads, 9);
    let length = short_length(jobs.iter().map(|job| job.id.as_str()));
    for job in jobs {
        let progress = job.progress.clone().unwrap_or_default();
        let map = progress.metrics.get(MAP).map_or_else(|| "-".to_owned(), |map| format!("{map:.3}"));
        let eta = progress.eta.filter(|_| is_running(job)).map(|eta| eta.seconds);
        let until = |time: &Option<Timestamp>| {
            time.as_ref().map(|time| seconds_between(now, time).max(0)).filter(|_| !is_final(job.state()))
        };
        let ends = until(&job.estimated_end_time).or(eta);
        let in_words = |seconds: Option<i64>| seconds.map_or_else(|| "-".to_owned(), span);
        let age = job.create_time.as_ref().map(|created| span(seconds_between(created, now)));
        table.row(vec![
            cell(short(&job.id, length)),
            name_cell(output, job.spec.as_ref().map_or("", |spec| spec.name.as_str())),
            name_cell(output, &job.user),
            state_cell(job.state()),
            cell(epochs(job)),
            cell(map),
            cell(in_words(until(&job.estimated_start_time))),
            cell(in_words(ends)),
            cell(age.unwrap_or_else(|| "-".to_owned())),
            cell(whereabouts(job)),
        ]);
    }
    table.text()
}

fn is_running(job: &pb::Job) -> bool {
    matches!(job.state(), pb::JobState::Running | pb::JobState::Starting)
}

/// Whether nothing more can happen to a job in this state.
pub const fn is_final(state: pb::JobState) -> bool {
    matches!(state, pb::JobState::Succeeded | pb::JobState::Failed | pb::JobState::Cancelled)
}

fn epochs(job: &pb::Job) -> String {
    match &job.progress {
        Some(progress) if progress.epochs > 0 => format!("epoch {}/{}", progress.epoch, progress.epochs),
        _ => "-".to_owned(),
    }
}

/// Whether its trainer has ended, and what it left is handed in.
fn is_handing_in(job: &pb::Job) -> bool {
    job.attempts.last().is_some_and(|last| last.slot_released_time.is_some() && last.end_time.is_none())
}

/// Where a job runs, what it waits for, or how it ended.
fn whereabouts(job: &pb::Job) -> String {
    match job.state() {
        pb::JobState::Queued => match job.queue_position {
            Some(position) => format!("#{position} {}", job.waiting_for).trim_end().to_owned(),
            None => job.waiting_for.clone(),
        },
        // Its slot may be another job's by now.
        pb::JobState::Starting | pb::JobState::Running if is_handing_in(job) => job.state_reason.clone(),
        pb::JobState::Starting | pb::JobState::Running => job
            .attempts
            .last()
            .map(|attempt| format!("{}: {}", attempt.agent_name, attempt.device))
            .unwrap_or_default(),
        _ => job.state_reason.clone(),
    }
}

// Writing to a String cannot fail; the macro keeps the lines below readable.
macro_rules! line_of {
    ($text:expr, $head:expr, $($format:tt)*) => {
        let _ = writeln!($text, "{:<14}{}", $head, clean(&format!($($format)*)));
    };
}

/// When it came, begins and ends, as far as that is known, and how far off it was thought to.
fn times(job: &pb::Job, now: &Timestamp) -> String {
    let mut text = String::new();
    macro_rules! line { ($($parts:tt)*) => { line_of!(text, $($parts)*) }; }
    if job.estimated_start_time.is_some() {
        line!("Starts about", "{}", time(job.estimated_start_time.as_ref()));
    }
    if job.estimated_end_time.is_some() {
        line!("Ends about", "{}", time(job.estimated_end_time.as_ref()));
    }
    if !job.sweep_id.is_empty() {
        line!("Sweep", "{}", job.sweep_id);
    }
    let age = job.create_time.as_ref().map(|created| span(seconds_between(created, now)));
    line!("Submitted", "{} ({} ago)", time(job.create_time.as_ref()), age.as_deref().unwrap_or("-"));
    if job.start_time.is_some() {
        line!("Started", "{}", time(job.start_time.as_ref()));
    }
    if job.end_time.is_some() {
        line!("Ended", "{}", time(job.end_time.as_ref()));
    }
    for (what, off) in why::estimates(job) {
        line!("Estimate", "{what} {off}");
    }
    text
}

/// Everything about one job, as seen at `now`.
pub fn details(output: Output, job: &pb::Job, now: &Timestamp) -> String {
    let mut text = String::new();
    macro_rules! line { ($($parts:tt)*) => { line_of!(text, $($parts)*) }; }
    let spec = job.spec.clone().unwrap_or_default();
    line!("ID", "{}", job.id);
    line!("Name", "{}", spec.name);
    line!("User", "{}", job.user);
    let reason = if job.state_reason.is_empty() { String::new() } else { format!(": {}", job.state_reason) };
    line!("State", "{}{reason}", job.state().as_str_name());
    if let Some(position) = job.queue_position {
        line!("Queue", "position {position}");
    }
    if !job.waiting_for.is_empty() {
        line!("Waiting for", "{}", job.waiting_for);
    }
    let _ = write!(text, "{}", times(job, now));
    if spec.priority != 0 {
        line!("Priority", "{}", spec.priority);
    }
    if let Some(limit) = &spec.time_limit {
        line!("Time limit", "{}", span(limit.seconds));
    }
    for (key, value) in sorted(&spec.labels) {
        line!("Label", "{key}={value}");
    }
    line!("Resources", "{}", fields(&to_json("Resources", &spec.resources.unwrap_or_default())));
    line!("Training", "{}", training_fields(&to_json("TrainSpec", &spec.train.unwrap_or_default())));
    if let Some(progress) = job.progress.as_ref().filter(|progress| progress.epochs > 0) {
        line!("Progress", "{}", training::progress(progress, is_running(job)));
        let figures: Vec<String> = sorted(&progress.metrics)
            .filter(|(name, _)| !training::is_per_class(name))
            .map(|(name, value)| format!("{name} {value:.4}"))
            .collect();
        if !figures.is_empty() {
            line!("Figures", "{}", figures.join(", "));
        }
        if let Some(phases) = &progress.phases {
            line!("Step time", "{}", training::phases(phases));
        }
        if let Some(mfu) = progress.mfu {
            line!("GPU's peak", "{:.0} % of it is used", mfu * 100.0);
        }
        let _ = write!(text, "{}", training::per_class_block(output, &progress.metrics));
    }
    if let Some(chosen) = job.attempts.iter().rev().find_map(|attempt| attempt.batch_chosen.as_ref()) {
        line!("Batch size", "{}", chosen.batch_size);
        for layer in &chosen.layers {
            line!("", "{:<4} {}: {}", layer.batch_size, layer.name, layer.reason);
        }
    }
    if !job.attempts.is_empty() {
        let _ = write!(text, "\n{}", attempts(output, job));
    }
    text.trim_end().to_owned()
}

fn attempts(output: Output, job: &pb::Job) -> String {
    let heads = ["ATTEMPT", "AGENT", "DEVICE", "PLACED", "STARTED", "ENDED", "HOW", "MESSAGE"];
    let mut table = TextTable::new(output, &heads, 7);
    for attempt in &job.attempts {
        let how = match attempt.end_reason() {
            pb::attempt::EndReason::Unspecified => "-",
            reason => reason.as_str_name(),
        };
        table.row(vec![
            cell(attempt.number.to_string()),
            cell(&attempt.agent_name),
            cell(&attempt.device),
            cell(time(attempt.placed_time.as_ref())),
            cell(time(attempt.start_time.as_ref())),
            cell(time(attempt.end_time.as_ref())),
            cell(how),
            cell(&attempt.message),
        ]);
    }
    table.text()
}

fn sorted<V>(map: &std::collections::HashMap<String, V>) -> impl Iterator<Item = (&String, &V)> {
    map.iter().collect::<std::collections::BTreeMap<_, _>>().into_iter()
}

/// What a person asks for first, then what is not as usual.
fn training_fields(json: &Value) -> String {
    const FIRST: [&str; 5] = ["model", "data", "epochs", "imgsz", "batch"];
    let usual = TrainSpec::new(ModelScale::N, "");
    // A plain struct of numbers and texts always serialises.
    let usual = serde_json::to_value(usual).unwrap_or_default();
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse().ok());
    let same = |name: &str, value: &Value| {
        let usual = &usual[name];
        usual == value || number(usual).is_some_and(|usual| number(value) == Some(usual))
    };
    let all: Vec<(String, &Value)> =
        json.as_object().into_iter().flatten().map(|(name, value)| (snake_case(name), value)).collect();
    let first = FIRST.iter().filter_map(|wanted| all.iter().find(|(name, _)| name == wanted));
    let rest = all.iter().filter(|(name, value)| !FIRST.contains(&name.as_str()) && !same(name, value));
    let words: Vec<String> =
        first.chain(rest).map(|(name, value)| format!("{name}={}", shown(value))).collect();
    words.join(" ")
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            list.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join("|")
        }
        // 64 and 64.0 are the same to a person.
        Value::Number(number) => {
            number.as_f64().map_or_else(|| number.to_string(), |value| value.to_string())
        }
        other => other.to_string(),
    }
}

/// `epochs=3 model=yolov8n …`, without what is empty: the names are those that users write.
fn fields(json: &Value) -> String {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() || text == "0",
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    let fields = json.as_object().into_iter().flatten().filter(|(_, value)| !empty(value));
    let words: Vec<String> =
        fields.map(|(name, value)| format!("{}={}", snake_case(name), shown(value))).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

fn snake_case(camel: &str) -> String {
    let mut text = String::new();
    for character in camel.chars() {
        if character.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(character.to_ascii_lowercase());
    }
    text
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
    fn on_a_narrow_terminal_only_the_last_column_breaks_its_lines() {
        let job = pb::Job {
            id: "019ab3c4-1f2e-7000-8000-000000000001".into(),
            user: "ada".into(),
            state: pb::JobState::Queued.into(),
            waiting_for: "needs a GPU with 20 GB; the 2 such GPUs are busy".into(),
            create_time: at(0),
            ..Default::default()
        };
        let wanted = "\
ID             NAME  USER  STATE   PROGRESS  mAP50-95  STARTS IN  ENDS IN  AGE  WHERE /
                                                                                WAITING FOR
019ab3c4-1f2e        ada   QUEUED  -         -         -          -        5s   needs a GPU
                                                                                with 20 GB;
                                                                                the 2 such
                                                                                GPUs are busy";
        assert_eq!(list(Output { width: Some(97), ..PLAIN }, &[job], &at(5).unwrap()), wanted);
    }

    #[test]
    fn no_list_is_wider_than_its_terminal_whatever_its_names() {
        use unicode_width::UnicodeWidthStr as _;
        let names = ["n".repeat(128), "猫".repeat(128), "🚜".repeat(64), "\u{e9}".repeat(128), "a b".into()];
        for name in names {
            let job = pb::Job {
                id: "019ab3c4-1f2e-7000-8000-000000000001".into(),
                spec: Some(pb::JobSpec { name: name.clone(), ..Default::default() }),
                user: "ada".repeat(20),
                state: pb::JobState::Queued.into(),
                waiting_for: "needs a GPU with 20 GB; the 2 such GPUs are busy".into(),
                attempts: vec![pb::Attempt { agent_name: name.clone(), device: name, ..Default::default() }],
                create_time: at(0),
                ..Default::default()
            };
            for width in [60, 80, 100, 132, 200] {
                let output = Output { width: Some(width), ..PLAIN };
                for text in
                    [list(output, std::slice::from_ref(&job), &at(5).unwrap()), attempts(output, &job)]
                {
                    let widest = text.lines().map(|line| line.width()).max().unwrap();
                    assert!(widest <= width.into(), "{widest} of {width}:\n{text}");
                }
            }
            // Whole where there is no terminal.
            assert!(
                list(PLAIN, std::slice::from_ref(&job), &at(5).unwrap()).contains(&job.spec.unwrap().name)
            );
        }
    }

    #[test]
    fn a_job_shows_what_was_asked_for_and_what_became_of_it() {
        let train = pb::TrainSpec {
            model: "yolov8n".into(),
            data: "/data/cells/data.yaml".into(),
            epochs: Some(3),
            imgsz: Some(640),
            batch: Some(-1.0),
            lr0: Some(0.02),
            momentum: Some(0.937),
            seed: Some(0),
            cos_lr: Some(true),
            ..Default::default()
        };
        let layer = |name: &str, batch_size, reason: &str| pb::BatchLayer {
            name: name.into(),
            batch_size,
            reason: reason.into(),
        };
        let layers =
            vec![layer("table", 24, "12.0 GB GPU, imgsz 640"), layer("fit record", 16, "9800 MiB at 24")];
        let job = pb::Job {
            id: "019ab3c4-1f2e-7000-8000-000000000001".into(),
            spec: Some(pb::JobSpec { name: "cells".into(), train: Some(train), ..Default::default() }),
            user: "ada".into(),
            state: pb::JobState::Queued.into(),
            attempts: vec![pb::Attempt {
                number: 1,
                agent_name: "lab1".into(),
                device: "CPU".into(),
                placed_time: at(1),
                end_time: at(60),
                end_reason: pb::attempt::EndReason::AgentLost.into(),
                message: "the agent fell silent".into(),
                batch_chosen: Some(pb::BatchChosen { batch_size: 16, layers }),
                ..Default::default()
            }],
            progress: Some(pb::Progress {
                epoch: 1,
                epochs: 3,
                phases: Some(pb::Phases { wait: 0.1, forward: 0.1, backward: 0.2, ..Default::default() }),
                mfu: Some(0.25),
                ..Default::default()
            }),
            create_time: at(0),
            queue_position: Some(2),
            waiting_for: "no agent is connected".into(),
            ..Default::default()
        };
        let wanted = "\
ID            019ab3c4-1f2e-7000-8000-000000000001
Name          cells
User          ada
State         QUEUED
Queue         position 2
Waiting for   no agent is connected
Submitted     2023-11-14T22:13:20Z (1m30s ago)
Resources     -
Training      model=yolov8n data=/data/cells/data.yaml epochs=3 imgsz=640 batch=-1 lr0=0.02
Progress      epoch 1/3, 0.0 images/s, 0 % of the time waiting for data
Step time     400 ms a batch: backward 50 %, wait 25 %, forward 25 %
GPU's peak    25 % of it is used
Batch size    16
              24   table: 12.0 GB GPU, imgsz 640
              16   fit record: 9800 MiB at 24

ATTEMPT  AGENT  DEVICE  PLACED                STARTED  ENDED                 HOW         MESSAGE
1        lab1   CPU     2023-11-14T22:13:21Z  -        2023-11-14T22:14:20Z  AGENT_LOST  the agent fell silent";
        assert_eq!(details(PLAIN, &job, &at(90).unwrap()), wanted);
    }
}
