//! A data set that a submission names, looked at before the job queues: what is asked, and what a trainer's check tells.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::fitness::Unfit;
use crate::text::clean;
use crate::train::TrainSpec;

/// What a check looks at: all of a training that decides whether its data set can be used.
#[derive(Debug, Clone, PartialEq)]
pub struct DataToCheck {
    /// The data.yaml, as the job names it.
    pub data: PathBuf,
    /// Whether every class counts as one.
    pub single_cls: bool,
    /// The share of the training images that is used, above 0 and up to 1.
    pub fraction: f64,
}

impl From<&TrainSpec> for DataToCheck {
    fn from(train: &TrainSpec) -> Self {
        Self { data: train.data.clone(), single_cls: train.single_cls, fraction: train.fraction }
    }
}

/// What a check found. Is one line of JSON between trainer and agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DataCheck {
    /// Why a training would not begin, a sentence each; the first ones.
    pub errors: Vec<String>,
    /// Number of errors beside those.
    pub more_errors: u64,
    /// What a training would leave out or mend, a sentence each; the first ones.
    pub warnings: Vec<String>,
    /// Number of warnings beside those.
    pub more_warnings: u64,
    /// What this machine lacks, if that may be why there are errors: another one may see the data set.
    #[serde(default)]
    pub unfit: Option<Unfit>,
    /// Whether the data.yaml itself was read here: then what this machine lacks may be a slip in it.
    #[serde(default)]
    pub has_data_yaml: bool,
}

/// Errors, and warnings, that are told word for word.
pub const MOST_TEXTS: usize = 20;

/// Bytes of one of them. Answers of gRPC carry errors in headers, where clients take 8 KiB in all.
pub const TEXT_BYTES: usize = 400;

impl DataCheck {
    /// The first errors and warnings, each made short and harmless, and how many more there are.
    pub fn new(errors: &[String], warnings: &[String], unfit: Option<Unfit>) -> Self {
        let (errors, more_errors) = first(errors);
        let (warnings, more_warnings) = first(warnings);
        Self { errors, more_errors, warnings, more_warnings, unfit, has_data_yaml: false }
    }

    /// The same result, when its sentences tell of so many errors and warnings: one may tell of many in sum. Those come
    /// behind the ones that are kept here.
    #[must_use]
    pub fn counting(self, errors: u64, warnings: u64) -> Self {
        let more = |count: u64, kept: &[String], more: u64| count.saturating_sub(kept.len() as u64).max(more);
        Self {
            more_errors: more(errors, &self.errors, self.more_errors),
            more_warnings: more(warnings, &self.warnings, self.more_warnings),
            ..self
        }
    }

    /// The result within the bounds, whoever has made it.
    #[must_use]
    pub fn bounded(self) -> Self {
        let (more_errors, more_warnings) = (self.more_errors, self.more_warnings);
        let bounded = Self::new(&self.errors, &self.warnings, self.unfit);
        Self {
            has_data_yaml: self.has_data_yaml,
            more_errors: bounded.more_errors.saturating_add(more_errors),
            more_warnings: bounded.more_warnings.saturating_add(more_warnings),
            ..bounded
        }
    }

    /// Whether a training would begin.
    pub fn is_usable(&self) -> bool {
        self.errors.is_empty() && self.more_errors == 0
    }
}

fn first(texts: &[String]) -> (Vec<String>, u64) {
    let shown: Vec<String> = texts.iter().take(MOST_TEXTS).map(|text| cut(&clean(text))).collect();
    let more = texts.len() - shown.len();
    (shown, more as u64)
}

/// A text of at most [`TEXT_BYTES`]. File and line come first in an error, and the way out last: the middle goes.
fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES {
        return text.to_owned();
    }
    let half = TEXT_BYTES / 2 - 2;
    let is_whole = |at: &usize| text.is_char_boundary(*at);
    let start = (0..=half).rev().find(is_whole).unwrap_or(0);
    let end = (text.len() - half..=text.len()).find(is_whole).unwrap_or(text.len());
    format!("{}…{}", &text[..start], &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_texts_are_kept_short_and_harmless_and_the_others_counted() {
        let mut errors: Vec<String> = (0..50).map(|line| format!("a.txt:{line}: class 7")).collect();
        errors[0] = format!("{}\u{1b}[31m end", "ä".repeat(TEXT_BYTES));
        let check = DataCheck::new(&errors, &["w".to_owned()], None);
        assert_eq!((check.errors.len(), check.more_errors, check.more_warnings), (MOST_TEXTS, 30, 0));
        assert!(check.errors[0].len() <= TEXT_BYTES && check.errors[0].ends_with(" end"), "{check:?}");
        assert!(!check.errors[0].contains('\u{1b}') && !check.is_usable());
        let hostile = DataCheck { errors, more_errors: u64::MAX, ..DataCheck::default() }.bounded();
        assert_eq!((hostile.errors.len(), hostile.more_errors), (MOST_TEXTS, u64::MAX));
        assert!(DataCheck::new(&[], &["w".to_owned()], None).is_usable());
        let counted = DataCheck::new(&hostile.errors, &[], None).counting(100_000, 0);
        assert_eq!((counted.errors.len(), counted.more_errors, counted.more_warnings), (20, 99_980, 0));
    }

    #[test]
    fn a_check_is_one_line_of_json() {
        let unfit = Unfit::at(crate::UnfitKind::PathMissing, "/d".as_ref(), "is not there");
        let check = DataCheck::new(&["a\nb".to_owned()], &[], Some(unfit));
        let line = serde_json::to_string(&check).unwrap();
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(serde_json::from_str::<DataCheck>(&line).unwrap(), check);
    }
}
