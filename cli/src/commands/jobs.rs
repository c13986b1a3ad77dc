//! `yard jobs`: the list.

use clap::{Args, ValueEnum};
use serde_json::json;
use trainyard_proto::pb;

use crate::commands::Context;
use crate::failure::Failure;
use crate::proto_json::to_json;
use crate::values::{labels_by_key, parse_label};
use crate::{render, terminal};

/// How many jobs one call asks for.
const PAGE: usize = 500;

/// List jobs, newest first.
#[derive(Debug, Args)]
pub struct Jobs {
    /// Only jobs in this state; repeat for more than one
    #[arg(long, value_enum, ignore_case = true)]
    state: Vec<State>,
    /// Only this user's jobs
    #[arg(long)]
    user: Option<String>,
    /// Only jobs with this label; repeat for jobs with all of them
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Only jobs whose name begins like this
    #[arg(long, value_name = "PREFIX")]
    name: Option<String>,
    /// Only jobs of this sweep
    #[arg(long, value_name = "ID")]
    sweep: Option<String>,
    /// How many jobs at most; 0 lists all
    #[arg(short = 'n', long, default_value_t = 50)]
    limit: usize,
}

/// States to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    Queued,
    Starting,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl From<State> for pb::JobState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Starting => Self::Starting,
            State::Running => Self::Running,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
        }
    }
}

impl Jobs {
    /// Asks page by page until there is enough.
    ///
    /// # Errors
    /// The scheduler cannot be reached or refuses.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let wanted = if self.limit == 0 { usize::MAX } else { self.limit };
        let states: Vec<i32> = self.state.iter().map(|&state| pb::JobState::from(state).into()).collect();
        let labels = labels_by_key(&self.label)?;
        let mut jobs: Vec<pb::Job> = Vec::new();
        let mut page_token = String::new();
        let more = loop {
            let request = pb::ListJobsRequest {
                page_size: i32::try_from(PAGE.min(wanted - jobs.len())).unwrap_or(i32::MAX),
                page_token: page_token.clone(),
                states: states.clone(),
                user: self.user.clone().unwrap_or_default(),
                labels: labels.clone(),
                name_prefix: self.name.clone().unwrap_or_default(),
                sweep_id: self.sweep.clone().unwrap_or_default(),
            };
            let call = || async { context.client.jobs().list_jobs(request.clone()).await };
            let answer = context.client.of_leader(call).await?;
            jobs.extend(answer.jobs);
            page_token = answer.next_page_token;
            if page_token.is_empty() || jobs.len() >= wanted {
                break !page_token.is_empty() || jobs.len() > wanted;
            }
        };
        jobs.truncate(wanted);
        if context.output.for_people() {
            if jobs.is_empty() {
                terminal::message("no jobs; `yard train DATA.yaml` queues one");
                return Ok(());
            }
            context.output.line(&render::job::list(context.output, &jobs, &render::now()))?;
            if more {
                terminal::message(&format!("there are more; `--limit 0` lists all, not {wanted}"));
            }
            return Ok(());
        }
        let jobs: Vec<_> = jobs.iter().map(|job| to_json("Job", job)).collect();
        context.output.list(&json!({ "jobs": jobs }), "jobs")
    }
}
