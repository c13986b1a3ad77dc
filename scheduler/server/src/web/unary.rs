//! Calls with one message and one answer, as JSON: the unary protocol of Connect.

use axum::body::Body;
use axum::extract::Request;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use prost_reflect::MethodDescriptor;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::framing::{framed, next_message};
use super::json_body::JsonBody;
use super::{connect_error, descriptors, json};
use crate::refusal::details;

const TIMEOUT: &str = "connect-timeout-ms";

/// Makes the call of gRPC that a request means, and turns the answer.
pub async fn call(limit: usize, request: Request, next: Next) -> Response {
    let method = descriptors::method(request.uri().path());
    let unfit = method.as_ref().and_then(stream_refused).or_else(|| unfit_headers(request.headers()));
    if let Some(status) = unfit {
        return connect_error::answer(&status);
    }
    let path = request.uri().path().to_owned();
    let is_known = method.is_some();
    let body = |body| match method {
        Some(method) => JsonBody::of(body, method.input(), limit),
        // There is no such method, which whoever may know of is told where all calls are.
        None => Body::empty(),
    };
    match answer_of(request, body, next).await {
        Ok(message) => json_answer(&path, &message),
        Err(status) if !is_known && status.code() == Code::Unimplemented => {
            connect_error::answer(&descriptors::unknown_method(&path))
        }
        Err(status) => connect_error::answer(&status),
    }
}

/// An answer of the method at a path, as JSON.
pub fn json_answer(path: &str, message: &[u8]) -> Response {
    let text = descriptors::method(path).and_then(|method| json::decode(method.output(), message));
    match text {
        Some(text) => (connect_error::headers(), text).into_response(),
        None => connect_error::answer(&Status::internal("the answer is no message of this method")),
    }
}

/// Makes a call of gRPC with this body; its one message.
pub async fn answer_of(
    request: Request,
    body: impl FnOnce(Body) -> Body,
    next: Next,
) -> Result<bytes::Bytes, Status> {
    message_of(begin(request, body, next).await?).await
}

/// Makes a call of gRPC with this body; the body of its answer.
pub async fn begin(request: Request, body: impl FnOnce(Body) -> Body, next: Next) -> Result<Body, Status> {
    let (parts, body) = next.run(as_grpc(request, body)).await.into_parts();
    // A refusal without a message has its status among the headers.
    match Status::from_header_map(&parts.headers).filter(|status| status.code() != Code::Ok) {
        Some(status) => Err(status),
        None => Ok(body),
    }
}

/// The one message of an answer.
async fn message_of(body: Body) -> Result<bytes::Bytes, Status> {
    let collected =
        body.collect().await.map_err(|cause| Status::unknown(format!("the answer broke off: {cause}")))?;
    let end = collected.trailers().and_then(Status::from_header_map);
    if let Some(status) = end.filter(|status| status.code() != Code::Ok) {
        return Err(status);
    }
    let mut come = BytesMut::from(&collected.to_bytes()[..]);
    next_message(&mut come).ok_or_else(|| Status::unknown("the answer broke off"))
}

/// The same request as gRPC has it, up to its body.
pub fn as_grpc(request: Request, body: impl FnOnce(Body) -> Body) -> Request {
    let (mut parts, old) = request.into_parts();
    parts.method = Method::POST;
    if let Some(limit) = parts.headers.remove(TIMEOUT).and_then(|limit| grpc_timeout(&limit)) {
        parts.headers.insert("grpc-timeout", limit);
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    Request::from_parts(parts, body(old))
}

/// Turns a request to the method at another path; the name that the scheduler was called by stays.
pub fn turn_to(request: &mut Request, path: &str) {
    let mut parts = request.uri().clone().into_parts();
    // The query says nothing to the method; the gate looks for what should not be in it.
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    parts.path_and_query = PathAndQuery::try_from(format!("{path}{query}")).ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// A whole message as the body of a call.
pub fn whole(message: &[u8]) -> Body {
    framed(message).map_or_else(Body::empty, Body::from)
}

/// Milliseconds, of ten digits at most.
fn parse_timeout(limit: &HeaderValue) -> Option<u64> {
    let digits = limit.to_str().ok()?;
    let is_number = (1..=10).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

/// In gRPC's terms, which have eight digits at most.
fn grpc_timeout(limit: &HeaderValue) -> Option<HeaderValue> {
    let millis = parse_timeout(limit)?;
    let text = if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", millis / 1000) };
    HeaderValue::from_str(&text).ok()
}

fn unfit_headers(headers: &HeaderMap) -> Option<Status> {
    let refused =
        |code, text: String, reason| Some(Status::with_error_details(code, text, details(reason, [])));
    if let Some(limit) = headers.get(TIMEOUT).filter(|limit| parse_timeout(limit).is_none()) {
        let text = format!("{TIMEOUT} is {limit:?}; give milliseconds, ten digits at most");
        return refused(Code::InvalidArgument, text, "INVALID_ARGUMENT");
    }
    if let Some(version) = headers.get("connect-protocol-version").filter(|version| *version != "1") {
        let text = format!("connect-protocol-version is {version:?}; only 1 is known");
        return refused(Code::InvalidArgument, text, "INVALID_ARGUMENT");
    }
    let encoding = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity")?;
    refused(
        Code::Unimplemented,
        format!("content-encoding is {encoding:?}; send plain JSON"),
        "UNIMPLEMENTED",
    )
}

/// Streams are had in other ways.
fn stream_refused(method: &MethodDescriptor) -> Option<Status> {
    let way_out = match (method.is_client_streaming(), method.is_server_streaming()) {
        (false, false) => return None,
        (false, true) => "answers with a stream: GET it as server-sent events, or call it by gRPC",
        (true, _) => "takes a stream: call it by gRPC",
    };
    let text = format!("{} {way_out}", method.name());
    Some(Status::with_error_details(Code::Unimplemented, text, details("UNIMPLEMENTED", [])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_told_in_the_terms_of_grpc() {
        let table = [
            ("0", Some("0m")),
            ("2500", Some("2500m")),
            ("9999999999", Some("9999999S")),
            ("12345678901", None),
            ("-1", None),
            ("1s", None),
            ("", None),
        ];
        for (text, expected) in table {
            let told = grpc_timeout(&HeaderValue::from_static(text));
            assert_eq!(told, expected.map(HeaderValue::from_static), "{text}");
        }
    }
}
