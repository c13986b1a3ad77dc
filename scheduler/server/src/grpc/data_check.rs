//! Submissions whose data sets are paths of machines: an agent looks at them before anything queues.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use trainyard_scheduler_core::{Axis, Sweep};
use trainyard_types::size::counted;
use trainyard_types::text::clean;
use trainyard_types::{DataCheck, JobSpec, TrainPatch, TrainSpec, Violation};

use super::Context;
use super::deadlines::time_left;
use super::status::ApiError;
use crate::data_checks::{Finding, Unchecked};
use crate::driver::StateView;

/// Where a request names the data set of one job.
const SPEC: &str = "spec.train.data";
/// Data sets of one call that are looked at, one after the other.
const MOST_DATA_SETS: usize = 16;
/// Errors that one answer names; behind them, the user has a pattern to go by.
const MOST_ERRORS: usize = 20;
/// Bytes of all violations together, so that the answer fits into headers.
const MOST_BYTES: usize = 3900;
/// Bytes that a violation has beside its texts.
const FRAME: usize = 12;

/// One call that submits, or would.
pub(super) struct Submission<'a> {
    context: &'a Context,
    request_id: &'a str,
    /// The call goes on then, whatever is known.
    deadline: Instant,
}

impl<'a> Submission<'a> {
    pub(super) fn new(context: &'a Context, metadata: &MetadataMap, request_id: &'a str) -> Self {
        let deadline = context.data_checks.deadline();
        // Whoever waits for a short time only gets an answer all the same.
        let half = time_left(metadata).map(|left| Instant::now() + left / 2);
        Self { context, request_id, deadline: half.map_or(deadline, |half| half.min(deadline)) }
    }

    /// Looks at the data set of a job. Returns what a person should know of it.
    ///
    /// # Errors
    /// Trainings would not begin: file and line of what is wrong.
    pub(super) async fn check(&self, spec: &JobSpec) -> Result<Vec<String>, ApiError> {
        self.look(self.different([(SPEC.to_owned(), spec)])).await
    }

    /// Looks at what different specs name. Returns what a person should know, that something was not looked at included.
    async fn look(&self, specs: Vec<(String, &JobSpec)>) -> Result<Vec<String>, ApiError> {
        let (mut refused, mut warnings) = (Refused::default(), Vec::new());
        let (is_one, all) = (specs.len() == 1, specs.len());
        for (field, spec) in specs.into_iter().take(MOST_DATA_SETS) {
            let data = spec.train.data.display();
            match self.context.data_checks.look(spec, self.deadline).await {
                Finding::Usable(check) if is_one => warnings.extend(told(&check)),
                Finding::Usable(check) => {
                    warnings.extend(told(&check).into_iter().map(|warning| format!("{data}: {warning}")));
                }
                Finding::Unusable(check) => refused.add(&field, &check),
                Finding::Unchecked(Unchecked::Off) => {}
                Finding::Unchecked(why) => warnings.push(not_checked(&spec.train.data, &why)),
            }
        }
        if all > MOST_DATA_SETS {
            warnings.push(format!(
                "{NOT_CHECKED}: all behind the first {MOST_DATA_SETS} data sets of this call; {SHOWS_LATER}"
            ));
        }
        let errors = refused.errors;
        let Some(violations) = refused.violations() else { return Ok(warnings) };
        if self.is_repeated().await? {
            Ok(warnings)
        } else {
            Err(ApiError::UnusableData { violations, errors })
        }
    }

    /// As [`Self::check`], for all jobs of a call.
    pub(super) async fn check_all(&self, specs: &[Arc<JobSpec>]) -> Result<Vec<String>, ApiError> {
        let different = self.different(specs.iter().map(AsRef::as_ref).enumerate());
        let field = |(at, spec)| (format!("specs[{at}].train.data"), spec);
        self.look(different.into_iter().map(field).collect()).await
    }

    /// As [`Self::check`], for the jobs of a sweep.
    pub(super) async fn check_sweep(&self, sweep: &Sweep) -> Result<Vec<String>, ApiError> {
        let specs = kinds_of_jobs(sweep);
        let named = specs.iter().map(|(field, spec)| (field.clone(), spec));
        self.look(self.different(named)).await
    }

    /// The specs that name paths and differ in what decides about a data set, each with its place; only the first.
    fn different<'s, P>(&self, specs: impl IntoIterator<Item = (P, &'s JobSpec)>) -> Vec<(P, &'s JobSpec)> {
        if !self.context.data_checks.is_on() {
            return Vec::new();
        }
        let mut seen = HashSet::new();
        let mut is_new =
            |train: &'s TrainSpec| seen.insert((&train.data, train.single_cls, train.fraction.to_bits()));
        let named = specs.into_iter().filter(|(_, spec)| spec.train.data.is_absolute());
        named.filter(|(_, spec)| is_new(&spec.train)).collect()
    }

    /// Whether the request has made its jobs before: they stay, whatever has become of the files.
    async fn is_repeated(&self) -> Result<bool, ApiError> {
        if self.request_id.is_empty() {
            return Ok(false);
        }
        let wanted = self.request_id.to_owned();
        let known = move |state: &mut StateView<'_>| state.core.job_of_request(&wanted).is_some();
        Ok(self.context.driver.ask_leader(known).await?)
    }
}

/// The jobs of a sweep that differ in what decides about a data set, each with the field that names it; only the first.
fn kinds_of_jobs(sweep: &Sweep) -> Vec<(String, JobSpec)> {
    let decides =
        |patch: &TrainPatch| patch.data.is_some() || patch.single_cls.is_some() || patch.fraction.is_some();
    let mut kinds = vec![(SPEC.to_owned(), sweep.spec.clone())];
    for (at, Axis { values, .. }) in sweep.axes.iter().enumerate() {
        // All values of an axis set one field.
        if !values.first().is_some_and(|(_, patch)| decides(patch)) {
            continue;
        }
        let with = |(number, (_, patch)): (usize, &(String, TrainPatch)), kind: &(String, JobSpec)| {
            let (mut field, mut spec) = kind.clone();
            patch.apply(&mut spec.train);
            if patch.data.is_some() {
                field = format!("axes[{at}].values[{number}]");
            }
            (field, spec)
        };
        // One more than are looked at, so that whoever submits hears of it.
        let each = values.iter().enumerate().take(MOST_DATA_SETS + 1);
        kinds = each.flat_map(|value| kinds.iter().map(move |kind| with(value, kind))).collect();
        kinds.truncate(MOST_DATA_SETS + 1);
    }
    kinds
}

/// How a warning begins of a data set that was not looked at.
const NOT_CHECKED: &str = "data set not checked";
/// What that means for the job.
const SHOWS_LATER: &str = "what may be wrong with it shows when its job starts";

/// What it means that no agent sees it.
const WAITS: &str = "the job waits for an agent that does: `data_roots` of an agent names what its jobs may read, and a \
                     data set that is pushed (`yard data push`) is read everywhere";

/// That a data set was not looked at, and why not. The reason may be a stranger's.
fn not_checked(data: &Path, why: &Unchecked) -> String {
    let then = if matches!(why, Unchecked::NobodyCould | Unchecked::Unseen(_)) { WAITS } else { SHOWS_LATER };
    clean(&format!("{NOT_CHECKED}: {}: {why}; {then}", data.display()))
}

/// The warnings, and how many more there are.
fn told(check: &DataCheck) -> Vec<String> {
    let mut lines = check.warnings.clone();
    if check.more_warnings > 0 {
        let more = counted(usize::try_from(check.more_warnings).unwrap_or(usize::MAX), "more warning");
        lines.push(format!("… and {more}"));
    }
    lines
}

/// What is wrong with the data sets of a call, as far as an answer holds it.
#[derive(Default)]
struct Refused {
    violations: Vec<Violation>,
    bytes: usize,
    /// All errors, and those that no violation names.
    errors: u64,
    more: u64,
    /// Where the last data set is named that has errors.
    last: Option<String>,
}

impl Refused {
    fn add(&mut self, field: &str, check: &DataCheck) {
        let errors = check.errors.iter();
        for error in errors {
            self.bytes += field.len() + error.len() + FRAME;
            // One is always told.
            let is_first = self.violations.is_empty();
            if is_first || (self.violations.len() < MOST_ERRORS && self.bytes <= MOST_BYTES && self.more == 0)
            {
                self.violations.push(Violation::new(field, error));
            } else {
                self.more += 1;
            }
        }
        self.more = self.more.saturating_add(check.more_errors);
        self.errors = self.errors.saturating_add(check.errors.len() as u64).saturating_add(check.more_errors);
        self.last = Some(field.to_owned());
    }

    /// `None` where nothing is wrong.
    fn violations(mut self) -> Option<Vec<Violation>> {
        let field = self.last?;
        if self.more > 0 {
            let more = counted(usize::try_from(self.more).unwrap_or(usize::MAX), "more error");
            let text = format!(
                "… and {more}; `trainyard-trainer check` lists them, on a machine that has the data set"
            );
            self.violations.push(Violation::new(field, text));
        }
        Some(self.violations)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;
    use tonic_types::StatusExt as _;
    use trainyard_types::ModelScale;

    use super::*;

    fn spec(data: &str) -> JobSpec {
        JobSpec::new(TrainSpec::new(ModelScale::N, data))
    }

    fn refused_with(count: usize, bytes: usize, more: u64) -> Refused {
        let errors: Vec<String> =
            (0..count).map(|line| format!("a.txt:{line}: {}", "x".repeat(bytes))).collect();
        let check = DataCheck { more_errors: more, ..DataCheck::new(&errors, &[], None) };
        let mut refused = Refused::default();
        refused.add("spec.train.data", &check);
        refused
    }

    fn refused(count: usize, bytes: usize, more: u64) -> Vec<Violation> {
        refused_with(count, bytes, more).violations().unwrap()
    }

    #[test]
    fn the_first_sentence_counts_all_errors_also_those_that_are_not_named() {
        for (count, bytes, more) in [(20, 50, 10), (20, 2000, 10), (3, 10, 27)] {
            let refused = refused_with(count, bytes, more);
            let errors = refused.errors;
            let violations = refused.violations().unwrap();
            let status = Status::from(ApiError::UnusableData { violations, errors });
            assert_eq!(status.message(), "the data set cannot be trained on, for 30 reasons");
        }
    }

    #[test]
    fn a_data_set_that_nobody_sees_is_said_to_hold_its_job() {
        let of = |why: Unchecked| not_checked(Path::new("/etc/data.yaml"), &why);
        for why in [Unchecked::NobodyCould, Unchecked::Unseen("lies outside".into())] {
            let text = of(why);
            assert!(
                text.contains("sees it") && text.contains("; the job waits for an agent that does"),
                "{text}"
            );
            assert!(text.contains("`data_roots`") && !text.contains("starts"), "{text}");
        }
        assert!(of(Unchecked::TooMany).ends_with("shows when its job starts"));
    }

    #[test]
    fn an_answer_names_the_first_errors_and_counts_the_others() {
        let all = refused(3, 50, 0);
        assert_eq!((all.len(), all[0].field.as_str()), (3, "spec.train.data"));
        let some = refused(20, 50, 980);
        assert_eq!(some.len(), 21);
        assert!(
            some[20].description.starts_with("… and 980 more errors; `trainyard-trainer check` lists"),
            "{some:?}"
        );
        assert!(Refused::default().violations().is_none());
    }

    #[test]
    fn an_answer_fits_into_the_headers_that_clients_take() {
        let violations = refused(20, 2000, u64::MAX);
        assert!(violations.len() > 5, "{violations:?}");
        let error = ApiError::UnusableData { violations, errors: u64::MAX };
        let headers = Status::from(error).into_http::<String>();
        let bytes: usize =
            headers.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(bytes < 8192, "{bytes}");
        let status = Status::from_header_map(headers.headers()).unwrap();
        assert!(status.get_details_bad_request().unwrap().field_violations.len() > 5, "{status:?}");
    }

    #[test]
    fn of_a_sweep_the_jobs_are_looked_at_that_differ_in_what_decides() {
        let axis = |parameter: &str, patches: Vec<TrainPatch>| Axis {
            parameter: parameter.into(),
            values: patches.into_iter().map(|patch| (String::new(), patch)).collect(),
        };
        let data = |path: &str| TrainPatch { data: Some(path.into()), ..TrainPatch::default() };
        let lr0 = |lr0| TrainPatch { lr0: Some(lr0), ..TrainPatch::default() };
        let sweep = |axes| Sweep { spec: spec("/a"), axes };
        let kinds = |axes| -> Vec<(String, String)> {
            let of = |(field, spec): (String, JobSpec)| (field, spec.train.data.display().to_string());
            kinds_of_jobs(&sweep(axes)).into_iter().map(of).collect()
        };
        let rates = || axis("lr0", (0..500).map(|number| lr0(f64::from(number))).collect());
        assert_eq!(kinds(vec![rates()]), [("spec.train.data".to_owned(), "/a".to_owned())]);
        let named = kinds(vec![rates(), axis("data", vec![data("/b"), data("/c")])]);
        assert_eq!(
            named,
            [("axes[1].values[0]", "/b"), ("axes[1].values[1]", "/c")]
                .map(|(field, path)| (field.to_owned(), path.to_owned()))
        );
        let single = |single_cls| TrainPatch { single_cls: Some(single_cls), ..TrainPatch::default() };
        let both = axis("single_cls", vec![single(false), single(true)]);
        assert_eq!(
            kinds(vec![axis("data", (0..30).map(|number| data(&format!("/{number}"))).collect()), both])
                .len(),
            MOST_DATA_SETS + 1
        );
    }
}
