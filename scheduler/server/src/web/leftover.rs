//! Bodies that nobody read: a client that still sends one when it is refused is told of a broken stream instead of the
//! refusal.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::refusal::is_grpc;

/// How much of it is read, and how long. Whoever sends more finds out by the stream's end.
const BYTES: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads what an answer has left of a body, before it is given; for a router's layer.
pub async fn drain(request: Request, next: Next) -> Response {
    if request.method() != Method::POST || is_grpc(request.headers()) {
        return next.run(request).await;
    }
    let (sender, left) = oneshot::channel();
    let request = request.map(|body| Body::new(Kept { body: Some(body), left: Some(sender) }));
    let response = next.run(request).await;
    let mut left = left;
    if let Ok(mut body) = left.try_recv() {
        let reading = async {
            let mut bytes = 0;
            while bytes < BYTES {
                let Some(Ok(frame)) = body.frame().await else { return };
                bytes += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        let _over = timeout(PATIENCE, reading).await;
    }
    response
}

/// Gives back what is left of a body when it is dropped.
struct Kept {
    /// `None` once it has ended.
    body: Option<Body>,
    left: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let (Some(body), Some(left)) = (self.body.take(), self.left.take()) {
            // Whoever asked may be gone.
            let _nobody = left.send(body);
        }
    }
}
