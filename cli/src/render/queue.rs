//! Shares of users, and plans of jobs that are not queued yet, for people.

use prost_types::Duration;
use trainyard_proto::pb;

use super::{TextTable, cell, name_cell, span, time};
use crate::output::Output;
use crate::terminal::clean;

/// What each user has had of late, and has now.
pub fn shares(output: Output, users: &[pb::UserShare]) -> String {
    let heads =
        ["USER", "GPU TIME OF LATE", "SHARE", "WEIGHT", "JOBS COUNT AS", "WAITING", "GPUS", "CPU SLOTS"];
    let mut table = TextTable::new(output, &heads, 0).right(1..8);
    for user in users {
        table.row(vec![
            name_cell(output, &user.user),
            cell(seconds(user.gpu_time.as_ref())),
            cell(format!("{:.0} %", user.share * 100.0)),
            cell(user.weight.to_string()),
            cell(format!("{:.1} ×", user.penalty)),
            cell(user.queued_jobs.to_string()),
            cell(user.gpus.to_string()),
            cell(user.cpu_slots.to_string()),
        ]);
    }
    table.text()
}

fn seconds(length: Option<&Duration>) -> String {
    length.map_or_else(|| "-".to_owned(), |length| span(length.seconds))
}

/// What would become of a job.
pub fn plan(output: Output, plan: &pb::Plan) -> String {
    let mut lines = Vec::new();
    if plan.start_time.is_some() {
        lines.push(format!("Starts about  {}", time(plan.start_time.as_ref())));
    }
    if plan.end_time.is_some() {
        lines.push(format!("Ends about    {}", time(plan.end_time.as_ref())));
    }
    if !plan.waiting_sentence.is_empty() {
        lines.push(clean(&plan.waiting_sentence));
    }
    if !plan.options.is_empty() {
        let heads = ["GPU", "FREE", "WAITS", "TAKES", "SPEED", "BATCH"];
        let mut table = TextTable::new(output, &heads, 0);
        for option in &plan.options {
            let speed = if option.measured { "measured" } else { "estimated" };
            let batch = if option.batch_size > 0 { option.batch_size.to_string() } else { "-".to_owned() };
            table.row(vec![
                cell(&option.device),
                cell(format!("{} of {}", option.free, option.total)),
                cell(seconds(option.waits.as_ref())),
                cell(seconds(option.takes.as_ref())),
                cell(option.takes.as_ref().map_or("-", |_| speed)),
                cell(batch),
            ]);
        }
        lines.push(table.text());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;

    const PLAIN: Output = Output { format: Format::Table, colored: false, width: None };

    fn length(seconds: i64) -> Option<Duration> {
        Some(Duration { seconds, nanos: 0 })
    }

    #[test]
    fn a_plan_tells_when_where_and_what_else_there_is() {
        let at = |seconds: i64| Some(prost_types::Timestamp { seconds: 1_700_000_000 + seconds, nanos: 0 });
        let option = |device: &str, free, waits, takes, measured, batch_size| pb::PlanOption {
            device: device.into(),
            free,
            total: 2,
            waits,
            takes,
            measured,
            batch_size,
        };
        let told = pb::Plan {
            options: vec![
                option("RTX 5070", 1, length(0), length(3600), true, 16),
                option("RTX 4090", 0, length(7200), length(1800), false, 0),
                option("CPU", 1, None, None, false, 0),
            ],
            start_time: at(0),
            end_time: at(3600),
            waiting_sentence: "It waits for an RTX 5070.".into(),
        };
        let wanted = "\
Starts about  2023-11-14T22:13:20Z
Ends about    2023-11-14T23:13:20Z
It waits for an RTX 5070.
GPU       FREE    WAITS  TAKES  SPEED      BATCH
RTX 5070  1 of 2  0s     1h00m  measured   16
RTX 4090  0 of 2  2h00m  30m    estimated  -
CPU       1 of 2  -      -      -          -";
        assert_eq!(plan(PLAIN, &told), wanted);
        assert_eq!(plan(PLAIN, &pb::Plan::default()), "");
    }

    #[test]
    fn shares_tell_who_has_had_how_much() {
        let user = pb::UserShare {
            user: "ada".into(),
            gpu_time: length(36_000),
            share: 0.75,
            weight: 2,
            penalty: 1.5,
            queued_jobs: 3,
            gpus: 1,
            cpu_slots: 0,
        };
        let wanted = "\
USER  GPU TIME OF LATE  SHARE  WEIGHT  JOBS COUNT AS  WAITING  GPUS  CPU SLOTS
ada             10h00m   75 %       2          1.5 ×        3     1          0";
        assert_eq!(shares(PLAIN, &[user]), wanted);
    }
}
