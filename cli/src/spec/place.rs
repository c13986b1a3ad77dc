//! On which line of a file a field stands, for messages. The YAML reader does not say once it has read.

/// The lines, counted from 0, at which the documents of `text` begin.
pub fn starts(text: &str) -> Vec<usize> {
    let (mut starts, mut begun) = (vec![0], false);
    for (at, line) in text.lines().enumerate() {
        let is_mark = line == "---" || line.starts_with("--- ");
        if is_mark && begun {
            starts.push(at);
        }
        let says_something = !line.trim().is_empty() && !line.trim_start().starts_with(['#', '%']);
        begun |= says_something;
    }
    starts
}

/// The line, from 1, of the field `path` (`train.epochs`) in the document of `text` that begins at line `start`,
/// counted from 0. `None` where it is not to be seen.
pub fn line_of(text: &str, start: usize, path: &str) -> Option<usize> {
    let lines: Vec<&str> = text.lines().skip(start).collect();
    let is_end = |line: &&str| **line == *"---" || line.starts_with("--- ");
    // The mark that begins the document is not its end.
    let end = lines.iter().skip(1).position(is_end).map_or(lines.len(), |at| at + 1);
    let (mut from, mut found) = ((0, 0), None);
    for (depth, key) in path.split('.').enumerate() {
        let places = (from.0..end).filter_map(|at| {
            let skipped = if at == from.0 { from.1 } else { 0 };
            let column = column_of(lines[at], key, skipped)?;
            Some((at, column))
        });
        // At the top, the outermost one: the others are of some group.
        let place = if depth == 0 { places.min_by_key(|(_, column)| *column) } else { places.min() };
        let (at, column) = place?;
        from = (at, column + key.len());
        found = Some(start + at + 1);
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
        begins && after.starts_with(':') && !before.trim_start().starts_with('#')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "# jobs\n---\nname: epochs\ntrain:\n  # epochs: 1\n  epochs: 2\n  name: x\n---\n\
                       train: {model: yolov8n, \"epochs\": 3}\nlabels:\n  train: a\n--- # the last\n{\n  \"train\": {\n    \"lr0\": 1}}\n";

    #[test]
    fn documents_begin_where_their_marks_stand() {
        assert_eq!(starts(TWO), [0, 7, 11]);
        assert_eq!(starts("a: 1\n"), [0]);
        assert_eq!(starts("a: 1\n---\n---\nb: 1\n"), [0, 1, 2]);
    }

    #[test]
    fn a_field_is_found_in_its_own_group() {
        let of = |start, path| line_of(TWO, start, path);
        assert_eq!([of(0, "name"), of(0, "train"), of(0, "train.epochs")], [Some(3), Some(4), Some(6)]);
        assert_eq!([of(7, "train.epochs"), of(7, "labels.train"), of(7, "name")], [Some(9), Some(11), None]);
        assert_eq!([of(11, "train.lr0"), of(11, "train.model")], [Some(15), None]);
    }
}
