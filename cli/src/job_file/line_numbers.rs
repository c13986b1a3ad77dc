//! On which line of a file a field stands, for messages. The YAML reader does not say once it has read.

use std::ops::Range;

/// The lines, counted from 0, of each document of `text`.
pub fn of_documents(text: &str) -> Vec<Range<usize>> {
    let (mut starts, mut begun) = (vec![0], false);
    for (at, line) in text.lines().enumerate() {
        let is_mark = line == "---" || line.starts_with("--- ");
        if is_mark && begun {
            starts.push(at);
        }
        let says_something = !line.trim().is_empty() && !line.trim_start().starts_with(['#', '%']);
        begun |= says_something;
    }
    let ends = starts.iter().skip(1).copied().chain([text.lines().count()]);
    starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
}

/// The line, from 1, of the field `path` (`train.epochs`) in the document on the lines `range` of `text`. `None` where
/// it is not to be seen.
pub fn of_field(text: &str, range: Range<usize>, path: &str) -> Option<usize> {
    let lines: Vec<&str> = text.lines().take(range.end).collect();
    let (mut from, mut found) = ((range.start, 0), None);
    for (depth, key) in path.split('.').enumerate() {
        let places = (from.0..lines.len()).filter_map(|at| {
            let skipped = if at == from.0 { from.1 } else { 0 };
            Some((at, column_of(lines[at], key, skipped)?))
        });
        // At the top, the outermost one: the others are of some group.
        let place = if depth == 0 { places.min_by_key(|(_, column)| *column) } else { places.min() };
        let (at, column) = place?;
        from = (at, column + key.len());
        found = Some(at + 1);
    }
    found
}

/// Where on a line `key` stands as a key, after `skipped` bytes.
fn column_of(line: &str, key: &str, skipped: usize) -> Option<usize> {
    let rest = line.get(skipped..)?;
    rest.match_indices(key).map(|(at, _)| at + skipped).find(|&at| {
        let (before, after) = (&line[..at], &line[at + key.len()..]);
        let begins = before.trim_start().is_empty() || before.ends_with(['{', ',', ' ', '"', '\'']);
        let after = after.strip_prefix(['"', '\'']).unwrap_or(after).trim_start();
        begins && after.starts_with(':') && !before.trim_start().starts_with('#') && !before.contains(" #")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "# jobs\n---\nname: epochs\ntrain:\n  # epochs: 1\n  epochs: 2\n  name: x\n---\n\
                       train: {model: yolov8n, \"epochs\": 3}\nlabels:\n  train: a\n--- # the last\n{\n  \"train\": {\n    \"lr0\": 1}}\n";

    #[test]
    fn documents_begin_where_their_marks_stand() {
        assert_eq!(of_documents(TWO), [0..7, 7..11, 11..15]);
        assert_eq!(of_documents("a: 1\n"), [Range { start: 0, end: 1 }]);
        assert_eq!(of_documents("a: 1\n---\n---\nb: 1\n"), [0..1, 1..2, 2..4]);
    }

    #[test]
    fn a_field_is_found_in_its_own_group() {
        let documents = of_documents(TWO);
        let of = |document: usize, path| of_field(TWO, documents[document].clone(), path);
        assert_eq!([of(0, "name"), of(0, "train"), of(0, "train.epochs")], [Some(3), Some(4), Some(6)]);
        assert_eq!([of(1, "train.epochs"), of(1, "labels.train"), of(1, "name")], [Some(9), Some(11), None]);
        assert_eq!([of(2, "train.lr0"), of(2, "train.model")], [Some(15), None]);
    }
}
