//! Many jobs in one call: `SubmitJobs`, and sweeps.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Message as _;
use serde_json::{Map, Value};
use tonic::{Request, Status, Streaming};
use trainyard_proto::convert::job::{parse_job_spec, timestamp};
use trainyard_proto::pb;
use trainyard_scheduler_core::{Axis, Content, JobGroupRecord, SWEEP_LABEL, Sweep};
use trainyard_types::{JobGroupId, JobId, JobSpec, ModelScale, TrainPatch, Violation};

use super::Context;
use super::data_check;
use super::job_content::JobContent;
use super::jobs::{parse_caller, parse_spec};
use super::status::{ApiError, not_there};
use crate::access::Caller;
use crate::driver::StateView;

/// Violations that one answer names; behind them, the user has a pattern to go by.
const MOST_VIOLATIONS: usize = 100;
/// Bytes of all specs of a call together; they are kept in memory, and become one value of the store.
const MOST_BYTES: usize = 64 << 20;
/// Jobs of a sweep that one commit cancels.
const CANCEL_AT_ONCE: usize = 500;

/// The specs of a call, part by part.
#[derive(Default)]
struct Specs {
    specs: Vec<Arc<JobSpec>>,
    bytes: usize,
    found: Vec<Violation>,
}

impl Specs {
    fn take(&mut self, specs: Vec<pb::JobSpec>) -> Result<(), ApiError> {
        for spec in specs {
            let at = self.specs.len();
            if at >= JobGroupId::MAX_JOBS as usize {
                let text = format!("has more than {} jobs; make several calls", JobGroupId::MAX_JOBS);
                return Err(ApiError::field("specs", text));
            }
            self.bytes += spec.encoded_len();
            if self.bytes > MOST_BYTES {
                let text = format!("have more than {} MiB; make several calls", MOST_BYTES >> 20);
                return Err(ApiError::field("specs", text));
            }
            match parse_job_spec(spec) {
                // Equal neighbours are kept once.
                Ok(spec) => match self.specs.last() {
                    Some(last) if **last == spec => self.specs.push(Arc::clone(last)),
                    Some(_) | None => self.specs.push(Arc::new(spec)),
                },
                Err(violations) => {
                    let under = |violation: Violation| violation.under(&format!("specs[{at}]"));
                    self.found.extend(violations.into_iter().map(under));
                    if self.found.len() >= MOST_VIOLATIONS {
                        self.found.truncate(MOST_VIOLATIONS);
                        return Err(ApiError::Invalid(std::mem::take(&mut self.found)));
                    }
                    // It keeps its place, so that the next ones are named by theirs.
                    let placeholder =
                        JobSpec::new(trainyard_types::TrainSpec::new(trainyard_types::ModelScale::N, "/"));
                    self.specs.push(Arc::new(placeholder));
                }
            }
        }
        Ok(())
    }
}

/// Queues all jobs of a call, or none.
///
/// # Errors
/// Everything that is wrong with the specs; what the core refuses.
pub async fn submit_jobs(
    context: &Context,
    request: Request<Streaming<pb::SubmitJobsRequest>>,
) -> Result<pb::SubmitJobsResponse, Status> {
    let caller = Caller::of(&request);
    let (metadata, _, mut parts) = request.into_parts();
    let mut specs = Specs::default();
    let mut head: Option<(String, bool)> = None;
    while let Some(part) = parts.message().await? {
        head.get_or_insert((part.request_id, part.validate_only));
        specs.take(part.specs)?;
    }
    let (request_id, validate_only) = head.unwrap_or_default();
    let Specs { mut specs, mut found, .. } = specs;
    let user = parse_caller(&metadata, &request_id, &mut found);
    if specs.is_empty() {
        found.push(Violation::new("specs", "is empty; give at least one job"));
    }
    if !found.is_empty() {
        return Err(ApiError::Invalid(found).into());
    }
    let mut content = JobContent::new(context, caller, &user);
    resolve_all(&mut content, &mut specs).await?;
    let warnings = data_check::Submission::new(context, &metadata, &request_id).check_all(&specs).await?;
    if validate_only {
        return Ok(pb::SubmitJobsResponse { warnings, ..Default::default() });
    }
    let request_id = Some(request_id).filter(|id| !id.is_empty());
    let first = context.driver.submit_group(request_id, user.clone(), Content::Specs(specs)).await;
    drop(content);
    let first = first.map_err(ApiError::from)?;
    let member = first.record.group.ok_or(ApiError::Internal)?;
    let job_ids = member.group.ids().map(|id| id.to_string()).collect();
    Ok(pb::SubmitJobsResponse { job_ids, warnings })
}

/// Writes exact versions of data sets and weights into specs that name some.
async fn resolve_all(content: &mut JobContent<'_>, specs: &mut [Arc<JobSpec>]) -> Result<(), ApiError> {
    // Equal neighbours stay one.
    let mut last: Option<(Arc<JobSpec>, Arc<JobSpec>)> = None;
    for (at, spec) in specs.iter_mut().enumerate().filter(|(_, spec)| JobContent::concerns(spec)) {
        let before = match &last {
            Some((before, after)) if Arc::ptr_eq(before, spec) => {
                *spec = Arc::clone(after);
                continue;
            }
            _ => Arc::clone(spec),
        };
        let mut resolved = JobSpec::clone(spec);
        content.resolve(&mut resolved, &format!("specs[{at}]")).await?;
        *spec = Arc::new(resolved);
        last = Some((before, Arc::clone(spec)));
    }
    Ok(())
}

/// The same for a sweep's spec, and for the values of its axes.
async fn resolve_sweep(content: &mut JobContent<'_>, sweep: &mut Sweep) -> Result<(), ApiError> {
    let weights = sweep.spec.train.pretrained.clone();
    content.resolve_names(&mut sweep.spec, "spec").await?;
    let patches = || sweep.axes.iter().flat_map(|axis| &axis.values).map(|(_, patch)| patch);
    let mut models: Vec<ModelScale> = patches().filter_map(|patch| patch.model).collect();
    if models.is_empty() {
        models.push(sweep.spec.train.model);
    }
    if patches().all(|patch| patch.pretrained.is_none()) {
        for model in &models {
            content.check_model(&weights, *model, "spec.train.pretrained").await?;
        }
    }
    for (at, axis) in sweep.axes.iter_mut().enumerate() {
        for (number, (_, patch)) in axis.values.iter_mut().enumerate() {
            let field = format!("axes[{at}].values[{number}]");
            if let Some(path) = &patch.data {
                patch.data = Some(content.data(path, &field).await?.unwrap_or_else(|| path.clone()));
            }
            if let Some(path) = &patch.pretrained {
                let exact = content.weights(path, &field).await?.unwrap_or_else(|| path.clone());
                for model in &models {
                    content.check_model(path, *model, &field).await?;
                }
                patch.pretrained = Some(exact);
            }
        }
    }
    Ok(())
}

/// Queues every combination of a sweep's parameters.
///
/// # Errors
/// Everything that is wrong with the spec or the axes; what the core refuses.
pub async fn submit_sweep(
    context: &Context,
    request: Request<pb::SubmitSweepRequest>,
) -> Result<pb::SubmitSweepResponse, ApiError> {
    let caller = Caller::of(&request);
    let (metadata, _, request) = request.into_parts();
    let pb::SubmitSweepRequest { request_id, spec, axes, validate_only } = request;
    let mut found = Vec::new();
    let user = parse_caller(&metadata, &request_id, &mut found);
    let spec = parse_spec(spec, &mut found);
    let axes = parse_axes(axes, spec.as_ref(), &mut found);
    let mut sweep = match spec {
        Some(spec) if found.is_empty() => Sweep { spec, axes },
        _ => return Err(ApiError::Invalid(found)),
    };
    let Some(jobs) = sweep.jobs() else {
        let text = format!("has more than {} combinations; make several sweeps", JobGroupId::MAX_JOBS);
        return Err(ApiError::field("axes", text));
    };
    let mut content = JobContent::new(context, caller, &user);
    resolve_sweep(&mut content, &mut sweep).await?;
    let warnings = data_check::Submission::new(context, &metadata, &request_id).check_sweep(&sweep).await?;
    if validate_only {
        return Ok(pb::SubmitSweepResponse { sweep_id: String::new(), jobs, warnings });
    }
    let request_id = Some(request_id).filter(|id| !id.is_empty());
    let first = context.driver.submit_group(request_id, user.clone(), Content::Sweep(sweep)).await?;
    drop(content);
    let member = first.record.group.ok_or(ApiError::Internal)?;
    Ok(pb::SubmitSweepResponse { sweep_id: member.group.id.to_string(), jobs: member.group.len(), warnings })
}

/// Every value by itself must be right on the spec; then so is every combination, since no rule is about
/// two fields.
fn parse_axes(axes: Vec<pb::SweepAxis>, spec: Option<&JobSpec>, found: &mut Vec<Violation>) -> Vec<Axis> {
    let mut seen = BTreeSet::new();
    if axes.is_empty() {
        found.push(Violation::new("axes", "is empty; give a parameter with its values, or use SubmitJob"));
    }
    // Each makes a label, and the sweep's id another.
    if spec.is_some_and(|spec| spec.labels.len() + axes.len() >= 64) {
        let text = "has too many parameters; together with the labels at most 63 will do";
        found.push(Violation::new("axes", text));
    }
    let mut parsed = Vec::new();
    for (at, pb::SweepAxis { parameter, values }) in axes.into_iter().enumerate() {
        let field = format!("axes[{at}]");
        if parameter == SWEEP_LABEL || !seen.insert(parameter.clone()) {
            let text = format!("is `{parameter}`, which another axis or label is called; name each once");
            found.push(Violation::new(format!("{field}.parameter"), text));
        }
        if values.is_empty() {
            found.push(Violation::new(format!("{field}.values"), "is empty; give at least one value"));
        }
        let mut patches = Vec::with_capacity(values.len());
        for (number, text) in values.into_iter().enumerate() {
            match parse_value(&parameter, &text, spec) {
                Ok(patch) => patches.push((text, patch)),
                Err(cause) if found.len() < MOST_VIOLATIONS => {
                    found.push(Violation::new(format!("{field}.values[{number}]"), cause));
                }
                Err(_) => {}
            }
        }
        parsed.push(Axis { parameter, values: patches });
    }
    parsed
}

fn parse_value(parameter: &str, text: &str, spec: Option<&JobSpec>) -> Result<TrainPatch, String> {
    if text.len() > 255 {
        return Err(format!("has {} bytes; use at most 255", text.len()));
    }
    let literal = serde_json::from_str(text).ok().filter(|value: &Value| !value.is_null());
    let patch = |value: Value| {
        serde_json::from_value::<TrainPatch>(Value::Object(Map::from_iter([(parameter.to_owned(), value)])))
    };
    // A path or a model may look like a number.
    let patch =
        patch(literal.unwrap_or_else(|| text.into())).or_else(|first| patch(text.into()).map_err(|_| first));
    let patch = patch.map_err(|cause| format!("is `{text}`: {cause}"))?;
    let Some(spec) = spec else { return Ok(patch) };
    let mut train = spec.train.clone();
    patch.apply(&mut train);
    match train.violations().first() {
        Some(violation) => Err(format!("is `{text}`: {violation}")),
        None => Ok(patch),
    }
}

/// The one sweep whose id starts with `text`.
///
/// # Errors
/// There is none, or several.
pub(super) fn find_sweep(
    state: &StateView<'_>,
    text: &str,
    caller: &Caller,
) -> Result<Arc<JobGroupRecord>, ApiError> {
    if text.is_empty() {
        return Err(ApiError::field("sweep_id", "is empty; give a sweep's id or the start of one"));
    }
    let mut found =
        state.core.groups_with_prefix(text).filter(|group| group.is_sweep() && caller.sees(&group.user));
    match (found.next(), found.next()) {
        (Some(group), None) => Ok(Arc::clone(group)),
        (None, _) => Err(not_there(state, "sweep", text, "`yard jobs` shows the sweep of each job")),
        (Some(_), Some(_)) => {
            let text = format!("is `{text}`, with which several sweeps start; write more of it");
            Err(ApiError::field("sweep_id", text))
        }
    }
}

fn view(state: &StateView<'_>, group: &JobGroupRecord) -> pb::Sweep {
    let Content::Sweep(sweep) = &group.content else { return pb::Sweep::default() };
    let axis = |axis: &Axis| pb::SweepAxis {
        parameter: axis.parameter.clone(),
        values: axis.values.iter().map(|(text, _)| text.clone()).collect(),
    };
    let count = |(state, jobs)| pb::JobCount { state: pb::JobState::from(state).into(), jobs };
    pb::Sweep {
        id: group.id.to_string(),
        spec: Some((&sweep.spec).into()),
        axes: sweep.axes.iter().map(axis).collect(),
        user: group.user.to_string(),
        create_time: Some(timestamp(group.created)),
        counts: state.core.group_states(group).into_iter().map(count).collect(),
    }
}

/// A sweep as it stands.
///
/// # Errors
/// There is no such sweep.
pub async fn get_sweep(context: &Context, text: String, caller: Caller) -> Result<pb::Sweep, ApiError> {
    let look =
        move |state: &mut StateView<'_>| find_sweep(state, &text, &caller).map(|group| view(state, &group));
    context.driver.ask(look).await?
}

/// Ends a sweep's jobs, some at a time, so that others are served in between. Whoever is told that it is
/// done can rely on it; whoever is not, asks again.
///
/// # Errors
/// There is no such sweep, or it belongs to somebody else.
pub async fn cancel_sweep(context: &Context, text: String, caller: Caller) -> Result<pb::Sweep, ApiError> {
    let look = move |state: &mut StateView<'_>| {
        let group = find_sweep(state, &text, &caller)?;
        caller.may_change([&*group.user])?;
        Ok::<_, ApiError>(group)
    };
    let group = context.driver.ask_leader(look).await??;
    let ids: Vec<JobId> = group.ids().collect();
    for some in ids.chunks(CANCEL_AT_ONCE) {
        let wanted = some.to_vec();
        let open = move |state: &mut StateView<'_>| {
            let is_open = |id: &JobId| state.core.job(*id).is_some_and(|job| !job.state.is_final());
            wanted.into_iter().filter(is_open).collect::<Vec<_>>()
        };
        let open = context.driver.ask_leader(open).await?;
        if !open.is_empty() {
            context.driver.cancel_many(open).await?;
        }
    }
    context.driver.ask_leader(move |state| Ok(view(state, &group))).await?
}
