//! What is left out of a spool that has grown too large: positions inside of epochs, more and more of them,
//! then what is only nice to know. Pure.

use trainyard_types::trainer::{LogLevel, TrainerEvent};
use trainyard_types::{ReportBody, Time};

/// How much a report matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A position inside an epoch, of that time; the next one says almost the same.
    Step(Time),
    /// A line that is neither a warning nor an error.
    Line,
    /// Everything else is never left out.
    Kept,
}

impl Weight {
    /// Of a report.
    pub const fn of(time: Time, body: &ReportBody) -> Self {
        match body {
            ReportBody::Trainer(TrainerEvent::Step(_)) => Self::Step(time),
            ReportBody::Trainer(TrainerEvent::Log(log)) if matches!(log.level, LogLevel::Info) => Self::Line,
            _ => Self::Kept,
        }
    }
}

/// A report: its weight and its bytes on disk.
pub type Item = (Weight, u64);

/// How far thinning goes, the mildest first: one step in so many milliseconds; none; no lines either.
const LEVELS: [Option<u64>; 4] = [Some(60_000), Some(600_000), None, None];

/// Which of `items`, in their order, stay so that they take at most `target` bytes, as far as that can be had.
pub fn keep(items: &[Item], target: u64) -> Vec<bool> {
    let mut kept = vec![true; items.len()];
    for (level, every) in LEVELS.into_iter().enumerate() {
        let lines_go = level == LEVELS.len() - 1;
        for (at, (weight, _)) in items.iter().enumerate() {
            kept[at] = match (*weight, every) {
                (Weight::Kept, _) => true,
                (Weight::Line, _) => !lines_go,
                (Weight::Step(_), None) => false,
                (Weight::Step(time), Some(every)) => is_last_of_its_span(&items[at + 1..], time, every),
            };
        }
        let size: u64 = items.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(item, _)| item.1).sum();
        if size <= target {
            break;
        }
    }
    kept
}

/// Whether no step of the same span of time follows.
fn is_last_of_its_span(later: &[Item], time: Time, every: u64) -> bool {
    let next = later.iter().find_map(|(weight, _)| match weight {
        Weight::Step(time) => Some(*time),
        Weight::Line | Weight::Kept => None,
    });
    next.is_none_or(|next| next.0 / every != time.0 / every)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(seconds: u64) -> Item {
        (Weight::Step(Time(seconds * 1000)), 100)
    }

    #[test]
    fn one_step_a_minute_stays_then_one_in_ten_minutes_then_none() {
        let mut items: Vec<Item> = (0..3600).map(step).collect();
        items.insert(90, (Weight::Kept, 100));
        items.push((Weight::Line, 100));
        let left = |target| keep(&items, target).into_iter().filter(|kept| *kept).count();
        assert_eq!([left(10_000), left(1000), left(500), left(150)], [62, 8, 2, 1]);
        let kept = keep(&items, 10_000);
        assert!(kept[90] && kept[59] && !kept[60], "the last step of a minute stays, and what is no step");
    }
}
