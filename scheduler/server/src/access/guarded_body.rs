//! A body that ends when its caller counts no more.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use http_body::Frame;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use crate::refusal::trailers;

/// Passes a body on until its caller counts no more.
pub struct GuardedBody {
    body: Body,
    /// Cancelled when that is so; `None` once the body has ended by it.
    over: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// How it then ends; `None` for a request, which just does.
    end: Option<fn() -> Status>,
    /// Given back when the body has ended or nobody wants it.
    _place: Option<OwnedSemaphorePermit>,
}

impl GuardedBody {
    /// The body of a request that ends when `over` is cancelled.
    pub fn request(body: Body, over: CancellationToken) -> Body {
        Body::new(Self { body, over: Some(Box::pin(over.cancelled_owned())), end: None, _place: None })
    }

    /// The body of an answer that then ends with this status, and that holds its caller's place until it ends.
    pub fn answer(
        body: Body,
        over: CancellationToken,
        end: fn() -> Status,
        place: Option<OwnedSemaphorePermit>,
    ) -> Body {
        Body::new(Self { body, over: Some(Box::pin(over.cancelled_owned())), end: Some(end), _place: place })
    }
}

impl HttpBody for GuardedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over.as_mut().is_some_and(|over| over.as_mut().poll(context).is_ready()) {
            // Whoever makes the answer is told by its end that nobody wants more.
            (self.body, self.over) = (Body::empty(), None);
            return Poll::Ready(self.end.and_then(|end| trailers(&end())).map(Ok));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
