//! A body that ends when its caller counts no more.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use http_body::Frame;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

/// Passes a body on until `over` is cancelled; then it ends, with trailers if they are given.
pub struct GuardedBody {
    body: Body,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    end: Option<Status>,
    has_ended: bool,
}

impl GuardedBody {
    /// Of a request: it just ends.
    pub fn request(body: Body, over: CancellationToken) -> Body {
        Body::new(Self { body, over: Box::pin(over.cancelled_owned()), end: None, has_ended: false })
    }

    /// Of an answer: its end says why.
    pub fn answer(body: Body, over: CancellationToken, end: Status) -> Body {
        Body::new(Self { body, over: Box::pin(over.cancelled_owned()), end: Some(end), has_ended: false })
    }
}

impl HttpBody for GuardedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if self.over.as_mut().poll(context).is_ready() {
            self.has_ended = true;
            // Whoever makes the answer is told by its end that nobody wants more.
            self.body = Body::empty();
            let trailers = self.end.take().and_then(|status| {
                let mut headers = HeaderMap::new();
                status.add_header(&mut headers).ok()?;
                Some(Ok(Frame::trailers(headers)))
            });
            return Poll::Ready(trailers);
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.body.is_end_stream()
    }
}
