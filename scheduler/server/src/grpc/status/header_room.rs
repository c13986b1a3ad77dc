//! How much an error may say: it travels in headers, and clients refuse more than 8 KiB of those.

use tonic::Status;
use tonic_types::StatusExt as _;
use trainyard_types::Violation;

use crate::refusal::details;

/// Bytes of an error's sentence.
const SENTENCE: usize = 1024;
/// Bytes of its details, which have the sentence again, before they are written as base64.
const DETAILS: usize = 4800;
/// Bytes of all wrong fields.
const FIELDS: usize = 3500;
/// Bytes of one wrong field: its name, and what is wrong.
const FIELD: usize = 200;
const DESCRIPTION: usize = 480;
/// Bytes that a violation takes beside its texts.
const FRAME: usize = 12;

/// The text, or its beginning.
fn clipped(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let room = most - '…'.len_utf8();
    let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= room).last().unwrap_or(0);
    format!("{}…", &text[..end])
}

/// As many of the wrong fields as there is room for, and how many more there are.
pub fn violations(all: Vec<Violation>) -> Vec<Violation> {
    let (count, mut room) = (all.len(), FIELDS);
    let clip = |violation: Violation| {
        Violation::new(clipped(&violation.field, FIELD), clipped(&violation.description, DESCRIPTION))
    };
    let mut told: Vec<Violation> = all
        .into_iter()
        .map(clip)
        .take_while(|violation| {
            let size = violation.field.len() + violation.description.len() + FRAME;
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        })
        .collect();
    if told.len() < count {
        told.push(Violation::new("", format!("{} more fields are wrong", count - told.len())));
    }
    told
}

/// The error, with less said where it would be too large.
pub fn fit(status: Status) -> Status {
    if status.message().len() <= SENTENCE && status.details().len() <= DETAILS {
        return status;
    }
    let sentence = clipped(status.message(), SENTENCE);
    if status.details().len() <= DETAILS {
        return Status::with_details(status.code(), sentence, status.details().to_vec().into());
    }
    // What is left of details that are too large is why: programs tell errors apart by that.
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    Status::with_error_details(status.code(), sentence, details(&reason, []))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn long_texts_are_cut_between_letters_and_what_is_left_out_is_counted() {
        let wrong = |number: usize| Violation::new(format!("files[{number}].path"), "é".repeat(2000));
        let told = violations((0..100).map(wrong).collect());
        assert_eq!(told.len(), 7);
        assert!(told[0].description.ends_with("é…"));
        assert_eq!(told[6].description, "94 more fields are wrong");
        let few: Vec<_> =
            (0..20).map(|number| Violation::new(format!("files[{number}].path"), "is `/etc`")).collect();
        assert_eq!(violations(few.clone()), few);
    }

    #[test]
    fn an_error_that_is_too_large_keeps_its_code_and_its_reason() {
        let name = "x".repeat(5000);
        let status = Status::with_error_details(
            Code::NotFound,
            name.as_str(),
            details("JOB_NOT_FOUND", [("job", name.clone())]),
        );
        let fitted = fit(status);
        assert_eq!(fitted.code(), Code::NotFound);
        assert!(fitted.message().len() <= SENTENCE && fitted.details().len() <= SENTENCE + 200);
        assert_eq!(fitted.get_details_error_info().unwrap().reason, "JOB_NOT_FOUND");
    }
}
