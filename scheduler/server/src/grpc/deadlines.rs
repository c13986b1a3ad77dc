//! What every answer owes its caller, whoever made it: an end by the deadline that came with the call, and an
//! `ErrorInfo` with every refusal, those of tonic included.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::refusal::{code_name, details, is_grpc, trailers};

const TIMEOUT: &str = "grpc-timeout";

/// Gives every answer an end by its deadline and an `ErrorInfo`; for a router's layer.
pub async fn enforce(request: Request, next: Next) -> Response {
    if !is_grpc(request.headers()) {
        return next.run(request).await;
    }
    let limit = request.headers().get(TIMEOUT).and_then(|value| parse_timeout(value.to_str().ok()?));
    // A deadline beyond what a clock can tell is none.
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let answer = next.run(request);
    let response = match deadline {
        Some(deadline) => timeout_at(deadline, answer).await.unwrap_or_else(|_| too_late().into_http()),
        None => answer.await,
    };
    // A refusal without a message has its status among the headers.
    if let Some(status) = unexplained(response.headers()) {
        return explained(&status).into_http();
    }
    response.map(|body| Body::new(Answer { body, deadline: deadline.map(|at| Box::pin(sleep_until(at))) }))
}

/// How long the caller waits, as the call's metadata say; `None` for one who waits for ever.
pub(super) fn time_left(metadata: &MetadataMap) -> Option<Duration> {
    parse_timeout(metadata.get(TIMEOUT)?.to_str().ok()?)
}

/// At most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8 && !digits.starts_with('+'))?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

fn too_late() -> Status {
    explained(&Status::deadline_exceeded(
        "the call's deadline is over; what it asked for may be done all the same",
    ))
}

/// A refusal that has no details.
fn unexplained(headers: &HeaderMap) -> Option<Status> {
    let status = Status::from_header_map(headers)?;
    (status.code() != Code::Ok && status.details().is_empty()).then_some(status)
}

/// The same with an `ErrorInfo` whose reason is the code's name.
fn explained(status: &Status) -> Status {
    let details = details(&code_name(status.code()), []);
    Status::with_error_details(status.code(), status.message(), details)
}

/// An answer's messages, and how it ends.
struct Answer {
    body: Body,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
            let status = frame.trailers_ref().and_then(unexplained);
            let better = status.and_then(|status| trailers(&explained(&status)));
            return Poll::Ready(Some(Ok(better.unwrap_or(frame))));
        }
        let is_over =
            self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(context).is_ready());
        if !is_over {
            return Poll::Pending;
        }
        // Whoever made the answer is told by its end that nobody wants more.
        (self.body, self.deadline) = (Body::empty(), None);
        Poll::Ready(trailers(&too_late()).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_number_with_a_unit() {
        let table = [
            ("1H", Some(3_600_000_000)),
            ("2M", Some(120_000_000)),
            ("3S", Some(3_000_000)),
            ("250m", Some(250_000)),
            ("7u", Some(7)),
            ("9000n", Some(9)),
            ("99999999H", Some(359_999_996_400_000_000)),
            ("", None),
            ("5", None),
            ("S", None),
            ("-1S", None),
            ("+1S", None),
            ("123456789S", None),
            ("1s", None),
            ("1\u{b5}", None),
        ];
        for (text, micros) in table {
            assert_eq!(parse_timeout(text), micros.map(Duration::from_micros), "{text}");
        }
    }

    #[test]
    fn a_reason_is_the_codes_name() {
        let status = explained(&Status::new(Code::OutOfRange, "too large"));
        assert_eq!(status.get_details_error_info().unwrap().reason, "OUT_OF_RANGE");
        assert_eq!((status.code(), status.message()), (Code::OutOfRange, "too large"));
    }
}
