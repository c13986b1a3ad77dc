//! What people read: tables, times, sizes. Pure: the same input gives the same text.

pub mod access;
pub mod cluster;
pub mod dataset;
pub mod job;
pub mod queue;
pub mod training;
pub mod webhook;
pub mod why;

use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, Width, presets,
};
use jiff::Timestamp;
use trainyard_proto::pb;
use unicode_width::UnicodeWidthChar as _;

use crate::output::Output;
use crate::terminal::clean;

/// Shortest id that is printed: the 48 bits of a UUIDv7 that are its millisecond.
const SHORT_ID: usize = 13;

/// What a column that breaks its lines keeps at least, in columns of the terminal, its gap included.
const NARROWEST: u16 = 16;
/// What columns keep before an id is broken.
const LEAST: u16 = 4;
/// Blanks between two columns of a table.
const GAP: u16 = 2;
/// What a stranger's name takes at most in a list on a terminal.
const WIDEST_NAME: usize = 40;

/// A table without lines between cells.
pub struct TextTable {
    table: Table,
    wrapping: usize,
    width: Option<u16>,
}

impl TextTable {
    /// With these column heads. On a narrow terminal the column `wrapping` breaks its lines first, others only where
    /// that is not enough. No table is wider than its terminal.
    pub fn new(output: Output, heads: &[&str], wrapping: usize) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        // Colours are ours to decide, the width too: comfy-table would look at the terminal itself.
        if output.colored {
            table.enforce_styling()
        } else {
            table.force_no_tty()
        };
        if let Some(width) = output.width {
            table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
        }
        let head = |text: &&str| Cell::new(text).add_attribute(Attribute::Bold);
        table.set_header(heads.iter().map(head).collect::<Vec<_>>());
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP)).set_constraint(ColumnConstraint::ContentWidth);
        }
        Self { table, wrapping, width: output.width }
    }

    /// Sets these columns flush right, as numbers are.
    #[must_use]
    pub fn right(mut self, columns: std::ops::Range<usize>) -> Self {
        for at in columns {
            if let Some(column) = self.table.column_mut(at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.table.add_row(cells);
    }

    /// The text, without blanks at line ends.
    pub fn text(mut self) -> String {
        let widths = self.table.column_max_content_widths();
        let widest = widths.get(self.wrapping).copied().unwrap_or(0);
        if let Some(column) = self.table.column_mut(self.wrapping).filter(|_| widest > NARROWEST) {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(NARROWEST)));
        }
        for (at, width) in narrowed(&widths, self.wrapping, self.width).into_iter().enumerate() {
            if let Some(column) = self.table.column_mut(at).filter(|_| width < widths[at]) {
                column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width + GAP)));
            }
        }
        self.table.trim_fmt()
    }
}

/// The widths that columns of these widths get on a terminal of `width` columns: the widest gives way first, and
/// the one that is `wrapping` before all others.
fn narrowed(widths: &[u16], wrapping: usize, width: Option<u16>) -> Vec<u16> {
    let mut narrowed = widths.to_vec();
    let Some(width) = width else { return narrowed };
    let gaps = usize::from(GAP) * widths.len();
    let taken = |widths: &[u16]| widths.iter().map(|&width| usize::from(width)).sum::<usize>() + gaps;
    if taken(widths) <= usize::from(width) {
        return narrowed;
    }
    if let Some(first) = narrowed.get_mut(wrapping) {
        *first = (*first).min(NARROWEST - GAP);
    }
    if taken(&narrowed) <= usize::from(width) {
        // The one that breaks its lines takes what is left.
        return widths.to_vec();
    }
    while taken(&narrowed) > usize::from(width) {
        // The first one is an id, of which half is none: it gives way last.
        let others = narrowed.iter().skip(1).any(|width| *width > LEAST);
        let from = usize::from(others);
        let Some(widest) = narrowed.iter_mut().skip(from).max().filter(|widest| **widest > 1) else { break };
        *widest -= 1;
    }
    narrowed
}

/// A name as a list on a terminal shows it: cut where it is long, by the columns that it takes.
pub fn name_cell(output: Output, name: &str) -> Cell {
    let name = clean(name);
    let columns = |text: &str| text.chars().map(|character| character.width().unwrap_or(0)).sum::<usize>();
    if output.width.is_none() || columns(&name) <= WIDEST_NAME {
        return Cell::new(name);
    }
    let mut taken = 0;
    let fits = |character: &char| {
        taken += character.width().unwrap_or(0);
        taken < WIDEST_NAME
    };
    Cell::new(name.chars().take_while(fits).chain(['…']).collect::<String>())
}

/// A cell with a stranger's text.
pub fn cell(text: impl AsRef<str>) -> Cell {
    Cell::new(clean(text.as_ref()))
}

/// A job's state, in its colour.
pub fn state_cell(state: pb::JobState) -> Cell {
    let color = match state {
        pb::JobState::Running => Color::Cyan,
        pb::JobState::Starting => Color::Blue,
        pb::JobState::Succeeded => Color::Green,
        pb::JobState::Failed => Color::Red,
        pb::JobState::Cancelled => Color::Yellow,
        pb::JobState::Queued | pb::JobState::Unspecified => return Cell::new(state.as_str_name()),
    };
    Cell::new(state.as_str_name()).fg(color)
}

/// The shortest common length at which `ids` differ, but at least that of the millisecond in an id.
pub fn short_length<'a>(ids: impl Iterator<Item = &'a str>) -> usize {
    let mut ids: Vec<&str> = ids.collect();
    ids.sort_unstable();
    let same = |pair: &[&str]| pair[0].bytes().zip(pair[1].bytes()).take_while(|(a, b)| a == b).count();
    let longest = ids.windows(2).filter(|pair| pair[0] != pair[1]).map(same).max();
    longest.map_or(SHORT_ID, |length| SHORT_ID.max(length + 1))
}

/// The first `length` characters of an id.
pub fn short(id: &str, length: usize) -> String {
    id.chars().take(length).collect()
}

/// A span for people: `45s`, `12m`, `3h05m`, `2d04h`.
pub fn span(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        ..0 => "0s".into(),
        0..60 => format!("{seconds}s"),
        60..600 => format!("{minutes}m{:02}s", seconds % 60),
        600..3600 => format!("{minutes}m"),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// RFC 3339 in UTC, to the second; `-` when unset.
pub fn time(time: Option<&prost_types::Timestamp>) -> String {
    let known = time.and_then(|time| Timestamp::new(time.seconds, 0).ok());
    known.map_or_else(|| "-".to_owned(), |time| time.to_string())
}

/// Seconds from `from` to `to`.
pub fn seconds_between(from: &prost_types::Timestamp, to: &prost_types::Timestamp) -> i64 {
    to.seconds - from.seconds
}

/// This machine's clock.
pub fn now() -> prost_types::Timestamp {
    prost_types::Timestamp::from(std::time::SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_as_exact_as_people_care() {
        let shown = [-3, 0, 59, 61, 3599, 3661, 90_000].map(span);
        assert_eq!(shown, ["0s", "0s", "59s", "1m01s", "59m", "1h01m", "1d01h"]);
    }

    #[test]
    fn a_short_id_is_the_millisecond_or_as_long_as_it_takes() {
        let ids = ["019ab3c4-0001-7000-8000-000000000001", "019ab3c4-0002-7000-8000-000000000001"];
        assert_eq!(short(ids[0], short_length(ids.into_iter())), "019ab3c4-0001");
        let twins = ["019ab3c4-0001-7000-8000-000000000001", "019ab3c4-0001-7001-8000-000000000001"];
        assert_eq!(short(twins[1], short_length(twins.into_iter())), "019ab3c4-0001-7001");
    }

    #[test]
    fn columns_give_way_until_the_table_fits() {
        assert_eq!(narrowed(&[13, 40, 60], 2, Some(200)), [13, 40, 60]);
        // The last one breaks its lines; nothing else changes.
        assert_eq!(narrowed(&[13, 40, 60], 2, Some(80)), [13, 40, 60]);
        assert_eq!(narrowed(&[13, 40, 60], 2, Some(60)), [13, 27, 14]);
        assert_eq!(narrowed(&[13, 40, 60], 2, Some(20)).iter().sum::<u16>(), 14);
        assert_eq!(narrowed(&[13, 40], 1, Some(1)), [1, 1]);
        // An id stays whole as long as others have something left.
        let jobs = [13, 40, 4, 9, 9, 8, 9, 7, 3, 60];
        let at_80 = narrowed(&jobs, 9, Some(80));
        assert_eq!((at_80[0], at_80.iter().sum::<u16>()), (13, 60));
        assert_eq!(narrowed(&[13, 40], 1, None), [13, 40]);
    }
}
