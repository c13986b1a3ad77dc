//! Streams of answers as server-sent events, which browsers follow and take up again where they broke off.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use percent_encoding::percent_decode_str;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};
use tokio::time::{Interval, MissedTickBehavior, interval_at};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::connect_error::ConnectError;
use super::framing::next_message;
use super::json_body::invalid;
use super::open_streams::SessionStream;
use super::{connect_error, descriptors, json as messages, unary};
use crate::refusal::details;

/// How often a stream on which nothing happens says that it lives: proxies close those that say nothing.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The field of requests and answers that says where a stream is.
const CURSOR: &str = "cursor";

/// What a browser sends of the last event that it had.
pub const LAST_EVENT: &str = "last-event-id";

/// Follows a method that answers with a stream; everything else goes on as it came.
pub async fn follow(request: Request, next: Next) -> Response {
    let method = descriptors::method(request.uri().path());
    let Some(method) = method.filter(|method| method.is_server_streaming() && !method.is_client_streaming())
    else {
        return next.run(request).await;
    };
    let last = last_event(request.headers());
    let message = match message_of_query(&method.input(), request.uri().query(), last) {
        Ok(message) => message,
        Err(wrong) => return connect_error::answer(&invalid(&wrong)),
    };
    let answer = method.output();
    let render = move |message: &Bytes| render(answer.clone(), message);
    stream(request, next, &message, render).await
}

/// The id of the last event that a browser had before its stream broke off.
pub fn last_event(headers: &HeaderMap) -> Option<&str> {
    headers.get(LAST_EVENT)?.to_str().ok().filter(|text| !text.is_empty())
}

/// Makes a call, and tells each message of its answer as `render` says.
pub async fn stream(
    request: Request,
    next: Next,
    message: &[u8],
    render: impl FnMut(&Bytes) -> Option<Bytes> + Send + Unpin + 'static,
) -> Response {
    let session = request.extensions().get::<SessionStream>().cloned();
    let body = match unary::begin(request, |_| unary::whole(message), next).await {
        Ok(body) => body,
        Err(status) => return connect_error::answer(&status),
    };
    let mut heartbeat = interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let logged_out = session.map(|session| -> LoggedOut { Box::pin(session.logged_out()) });
    let events = Events { body: Some(body), come: BytesMut::new(), render, heartbeat, logged_out };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, Body::new(events)).into_response()
}

/// An event of one message; its id is the message's cursor.
fn render(descriptor: MessageDescriptor, message: &[u8]) -> Option<Bytes> {
    let text = messages::decode(descriptor.clone(), message)?;
    let read = DynamicMessage::decode(descriptor, message).ok()?;
    let cursor = read.get_field_by_name(CURSOR).and_then(|value| match value.as_ref() {
        prost_reflect::Value::U64(cursor) => Some(cursor.to_string()),
        prost_reflect::Value::String(cursor) => Some(cursor.clone()),
        _ => None,
    });
    Some(event(cursor.as_deref(), &text))
}

/// An event with an id. JSON has no line ends of its own.
pub fn event(id: Option<&str>, json: &[u8]) -> Bytes {
    let mut event = BytesMut::with_capacity(json.len() + 40);
    if let Some(id) = id {
        event.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    event.extend_from_slice(b"data: ");
    event.extend_from_slice(json);
    event.extend_from_slice(b"\n\n");
    event.freeze()
}

/// Why a stream ends whose browser has logged out.
fn session_over() -> Status {
    let text = "the browser has logged out, in this tab or in another one";
    Status::with_error_details(Code::Unauthenticated, text, details("LOGGED_OUT", []))
}

/// The end of a stream: empty where all is said, else with an error.
fn end(status: &Status) -> Bytes {
    let value =
        if status.code() == Code::Ok { json!({}) } else { json!({ "error": ConnectError::from(status) }) };
    Bytes::from(format!("event: end\ndata: {value}\n\n"))
}

/// The message that a query means: each part is a field, by its name in JSON or in the proto; one that may come several
/// times is a list.
fn message_of_query(
    descriptor: &MessageDescriptor,
    query: Option<&str>,
    last: Option<&str>,
) -> Result<Vec<u8>, Vec<messages::Wrong>> {
    let mut object = Map::new();
    for (name, text) in pairs(query) {
        let field = descriptor.fields().find(|field| field.name() == name || field.json_name() == name);
        let value = match field.as_ref().map(prost_reflect::FieldDescriptor::kind) {
            Some(Kind::Bool) if text == "true" => Value::Bool(true),
            Some(Kind::Bool) if text == "false" => Value::Bool(false),
            _ => Value::String(text),
        };
        match field {
            Some(field) if field.is_list() => {
                let list = object.entry(field.json_name()).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().into_iter().for_each(|list| list.push(value.clone()));
            }
            Some(field) => drop(object.insert(field.json_name().to_owned(), value)),
            None => drop(object.insert(name, value)),
        }
    }
    if let Some(last) = last.filter(|_| descriptor.get_field_by_name(CURSOR).is_some()) {
        object.insert(CURSOR.to_owned(), Value::String(last.to_owned()));
    }
    messages::encode(descriptor, Value::Object(object).to_string().as_bytes())
}

/// The parts of a query, decoded.
pub fn pairs(query: Option<&str>) -> impl Iterator<Item = (String, String)> {
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let parts = query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
    parts.map(move |part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decoded(name), decoded(value))
    })
}

/// The body of an answer, as events.
struct Events<R> {
    /// The answer of gRPC; `None` once its end was told.
    body: Option<Body>,
    come: BytesMut,
    render: R,
    heartbeat: Interval,
    /// When its browser logs out; `None` for what came without a cookie.
    logged_out: Option<LoggedOut>,
}

type LoggedOut = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<R: FnMut(&Bytes) -> Option<Bytes> + Unpin> HttpBody for Events<R> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.body.is_some()
            && let Some(logged_out) = &mut this.logged_out
            && logged_out.as_mut().poll(context).is_ready()
        {
            (this.body, this.logged_out) = (None, None);
            return Poll::Ready(Some(Ok(Frame::data(end(&session_over())))));
        }
        loop {
            while let Some(message) = next_message(&mut this.come) {
                if let Some(event) = (this.render)(&message) {
                    return Poll::Ready(Some(Ok(Frame::data(event))));
                }
            }
            let Some(body) = &mut this.body else { return Poll::Ready(None) };
            match Pin::new(body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.come.extend_from_slice(&data),
                    Err(frame) => {
                        let status = frame.trailers_ref().and_then(Status::from_header_map);
                        let status = status.unwrap_or_else(|| Status::unknown("the stream broke off"));
                        this.body = None;
                        return Poll::Ready(Some(Ok(Frame::data(end(&status)))));
                    }
                },
                Poll::Ready(Some(Err(cause))) => {
                    this.body = None;
                    return Poll::Ready(Some(Err(cause)));
                }
                Poll::Ready(None) => {
                    this.body = None;
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    return match this.heartbeat.poll_tick(context) {
                        Poll::Ready(_) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b":\n\n"))))),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use trainyard_proto::pb;

    use super::*;

    #[test]
    fn a_query_is_a_message_and_the_last_event_its_cursor() {
        let descriptor = descriptors::message("trainyard.v1.WatchJobRequest").unwrap();
        let read = |query, last| {
            let bytes = message_of_query(&descriptor, Some(query), last).unwrap();
            pb::WatchJobRequest::decode(bytes.as_slice()).unwrap()
        };
        let expected = pb::WatchJobRequest { job_id: "a b".into(), cursor: 7, history_only: true };
        assert_eq!(read("jobId=a%20b&cursor=7&historyOnly=true", None), expected);
        assert_eq!(read("job_id=a+b&cursor=1&history_only=true", Some("7")), expected);
        let wrong = message_of_query(&descriptor, Some("jobs=1"), None).unwrap_err();
        assert_eq!(wrong[0].field, "jobs");
        let wrong = message_of_query(&descriptor, Some("job_id=a&cursor=soon"), None).unwrap_err();
        assert_eq!(wrong[0].text, "is `soon`; give a whole number from 0");
    }
}
