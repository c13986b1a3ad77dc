//! Data sets that agents look at for submissions.

use std::path::PathBuf;
use std::time::Duration;

use trainyard_types::data_check::MOST_TEXTS;
use trainyard_types::{DataCheck, DataToCheck};

use super::{InvalidMessage, at_most, limits, no_longer};
use crate::pb;
use crate::pb::data_checked::Outcome;

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataChecked {
    /// The data set was looked at.
    Checked(DataCheck),
    /// It cannot be seen on that machine, and why.
    NotSeen(String),
    /// The data.yaml can be read there, and something that it names is not there: the errors say what.
    SeenInPart(DataCheck),
    /// Nothing is known, and why.
    NotChecked(String),
}

/// The message that asks an agent to look at a data set.
pub fn check_data(check_id: u64, data: &DataToCheck, time_limit: Duration) -> pb::CheckData {
    pb::CheckData {
        check_id,
        data: data.data.to_string_lossy().into_owned(),
        single_cls: data.single_cls,
        fraction: data.fraction,
        time_limit_ms: u32::try_from(time_limit.as_millis()).unwrap_or(u32::MAX),
    }
}

/// What an agent is asked to look at, and for how long.
///
/// # Errors
/// The path is none of a machine, or the share is none.
pub fn parse_check_data(check: pb::CheckData) -> Result<(DataToCheck, Duration), InvalidMessage> {
    no_longer("data", &check.data, limits::TEXT_BYTES)?;
    let data = PathBuf::from(check.data);
    if !data.is_absolute() {
        return Err(InvalidMessage::new(
            "data",
            format!("is `{}`, which is no absolute path", data.display()),
        ));
    }
    if !(check.fraction > 0.0 && check.fraction <= 1.0) {
        return Err(InvalidMessage::new(
            "fraction",
            format!("is {}; use above 0 and up to 1", check.fraction),
        ));
    }
    let limit = Duration::from_millis(check.time_limit_ms.into());
    Ok((DataToCheck { data, single_cls: check.single_cls, fraction: check.fraction }, limit))
}

/// The answer to a check.
pub fn data_checked(check_id: u64, answer: DataChecked) -> pb::DataChecked {
    let without = |outcome: Outcome, message| pb::DataChecked {
        check_id,
        outcome: outcome.into(),
        message,
        ..Default::default()
    };
    let with = |outcome: Outcome, check: DataCheck, message| pb::DataChecked {
        check_id,
        outcome: outcome.into(),
        errors: check.errors,
        more_errors: check.more_errors,
        warnings: check.warnings,
        more_warnings: check.more_warnings,
        message,
    };
    match answer {
        DataChecked::Checked(check) => with(Outcome::Checked, check, String::new()),
        DataChecked::SeenInPart(check) => {
            // A scheduler that knows no parts reads the message.
            let message = check.errors.first().cloned().unwrap_or_default();
            with(Outcome::NotSeen, check, message)
        }
        DataChecked::NotSeen(message) => without(Outcome::NotSeen, message),
        DataChecked::NotChecked(message) => without(Outcome::NotChecked, message),
    }
}

/// The id of a check and what became of it.
///
/// # Errors
/// Too many texts, or too long ones.
pub fn parse_data_checked(checked: pb::DataChecked) -> Result<(u64, DataChecked), InvalidMessage> {
    let under = |error: InvalidMessage| error.under("data_checked");
    for (field, texts) in [("errors", &checked.errors), ("warnings", &checked.warnings)] {
        at_most(field, texts.len(), MOST_TEXTS).map_err(under)?;
        for (at, text) in texts.iter().enumerate() {
            no_longer(&format!("{field}[{at}]"), text, limits::TEXT_BYTES).map_err(under)?;
        }
    }
    no_longer("message", &checked.message, limits::TEXT_BYTES).map_err(under)?;
    let outcome = checked.outcome();
    let is_in_part = outcome == Outcome::NotSeen && !checked.errors.is_empty();
    if outcome == Outcome::Checked || is_in_part {
        let pb::DataChecked { check_id, errors, more_errors, warnings, more_warnings, .. } = checked;
        let check = DataCheck { errors, more_errors, warnings, more_warnings, ..DataCheck::default() };
        let answer = if is_in_part { DataChecked::SeenInPart } else { DataChecked::Checked };
        return Ok((check_id, answer(check.bounded())));
    }
    let answer = if outcome == Outcome::NotSeen {
        DataChecked::NotSeen(checked.message)
    } else {
        // Of a newer agent, too.
        DataChecked::NotChecked(checked.message)
    };
    Ok((checked.check_id, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_and_answered_survives_the_wire() {
        let data = DataToCheck { data: "/data/a.yaml".into(), single_cls: true, fraction: 0.5 };
        let limit = Duration::from_secs(10);
        assert_eq!(parse_check_data(check_data(7, &data, limit)), Ok((data, limit)));
        let check = DataCheck::new(&["a.txt:1: class 7".into()], &["one is odd".into()], None);
        for answer in [
            DataChecked::Checked(check.clone()),
            DataChecked::SeenInPart(check),
            DataChecked::NotSeen("is not there".into()),
            DataChecked::NotChecked("it takes too long".into()),
        ] {
            assert_eq!(parse_data_checked(data_checked(7, answer.clone())), Ok((7, answer)));
        }
    }

    #[test]
    fn what_is_no_data_set_and_what_is_too_much_is_refused() {
        for (data, fraction, field) in [
            ("cells@0123", 1.0, "data"),
            ("", 1.0, "data"),
            ("/d", 0.0, "fraction"),
            ("/d", f64::NAN, "fraction"),
        ] {
            let check = pb::CheckData { data: data.into(), fraction, ..Default::default() };
            assert!(parse_check_data(check).unwrap_err().to_string().contains(field), "{data} {fraction}");
        }
        for errors in [vec![String::new(); MOST_TEXTS + 1], vec!["x".repeat(limits::TEXT_BYTES + 1)]] {
            let checked = pb::DataChecked { outcome: Outcome::Checked.into(), errors, ..Default::default() };
            let refused = parse_data_checked(checked).unwrap_err().to_string();
            assert!(refused.contains("data_checked.errors"), "{refused}");
        }
        let newer = pb::DataChecked { check_id: 3, outcome: 99, ..Default::default() };
        assert_eq!(parse_data_checked(newer), Ok((3, DataChecked::NotChecked(String::new()))));
    }
}
