//! `yard artifacts`: what a job has left behind.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use trainyard_proto::pb;
use trainyard_types::size::bytes;

use crate::artifact::{self, Fetched};
use crate::client::all_pages;
use crate::commands::Context;
use crate::failure::{Exit, Failure};
use crate::proto_json::to_json;
use crate::render;
use crate::terminal::{self, clean};

/// List or fetch what a job has left behind.
#[derive(Debug, Args)]
pub struct Artifacts {
    /// The job's id, or the beginning of it
    id: String,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Download one artifact, or all
    Get(Get),
}

#[derive(Debug, Args)]
struct Get {
    /// Which one; all when left out, once the job has succeeded
    name: Option<String>,
    /// Where to [default: a folder named by the job's id]
    #[arg(short, long)]
    dir: Option<PathBuf>,
    /// Replace files that are there with other content
    #[arg(long)]
    force: bool,
}

impl Artifacts {
    /// Lists the artifacts, or downloads some.
    ///
    /// # Errors
    /// There is no such job or artifact, a file is in the way, or the scheduler cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let id = context.client.job_id(&self.id).await?;
        let artifacts = list(context, &id).await?;
        match self.action {
            None => show(context, &id, &artifacts).await,
            Some(Action::Get(get)) => get.run(context, &id, artifacts).await,
        }
    }
}

async fn list(context: &Context, id: &str) -> Result<Vec<pb::Artifact>, Failure> {
    all_pages(async |page_token| {
        let request = pb::ListArtifactsRequest { job_id: id.to_owned(), page_size: 1000, page_token };
        let call = || async { context.client.artifacts().list_artifacts(request.clone()).await };
        let answer = context.client.retrying(call).await?;
        Ok((answer.artifacts, answer.next_page_token))
    })
    .await
}

async fn show(context: &Context, id: &str, artifacts: &[pb::Artifact]) -> Result<(), Failure> {
    if !context.output.for_people() {
        let artifacts: Vec<_> = artifacts.iter().map(|one| to_json("Artifact", one)).collect();
        return context.output.list(&json!({ "artifacts": artifacts }), "artifacts");
    }
    if artifacts.is_empty() {
        let state = context.client.job(id).await?.state();
        terminal::message(&format!("no artifacts: the job is {}", state.as_str_name()));
        return Ok(());
    }
    if artifacts.iter().all(|artifact| artifact.live) {
        let state = context.client.job(id).await?.state();
        terminal::message(&format!(
            "the job is {}: these are the pictures that its trainer has drawn",
            state.as_str_name()
        ));
    }
    context.output.line(&render::cluster::artifacts(context.output, artifacts))
}

impl Get {
    async fn run(self, context: &Context, id: &str, artifacts: Vec<pb::Artifact>) -> Result<(), Failure> {
        let wanted: Vec<pb::Artifact> = match &self.name {
            None => artifacts.into_iter().filter(|artifact| !artifact.live).collect(),
            Some(name) => artifacts.into_iter().filter(|artifact| artifact.name == *name).collect(),
        };
        if wanted.is_empty() {
            let what = self.name.as_ref().map_or_else(
                || "the job has no artifacts".to_owned(),
                |name| format!("the job has no artifact `{}`", clean(name)),
            );
            return Err(Failure::new(Exit::Refused, what).hint(format!(
                "`yard artifacts {id}` lists what there is; until a job has succeeded there are pictures, which are \
                 fetched by name"
            )));
        }
        let dir = self.dir.clone().unwrap_or_else(|| PathBuf::from(id));
        let (mut files, mut told) = (Vec::new(), Ok(()));
        for artifact in &wanted {
            let fetched = artifact::fetch(&context.client, id, artifact, &dir, self.force).await?;
            let path = fetched.path().display().to_string();
            if context.output.for_people() {
                // The others are fetched whoever reads of it.
                told = told.and(context.output.line(&path));
            }
            let how = match fetched {
                Fetched::Downloaded(_) => "fetched",
                Fetched::Present(_) => "already there",
            };
            terminal::message(&format!("{}: {how}, {}", clean(&artifact.name), bytes(artifact.size_bytes)));
            files.push(json!({ "name": artifact.name, "path": path, "sha256": artifact.sha256 }));
        }
        told.and(context.output.list(&json!({ "files": files }), "files"))
    }
}
