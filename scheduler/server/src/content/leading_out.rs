//! Paths that a data set names outside of itself. Whoever trains on such a version would read other files on each machine.
//!
//! Pure. It reads the forms that people and programs write; a trainer refuses whatever else leads out, when it starts.

/// What a data.yaml or a list names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The number of the line, from 1.
    pub line: usize,
    /// The key in a data.yaml; empty in a list.
    pub key: &'static str,
    pub value: String,
}

/// The keys of a data.yaml that name paths.
const KEYS: [&str; 5] = ["path", "train", "val", "valid", "test"];
/// The longest line of a list that is looked at: no path is longer.
const LONGEST_LINE: usize = 16 << 10;

/// The folder at whose depth a path ends that begins in one at `depth`; `None` when it leads out of the data set.
pub fn depth_of(depth: usize, path: &str) -> Option<usize> {
    let path = path.replace('\\', "/");
    let has_drive = matches!(path.as_bytes(), [letter, b':', b'/', ..] if letter.is_ascii_alphabetic());
    if path.starts_with('/') || has_drive {
        return None;
    }
    path.split('/').try_fold(depth, |depth, part| match part {
        "" | "." => Some(depth),
        ".." => depth.checked_sub(1),
        _ => Some(depth + 1),
    })
}

/// A value without the quotes and the comment that YAML allows.
fn bare(value: &str) -> &str {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some((inner, _)) = value.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return inner.trim();
        }
    }
    let end = if value.starts_with('#') { 0 } else { value.find(" #").unwrap_or(value.len()) };
    value[..end].trim()
}

/// The key of a line of the file's top, and what stands behind it.
fn key_of(line: &str) -> Option<(&'static str, &str)> {
    KEYS.into_iter().find_map(|key| {
        let rest = line.trim_start_matches(['"', '\'']).strip_prefix(key)?;
        Some((key, rest.trim_start_matches(['"', '\'']).trim_start().strip_prefix(':')?))
    })
}

/// The paths that a data.yaml names: each value of its keys, lists of values included.
pub fn named_by_yaml(text: &str) -> Vec<Named> {
    let mut found = Vec::new();
    // The key whose values follow, and whether they stand in brackets.
    let mut open: Option<(&'static str, bool)> = None;
    for (text, line) in text.lines().zip(1..) {
        let (key, mut rest, mut in_brackets) = match (open, key_of(text)) {
            (Some((key, true)), _) => (key, text, true),
            (_, Some((key, rest))) => (key, rest, false),
            (Some((key, false)), None) => match text.trim_start().strip_prefix("- ") {
                Some(item) => (key, item, false),
                None => {
                    let is_nothing = bare(text).is_empty();
                    open = open.filter(|_| is_nothing);
                    continue;
                }
            },
            (None, None) => continue,
        };
        if let Some(inner) = rest.trim_start().strip_prefix('[') {
            (rest, in_brackets) = (inner, true);
        }
        let (inside, is_last) = match rest.split_once(']').filter(|_| in_brackets) {
            Some((inside, _)) => (inside, true),
            None => (rest, !in_brackets),
        };
        let values: Vec<&str> = if in_brackets { inside.split(',').collect() } else { vec![inside] };
        let values = values.into_iter().map(bare).filter(|value| !value.is_empty());
        found.extend(values.map(|value| Named { line, key, value: value.to_owned() }));
        open = Some((key, !is_last));
    }
    found
}

/// The lines of a list that lead out, as its bytes come.
#[derive(Debug)]
pub struct ListLines {
    /// How deep the folder lies that lines may be relative to.
    depth: usize,
    line: Vec<u8>,
    number: usize,
    pub found: Vec<Named>,
    most: usize,
}

impl ListLines {
    /// For lines that are relative to a folder at `depth`. So many that lead out are kept.
    pub fn new(depth: usize, most: usize) -> Self {
        Self { depth, line: Vec::new(), number: 1, found: Vec::new(), most }
    }

    pub fn take(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LONGEST_LINE.saturating_sub(self.line.len()).min(part.len());
            self.line.extend_from_slice(&part[..room]);
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    /// The last line may have no end.
    pub fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        let line = line.trim_start_matches('\u{feff}').trim();
        let quoted = ['"', '\'']
            .into_iter()
            .find_map(|quote| line.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)));
        let value = quoted.unwrap_or(line);
        let is_out = !value.starts_with('#') && depth_of(self.depth, value).is_none();
        if is_out && self.found.len() < self.most {
            self.found.push(Named { line: self.number, key: "", value: value.to_owned() });
        }
        self.line.clear();
        self.number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_out_when_it_is_absolute_or_goes_up_too_far() {
        for (depth, path, ends) in [
            (0, "images/train", Some(2)),
            (0, "./a/../b", Some(1)),
            (0, "..", None),
            (1, "../b", Some(1)),
            (0, "a/../../b", None),
            (0, r"a\..\..\b", None),
            (0, "/data", None),
            (2, "C:/data", None),
            (0, "a:b", Some(1)),
            (0, "", Some(0)),
        ] {
            assert_eq!(depth_of(depth, path), ends, "{path}");
        }
    }

    #[test]
    fn the_paths_of_a_data_yaml_are_found_in_each_of_its_forms() {
        let text = "path: set # here\n'train': \"/abs # no\"\nval:\n  # two\n  - a\n\n- '../b'\n\
                    names: [x, /y]\ntest: [c, \"d\",\n  e ]\nval_names:\n  - /z\nvalid: f#g\n";
        let found: Vec<(usize, &str, String)> =
            named_by_yaml(text).into_iter().map(|named| (named.line, named.key, named.value)).collect();
        let expected = [
            (1, "path", "set"),
            (2, "train", "/abs # no"),
            (5, "val", "a"),
            (7, "val", "../b"),
            (9, "test", "c"),
            (9, "test", "d"),
            (10, "test", "e"),
            (13, "valid", "f#g"),
        ];
        assert_eq!(found, expected.map(|(line, key, value)| (line, key, value.to_owned())));
    }

    #[test]
    fn lines_of_a_list_are_found_however_its_bytes_come() {
        let list = "\u{feff}images/1.jpg\n\"../images/2.jpg\"\n# /note\n../../x.jpg\r\n\n/abs.jpg";
        for size in [1, 7, 1000] {
            let mut lines = ListLines::new(1, 5);
            list.as_bytes().chunks(size).for_each(|part| lines.take(part));
            lines.end_line();
            let found: Vec<(usize, &str)> =
                lines.found.iter().map(|named| (named.line, named.value.as_str())).collect();
            assert_eq!(found, [(4, "../../x.jpg"), (6, "/abs.jpg")], "{size}");
        }
    }
}
