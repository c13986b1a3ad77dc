//! The edge for browsers and scripts: the page, calls of the API as JSON, streams as server-sent events.
//!
//! Each call is turned into a call of gRPC before anybody looks at it, and its answer back: who may call, limits, deadlines and
//! the audit are those of gRPC. Must not know: jobs, agents, or what any method does.

mod assets;
mod connect_error;
mod descriptors;
mod events;
mod files;
mod framing;
mod json;
mod json_body;
mod json_faults;
mod leftover;
mod live;
mod open_streams;
mod ranges;
mod session;
mod unary;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

pub use assets::{page, wants_page};
use live::Live;
use open_streams::OpenStreams;

/// The routes of the page and its files.
pub fn pages() -> Router {
    let pages = PAGES.iter().fold(Router::new(), |router, path| {
        router
            .route(path, get(deep_link))
            .route(&format!("{path}/"), get(deep_link))
            .route(&format!("{path}/{{*rest}}"), get(deep_link))
    });
    pages.route("/assets/{version}/{*path}", get(assets::file))
}

/// Addresses inside the page, which people bookmark and send each other.
const PAGES: &[&str] = &["/queue", "/jobs", "/compare", "/data", "/weights", "/new", "/login"];

async fn deep_link(request: Request) -> Response {
    if assets::wants_page(request.headers()) {
        return assets::page(request.headers());
    }
    (StatusCode::NOT_FOUND, "this is an address for browsers; programs call methods, as `/` says\n")
        .into_response()
}

/// Routes of gRPC that browsers and scripts may call, too.
pub fn layered(routes: Router, edge: Edge) -> Router {
    let edge = Arc::new(edge);
    let speak = move |request, next| speak_json(Arc::clone(&edge), request, next);
    // Around the routes, since addresses change on the way there.
    let around = Router::new().fallback_service(routes);
    around.layer(middleware::from_fn(speak)).layer(middleware::from_fn(leftover::drain))
}

/// The limits and rights by which the edge answers.
pub struct Edge {
    /// The longest message in bytes.
    limit: usize,
    /// Whether connections are encrypted and callers are asked who they are: then cookies count.
    is_secure: bool,
    live: Live,
    streams: OpenStreams,
}

impl Edge {
    /// An edge with this limit of a JSON body in bytes, behind encryption or not, before any page is open.
    pub fn new(limit: usize, is_secure: bool) -> Self {
        Self { limit, is_secure, live: Live::default(), streams: OpenStreams::default() }
    }
}

/// Takes calls as JSON where that is what comes.
async fn speak_json(edge: Arc<Edge>, mut request: Request, next: Next) -> Response {
    if edge.is_secure {
        if request.uri().path() == session::PATH {
            return session::change(request, next, &edge.streams).await;
        }
        match session::identify(&mut request) {
            Ok(Some(cookie)) if request.method() == Method::GET => {
                request.extensions_mut().insert(edge.streams.begin(&cookie));
            }
            Ok(_) => {}
            Err(refused) => return refused.answer(),
        }
    }
    let path = request.uri().path();
    let is_get = request.method() == Method::GET;
    if is_get && path == live::PATH {
        return edge.live.clone().follow(request, next).await;
    }
    if (is_get || request.method() == Method::HEAD) && path.starts_with(files::PATH_START) {
        return files::follow(request, next).await;
    }
    if !path.starts_with(descriptors::PATH_START) {
        return next.run(request).await;
    }
    if is_get {
        return events::follow(request, next).await;
    }
    if request.method() == Method::POST && is_json(request.headers()) {
        return unary::call(edge.limit, request, next).await;
    }
    let unknown = descriptors::method(path).is_none().then(|| descriptors::unknown_method(path));
    let answer = next.run(request).await;
    match unknown {
        // Whoever may call what is unknown is told that it is.
        Some(unknown) if descriptors::is_unimplemented(&answer) => unknown.into_http(),
        _ => answer,
    }
}

/// Whether a body is JSON, by its own word.
fn is_json(headers: &HeaderMap) -> bool {
    let content = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let media = content.split(|byte| *byte == b';').next().unwrap_or_default();
    media.trim_ascii().eq_ignore_ascii_case(b"application/json")
}
