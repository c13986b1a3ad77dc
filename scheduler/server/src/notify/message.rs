//! What people read, and the form in which each kind of webhook takes it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use trainyard_types::JobState;

use crate::notice_records::{NoticeKind, NoticeRecord, WebhookKind};

/// The start of a job's id that people are shown.
const SHORT_ID: usize = 13;
/// Longest name that is shown, in characters.
const NAME_CHARS: usize = 100;

/// A call's body, and the headers that go with it.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

/// The message of a notice for such a webhook; `site` is the scheduler's address.
pub fn message(notice: &NoticeRecord, kind: WebhookKind, site: &str) -> Message {
    let (sentence, link) = (sentence(notice), link(notice, site));
    let text = format!("{sentence}\n{link}");
    let (content_type, body) = match kind {
        WebhookKind::Slack => (JSON, json!({ "text": escaped(&text) }).to_string()),
        WebhookKind::Mattermost => (JSON, json!({ "text": without_mentions(&text) }).to_string()),
        WebhookKind::Discord => {
            let quiet = json!({ "parse": [] });
            (JSON, json!({ "content": text, "allowed_mentions": quiet }).to_string())
        }
        WebhookKind::Ntfy => ("text/plain; charset=utf-8", sentence),
        WebhookKind::Json => (JSON, fields(notice, &sentence, &link)),
    };
    let headers = match kind {
        WebhookKind::Ntfy => vec![("title", header(&title(notice))), ("click", link)],
        _ => Vec::new(),
    };
    Message { content_type, headers, body: body.into_bytes() }
}

const JSON: &str = "application/json";

fn fields(notice: &NoticeRecord, sentence: &str, link: &str) -> String {
    let mut fields = json!({
        "id": notice.id(),
        "event": notice.event(),
        "user": notice.user,
        "time_ms": notice.time.0,
        "text": sentence,
        "url": link,
    });
    if notice.occasion != NoticeKind::Test {
        fields["job"] = json!({
            "id": notice.job.to_string(),
            "name": notice.name,
            "state": notice.state.to_string().to_uppercase(),
            "reason": notice.reason,
            "map50_95": notice.accuracy,
            "seconds": notice.seconds,
        });
    }
    fields.to_string()
}

fn link(notice: &NoticeRecord, site: &str) -> String {
    match notice.occasion {
        NoticeKind::Test => site.to_owned(),
        NoticeKind::Ended | NoticeKind::Waiting => format!("{site}/jobs/{}", notice.job),
    }
}

/// The job as people call it: `cells (019ab3c4-1f2e)`.
fn called(notice: &NoticeRecord) -> String {
    let id: String = notice.job.to_string().chars().take(SHORT_ID).collect();
    let name: String = notice.name.chars().filter(|c| !c.is_control()).take(NAME_CHARS).collect();
    if name.is_empty() { id } else { format!("{name} ({id})") }
}

fn title(notice: &NoticeRecord) -> String {
    match (notice.occasion, notice.state) {
        (NoticeKind::Test, _) => "Trainyard".to_owned(),
        (NoticeKind::Waiting, _) => format!("{} still waits", called(notice)),
        (NoticeKind::Ended, JobState::Succeeded) => format!("{} succeeded", called(notice)),
        (NoticeKind::Ended, JobState::Failed) => format!("{} failed", called(notice)),
        (NoticeKind::Ended, _) => format!("{} was cancelled", called(notice)),
    }
}

/// One sentence that says what became of the job.
fn sentence(notice: &NoticeRecord) -> String {
    let job = called(notice);
    let span = notice.seconds.map(span);
    let after = span.as_ref().map_or(String::new(), |span| format!(" after {span}"));
    let why = notice.reason.trim_end_matches('.');
    match (notice.occasion, notice.state) {
        (NoticeKind::Test, _) => {
            format!("Trainyard reaches this webhook: {} is told here of jobs.", notice.user)
        }
        (NoticeKind::Waiting, _) => {
            let since = span.map_or(String::new(), |span| format!(" since {span}"));
            format!("Job {job} waits{since}, longer than was expected: {why}.")
        }
        (NoticeKind::Ended, JobState::Succeeded) => {
            let best = notice.accuracy.map_or(String::new(), |map| format!(" with mAP50-95 {map:.3}"));
            format!("Job {job} succeeded{after}{best}.")
        }
        (NoticeKind::Ended, JobState::Failed) => format!("Job {job} failed{after}: {why}."),
        (NoticeKind::Ended, _) => format!("Job {job} was cancelled{after}."),
    }
}

/// `2 d 3 h`, `4 h 5 min`, `6 min 7 s`, `8 s`.
fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (1.., ..) => format!("{days} d {} h", hours % 24),
        (_, 1.., _) => format!("{hours} h {} min", minutes % 60),
        (_, _, 1..) => format!("{minutes} min {} s", seconds % 60),
        _ => format!("{seconds} s"),
    }
}

/// For Slack, whose commands are in angle brackets.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// For Mattermost, which has no other way to call nobody: what follows an `@` is no name any more.
fn without_mentions(text: &str) -> String {
    text.replace('@', "@\u{200b}")
}

/// For a header, whose text beyond ASCII is encoded by RFC 2047.
fn header(text: &str) -> String {
    if text.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        return text.to_owned();
    }
    format!("=?UTF-8?B?{}?=", BASE64_STANDARD.encode(text))
}

#[cfg(test)]
mod tests {
    use trainyard_types::{JobId, Time};
    use uuid::Uuid;

    use super::*;

    fn notice(occasion: NoticeKind, state: JobState) -> NoticeRecord {
        NoticeRecord {
            occasion,
            user: "ada".into(),
            job: JobId(Uuid::from_u128(0x019a_b3c4_1f2e_7000_8000_0000_0000_0001)),
            name: "cells".into(),
            state,
            reason: "the data set has no images.".into(),
            cursor: 3,
            time: Time(1_796_089_826_000),
            accuracy: Some(0.51249),
            seconds: Some(4_000.0),
        }
    }

    #[test]
    fn a_message_is_one_sentence_in_the_products_words() {
        let table = [
            (
                NoticeKind::Ended,
                JobState::Succeeded,
                "Job cells (019ab3c4-1f2e) succeeded after 1 h 6 min with mAP50-95 0.512.",
            ),
            (
                NoticeKind::Ended,
                JobState::Failed,
                "Job cells (019ab3c4-1f2e) failed after 1 h 6 min: the data set has no images.",
            ),
            (
                NoticeKind::Ended,
                JobState::Cancelled,
                "Job cells (019ab3c4-1f2e) was cancelled after 1 h 6 min.",
            ),
            (
                NoticeKind::Waiting,
                JobState::Queued,
                "Job cells (019ab3c4-1f2e) waits since 1 h 6 min, longer than was expected: the data set has no images.",
            ),
        ];
        for (occasion, state, expected) in table {
            assert_eq!(sentence(&notice(occasion, state)), expected);
        }
        let never_ran = NoticeRecord { seconds: None, ..notice(NoticeKind::Ended, JobState::Failed) };
        assert_eq!(sentence(&never_ran), "Job cells (019ab3c4-1f2e) failed: the data set has no images.");
    }

    #[test]
    fn each_kind_gets_its_own_form() {
        let failed = notice(NoticeKind::Ended, JobState::Failed);
        let body = |kind| String::from_utf8(message(&failed, kind, "https://lab:7433").body).unwrap();
        let parsed = |kind| serde_json::from_str::<serde_json::Value>(&body(kind)).unwrap();
        let link = "https://lab:7433/jobs/019ab3c4-1f2e-7000-8000-000000000001";
        let text = format!("{}\n{link}", sentence(&failed));
        assert_eq!(parsed(WebhookKind::Slack), json!({ "text": text }));
        assert_eq!(parsed(WebhookKind::Mattermost), json!({ "text": text }));
        assert_eq!(parsed(WebhookKind::Discord)["content"], json!(text));
        assert_eq!(body(WebhookKind::Ntfy), sentence(&failed));
        let headers = message(&failed, WebhookKind::Ntfy, "https://lab:7433").headers;
        assert_eq!(
            headers,
            [("title", "cells (019ab3c4-1f2e) failed".to_owned()), ("click", link.to_owned())]
        );
        let json = parsed(WebhookKind::Json);
        assert_eq!(
            (&json["event"], &json["url"], &json["job"]["state"]),
            (&json!("failed"), &json!(link), &json!("FAILED"))
        );
    }

    #[test]
    fn names_call_nobody_and_break_no_header() {
        let odd = NoticeRecord {
            name: "@all <!channel> zellen-ä\r\nx: y".into(),
            ..notice(NoticeKind::Ended, JobState::Succeeded)
        };
        let body = |kind| String::from_utf8(message(&odd, kind, "http://x").body).unwrap();
        assert!(!body(WebhookKind::Slack).contains("<!channel>"));
        assert!(!body(WebhookKind::Mattermost).contains("@all"));
        assert!(body(WebhookKind::Discord).contains("\"parse\":[]"));
        let title = &message(&odd, WebhookKind::Ntfy, "http://x").headers[0].1;
        assert!(title.starts_with("=?UTF-8?B?") && title.is_ascii(), "{title}");
        let long = NoticeRecord { name: "ä".repeat(5_000), ..odd };
        assert!(message(&long, WebhookKind::Json, "http://x").body.len() < 12_000);
    }

    #[test]
    fn spans_have_two_units_at_most() {
        let table = [(8.2, "8 s"), (367.0, "6 min 7 s"), (14_700.0, "4 h 5 min"), (183_600.0, "2 d 3 h")];
        for (seconds, expected) in table {
            assert_eq!(span(seconds), expected);
        }
    }
}
