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
    over: Option<CancellationToken>,
    /// Waits for it, once there was something to wait for: most bodies are there whole.
    waiting: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// How it then ends; `None` for a request, which just does.
    end: Option<fn() -> Status>,
    /// Given back when the body has ended or nobody wants it.
    _place: Option<OwnedSemaphorePermit>,
}

impl GuardedBody {
    /// The body of a request that ends when `over` is cancelled.
    pub fn request(body: Body, over: CancellationToken) -> Body {
        Body::new(Self { body, over: Some(over), waiting: None, end: None, _place: None })
    }

    /// The body of an answer that then ends with this status, and that holds its caller's place until it ends.
    pub fn answer(
        body: Body,
        over: CancellationToken,
        end: fn() -> Status,
        place: Option<OwnedSemaphorePermit>,
    ) -> Body {
        Body::new(Self { body, over: Some(over), waiting: None, end: Some(end), _place: place })
    }

    /// Whoever makes the answer is told by its end that nobody wants more.
    fn cut(&mut self) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        (self.body, self.over, self.waiting) = (Body::empty(), None, None);
        Poll::Ready(self.end.and_then(|end| trailers(&end())).map(Ok))
    }
}

impl HttpBody for GuardedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over.as_ref().is_some_and(CancellationToken::is_cancelled) {
            return self.cut();
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            return polled;
        }
        let Some(over) = self.over.clone() else { return Poll::Pending };
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(over.cancelled_owned()));
        match waiting.as_mut().poll(context) {
            Poll::Ready(()) => self.cut(),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
