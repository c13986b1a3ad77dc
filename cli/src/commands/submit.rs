//! `yard submit`: jobs from a file.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use trainyard_proto::pb;
use trainyard_types::text;

use crate::client::Client;
use crate::commands::Context;
use crate::failure::Failure;
use crate::job_file::{self, Document};
use crate::proto_json::to_json;
use crate::terminal;

/// How many jobs one message carries.
const PART: usize = 1000;

/// Queue the jobs of a file and print their ids
///
/// Nothing is queued if any of them is wrong.
#[derive(Debug, Args)]
pub struct Submit {
    /// YAML or JSON, one job a document; - reads standard input
    #[arg(short, long, value_name = "FILE", required_unless_present = "path")]
    file: Option<PathBuf>,
    /// The same without its flag
    #[arg(value_name = "FILE", conflicts_with = "file", hide = true)]
    path: Option<PathBuf>,
    /// Have the jobs checked, and queue nothing
    #[arg(long)]
    dry_run: bool,
}

impl Submit {
    /// Checks every job, then submits all of them or none.
    ///
    /// # Errors
    /// A wrong document, with every wrong field of all of them; the scheduler cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let file = self.file.or(self.path).unwrap_or_default();
        let name = file.display().to_string();
        let (name, bytes) = if name == "-" {
            ("standard input".to_owned(), read_stdin())
        } else {
            (terminal::clean(&name), std::fs::read(&file))
        };
        let bytes = bytes.map_err(|error| Failure::usage(format!("{name} cannot be read: {error}")))?;
        let text = text::decode(&bytes).map_err(|error| Failure::usage(error.in_file(&name)))?;
        let documents = job_file::parse(&name, &text)?;
        let answers = submit_all(&context.client, &documents, self.dry_run).await;
        let Answers { jobs: answers, warnings } = answers.map_err(|failure| {
            by_document(failure, &JobFile { name: &name, text: &text, documents: &documents })
        })?;
        terminal::warn(&warnings);
        if self.dry_run {
            let jobs = if documents.len() == 1 { "job is" } else { "jobs are" };
            terminal::message(&format!("{} {jobs} valid; nothing was queued", documents.len()));
            return print(context, &[], &warnings);
        }
        if context.output.for_people() {
            for answer in &answers {
                context.output.line(&answer.job_id)?;
            }
        }
        print(context, &answers, &warnings)
    }
}

fn read_stdin() -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The scheduler's answer to a file.
struct Answers {
    jobs: Vec<pb::SubmitJobResponse>,
    /// What a person should know of their data sets.
    warnings: Vec<String>,
}

/// Submits all documents, or none of them: the scheduler checks all before it queues any.
async fn submit_all(
    client: &Client,
    documents: &[Document],
    validate_only: bool,
) -> Result<Answers, Failure> {
    let request_id = draw_request_id();
    if let [only] = documents {
        let answer = submit_job(client, &request_id, only.spec.clone(), validate_only).await?;
        return Ok(Answers { warnings: answer.warnings.clone(), jobs: vec![answer] });
    }
    let part = |documents: &[Document]| pb::SubmitJobsRequest {
        request_id: request_id.clone(),
        specs: documents.iter().map(|document| document.spec.clone()).collect(),
        validate_only,
    };
    let parts: Vec<_> = documents.chunks(PART).map(part).collect();
    let call = || async { client.jobs().submit_jobs(tokio_stream::iter(parts.clone())).await };
    let answer = client.retrying(call).await?;
    let one = |job_id| pb::SubmitJobResponse { job_id, ..Default::default() };
    let pb::SubmitJobsResponse { job_ids, warnings } = answer;
    Ok(Answers { jobs: job_ids.into_iter().map(one).collect(), warnings })
}

fn print(context: &Context, answers: &[pb::SubmitJobResponse], warnings: &[String]) -> Result<(), Failure> {
    let jobs: Vec<_> = answers.iter().map(|answer| to_json("SubmitJobResponse", answer)).collect();
    context.output.list(&json!({ "jobs": jobs, "warnings": warnings }), "jobs")
}

/// A job file that was read.
struct JobFile<'a> {
    name: &'a str,
    text: &'a str,
    documents: &'a [Document],
}

/// Names the documents that the scheduler finds wrong, all of them at once.
fn by_document(failure: Failure, file: &JobFile<'_>) -> Failure {
    let JobFile { name: file, text, documents } = *file;
    if failure.exit != crate::failure::Exit::Usage {
        return failure;
    }
    let lines = if failure.details.is_empty() { vec![failure.message] } else { failure.details };
    let name = |line: String| {
        // The field of many is `specs[0].train`, of one it is `spec.train`.
        let place = line.strip_prefix("specs[").and_then(|rest| rest.split_once(']'));
        let place = place.and_then(|(at, rest)| Some((documents.get(at.parse::<usize>().ok()?)?, rest)));
        let told = |document: &Document, line: &str| {
            let field = line.split(": ").next().unwrap_or_default();
            format!("{}: {line}", document.position(text, field.strip_prefix("spec.").unwrap_or(field)))
        };
        match (place, documents) {
            (Some((document, rest)), _) => told(document, &format!("spec{rest}")),
            (None, [only]) => told(only, &line),
            (None, _) => line,
        }
    };
    Failure::usage(format!("{file}: nothing was submitted, because of this"))
        .details(lines.into_iter().map(name))
        .hint("correct what is named and submit the file again")
}

/// A fresh name for a submission: repeating it under the same name makes no second job.
pub fn draw_request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Submits `spec`; repeats are safe because of `request_id`.
///
/// # Errors
/// The scheduler's answer, or that there is none.
pub async fn submit_job(
    client: &Client,
    request_id: &str,
    spec: pb::JobSpec,
    validate_only: bool,
) -> Result<pb::SubmitJobResponse, Failure> {
    let request = pb::SubmitJobRequest { request_id: request_id.to_owned(), spec: Some(spec), validate_only };
    client.retrying(|| async { client.jobs().submit_job(request.clone()).await }).await
}
