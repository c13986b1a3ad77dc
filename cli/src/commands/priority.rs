//! `yard priority`: who goes first of those that wait.

use clap::Args;
use trainyard_proto::pb;

use crate::commands::Context;
use crate::failure::Failure;
use crate::proto_json::to_json;
use crate::terminal;

/// Give a job that waits another priority
#[derive(Debug, Args)]
pub struct Priority {
    /// The job's id, or the beginning of it
    id: String,
    /// Higher goes first, -100 to 100
    #[arg(allow_negative_numbers = true)]
    priority: i32,
}

impl Priority {
    /// Asks until there is an answer: repeating is harmless.
    ///
    /// # Errors
    /// The job does not wait, there is none, no server.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let job_id = context.client.job_id(&self.id).await?;
        let request = pb::SetJobPriorityRequest { job_id, priority: self.priority };
        let call = || async { context.client.jobs().set_job_priority(request.clone()).await };
        let job = context.client.retrying(call).await?;
        if context.output.for_people() {
            context.output.line(&job.id)?;
            let place = job.queue_position.map(|position| format!("; it is number {position} of the queue"));
            let place = place.unwrap_or_default();
            terminal::message(&format!("its priority is {}{place}", self.priority));
        }
        context.output.document(&to_json("Job", &job))
    }
}
