//! `yard queue`: who waits, in what order, and who has had how much.

use clap::Args;
use serde_json::json;
use trainyard_proto::pb;

use crate::client::all_pages;
use crate::commands::Context;
use crate::failure::Failure;
use crate::proto_json::to_json;
use crate::{render, terminal};

/// Show who waits, in which order, and what each user has had of late
#[derive(Debug, Args)]
pub struct Queue {}

impl Queue {
    /// Prints the queue and the users' shares.
    ///
    /// # Errors
    /// The scheduler cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut jobs = waiting(context).await?;
        jobs.sort_by_key(|job| {
            let start = job.estimated_start_time.as_ref().map(|time| (time.seconds, time.nanos));
            (start.is_none(), start, job.queue_position)
        });
        let call = || async { context.client.jobs().list_user_shares(pb::ListUserSharesRequest {}).await };
        let users = context.client.retrying(call).await?.users;
        if !context.output.for_people() {
            let jobs: Vec<_> = jobs.iter().map(|job| to_json("Job", job)).collect();
            let users: Vec<_> = users.iter().map(|user| to_json("UserShare", user)).collect();
            return context.output.document(&json!({ "jobs": jobs, "users": users }));
        }
        if jobs.is_empty() {
            terminal::message("no job waits");
        } else {
            context.output.line(&render::job::list(context.output, &jobs, &render::now()))?;
        }
        if users.is_empty() {
            return Ok(());
        }
        let gap = if jobs.is_empty() { "" } else { "\n" };
        context.output.line(&format!("{gap}{}", render::queue::shares(context.output, &users)))
    }
}

async fn waiting(context: &Context) -> Result<Vec<pb::Job>, Failure> {
    let states = vec![pb::JobState::Queued.into()];
    all_pages(async |page_token| {
        let states = states.clone();
        let request = pb::ListJobsRequest { states, page_size: 1000, page_token, ..Default::default() };
        let call = || async { context.client.jobs().list_jobs(request.clone()).await };
        let answer = context.client.of_leader(call).await?;
        Ok((answer.jobs, answer.next_page_token))
    })
    .await
}
