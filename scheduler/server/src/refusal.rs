//! How a call is refused: in gRPC's terms with an `ErrorInfo`, or as a page, as whoever asks understands.

use std::collections::HashMap;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use http_body::Frame;
use tonic::{Code, Status};
use tonic_types::ErrorDetails;

/// The domain in every `ErrorInfo`.
const DOMAIN: &str = "trainyard";

/// Whether a request with these headers is a call of gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let content = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    content.starts_with(b"application/grpc")
}

/// Details with what every refusal has: a reason, in capitals, and what it is about.
pub fn details<const N: usize>(reason: &str, metadata: [(&str, String); N]) -> ErrorDetails {
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

/// A code's name in capitals, such as `PERMISSION_DENIED`.
pub fn code_name(code: Code) -> String {
    if code == Code::Ok {
        return "OK".to_owned();
    }
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// The end of a stream that was answered with messages before; `None` for a message that no header can hold.
pub fn trailers(status: &Status) -> Option<Frame<Bytes>> {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).ok()?;
    Some(Frame::trailers(headers))
}

/// The refusal of a call of gRPC, or of a page: that has the message, and what `page` says of it.
pub fn answer(status: &Status, is_grpc: bool, page: impl FnOnce(String) -> Response) -> Response {
    if is_grpc {
        return status.clone().into_http::<Body>();
    }
    page(format!("{}\n", status.message()))
}
