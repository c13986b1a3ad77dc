//! `DatasetService`: data sets and weights that the cluster keeps.

mod files;
mod push;
mod summary;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use trainyard_content::Kind;
use trainyard_proto::convert::job::timestamp;
use trainyard_proto::pb::{self, dataset_service_server::DatasetService};
use trainyard_types::{JobId, Reference, Violation};

use super::page::{self, Page};
use super::status::ApiError;
use super::{Context, about};
use crate::access::{Caller, LateTarget};
use crate::content::{Busy, ContentError, Unresolved};
use crate::content_records::VersionRecord;
use crate::driver::StateView;

/// Messages of a stream that may wait for a slow reader.
const BACKLOG: usize = 4;
/// Jobs that a refusal names.
const NAMED_JOBS: usize = 5;

/// The service of data sets and weights.
pub struct Datasets(pub Context);

/// What people call a version of this kind.
pub(super) const fn noun(kind: Kind) -> &'static str {
    match kind {
        Kind::DataSet => "data set",
        Kind::Weights => "weights",
    }
}

const fn hint(kind: Kind) -> &'static str {
    match kind {
        Kind::DataSet => "`yard data list` lists what there is, `yard data push` makes one",
        Kind::Weights => "`yard weights list` lists what there is, `yard weights push` makes some",
    }
}

fn parse_kind(kind: i32) -> Result<Kind, Violation> {
    match pb::DatasetKind::try_from(kind) {
        Ok(pb::DatasetKind::Dataset | pb::DatasetKind::Unspecified) => Ok(Kind::DataSet),
        Ok(pb::DatasetKind::Weights) => Ok(Kind::Weights),
        Err(_) => Err(Violation::new("kind", format!("is {kind}; use DATASET or WEIGHTS"))),
    }
}

/// What a request's kind, name and version mean.
fn parse_reference(kind: i32, name: &str, version: &str) -> Result<(Kind, Reference), ApiError> {
    let mut found = Vec::new();
    let kind = parse_kind(kind).map_err(|wrong| found.push(wrong));
    let text = if version.is_empty() { name.to_owned() } else { format!("{name}@{version}") };
    let reference = text.parse::<Reference>().map_err(|error| {
        let field =
            if matches!(error, trainyard_types::ReferenceError::Version(_)) { "version" } else { "name" };
        found.push(Violation::new(field, error.to_string()));
    });
    match (kind, reference) {
        (Ok(kind), Ok(reference)) => Ok((kind, reference)),
        _ => Err(ApiError::Invalid(found)),
    }
}

/// A version as callers see it.
pub(super) fn shown(version: &VersionRecord, newest: bool) -> pb::Dataset {
    let kind = match version.kind {
        Kind::DataSet => pb::DatasetKind::Dataset,
        Kind::Weights => pb::DatasetKind::Weights,
    };
    pb::Dataset {
        kind: kind.into(),
        name: version.name.clone(),
        version: version.id.to_string(),
        user: version.user.clone(),
        create_time: Some(timestamp(version.created)),
        files: version.files,
        size_bytes: version.size_bytes,
        newest,
        description: version.description.clone(),
    }
}

/// Why a reference leads nowhere, in `field` where it is not what the call is about.
pub(super) fn unresolved(
    kind: Kind,
    reference: &Reference,
    why: Unresolved,
    field: Option<&str>,
) -> ApiError {
    let (noun, are) = (noun(kind), if kind == Kind::Weights { "are" } else { "is" });
    let text = match why {
        Unresolved::NoName(Some(near)) => {
            format!("there {are} no {noun} `{}`; did you mean `{near}`?", reference.name())
        }
        Unresolved::NoName(None) => {
            format!("there {are} no {noun} `{}`; {}", reference.name(), hint(kind))
        }
        Unresolved::NoVersion => {
            format!("`{}` has no version `{}`; {}", reference.name(), reference.version(), hint(kind))
        }
        Unresolved::Ambiguous => {
            let text = format!(
                "is `{}`, with which several versions of `{}` start; write more of it",
                reference.version(),
                reference.name()
            );
            return ApiError::field(field.unwrap_or("version"), text);
        }
    };
    match field {
        Some(field) => ApiError::field(field, format!("is `{reference}`: {text}")),
        None => ApiError::NoVersion { reference: reference.to_string(), text },
    }
}

impl Datasets {
    /// The version that a request means, for its caller.
    async fn find(
        &self,
        caller: &Caller,
        kind: i32,
        name: &str,
        version: &str,
    ) -> Result<Arc<VersionRecord>, ApiError> {
        let (kind, reference) = parse_reference(kind, name, version)?;
        let found = self.0.content.resolve(kind, &reference, |user| caller.sees(user)).await?;
        found.map_err(|why| unresolved(kind, &reference, why, None))
    }

    /// The same for the files of a version: an agent has those that its attempts need.
    async fn find_readable(
        &self,
        caller: &Caller,
        kind: i32,
        name: &str,
        version: &str,
    ) -> Result<Arc<VersionRecord>, ApiError> {
        let found = self.find(caller, kind, name, version).await?;
        if let Caller::Agent(agent) = *caller {
            let wanted = found.reference().to_string();
            let is_needed =
                self.0.driver.ask_leader(move |state| state.core.agent_needs(agent, &wanted)).await?;
            if !is_needed {
                return Err(unresolved(found.kind, &found.reference(), Unresolved::NoName(None), None));
            }
        }
        Ok(found)
    }

    /// Refuses where another scheduler leads: it alone knows where contents lie.
    async fn lead(&self) -> Result<(), ApiError> {
        Ok(self.0.driver.ask_leader(|_: &mut StateView<'_>| ()).await?)
    }

    async fn delete(
        &self,
        caller: &Caller,
        request: &pb::DeleteDatasetRequest,
    ) -> Result<Vec<pb::Dataset>, ApiError> {
        self.lead().await?;
        let (kind, reference) = parse_reference(request.kind, &request.name, &request.version)?;
        let found = self.0.content.all_of(kind, &reference, |user| caller.sees(user)).await?;
        let versions = found.map_err(|why| unresolved(kind, &reference, why, None))?;
        for version in &versions {
            caller.may_change([version.user.as_str()])?;
        }
        let removal = self.0.content.begin_removal(versions).map_err(|busy| {
            let text = match busy {
                Busy::Submission => {
                    format!("`{reference}` is named by a job that is just submitted; try again")
                }
                Busy::Removal => format!("`{reference}` is just being removed"),
            };
            ApiError::InUse { reference: reference.to_string(), text }
        })?;
        let wanted: Vec<String> =
            removal.versions.iter().map(|version| version.reference().to_string()).collect();
        let seer = caller.clone();
        let needing = move |state: &mut StateView<'_>| {
            let jobs = jobs_that_need(state, &wanted);
            let is_seen = |id: &JobId| state.core.job(*id).is_some_and(|job| seer.sees(&job.user));
            let seen = jobs.iter().filter(|id| is_seen(id)).copied().collect::<Vec<_>>();
            (jobs.len(), seen)
        };
        let (count, seen) = self.0.driver.ask_leader(needing).await?;
        if count > 0 {
            let who = needed_by(count, &seen);
            let text = format!("`{reference}` is needed by {who}; cancel them or wait for their end");
            return Err(ApiError::InUse { reference: reference.to_string(), text });
        }
        let gone = removal.versions.iter().map(|version| shown(version, false)).collect();
        self.0.content.remove(removal).await?;
        Ok(gone)
    }
}

/// Jobs that are not over and name one of these versions.
pub fn jobs_that_need(state: &StateView<'_>, wanted: &[String]) -> Vec<JobId> {
    state.core.open_jobs_that_name(wanted).map(|job| job.id).collect()
}

/// Jobs by their ids, some of those that are seen, and how many more there are.
fn needed_by(count: usize, seen: &[JobId]) -> String {
    let mut named: Vec<String> = seen.iter().take(NAMED_JOBS).map(ToString::to_string).collect();
    match (count - named.len(), named.is_empty()) {
        (0, _) => {}
        (1, true) => named.push("a job of somebody else".to_owned()),
        (more, true) => named.push(format!("{more} jobs of others")),
        (more, false) => return format!("{} and {more} more", named.join(", ")),
    }
    named.join(", ")
}

/// A page of versions.
fn list(
    versions: &[(Arc<VersionRecord>, bool)],
    kind: Option<Kind>,
    name: &str,
    page: &Page,
) -> Result<pb::ListDatasetsResponse, ApiError> {
    let wanted = |(version, _): &&(Arc<VersionRecord>, bool)| {
        kind.is_none_or(|kind| kind == version.kind) && (name.is_empty() || name == version.name)
    };
    let after = page.after.as_deref().map(std::str::from_utf8).transpose();
    let after = after.map_err(|_| ApiError::field("page_token", page::NO_TOKEN))?;
    let is_before = |(version, _): &&(Arc<VersionRecord>, bool)| {
        after.is_some_and(|after| place(version).as_str() <= after)
    };
    let mut listed = versions.iter().filter(wanted).skip_while(is_before).peekable();
    let page_of: Vec<_> = listed.by_ref().take(page.size).collect();
    let last = page_of.last().filter(|_| listed.peek().is_some());
    let token = last.map(|(version, _)| page.token(place(version).as_bytes()));
    let datasets = page_of.iter().map(|(version, newest)| shown(version, *newest)).collect();
    Ok(pb::ListDatasetsResponse { datasets, next_page_token: token.unwrap_or_default() })
}

/// Sorts as lists do: by kind and name, the newest first.
fn place(version: &VersionRecord) -> String {
    format!("{}/{}\n{:020}{}", version.kind, version.name, u64::MAX - version.created.0, version.id)
}

impl From<ContentError> for ApiError {
    fn from(error: ContentError) -> Self {
        match error {
            ContentError::Records(cause) => cause.into(),
            ContentError::Objects(cause) => Self::objects(&cause),
            ContentError::Manifest(_) => Self::DataLoss(error.to_string()),
        }
    }
}

#[tonic::async_trait]
impl DatasetService for Datasets {
    type PushDatasetStream = ReceiverStream<Result<pb::PushDatasetResponse, Status>>;

    async fn push_dataset(
        &self,
        request: Request<Streaming<pb::PushDatasetRequest>>,
    ) -> Result<Response<Self::PushDatasetStream>, Status> {
        let caller = Caller::of(&request);
        let user = super::jobs::user_of(request.metadata())?;
        self.lead().await?;
        let (answers, stream) = mpsc::channel(BACKLOG);
        let (target, parts) = (LateTarget::default(), request.into_inner());
        let mut response = Response::new(ReceiverStream::new(stream));
        response.extensions_mut().insert(target.clone());
        let push = push::Push { context: self.0.clone(), caller, user, target, parts, answers };
        self.0.tasks.spawn(push.run());
        Ok(response)
    }

    async fn list_datasets(
        &self,
        request: Request<pb::ListDatasetsRequest>,
    ) -> Result<Response<pb::ListDatasetsResponse>, Status> {
        let caller = Caller::of(&request);
        let pb::ListDatasetsRequest { kind, name, page_size, page_token } = request.into_inner();
        let unspecified = kind == i32::from(pb::DatasetKind::Unspecified);
        let parsed = parse_kind(kind).map_err(|wrong| ApiError::Invalid(vec![wrong]))?;
        let filters = format!("data sets {kind} {name}");
        let page = Page::parse(page_size, &page_token, &filters).map_err(ApiError::Invalid)?;
        let versions = self.0.content.list(|user| caller.sees(user)).await.map_err(ApiError::from)?;
        Ok(Response::new(list(&versions, (!unspecified).then_some(parsed), &name, &page)?))
    }

    async fn get_dataset(
        &self,
        request: Request<pb::GetDatasetRequest>,
    ) -> Result<Response<pb::Dataset>, Status> {
        let caller = Caller::of(&request);
        let pb::GetDatasetRequest { kind, name, version } = request.into_inner();
        let found = self.find(&caller, kind, &name, &version).await?;
        Ok(Response::new(shown(&found, self.0.content.is_newest(&found))))
    }

    async fn get_dataset_summary(
        &self,
        request: Request<pb::GetDatasetRequest>,
    ) -> Result<Response<pb::DatasetSummary>, Status> {
        let caller = Caller::of(&request);
        self.lead().await?;
        let pb::GetDatasetRequest { kind, name, version } = request.into_inner();
        let found = self.find(&caller, kind, &name, &version).await?;
        if found.kind != Kind::DataSet {
            return Err(ApiError::field("kind", "is WEIGHTS; a summary tells of data sets").into());
        }
        let summary = self.0.content.summary(&found).await.map_err(ApiError::from)?;
        Ok(Response::new(summary::shown(summary)))
    }

    async fn delete_dataset(
        &self,
        request: Request<pb::DeleteDatasetRequest>,
    ) -> Result<Response<pb::DeleteDatasetResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let datasets = self.delete(&caller, &request).await?;
        let target = if request.version.is_empty() {
            request.name
        } else {
            format!("{}@{}", request.name, request.version)
        };
        Ok(about(pb::DeleteDatasetResponse { datasets }, target))
    }

    type ListDatasetFilesStream = ReceiverStream<Result<pb::ListDatasetFilesResponse, Status>>;

    async fn list_dataset_files(
        &self,
        request: Request<pb::ListDatasetFilesRequest>,
    ) -> Result<Response<Self::ListDatasetFilesStream>, Status> {
        let caller = Caller::of(&request);
        let pb::ListDatasetFilesRequest { kind, name, version } = request.into_inner();
        let found = self.find_readable(&caller, kind, &name, &version).await?;
        let manifest = self.0.content.manifest(&found).await.map_err(ApiError::from)?;
        let (messages, stream) = mpsc::channel(BACKLOG);
        self.0.tasks.spawn(files::send_list(manifest, messages));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type ReadDatasetStream = ReceiverStream<Result<pb::ReadDatasetResponse, Status>>;

    async fn read_dataset(
        &self,
        request: Request<pb::ReadDatasetRequest>,
    ) -> Result<Response<Self::ReadDatasetStream>, Status> {
        let caller = Caller::of(&request);
        self.lead().await?;
        let pb::ReadDatasetRequest { kind, name, version, ranges, offset, path } = request.into_inner();
        let permit = self.0.content.read_permit(&caller.name());
        let permit =
            permit.ok_or(ApiError::Unavailable("too many reads are under way; try again in a moment"))?;
        let found = self.find_readable(&caller, kind, &name, &version).await?;
        let manifest = self.0.content.manifest(&found).await.map_err(ApiError::from)?;
        let ranges = match path.as_str() {
            "" => files::parse_ranges(&ranges, &manifest)?,
            path => files::of_path(path, &ranges, &manifest)?,
        };
        let size_bytes = files::size_after(&manifest, &ranges, offset)?;
        let (id, content, all) = (found.id, self.0.content.clone(), Arc::clone(&manifest));
        let reader = self.0.content.reader(manifest, ranges, offset).await.map_err(ApiError::from)?;
        let (messages, stream) = mpsc::channel(BACKLOG);
        self.0.tasks.spawn(async move {
            if files::send_contents(reader, offset, size_bytes, messages, permit).await {
                content.find_damage(id, all).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
