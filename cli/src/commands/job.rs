//! `yard job`: everything about one.

use clap::Args;

use crate::commands::Context;
use crate::failure::Failure;
use crate::proto_json::to_json;
use crate::render;

/// Show everything about a job.
#[derive(Debug, Args)]
pub struct ShowJob {
    /// The job's id, or the beginning of it
    id: String,
    /// Why it waits, why it runs where it does and what else was considered, instead
    #[arg(long)]
    why: bool,
}

impl ShowJob {
    /// Prints the job.
    ///
    /// # Errors
    /// There is no such job, or the scheduler cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let job = context.client.job(&self.id).await?;
        if context.output.for_people() && self.why {
            return context.output.line(&render::why::explanation(context.output, &job));
        }
        if context.output.for_people() {
            return context.output.line(&render::job::details(context.output, &job, &render::now()));
        }
        context.output.document(&to_json("Job", &job))
    }
}
