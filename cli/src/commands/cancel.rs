//! `yard cancel`: ends jobs.

use clap::Args;
use serde_json::json;
use trainyard_proto::pb;

use crate::commands::Context;
use crate::failure::Failure;
use crate::proto_json::to_json;
use crate::render::job::is_final;
use crate::terminal;

/// End jobs
///
/// A job that has ended already stays as it is.
#[derive(Debug, Args)]
pub struct Cancel {
    /// The jobs' ids, or the beginnings of them
    #[arg(required_unless_present = "sweep", value_name = "ID")]
    ids: Vec<String>,
    /// All jobs of a sweep, by its id or the beginning of it
    #[arg(long, value_name = "ID", conflicts_with = "ids")]
    sweep: Option<String>,
}

impl Cancel {
    /// Asks for each job in turn, the rest too when one cannot be cancelled.
    ///
    /// # Errors
    /// The first failure, after all were tried.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(sweep_id) = self.sweep {
            let request = pb::CancelSweepRequest { sweep_id };
            let call = || async { context.client.jobs().cancel_sweep(request.clone()).await };
            return super::sweep::show(context, &context.client.retrying(call).await?);
        }
        let mut jobs = Vec::new();
        let (mut first, mut told) = (None, Ok(()));
        for id in &self.ids {
            match cancel(context, id).await {
                Ok(job) => {
                    if context.output.for_people() {
                        // The others are cancelled whoever reads of it.
                        told = told.and(context.output.line(&sentence(&job)));
                    }
                    jobs.push(to_json("Job", &job));
                }
                Err(failure) => {
                    // All but the first are said here; the first is the command's result.
                    if let Some(earlier) = first.replace(failure) {
                        terminal::message(&earlier.render(false));
                    }
                }
            }
        }
        let told = told.and(context.output.list(&json!({ "jobs": jobs }), "jobs"));
        first.map_or(told, Err)
    }
}

async fn cancel(context: &Context, id: &str) -> Result<pb::Job, Failure> {
    let request = pb::CancelJobRequest { job_id: context.client.job_id(id).await? };
    context.client.retrying(|| async { context.client.jobs().cancel_job(request.clone()).await }).await
}

fn sentence(job: &pb::Job) -> String {
    match job.state() {
        pb::JobState::Cancelled => format!("{} cancelled", job.id),
        state if is_final(state) => format!("{} had ended already: {}", job.id, state.as_str_name()),
        _ => format!("{} is being stopped", job.id),
    }
}
