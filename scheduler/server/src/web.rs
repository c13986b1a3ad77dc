//! The edge for browsers and scripts: calls of the API as JSON, streams as server-sent events.
//!
//! Each is turned into a call of gRPC before anybody looks at it, and its answer back: who may call, limits, deadlines and
//! the audit are those of gRPC. Must not know: jobs, agents, or what any method does.

mod connect_error;
mod descriptors;
mod events;
mod framing;
mod json;
mod json_body;
mod leftover;
mod unary;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::Response;

/// Routes of gRPC that browsers and scripts may call, too; `limit` is the longest message in bytes.
pub fn layered(routes: Router, limit: usize) -> Router {
    let speak = move |request, next| speak_json(limit, request, next);
    routes.layer(middleware::from_fn(speak)).layer(middleware::from_fn(leftover::drain))
}

/// Takes calls as JSON where that is what comes.
async fn speak_json(limit: usize, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !path.starts_with(descriptors::PATH_START) {
        return next.run(request).await;
    }
    if request.method() == Method::POST && is_json(request.headers()) {
        return unary::call(limit, request, next).await;
    }
    if request.method() == Method::GET {
        return events::follow(request, next).await;
    }
    next.run(request).await
}

/// Whether a body is JSON, by its own word.
fn is_json(headers: &HeaderMap) -> bool {
    let content = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let media = content.split(|byte| *byte == b';').next().unwrap_or_default();
    media.trim_ascii().eq_ignore_ascii_case(b"application/json")
}
