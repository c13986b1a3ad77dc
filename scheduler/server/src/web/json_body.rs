//! The body of a call as JSON, as gRPC wants it: read and turned when somebody takes it, so that who is not let in makes
//! nobody read anything.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use prost_reflect::MessageDescriptor;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::framing::framed;
use super::json::{self, Wrong};
use crate::refusal::details;

/// A message of gRPC that is made of JSON.
pub struct JsonBody {
    /// `None` once it is read.
    body: Option<Body>,
    come: BytesMut,
    message: MessageDescriptor,
    /// Bytes of JSON at most.
    limit: usize,
}

impl JsonBody {
    pub fn of(body: Body, message: MessageDescriptor, limit: usize) -> Body {
        Body::new(Self { body: Some(body), come: BytesMut::new(), message, limit })
    }
}

impl HttpBody for JsonBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            match std::task::ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if self.come.len() + data.len() > self.limit {
                        // What is left stays with whoever drains it.
                        return Poll::Ready(Some(Err(too_long(self.limit))));
                    }
                    self.come.extend_from_slice(&data);
                }
                Some(Err(cause)) => {
                    self.body = None;
                    return Poll::Ready(Some(Err(Status::cancelled(format!("the body broke off: {cause}")))));
                }
                None => {
                    self.body = None;
                    let message = json::encode(&self.message, &self.come).map_err(|wrong| invalid(&wrong));
                    let frame =
                        message.and_then(|message| framed(&message).ok_or_else(|| too_long(self.limit)));
                    return Poll::Ready(Some(frame.map(Frame::data)));
                }
            }
        }
    }
}

/// As a message of gRPC that is too long is refused.
fn too_long(limit: usize) -> Status {
    let text = format!("the JSON has more than {limit} bytes, the limit of a message; see `max_message_mib`");
    Status::with_error_details(Code::OutOfRange, text, details("OUT_OF_RANGE", []))
}

/// The refusal of a message that is none.
pub fn invalid(wrong: &[Wrong]) -> Status {
    let named = |wrong: &Wrong| if wrong.field.is_empty() { "body".to_owned() } else { wrong.field.clone() };
    let sentences: Vec<String> = wrong.iter().map(|one| format!("{}: {}", named(one), one.text)).collect();
    let text = match sentences.as_slice() {
        [only] => only.clone(),
        several => format!("{} fields are wrong: {}", several.len(), several.join("; ")),
    };
    let mut more: ErrorDetails = details("INVALID_ARGUMENT", []);
    let violations = wrong.iter().map(|one| tonic_types::FieldViolation::new(named(one), one.text.as_str()));
    more.set_bad_request(violations.collect::<Vec<_>>());
    Status::with_error_details(Code::InvalidArgument, text, more)
}
