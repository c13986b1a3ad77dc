//! Which reports are left out of a spool that has grown too large: positions inside of epochs, more and more of them, then
//! log lines. Pure.

use trainyard_types::trainer::{LogLevel, TrainerEvent};
use trainyard_types::{ReportBody, Time};

/// How much a report matters when a spool is thinned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportPriority {
    /// A position inside an epoch, of this time; the next one says almost the same.
    Step(Time),
    /// A log line that is neither a warning nor an error.
    Line,
    /// A report that is never left out: any other.
    Kept,
}

impl ReportPriority {
    /// The priority of a report.
    pub const fn of(time: Time, body: &ReportBody) -> Self {
        match body {
            ReportBody::Trainer(TrainerEvent::Step(_)) => Self::Step(time),
            ReportBody::Trainer(TrainerEvent::Log(log)) if matches!(log.level, LogLevel::Info) => Self::Line,
            _ => Self::Kept,
        }
    }
}

/// A report in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpooledReport {
    /// How much the report matters.
    pub priority: ReportPriority,
    /// Its size on disk.
    pub bytes: u64,
}

/// How far thinning goes, the mildest level first: one step in so many milliseconds, no step, no log lines either.
const LEVELS: [Option<u64>; 4] = [Some(60_000), Some(600_000), None, None];

/// Which of `reports`, in their order, are kept, so that they take at most `target` bytes if that is possible.
pub fn keep(reports: &[SpooledReport], target: u64) -> Vec<bool> {
    let mut kept = vec![true; reports.len()];
    for (level, every) in LEVELS.into_iter().enumerate() {
        let lines_go = level == LEVELS.len() - 1;
        for (at, report) in reports.iter().enumerate() {
            kept[at] = match (report.priority, every) {
                (ReportPriority::Kept, _) => true,
                (ReportPriority::Line, _) => !lines_go,
                (ReportPriority::Step(_), None) => false,
                (ReportPriority::Step(time), Some(every)) => {
                    is_last_of_its_span(&reports[at + 1..], time, every)
                }
            };
        }
        let size: u64 =
            reports.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(report, _)| report.bytes).sum();
        if size <= target {
            break;
        }
    }
    kept
}

/// Whether no step of the same span of time follows.
fn is_last_of_its_span(later: &[SpooledReport], time: Time, every: u64) -> bool {
    let next = later.iter().find_map(|report| match report.priority {
        ReportPriority::Step(time) => Some(time),
        ReportPriority::Line | ReportPriority::Kept => None,
    });
    next.is_none_or(|next| next.0 / every != time.0 / every)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(priority: ReportPriority) -> SpooledReport {
        SpooledReport { priority, bytes: 100 }
    }

    fn step(seconds: u64) -> SpooledReport {
        report(ReportPriority::Step(Time(seconds * 1000)))
    }

    #[test]
    fn one_step_a_minute_stays_then_one_in_ten_minutes_then_none() {
        let mut reports: Vec<SpooledReport> = (0..3600).map(step).collect();
        reports.insert(90, report(ReportPriority::Kept));
        reports.push(report(ReportPriority::Line));
        let left = |target| keep(&reports, target).into_iter().filter(|kept| *kept).count();
        assert_eq!([left(10_000), left(1000), left(500), left(150)], [62, 8, 2, 1]);
        let kept = keep(&reports, 10_000);
        assert!(kept[90] && kept[59] && !kept[60], "the last step of a minute stays, and what is no step");
    }
}
