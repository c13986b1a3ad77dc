//! Errors as callers see them: a canonical code, one sentence, and `google.rpc` details. The one place.

mod header_room;

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{FieldViolation, StatusExt as _};
use tracing::{error, warn};
use trainyard_proto::convert::agent::InvalidMessage;
use trainyard_scheduler_core::Refusal;
use trainyard_types::{AgentId, AttemptId, JobId, Violation};

use crate::access::NotOwner;
use crate::blobs::{BlobError, UploadError};
use crate::driver::{RequestError, StateView, Unavailable};
use crate::event_history::HistoryError;
use crate::objects::is_full;
use crate::refusal::details;
use crate::store::StoreError;

/// When to try again; the store usually comes back within a second.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// When to try again after a standby's answer, should the leader that it names be gone.
const LEADER_DELAY: Duration = Duration::from_millis(250);

/// Why a call was not done.
#[derive(Debug)]
pub enum ApiError {
    /// The request is wrong; every field that is.
    Invalid(Vec<Violation>),
    /// No training would begin on the data sets that were named; where that is said, and what is wrong with them.
    UnusableData {
        violations: Vec<Violation>,
        /// How many errors there are, those that the violations do not name included.
        errors: u64,
    },
    /// There is no such thing.
    NotFound {
        /// `job`, `agent` or `artifact`.
        kind: &'static str,
        /// As it was asked for.
        name: String,
        hint: &'static str,
    },
    /// The core refused the request.
    Refused(Refusal),
    /// An agent acts for an attempt that is not its own any more.
    NotHeld {
        /// The attempt that was named.
        attempt: AttemptId,
    },
    /// An offset behind the end.
    OffsetTooLarge { offset: u64, size_bytes: u64 },
    /// There is no such version of a data set or of weights.
    NoVersion { reference: String, text: String },
    /// A version cannot be removed now.
    InUse { reference: String, text: String },
    /// The name of a data set or of weights is somebody else's.
    NameTaken { name: String, owner: String, text: String },
    /// A user has as many data sets and weights as are allowed.
    DataQuota(String),
    /// Others push just now, or the user does.
    TooManyPushes,
    /// A stored content or manifest is damaged.
    DataLoss(String),
    /// The disk of data sets is full.
    DataDiskFull,
    /// The disk of blobs is full.
    DiskFull {
        /// The job whose blob does not fit.
        job: JobId,
    },
    /// What a job has left is not in the store of blobs any more: somebody has removed it there.
    Removed { job: JobId, name: String },
    /// The same of a file of a version.
    ContentMissing(String),
    /// Something of ours broke; the cause is in the log.
    Internal,
    /// The store is away, or the scheduler is shutting down.
    Unavailable(&'static str),
    /// Another scheduler leads.
    NotLeader { leader: String },
    /// What was to be changed belongs to somebody else.
    NotOwner(NotOwner),
    /// The caller's role does not suffice.
    RoleRequired { needs: &'static str },
    /// Nobody is asked who they are, so there are no tokens.
    OpenCluster,
    /// A connection in plaintext.
    TlsRequired {
        /// The agent or connection that speaks plaintext.
        who: String,
    },
    /// No more agents may join with the token.
    TokenUsedUp,
    /// The agent has joined before.
    AgentHasJoined { id: AgentId, name: String },
}

/// Where jobs are looked up.
pub(super) const JOBS_HINT: &str = "`yard jobs` lists what there is";

impl ApiError {
    /// One bad field.
    pub fn field(field: &str, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, description)])
    }

    /// A job that is not there.
    pub fn no_job(id: &(impl ToString + ?Sized)) -> Self {
        Self::NotFound { kind: "job", name: id.to_string(), hint: JOBS_HINT }
    }

    /// The scheduler ends.
    pub const SHUTTING_DOWN: Self = Self::Unavailable("the scheduler is shutting down; connect again");
    /// The driver dropped what was asked.
    pub const DISK_FULL: Self = Self::Unavailable(
        "the scheduler's store is not available, since the disk under it is full: an admin has to make room there, then \
         it goes on by itself",
    );
    pub const STORE_AWAY: Self = Self::Unavailable("the scheduler's store is not available; try again");
}

/// What is not there, or not yet: a standby's view is a moment old, so that it leaves that to the leader.
pub(super) fn not_there(
    state: &StateView<'_>,
    kind: &'static str,
    name: &str,
    hint: &'static str,
) -> ApiError {
    match state.elsewhere {
        Some(leader) => ApiError::NotLeader { leader: leader.to_owned() },
        None => ApiError::NotFound { kind, name: name.to_owned(), hint },
    }
}

impl From<Unavailable> for ApiError {
    fn from(unavailable: Unavailable) -> Self {
        match unavailable {
            Unavailable { leader: Some(leader), .. } => Self::NotLeader { leader: leader.to_string() },
            Unavailable { disk_full: true, .. } => Self::DISK_FULL,
            Unavailable { .. } => Self::STORE_AWAY,
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(Refusal::UnknownJob(job)) => Self::no_job(&job),
            RequestError::Refused(refusal) => Self::Refused(refusal),
            RequestError::Unavailable(unavailable) => unavailable.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    /// Reading a history failed.
    fn from(cause: StoreError) -> Self {
        warn!(%cause, "the store did not give what a call asked for");
        Self::STORE_AWAY
    }
}

impl From<NotOwner> for ApiError {
    fn from(refused: NotOwner) -> Self {
        Self::NotOwner(refused)
    }
}

impl From<InvalidMessage> for ApiError {
    fn from(InvalidMessage(violations): InvalidMessage) -> Self {
        Self::Invalid(violations)
    }
}

impl ApiError {
    /// An upload that came to nothing.
    pub fn upload(job: JobId, error: UploadError) -> Self {
        match error {
            UploadError::Size { .. } => Self::field("header.artifact.size_bytes", error.to_string()),
            UploadError::Hash { .. } => Self::field("header.artifact.sha256", error.to_string()),
            UploadError::Store(cause) => Self::disk(job, &cause),
        }
    }

    /// A job's events cannot be read.
    pub fn history(job: JobId, error: HistoryError) -> Self {
        match error {
            HistoryError::Store(cause) => cause.into(),
            HistoryError::Disk(cause) => Self::disk(job, &cause),
            HistoryError::Encode(cause) => Self::disk(job, &cause),
        }
    }

    /// The store of data sets and weights fails.
    pub fn objects(cause: &object_store::Error) -> Self {
        error!(%cause, "the store of data sets and weights cannot be read or written");
        if is_full(cause) {
            return Self::DataDiskFull;
        }
        Self::Unavailable("the store of data sets is not available; try again, its log has the cause")
    }

    /// A job's artifact cannot be read.
    pub fn artifact(job: JobId, name: &str, cause: &BlobError) -> Self {
        if !matches!(cause, BlobError::NotFound { .. }) {
            return Self::disk(job, cause);
        }
        warn!(%job, artifact = name, "an artifact is not in the store of blobs any more");
        Self::Removed { job, name: name.to_owned() }
    }

    /// A disk error under a job's blobs.
    pub fn disk(job: JobId, cause: &(dyn std::error::Error + 'static)) -> Self {
        error!(%job, %cause, "blob cannot be read or written");
        if is_full(cause) { Self::DiskFull { job } } else { Self::Internal }
    }
}

fn invalid(violations: Vec<Violation>) -> Status {
    let violations = header_room::violations(violations);
    let sentences: Vec<String> = violations.iter().map(ToString::to_string).collect();
    let text = match sentences.as_slice() {
        [only] => only.clone(),
        several => format!("{} fields are wrong: {}", several.len(), several.join("; ")),
    };
    let fields =
        violations.into_iter().map(|violation| FieldViolation::new(violation.field, violation.description));
    let mut details = details("INVALID_FIELDS", []);
    details.set_bad_request(fields.collect::<Vec<_>>());
    Status::with_error_details(Code::InvalidArgument, text, details)
}

fn unusable_data(violations: Vec<Violation>, errors: u64) -> Status {
    // The answer must fit into headers: errors are told once.
    let text = match violations.as_slice() {
        [only] => format!("the data set cannot be trained on: {only}"),
        _ => format!("the data set cannot be trained on, for {errors} reasons"),
    };
    let fields =
        violations.into_iter().map(|violation| FieldViolation::new(violation.field, violation.description));
    let mut details = details("DATA_NOT_USABLE", []);
    details.set_bad_request(fields.collect::<Vec<_>>());
    Status::with_error_details(Code::InvalidArgument, text, details)
}

fn refused(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::UnknownJob(job) => ApiError::no_job(job).into(),
        Refusal::RequestIdReused { request_id, job } => {
            let metadata = [("request_id", request_id.clone()), ("job", job.to_string())];
            let mut details = details("REQUEST_ID_REUSED", metadata);
            details.set_resource_info("job", format!("jobs/{job}"), "", text.as_str());
            Status::with_error_details(Code::AlreadyExists, text, details)
        }
        Refusal::RequestIdTaken { request_id } => {
            let details = details("REQUEST_ID_REUSED", [("request_id", request_id.clone())]);
            Status::with_error_details(Code::AlreadyExists, text, details)
        }
        Refusal::QueueFull { user, queued, limit, .. } => {
            let metadata = [
                ("user", user.clone()),
                ("limit", "queued_jobs".to_owned()),
                ("queued", queued.to_string()),
                ("allowed", limit.to_string()),
            ];
            let mut details = details("QUEUED_JOBS_EXCEEDED", metadata);
            details.add_quota_failure_violation(format!("users/{user}"), text.as_str());
            details.set_retry_info(Some(RETRY_DELAY * 60));
            Status::with_error_details(Code::ResourceExhausted, text, details)
        }
        Refusal::UnknownAgent(agent) => {
            let hint = "`yard agents` lists what there is";
            ApiError::NotFound { kind: "agent", name: agent.to_string(), hint }.into()
        }
        Refusal::UnknownGpu { .. } => ApiError::field("gpu", text).into(),
        Refusal::AgentIdInUse { id, name } => {
            let metadata = [("agent_id", id.to_string()), ("agent", name.clone())];
            let mut details = details("AGENT_ID_IN_USE", metadata);
            details.set_resource_info("agent", format!("agents/{id}"), "", text.as_str());
            Status::with_error_details(Code::AlreadyExists, text, details)
        }
        Refusal::AgentAway { agent } => {
            // Trying again does not help: somebody has to start it.
            let mut details = details("AGENT_NOT_CONNECTED", [("agent", agent.clone())]);
            let subject = format!("agents/{agent}");
            details.add_precondition_failure_violation("CONNECTED", subject, text.as_str());
            Status::with_error_details(Code::FailedPrecondition, text, details)
        }
        Refusal::NotQueued { job, state } => {
            let mut details =
                details("JOB_NOT_QUEUED", [("job", job.to_string()), ("state", state.to_string())]);
            details.add_precondition_failure_violation("STATE", format!("jobs/{job}"), text.as_str());
            Status::with_error_details(Code::FailedPrecondition, text, details)
        }
        Refusal::NotRetryable { job, state } => {
            let mut details =
                details("JOB_NOT_RETRYABLE", [("job", job.to_string()), ("state", state.to_string())]);
            details.add_precondition_failure_violation("STATE", format!("jobs/{job}"), text.as_str());
            Status::with_error_details(Code::FailedPrecondition, text, details)
        }
    }
}

/// Refusals that have to do with who calls.
fn access_refused(error: &ApiError) -> Option<Status> {
    Some(match error {
        ApiError::NotOwner(NotOwner { caller, owner }) => {
            let text = if owner.is_empty() {
                format!("this has no owner, and you are `{caller}`; ask an admin")
            } else {
                format!("this belongs to `{owner}`, and you are `{caller}`; ask its owner or an admin")
            };
            let metadata = [("caller", caller.clone()), ("owner", owner.clone())];
            Status::with_error_details(Code::PermissionDenied, text, details("NOT_OWNER", metadata))
        }
        ApiError::RoleRequired { needs } => {
            let text = format!("this needs the role {needs}");
            let details = details("ROLE_REQUIRED", [("needs", (*needs).to_owned())]);
            Status::with_error_details(Code::PermissionDenied, text, details)
        }
        ApiError::OpenCluster => {
            let text = "this scheduler asks nobody who they are, so it has no tokens; listen beyond loopback, or \
                        set `security` to `on`";
            let mut details = details("OPEN_CLUSTER", []);
            details.add_precondition_failure_violation("SECURITY", "security", text);
            Status::with_error_details(Code::FailedPrecondition, text, details)
        }
        ApiError::TlsRequired { who } => {
            let text = format!(
                "{who} speaks plaintext, and this scheduler takes encrypted connections alone; people run `yard \
                 login ADDRESS`, machines `trainyard-agent join ADDRESS`, each with a token"
            );
            let mut details = details("TLS_REQUIRED", []);
            details.add_precondition_failure_violation("TLS", "connection", text.as_str());
            Status::with_error_details(Code::FailedPrecondition, text, details)
        }
        ApiError::TokenUsedUp => {
            let text =
                "no more agents may join with this token; ask an admin for `yard token create --agents`";
            Status::with_error_details(Code::PermissionDenied, text, details("TOKEN_USED_UP", []))
        }
        ApiError::AgentHasJoined { id, name } => {
            let text = format!(
                "agent {id} (`{name}`) has joined before; if its certificate is lost, an admin runs `yard agents \
                 forget {id}` first"
            );
            let metadata = [("agent_id", id.to_string()), ("agent", name.clone())];
            let mut details = details("AGENT_HAS_JOINED", metadata);
            details.set_resource_info("agent", format!("agents/{id}"), "", text.as_str());
            Status::with_error_details(Code::AlreadyExists, text, details)
        }
        _ => return None,
    })
}

/// Refusals that have to do with data sets and weights.
fn content_refused(error: &ApiError) -> Option<Status> {
    Some(match error {
        ApiError::NoVersion { reference, text } => {
            let mut details = details("DATASET_NOT_FOUND", [("dataset", reference.clone())]);
            details.set_resource_info("dataset", format!("datasets/{reference}"), "", text.as_str());
            Status::with_error_details(Code::NotFound, text.as_str(), details)
        }
        ApiError::InUse { reference, text } => {
            let mut details = details("DATASET_IN_USE", [("dataset", reference.clone())]);
            let subject = format!("datasets/{reference}");
            details.add_precondition_failure_violation("UNUSED", subject, text.as_str());
            Status::with_error_details(Code::FailedPrecondition, text.as_str(), details)
        }
        ApiError::NameTaken { name, owner, text } => {
            let metadata = [("name", name.clone()), ("owner", owner.clone())];
            Status::with_error_details(Code::PermissionDenied, text.as_str(), details("NAME_TAKEN", metadata))
        }
        ApiError::DataQuota(text) => {
            let mut details = details("DATA_QUOTA_EXCEEDED", []);
            details.add_quota_failure_violation("data_quota_gib", text.as_str());
            Status::with_error_details(Code::ResourceExhausted, text.as_str(), details)
        }
        ApiError::TooManyPushes => {
            let text = "too many pushes are under way; try again in a moment";
            let mut details = details("TOO_MANY_PUSHES", []);
            details.set_retry_info(Some(RETRY_DELAY));
            Status::with_error_details(Code::Unavailable, text, details)
        }
        ApiError::ContentMissing(text) => {
            Status::with_error_details(Code::DataLoss, text.as_str(), details("CONTENT_MISSING", []))
        }
        ApiError::DataLoss(text) => {
            Status::with_error_details(Code::DataLoss, text.as_str(), details("DATA_LOSS", []))
        }
        ApiError::DataDiskFull => {
            let text = "the scheduler's disk of data sets is full; remove some with `yard data rm`, or make room in \
                        `blob_dir`, and push again: it goes on where it was";
            let mut details = details("DATA_DISK_FULL", []);
            details.add_quota_failure_violation("blob_dir", text);
            Status::with_error_details(Code::ResourceExhausted, text, details)
        }
        _ => return None,
    })
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let told = access_refused(&error).or_else(|| content_refused(&error));
        header_room::fit(told.unwrap_or_else(|| refusal_of(error)))
    }
}

/// All other refusals.
fn refusal_of(error: ApiError) -> Status {
    match error {
        // The ones before.
        ApiError::NotOwner(_)
        | ApiError::RoleRequired { .. }
        | ApiError::OpenCluster
        | ApiError::TlsRequired { .. }
        | ApiError::TokenUsedUp
        | ApiError::AgentHasJoined { .. }
        | ApiError::NoVersion { .. }
        | ApiError::InUse { .. }
        | ApiError::NameTaken { .. }
        | ApiError::DataQuota(_)
        | ApiError::TooManyPushes
        | ApiError::DataLoss(_)
        | ApiError::ContentMissing(_)
        | ApiError::DataDiskFull => ApiError::Internal.into(),
        ApiError::Invalid(violations) => invalid(violations),
        ApiError::UnusableData { violations, errors } => unusable_data(violations, errors),
        ApiError::Refused(refusal) => refused(&refusal),
        ApiError::NotFound { kind, name, hint } => {
            let text = format!("there is no {kind} `{name}`; {hint}");
            let reason = format!("{}_NOT_FOUND", kind.to_uppercase());
            let mut details = details(&reason, [(kind, name.clone())]);
            details.set_resource_info(kind, format!("{kind}s/{name}"), "", text.as_str());
            Status::with_error_details(Code::NotFound, text, details)
        }
        ApiError::Removed { job, name } => {
            let text = format!("`{name}` of job {job} was removed from the store");
            let metadata = [("job", job.to_string()), ("artifact", name.clone())];
            let mut details = details("ARTIFACT_REMOVED", metadata);
            details.set_resource_info("artifact", format!("jobs/{job}/{name}"), "", text.as_str());
            Status::with_error_details(Code::NotFound, text, details)
        }
        ApiError::NotHeld { attempt } => {
            let text = format!("attempt {attempt} is not held by this session any more; drop it");
            let mut details = details("ATTEMPT_NOT_HELD", [("attempt", attempt.to_string())]);
            let subject = format!("attempts/{attempt}");
            details.add_precondition_failure_violation("HOLDER", subject, text.as_str());
            Status::with_error_details(Code::FailedPrecondition, text, details)
        }
        ApiError::OffsetTooLarge { offset, size_bytes } => {
            let text = format!("offset: is {offset}; there are {size_bytes} bytes");
            let metadata = [("offset", offset.to_string()), ("size_bytes", size_bytes.to_string())];
            Status::with_error_details(Code::OutOfRange, text, details("OFFSET_TOO_LARGE", metadata))
        }
        ApiError::DiskFull { job } => {
            let text = "the scheduler's disk of blobs is full; make room in `blob_dir` and try again";
            let mut details = details("BLOB_DISK_FULL", [("job", job.to_string())]);
            details.add_quota_failure_violation("blob_dir", text).set_retry_info(Some(RETRY_DELAY * 30));
            Status::with_error_details(Code::ResourceExhausted, text, details)
        }
        ApiError::Internal => {
            let text = "the scheduler met an error of its own; its log has the cause";
            Status::with_error_details(Code::Internal, text, details("INTERNAL", []))
        }
        ApiError::NotLeader { leader } => {
            let text = format!("this scheduler stands by; ask the leader at {leader}");
            let mut details = details("NOT_LEADER", [("leader", leader)]);
            details.set_retry_info(Some(LEADER_DELAY));
            Status::with_error_details(Code::Unavailable, text, details)
        }
        ApiError::Unavailable(text) => {
            let mut details = details("UNAVAILABLE", []);
            details.set_retry_info(Some(RETRY_DELAY));
            Status::with_error_details(Code::Unavailable, text, details)
        }
    }
}
