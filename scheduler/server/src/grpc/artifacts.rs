//! `ArtifactService`: what jobs leave behind.

use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use trainyard_proto::convert::agent::parse_attempt;
use trainyard_proto::pb::upload_artifact_request::Part;
use trainyard_proto::pb::{self, artifact_service_server::ArtifactService};
use trainyard_scheduler_core::{Core, JobRecord};
use trainyard_types::{AgentId, Artifact, AttemptId, JobId, Session, Violation};

use super::Context;
use super::jobs::find_job;
use super::page::Page;
use super::status::ApiError;
use crate::access::Caller;
use crate::blobs::{BlobError, BlobStream, Upload};
use crate::driver::StateView;

/// Bytes of one message of a download.
const CHUNK: usize = 256 << 10;
/// Messages of a download that may wait for a slow reader.
const BACKLOG: usize = 4;

/// The service of artifacts and checkpoints.
pub struct Artifacts(pub Context);

fn list(record: &JobRecord, page: &Page) -> pb::ListArtifactsResponse {
    let live = record.pictures.iter().map(|picture| (picture, true));
    let handed_in = record.artifacts.iter().map(|artifact| (artifact, false));
    let mut artifacts: Vec<(&Artifact, bool)> = handed_in.chain(live).collect();
    artifacts.sort();
    artifacts.retain(|(artifact, _)| {
        page.after.as_ref().is_none_or(|after| artifact.name.as_bytes() > after.as_slice())
    });
    let next_page_token = match artifacts.get(page.size.saturating_sub(1)) {
        Some((last, _)) if artifacts.len() > page.size => page.token(last.name.as_bytes()),
        _ => String::new(),
    };
    let shown = artifacts.into_iter().take(page.size);
    let artifacts = shown.map(|(artifact, live)| pb::Artifact { live, ..artifact.into() }).collect();
    pb::ListArtifactsResponse { artifacts, next_page_token }
}

/// A job's artifact by name, or any blob that its record names by hash.
fn find(record: &JobRecord, name: &str, sha256: &str) -> Result<Artifact, ApiError> {
    let checkpoint = record.checkpoint.iter().flat_map(|checkpoint| &checkpoint.files);
    let mut shown = record.artifacts.iter().chain(&record.pictures);
    let found = if sha256.is_empty() {
        shown.find(|artifact| artifact.name == name)
    } else {
        shown.chain(checkpoint).find(|artifact| artifact.sha256 == sha256)
    };
    let hint = "`yard artifacts` lists what there is";
    let name = if sha256.is_empty() { name } else { sha256 };
    found.cloned().ok_or_else(|| ApiError::NotFound { kind: "artifact", name: name.to_owned(), hint })
}

/// A blob's bytes from an offset on. Whoever is slow to read slows only this down.
async fn send_blob(
    mut blob: BlobStream,
    mut offset: u64,
    size_bytes: u64,
    messages: mpsc::Sender<Result<pb::DownloadArtifactResponse, Status>>,
    refusal: impl Fn(&BlobError) -> ApiError,
) {
    // The first message tells the size, even of nothing.
    let mut is_first = true;
    while is_first || offset < size_bytes {
        let mut bytes = match blob.next().await.transpose() {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(cause) => {
                // The reader may be gone.
                let _ = messages.send(Err(refusal(&cause).into())).await;
                return;
            }
        };
        let is_last = bytes.is_empty();
        while is_first || !bytes.is_empty() {
            is_first = false;
            let data = bytes.split_to(CHUNK.min(bytes.len()));
            let count = data.len() as u64;
            let message = pb::DownloadArtifactResponse { offset, data: data.into(), size_bytes };
            offset += count;
            if messages.send(Ok(message)).await.is_err() {
                return;
            }
        }
        if is_last {
            return;
        }
    }
}

struct Header {
    attempt: AttemptId,
    session: Session,
    artifact: Artifact,
}

fn parse_header(header: pb::UploadHeader) -> Result<Header, ApiError> {
    let under = |violation: Violation| violation.under("header");
    let mut found = Vec::new();
    let attempt = parse_attempt(&header.attempt);
    let artifact = header.artifact.map(Artifact::try_from);
    found.extend(attempt.as_ref().err().into_iter().flat_map(|invalid| invalid.0.clone()).map(under));
    match &artifact {
        Some(Err(invalid)) => {
            found.extend(invalid.0.iter().cloned().map(|violation| under(violation.under("artifact"))));
        }
        None => found.push(under(Violation::new("artifact", "is missing"))),
        Some(Ok(_)) => {}
    }
    match (attempt, artifact) {
        (Ok(attempt), Some(Ok(artifact))) => {
            Ok(Header { attempt, session: Session(header.session), artifact })
        }
        _ => Err(ApiError::Invalid(found)),
    }
}

/// Whether the attempt still goes on, at the agent that this session is of, which is the caller.
fn holds(core: &Core, id: AttemptId, session: Session, caller: &Caller) -> bool {
    let live = core.job(id.job).and_then(JobRecord::live_attempt).filter(|attempt| attempt.id == id);
    let live = live.filter(|attempt| is_for(attempt.agent, caller));
    let agent = live.and_then(|attempt| core.agent(attempt.agent));
    agent.is_some_and(|agent| agent.session == Some(session))
}

/// Whether what belongs to an agent belongs to the caller, as far as callers are known.
fn is_for(agent: AgentId, caller: &Caller) -> bool {
    match caller {
        Caller::Agent(id) => *id == agent,
        Caller::Anybody | Caller::Person { .. } => true,
        Caller::Unknown | Caller::Joining(_) => false,
    }
}

/// A job whose artifacts the caller may have: an agent, those of jobs that it is to go on with.
fn find_readable(state: &StateView<'_>, text: &str, caller: &Caller) -> Result<JobId, ApiError> {
    let job = find_job(state, text, caller)?;
    let live = state.core.job(job).and_then(JobRecord::live_attempt);
    match caller {
        Caller::Agent(_) if !live.is_some_and(|attempt| is_for(attempt.agent, caller)) => {
            Err(ApiError::no_job(&job))
        }
        _ => Ok(job),
    }
}

async fn receive_parts(
    upload: &mut Upload,
    job: JobId,
    parts: &mut Streaming<pb::UploadArtifactRequest>,
) -> Result<(), Status> {
    while let Some(part) = parts.message().await? {
        match part.part {
            Some(Part::Data(bytes)) => {
                upload.write(bytes.into()).await.map_err(|error| ApiError::upload(job, error))?;
            }
            Some(Part::Header(_)) => {
                return Err(ApiError::field("header", "came twice; open another upload").into());
            }
            None => {}
        }
    }
    Ok(())
}

impl Artifacts {
    async fn receive(
        &self,
        header: Header,
        caller: Caller,
        parts: &mut Streaming<pb::UploadArtifactRequest>,
    ) -> Result<pb::UploadArtifactResponse, Status> {
        let Header { attempt, session, artifact } = header;
        let allowed =
            self.0.driver.ask_leader(move |state| holds(state.core, attempt, session, &caller)).await;
        if !allowed.map_err(ApiError::from)? {
            return Err(ApiError::NotHeld { attempt }.into());
        }
        let job = attempt.job;
        if self.0.blobs.contains(job, &artifact).await {
            return Ok(pb::UploadArtifactResponse { existed: true });
        }
        let disk = |cause: BlobError| ApiError::disk(job, &cause);
        let mut upload = self.0.blobs.upload(job, artifact).await.map_err(disk)?;
        if let Err(status) = receive_parts(&mut upload, job, parts).await {
            upload.abandon().await;
            return Err(status);
        }
        upload.finish().await.map_err(|error| ApiError::upload(job, error))?;
        Ok(pb::UploadArtifactResponse { existed: false })
    }
}

#[tonic::async_trait]
impl ArtifactService for Artifacts {
    async fn list_artifacts(
        &self,
        request: Request<pb::ListArtifactsRequest>,
    ) -> Result<Response<pb::ListArtifactsResponse>, Status> {
        let caller = Caller::of(&request);
        let pb::ListArtifactsRequest { job_id, page_size, page_token } = request.into_inner();
        let filters = format!("artifacts of {job_id}");
        let page = Page::parse(page_size, &page_token, &filters).map_err(ApiError::Invalid)?;
        let question = move |state: &mut StateView<'_>| {
            let job = find_job(state, &job_id, &caller)?;
            state.core.job(job).map(|record| list(record, &page)).ok_or_else(|| ApiError::no_job(&job))
        };
        Ok(Response::new(self.0.driver.ask(question).await.map_err(ApiError::from)??))
    }

    type DownloadArtifactStream = ReceiverStream<Result<pb::DownloadArtifactResponse, Status>>;

    async fn download_artifact(
        &self,
        request: Request<pb::DownloadArtifactRequest>,
    ) -> Result<Response<Self::DownloadArtifactStream>, Status> {
        let caller = Caller::of(&request);
        let pb::DownloadArtifactRequest { job_id, name, offset, sha256 } = request.into_inner();
        if name.is_empty() == sha256.is_empty() {
            return Err(ApiError::field("name", "give either `name` or `sha256`").into());
        }
        let question = move |state: &mut StateView<'_>| {
            let job = find_readable(state, &job_id, &caller)?;
            let record = state.core.job(job).ok_or_else(|| ApiError::no_job(&job))?;
            find(record, &name, &sha256).map(|artifact| (job, artifact))
        };
        let (job, artifact) = self.0.driver.ask(question).await.map_err(ApiError::from)??;
        if offset > artifact.size_bytes {
            return Err(ApiError::OffsetTooLarge { offset, size_bytes: artifact.size_bytes }.into());
        }
        let size_bytes = artifact.size_bytes;
        let (messages, stream) = mpsc::channel(BACKLOG);
        let blob = self.0.blobs.read(job, &artifact, offset).await;
        let refusal = move |cause: &BlobError| ApiError::artifact(job, &artifact.name, cause);
        let blob = blob.map_err(|cause| refusal(&cause))?;
        self.0.tasks.spawn(send_blob(blob, offset, size_bytes, messages, refusal));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn upload_artifact(
        &self,
        request: Request<Streaming<pb::UploadArtifactRequest>>,
    ) -> Result<Response<pb::UploadArtifactResponse>, Status> {
        let caller = Caller::of(&request);
        let mut parts = request.into_inner();
        let header = match parts.message().await?.and_then(|first| first.part) {
            Some(Part::Header(header)) => parse_header(header)?,
            _ => return Err(ApiError::field("header", "the first message must be one").into()),
        };
        Ok(Response::new(self.receive(header, caller, &mut parts).await?))
    }
}
