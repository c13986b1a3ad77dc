//! Errors as JSON, as the Connect protocol has them: a code, a sentence, and the details that gRPC has.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use prost::Message as _;
use serde::Serialize;
use serde_json::Value;
use tonic::{Code, Status};

use super::{descriptors, json};
use crate::refusal::code_name;

/// An error, to be written as JSON.
#[derive(Debug, Serialize)]
pub struct ConnectError {
    /// As in `not_found`.
    code: String,
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Detail>,
}

#[derive(Debug, Serialize)]
struct Detail {
    /// A message's full name.
    #[serde(rename = "type")]
    kind: String,
    /// The message, encoded, in base64 without padding.
    value: String,
    /// The message as JSON, for those who read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<Value>,
}

impl From<&Status> for ConnectError {
    fn from(status: &Status) -> Self {
        let carried = tonic_types::pb::Status::decode(status.details()).unwrap_or_default();
        let detail = |any: prost_types::Any| {
            let known = descriptors::message(&any.type_url);
            let debug = known.and_then(|message| json::decode(message, &any.value));
            Detail {
                kind: any.type_url.rsplit('/').next().unwrap_or_default().to_owned(),
                value: STANDARD_NO_PAD.encode(&any.value),
                debug: debug.and_then(|text| serde_json::from_slice(&text).ok()),
            }
        };
        Self {
            code: name(status.code()),
            message: status.message().to_owned(),
            details: carried.details.into_iter().map(detail).collect(),
        }
    }
}

/// A code's name in Connect.
fn name(code: Code) -> String {
    match code {
        // Spelled with one l there.
        Code::Cancelled => "canceled".to_owned(),
        _ => code_name(code).to_ascii_lowercase(),
    }
}

/// The status of HTTP that goes with a code.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The answer to a call that was refused.
pub fn answer(status: &Status) -> Response {
    answer_as(http_status(status.code()), status)
}

/// The same with a status of HTTP that says more than the code's.
pub fn answer_as(http: StatusCode, status: &Status) -> Response {
    let text = serde_json::to_string(&ConnectError::from(status)).unwrap_or_default();
    (http, headers(), text).into_response()
}

/// The headers of every answer in JSON.
pub fn headers() -> [(header::HeaderName, HeaderValue); 3] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ]
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn an_error_has_its_code_its_sentence_and_its_details_readable() {
        let details = ErrorDetails::with_bad_request_violation("spec.name", "is too long");
        let status = Status::with_error_details(Code::InvalidArgument, "spec.name: is too long", details);
        let json = serde_json::to_value(ConnectError::from(&status)).unwrap();
        assert_eq!(json["code"], "invalid_argument");
        assert_eq!(json["details"][0]["type"], "google.rpc.BadRequest");
        assert_eq!(json["details"][0]["debug"]["fieldViolations"][0]["field"], "spec.name");
        let value = STANDARD_NO_PAD.decode(json["details"][0]["value"].as_str().unwrap()).unwrap();
        assert!(!value.is_empty());
        assert_eq!(answer(&status).status(), 400);
        assert_eq!(name(Code::Cancelled), "canceled");
        assert_eq!(answer(&Status::cancelled("")).status().as_u16(), 499);
    }
}
