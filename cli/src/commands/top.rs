//! `yard top`: GPUs and jobs, again and again.

use std::io::Write as _;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use trainyard_proto::pb;

use super::agents;
use crate::commands::Context;
use crate::failure::Failure;
use crate::proto_json::to_json;
use crate::render;

const PERIOD: Duration = Duration::from_secs(1);
/// How many jobs are shown.
const JOBS: i32 = 50;
/// Home, and later: clear what is left of the last picture.
const HOME: &str = "\x1b[H";
const CLEAR_REST: &str = "\x1b[J";
const CLEAR_ALL: &str = "\x1b[2J";

/// Show GPUs and jobs, once a second on a terminal, otherwise once
#[derive(Debug, Args)]
pub struct Top {
    /// Print once, on a terminal too
    #[arg(long)]
    once: bool,
}

impl Top {
    /// Prints until interrupted.
    ///
    /// # Errors
    /// The scheduler cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let output = context.output;
        if !output.for_people() {
            let (agents, jobs) = ask(context).await?;
            let gpus = agents::gpus_of(&agents);
            let gpus: Vec<_> = gpus.iter().map(agents::gpu_json).collect();
            let jobs: Vec<_> = jobs.iter().map(|job| to_json("Job", job)).collect();
            return output.document(&json!({ "gpus": gpus, "jobs": jobs }));
        }
        if self.once || !output.on_terminal() {
            return output.line(&picture(context).await?);
        }
        let draw = |text: &str| -> Result<(), Failure> {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(text.as_bytes())?;
            Ok(stdout.flush()?)
        };
        draw(CLEAR_ALL)?;
        loop {
            // What stood to the right of a line that is shorter now goes.
            let lines = picture(context).await?.replace('\n', "\x1b[K\n");
            draw(&format!("{HOME}{lines}\x1b[K\n{CLEAR_REST}"))?;
            tokio::time::sleep(PERIOD).await;
        }
    }
}

async fn ask(context: &Context) -> Result<(Vec<pb::Agent>, Vec<pb::Job>), Failure> {
    let agents = agents::list_agents(&context.client).await?;
    let states = [pb::JobState::Running, pb::JobState::Starting, pb::JobState::Queued];
    let states = states.into_iter().map(Into::into).collect();
    let request = pb::ListJobsRequest { states, page_size: JOBS, ..Default::default() };
    let call = || async { context.client.jobs().list_jobs(request.clone()).await };
    let mut jobs = context.client.retrying(call).await?.jobs;
    // What runs stands above what waits.
    jobs.sort_by_key(|job| (job.state() == pb::JobState::Queued, job.queue_position));
    Ok((agents, jobs))
}

async fn picture(context: &Context) -> Result<String, Failure> {
    let (agents, jobs) = ask(context).await?;
    let now = render::now();
    let gpus = agents::gpus_of(&agents);
    let connected = agents.iter().filter(|agent| agent.state() == pb::AgentState::Connected).count();
    let count = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let counts = [count(connected, "connected agent"), count(gpus.len(), "GPU"), count(jobs.len(), "job")];
    let mut parts = vec![format!("{}  {}", render::time(Some(&now)), counts.join(", "))];
    if !gpus.is_empty() {
        parts.push(render::cluster::gpus(context.output, &gpus, &now));
    }
    if !jobs.is_empty() {
        parts.push(render::job::list(context.output, &jobs, &now));
    }
    Ok(parts.join("\n\n"))
}
