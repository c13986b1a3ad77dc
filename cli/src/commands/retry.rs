//! `yard retry`: another try.

use clap::Args;
use trainyard_proto::pb;

use crate::commands::Context;
use crate::failure::Failure;
use crate::proto_json::to_json;
use crate::terminal;

/// Queue a job that failed or was cancelled again
///
/// It resumes from its newest checkpoint.
#[derive(Debug, Args)]
pub struct Retry {
    /// The job's id, or the beginning of it
    id: String,
}

impl Retry {
    /// Asks once: repeated, the request would be refused, since the job is queued then.
    ///
    /// # Errors
    /// The job has not failed, there is none, no server.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let request = pb::RetryJobRequest { job_id: context.client.job_id(&self.id).await? };
        let call = || async { context.client.jobs().retry_job(request.clone()).await };
        let job = context.client.once(call).await?;
        terminal::warn(&job.warnings);
        if context.output.for_people() {
            context.output.line(&job.id)?;
            terminal::message(&format!("queued again; `yard watch {}` shows the training", job.id));
        }
        context.output.document(&to_json("Job", &job))
    }
}
