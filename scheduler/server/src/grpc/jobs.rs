//! `JobService`: submits jobs and follows them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use trainyard_proto::convert::job::parse_job_spec;
use trainyard_proto::pb::{self, job_service_server::JobService};
use trainyard_scheduler_core::{EventBody, EventRecord, Filter};
use trainyard_types::job::PRIORITIES;
use trainyard_types::trainer::LogLevel;
use trainyard_types::{JobId, JobSpec, JobState, Time, Violation};

use super::data_check;
use super::job_content::JobContent;
use super::page::{self, Page};
use super::status::{ApiError, JOBS_HINT, not_there};
use super::{Context, about, diagnose, job_groups, queue, translate};
use crate::access::Caller;
use crate::driver::{EventMark, JobView, StateView};
use crate::event_history;

/// Who submits, in the call's metadata.
const USER: &str = "trainyard-user";
const ANONYMOUS: &str = "anonymous";
/// Events read from the store at a time.
const EVENTS: usize = 256;
/// Events that may wait for a slow watcher; then reading them waits.
const WATCH_BACKLOG: usize = 16;
/// Where a page of jobs ends before it is full: clients take messages of 4 MiB unless told otherwise.
const PAGE_BYTES: usize = 3 << 20;

/// The service of jobs.
pub struct Jobs(pub Context);

/// The one job whose id starts with `text`.
pub(super) fn find_job(state: &StateView<'_>, text: &str, caller: &Caller) -> Result<JobId, ApiError> {
    if text.is_empty() {
        return Err(ApiError::field("job_id", "is empty; give a job's id or the start of one"));
    }
    let mut found = state.core.jobs_with_prefix(text).filter(|job| caller.sees(&job.user));
    match (found.next(), found.next()) {
        (Some(job), None) => Ok(job.id),
        (None, _) => Err(not_there(state, "job", text, JOBS_HINT)),
        (Some(_), Some(_)) => {
            let text = format!("is `{text}`, with which several jobs start; write more of it");
            Err(ApiError::field("job_id", text))
        }
    }
}

impl Jobs {
    /// For a change, which only the leader makes, and only a job's owner or an admin may.
    async fn find(&self, text: String, caller: Caller) -> Result<JobId, ApiError> {
        let find = move |state: &mut StateView<'_>| {
            let job = find_job(state, &text, &caller)?;
            let record = state.core.job(job).ok_or_else(|| ApiError::no_job(&job))?;
            caller.may_change([&*record.user])?;
            Ok(job)
        };
        self.0.driver.ask_leader(find).await?
    }

    async fn view(&self, text: String, caller: Caller) -> Result<JobView, ApiError> {
        let view = move |state: &mut StateView<'_>| {
            let job = find_job(state, &text, &caller)?;
            state.job(job).ok_or_else(|| ApiError::no_job(&job))
        };
        self.0.driver.ask(view).await?
    }
}

struct Submission {
    request_id: Option<String>,
    user: String,
    spec: JobSpec,
}

/// Who submits; and whether the name of the request will do.
pub(super) fn parse_caller(metadata: &MetadataMap, request_id: &str, found: &mut Vec<Violation>) -> String {
    if request_id.len() > 128 {
        let text = format!("has {} bytes; use at most 128", request_id.len());
        found.push(Violation::new("request_id", text));
    }
    let user = metadata.get(USER).map_or(Some(ANONYMOUS), |user| user.to_str().ok()).unwrap_or_default();
    if user.is_empty() || user.len() > 128 {
        let text = "use 1 to 128 printable ASCII characters, or leave it out";
        found.push(Violation::new(format!("metadata[{USER}]"), text));
    }
    user.to_owned()
}

/// Who calls, where a name is needed.
///
/// # Errors
/// The name cannot be used.
pub(super) fn user_of(metadata: &MetadataMap) -> Result<String, ApiError> {
    let mut found = Vec::new();
    let user = parse_caller(metadata, "", &mut found);
    if found.is_empty() { Ok(user) } else { Err(ApiError::Invalid(found)) }
}

/// What to train; `None` where that is missing or wrong, which is then among `found`.
pub(super) fn parse_spec(spec: Option<pb::JobSpec>, found: &mut Vec<Violation>) -> Option<JobSpec> {
    let Some(spec) = spec else {
        found.push(Violation::new("spec", "is missing; say what to train"));
        return None;
    };
    let parsed = parse_job_spec(spec);
    parsed.map_err(|violations| found.extend(violations.into_iter().map(|wrong| wrong.under("spec")))).ok()
}

/// Everything that is wrong with a submission, at once.
fn parse_submission(metadata: &MetadataMap, request: pb::SubmitJobRequest) -> Result<Submission, ApiError> {
    let mut found = Vec::new();
    let user = parse_caller(metadata, &request.request_id, &mut found);
    let spec = parse_spec(request.spec, &mut found);
    match spec {
        Some(spec) if found.is_empty() => {
            let request_id = Some(request.request_id).filter(|id| !id.is_empty());
            Ok(Submission { request_id, user, spec })
        }
        _ => Err(ApiError::Invalid(found)),
    }
}

struct ListQuery {
    page: Page,
    filter: Filter,
    /// As it was written; looked up when the list is made.
    sweep: String,
}

fn parse_list(request: pb::ListJobsRequest) -> Result<ListQuery, ApiError> {
    let mut found = Vec::new();
    let mut states = BTreeSet::new();
    for (at, &number) in request.states.iter().enumerate() {
        let state = pb::JobState::try_from(number).ok().and_then(|state| JobState::try_from(state).ok());
        match state {
            Some(state) => drop(states.insert(state)),
            None => {
                let known = JobState::ALL.map(JobState::name).join(", ");
                found.push(Violation::new(
                    format!("states[{at}]"),
                    format!("is {number}; use one of {known}"),
                ));
            }
        }
    }
    let labels: BTreeMap<String, String> = request.labels.into_iter().collect();
    let (user, name_prefix, sweep) = (request.user, request.name_prefix, request.sweep_id);
    let filters = format!("jobs {states:?} {user:?} {labels:?} {name_prefix:?} {sweep:?}");
    match Page::parse(request.page_size, &request.page_token, &filters) {
        Ok(page) if found.is_empty() => {
            let filter = Filter { states, user, name_prefix, labels, group: None };
            Ok(ListQuery { page, filter, sweep })
        }
        page => {
            found.extend(page.err().into_iter().flatten());
            Err(ApiError::Invalid(found))
        }
    }
}

/// A page of jobs, the newest first.
fn list(state: &StateView<'_>, query: ListQuery, caller: &Caller) -> Result<pb::ListJobsResponse, ApiError> {
    use prost::Message as _;
    let ListQuery { page, mut filter, sweep } = query;
    if let Some(own) = caller.sees_only() {
        if !filter.user.is_empty() && filter.user != own {
            return Ok(pb::ListJobsResponse::default());
        }
        filter.user = own.to_owned();
    }
    if !sweep.is_empty() {
        filter.group = Some(job_groups::find_sweep(state, &sweep, caller)?.id);
    }
    let before = page.after.as_deref().map(uuid::Uuid::from_slice).transpose();
    let before = before.map_err(|_| ApiError::field("page_token", page::NO_TOKEN))?.map(JobId);
    let listed = state.core.list(&filter, before, page.size);
    let (mut jobs, mut bytes) = (Vec::new(), 0);
    for id in &listed.jobs {
        jobs.extend(state.job(*id).map(|view| translate::job(view, caller)));
        bytes += jobs.last().map_or(0, pb::Job::encoded_len);
        if bytes >= PAGE_BYTES && Some(id) != listed.jobs.last() {
            return Ok(pb::ListJobsResponse { jobs, next_page_token: page.token(id.0.as_bytes()) });
        }
    }
    let next_page_token = listed.next.map(|next| page.token(next.0.as_bytes())).unwrap_or_default();
    Ok(pb::ListJobsResponse { jobs, next_page_token })
}

/// One who watches a job.
struct Watcher {
    context: Context,
    caller: Caller,
    job: JobId,
    /// Of the last event that was sent.
    cursor: u64,
    history_only: bool,
    marks: watch::Receiver<EventMark>,
    /// Follows from the job's record and is not stored.
    first: EventRecord,
    events: mpsc::Sender<Result<pb::JobEvent, Status>>,
}

impl Watcher {
    /// Sends events until the job is over, the client is gone, or the scheduler ends.
    async fn run(mut self) {
        let closing = self.context.closing.clone();
        let events = self.events.clone();
        let end = tokio::select! {
            end = self.follow() => end,
            () = events.closed() => return,
            () = closing.cancelled() => Err(ApiError::SHUTTING_DOWN),
        };
        if let Err(error) = end {
            // The client may be gone by now.
            let _ = events.send(Err(error.into())).await;
        }
    }

    /// Says so where events up to a cursor are lost: Redis was damaged, or the disk was full for very long.
    async fn tell_gap(&mut self, upto: u64, time: Time) {
        let first = self.cursor + 1;
        if upto < first {
            return;
        }
        self.cursor = upto;
        let message = format!("events {first} to {upto} of this job are lost");
        let body = EventBody::Log { level: LogLevel::Warning, message };
        let gap = EventRecord { cursor: upto, time, attempt: 0, body };
        // Whoever is gone is found out with the next event.
        self.tell(gap).await;
    }

    /// Sends an event; `false` when the client is gone.
    async fn tell(&self, event: EventRecord) -> bool {
        self.events.send(Ok(translate::event(event, self.job, &self.caller))).await.is_ok()
    }

    async fn follow(&mut self) -> Result<(), ApiError> {
        if self.cursor < self.first.cursor {
            self.cursor = self.first.cursor;
            if !self.tell(self.first.clone()).await {
                return Ok(());
            }
        }
        loop {
            let mark = *self.marks.borrow_and_update();
            while self.cursor < mark.last_cursor {
                let Context { store, blobs, .. } = &self.context;
                let events = event_history::after(&**store, blobs, self.job, self.cursor, EVENTS).await;
                let events = events.map_err(|cause| ApiError::history(self.job, cause))?;
                if events.is_empty() {
                    self.tell_gap(mark.last_cursor, self.first.time).await;
                }
                for event in events {
                    self.tell_gap(event.cursor - 1, event.time).await;
                    self.cursor = event.cursor;
                    if !self.tell(event).await {
                        return Ok(());
                    }
                }
            }
            if mark.is_final || self.history_only {
                return Ok(());
            }
            self.marks.changed().await.map_err(|_| ApiError::STORE_AWAY)?;
        }
    }
}

#[tonic::async_trait]
impl JobService for Jobs {
    async fn submit_job(
        &self,
        request: Request<pb::SubmitJobRequest>,
    ) -> Result<Response<pb::SubmitJobResponse>, Status> {
        let caller = Caller::of(&request);
        let (metadata, _, request) = request.into_parts();
        let validate_only = request.validate_only;
        let Submission { request_id, user, mut spec } = parse_submission(&metadata, request)?;
        let mut content = JobContent::new(&self.0, caller.clone(), &user);
        content.resolve(&mut spec, "spec").await?;
        let looking =
            data_check::Submission::new(&self.0, &metadata, request_id.as_deref().unwrap_or_default());
        let warnings = looking.check(&spec).await?;
        if validate_only {
            // The spec as it was understood, defaults and all.
            let job = pb::Job { spec: Some((&spec).into()), user: user.clone(), ..Default::default() };
            let plan = move |state: &mut StateView<'_>| queue::plan(state, &user, spec);
            // A standby does not know what is free.
            let plan = self.0.driver.ask_leader(plan).await.ok();
            let answer = pb::SubmitJobResponse { job: Some(job), warnings, plan, ..Default::default() };
            return Ok(Response::new(answer));
        }
        let view = self.0.driver.submit(request_id, user.clone(), spec).await.map_err(ApiError::from)?;
        drop(content);
        let job_id = view.record.id.to_string();
        let job = Some(translate::job(view, &caller));
        let answer = pb::SubmitJobResponse { job_id: job_id.clone(), job, warnings, plan: None };
        Ok(about(answer, job_id))
    }

    async fn submit_jobs(
        &self,
        request: Request<Streaming<pb::SubmitJobsRequest>>,
    ) -> Result<Response<pb::SubmitJobsResponse>, Status> {
        job_groups::submit_jobs(&self.0, request).await.map(Response::new)
    }

    async fn submit_sweep(
        &self,
        request: Request<pb::SubmitSweepRequest>,
    ) -> Result<Response<pb::SubmitSweepResponse>, Status> {
        Ok(Response::new(job_groups::submit_sweep(&self.0, request).await?))
    }

    async fn get_sweep(&self, request: Request<pb::GetSweepRequest>) -> Result<Response<pb::Sweep>, Status> {
        let caller = Caller::of(&request);
        Ok(Response::new(job_groups::get_sweep(&self.0, request.into_inner().sweep_id, caller).await?))
    }

    async fn cancel_sweep(
        &self,
        request: Request<pb::CancelSweepRequest>,
    ) -> Result<Response<pb::Sweep>, Status> {
        let caller = Caller::of(&request);
        let sweep = job_groups::cancel_sweep(&self.0, request.into_inner().sweep_id, caller).await?;
        let target = format!("sweep {}", sweep.id);
        Ok(about(sweep, target))
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::Job>, Status> {
        let caller = Caller::of(&request);
        let view = self.view(request.into_inner().job_id, caller.clone()).await?;
        Ok(Response::new(translate::job(view, &caller)))
    }

    async fn list_jobs(
        &self,
        request: Request<pb::ListJobsRequest>,
    ) -> Result<Response<pb::ListJobsResponse>, Status> {
        let caller = Caller::of(&request);
        let query = parse_list(request.into_inner())?;
        let page = self.0.driver.ask(move |state| list(state, query, &caller)).await;
        let page = page.map_err(ApiError::from)??;
        Ok(Response::new(page))
    }

    async fn cancel_job(&self, request: Request<pb::CancelJobRequest>) -> Result<Response<pb::Job>, Status> {
        let caller = Caller::of(&request);
        let job = self.find(request.into_inner().job_id, caller.clone()).await?;
        let view = self.0.driver.cancel(job).await.map_err(ApiError::from)?;
        Ok(about(translate::job(view, &caller), job.to_string()))
    }

    async fn retry_job(&self, request: Request<pb::RetryJobRequest>) -> Result<Response<pb::Job>, Status> {
        let caller = Caller::of(&request);
        let metadata = request.metadata().clone();
        let job = self.find(request.into_inner().job_id, caller.clone()).await?;
        let question = move |state: &mut StateView<'_>| {
            state
                .core
                .job(job)
                .map(|record| (record.user.to_string(), Arc::unwrap_or_clone(record.full_spec())))
        };
        let found = self.0.driver.ask_leader(question).await.map_err(ApiError::from)?;
        let (user, mut spec) = found.ok_or_else(|| ApiError::no_job(&job))?;
        // What it was submitted with may have been removed since.
        let mut content = JobContent::new(&self.0, caller.clone(), &user);
        content.resolve(&mut spec, "spec").await?;
        let looking = data_check::Submission::new(&self.0, &metadata, "");
        let warnings = looking.check(&spec).await?;
        let view = self.0.driver.retry(job).await.map_err(ApiError::from)?;
        drop(content);
        let answer = pb::Job { warnings, ..translate::job(view, &caller) };
        Ok(about(answer, job.to_string()))
    }

    async fn diagnose_job(
        &self,
        request: Request<pb::DiagnoseJobRequest>,
    ) -> Result<Response<pb::Diagnosis>, Status> {
        let caller = Caller::of(&request);
        Ok(Response::new(diagnose::diagnose_job(&self.0, request.into_inner().job_id, caller).await?))
    }

    async fn set_job_priority(
        &self,
        request: Request<pb::SetJobPriorityRequest>,
    ) -> Result<Response<pb::Job>, Status> {
        let caller = Caller::of(&request);
        let pb::SetJobPriorityRequest { job_id, priority } = request.into_inner();
        if !PRIORITIES.contains(&priority) {
            let text = format!("is {priority}; use {} to {}", PRIORITIES.start(), PRIORITIES.end());
            return Err(ApiError::field("priority", text).into());
        }
        let job = self.find(job_id, caller.clone()).await?;
        let view = self.0.driver.set_priority(job, priority).await.map_err(ApiError::from)?;
        Ok(about(translate::job(view, &caller), job.to_string()))
    }

    async fn list_user_shares(
        &self,
        request: Request<pb::ListUserSharesRequest>,
    ) -> Result<Response<pb::ListUserSharesResponse>, Status> {
        let caller = Caller::of(&request);
        let shares = move |state: &mut StateView<'_>| queue::shares(state, &caller);
        Ok(Response::new(self.0.driver.ask_leader(shares).await.map_err(ApiError::from)?))
    }

    type WatchJobStream = ReceiverStream<Result<pb::JobEvent, Status>>;

    async fn watch_job(
        &self,
        request: Request<pb::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let caller = Caller::of(&request);
        let (_, stream) = watch(&self.0, caller, request.into_inner()).await?;
        Ok(Response::new(stream))
    }
}

/// Follows a job, whose whole id comes with its events.
pub(super) async fn watch(
    context: &Context,
    caller: Caller,
    request: pb::WatchJobRequest,
) -> Result<(JobId, ReceiverStream<Result<pb::JobEvent, Status>>), ApiError> {
    let pb::WatchJobRequest { job_id, cursor, history_only } = request;
    let seer = caller.clone();
    let subscribe = move |state: &mut StateView<'_>| {
        let job = find_job(state, &job_id, &seer)?;
        let first = state.core.job(job).map(|record| record.first_event());
        let watched = first.zip(state.watch(job)).map(|(first, marks)| (job, first, marks));
        watched.ok_or_else(|| ApiError::no_job(&job))
    };
    let (job, first, marks) = context.driver.ask(subscribe).await??;
    let (events, stream) = mpsc::channel(WATCH_BACKLOG);
    let context = context.clone();
    let tasks = context.tasks.clone();
    let watcher = Watcher { context, caller, job, cursor, history_only, marks, first, events };
    tasks.spawn(watcher.run());
    Ok((job, ReceiverStream::new(stream)))
}
