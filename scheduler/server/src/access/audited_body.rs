//! The body of a stream that the audit tells of once it has ended: how it ended comes last.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use http_body::Frame;
use tokio::runtime::Handle;
use tonic::{Code, Status};

use super::audit::{Audit, LateTarget};
use crate::access_records::AuditRecord;
use crate::refusal::code_name;

/// Passes a body on, and tells of it at its end.
pub struct AuditedBody {
    body: Body,
    /// The record that is not told yet, and the way to the audit.
    told: Option<(Audit, AuditRecord, LateTarget)>,
}

impl AuditedBody {
    pub fn wrap(body: Body, audit: Audit, record: AuditRecord, target: LateTarget) -> Body {
        Body::new(Self { body, told: Some((audit, record, target)) })
    }

    fn tell(&mut self, code: Code) {
        let Some((audit, mut record, target)) = self.told.take() else { return };
        record.outcome = code_name(code);
        record.target = target.get();
        // Without a runtime the scheduler has ended, and with it the audit.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { audit.tell(record).await });
        }
    }
}

impl HttpBody for AuditedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(status) = frame.trailers_ref().and_then(Status::from_header_map)
        {
            self.tell(status.code());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl Drop for AuditedBody {
    /// Whoever called has gone before the end.
    fn drop(&mut self) {
        self.tell(Code::Cancelled);
    }
}
