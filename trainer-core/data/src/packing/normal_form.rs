//! The data.yaml and the lists of a tree, in one form whatever the user's looked like.

use std::fmt::Write as _;

use crate::dataset::{DataYaml, Split};

/// The name of the data.yaml at the top of a tree.
pub(super) const DATA_YAML: &str = "data.yaml";

/// The name of a split's list at the top of a tree.
pub(super) fn list_name(split: Split) -> String {
    format!("{}.txt", split.key())
}

/// The text of a tree's data.yaml, for a data set that has these `splits`.
pub(super) fn data_yaml(yaml: &DataYaml, splits: impl Iterator<Item = Split>) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for split in splits {
        let _ = writeln!(text, "{}: {}", split.key(), list_name(split));
    }
    text.push_str("names:\n");
    for (id, name) in yaml.names.iter().enumerate() {
        let _ = writeln!(text, "  {id}: {}", quoted(name));
    }
    if let Some([points, each]) = yaml.keypoints {
        let _ = writeln!(text, "kpt_shape: [{points}, {each}]");
    }
    text
}

/// A text in double quotes, as YAML and JSON have them; what a reader may take for a line's end is escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\u{2028}' | '\u{2029}' | '\u{FEFF}' => {
                quoted.extend(letter.escape_unicode().filter(|c| !"{}".contains(*c)));
            }
            letter if letter.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(letter));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn names_come_back_as_they_were() {
        let names = [
            "plain",
            "no",
            "1.10",
            "a \"b\" \\c",
            " blanks ",
            "é\u{1b}[31m",
            "x\u{2028}y\u{85}z\u{feff}",
            "# a: b",
        ];
        let source = names.map(|name| serde_json::to_string(name).unwrap()).join(", ");
        let source =
            source.replace('\u{85}', "\\u0085").replace('\u{2028}', "\\u2028").replace('\u{feff}', "\\ufeff");
        let text = format!("train: a\nval: b\nkpt_shape: [5, 3]\nnames: [{source}]\n");
        let yaml = DataYaml::parse(Path::new("data.yaml"), &text).unwrap();
        assert_eq!(yaml.names, names);
        let text = data_yaml(&yaml, [Split::Train, Split::Val].into_iter());
        let again = DataYaml::parse(Path::new("data.yaml"), &text).unwrap();
        assert_eq!((again.names, again.keypoints), (yaml.names, yaml.keypoints));
        assert_eq!(
            (again.train, again.val, again.test),
            (vec!["train.txt".into()], vec!["val.txt".into()], vec![])
        );
    }
}
