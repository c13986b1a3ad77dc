//! The pages beside gRPC, on the same port: health for probes, metrics for Prometheus.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;
use tonic::Status;
use trainyard_proto::route::LEADER;
use trainyard_types::JobState;

use crate::blobs::Blobs;
use crate::driver::{Census, Handle, Histogram, Role};
use crate::grpc::ApiError;
use crate::refusal;
use crate::telemetry::Recorder;
use crate::tls::Authority;
use crate::web;

/// How long the driver or the disk of blobs may take to answer a page that can do without.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The parts of the scheduler that the pages tell of.
#[derive(Clone)]
pub struct Pages {
    pub driver: Handle,
    pub role: watch::Receiver<Role>,
    pub telemetry: Recorder,
    pub blobs: Blobs,
    /// The cluster's, where connections are encrypted.
    pub authority: Option<Arc<Authority>>,
}

impl Pages {
    /// The pages for probes, Prometheus and people.
    pub fn router(self) -> Router {
        Router::new()
            .route("/", get(root))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/ca.pem", get(authority))
            .with_state(self)
    }

    /// The pages for probes alone.
    pub fn probes(self) -> Router {
        Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(self)
    }
}

async fn healthz() -> &'static str {
    "ok\n"
}

/// The certificate to check this scheduler by.
async fn authority(State(pages): State<Pages>) -> Response {
    match pages.authority {
        Some(authority) => {
            let content = [(header::CONTENT_TYPE, "application/x-pem-file")];
            (content, authority.pem().to_owned()).into_response()
        }
        None => {
            let text = "this scheduler's connections are not encrypted, so it has no authority\n";
            (StatusCode::NOT_FOUND, text).into_response()
        }
    }
}

/// What a connection in plaintext gets where it is to be encrypted.
pub async fn plaintext_refused(request: Request) -> Response {
    let status = Status::from(ApiError::TlsRequired { who: "this connection".to_owned() });
    refusal::answer(&status, refusal::is_grpc(request.headers()), |text| {
        let upgrade = [(header::UPGRADE, "TLS/1.2, HTTP/1.1"), (header::CONNECTION, "Upgrade")];
        (StatusCode::UPGRADE_REQUIRED, upgrade, text).into_response()
    })
}

/// What no route takes: a gRPC client is told so in its own terms.
pub async fn not_found(request: Request) -> Response {
    let path = request.uri().path();
    if refusal::is_grpc(request.headers()) {
        Status::unimplemented(format!("there is no method `{path}`")).into_http()
    } else {
        (StatusCode::NOT_FOUND, format!("there is no page `{path}`; / lists what there is\n")).into_response()
    }
}

async fn root(headers: HeaderMap) -> Response {
    if web::wants_page(&headers) {
        return web::page(&headers);
    }
    let text = format!(
        "Trainyard scheduler {}: gRPC (trainyard.v1, with reflection) and /metrics, /healthz, /readyz are on \
         this port, and a page for browsers; `yard jobs` lists jobs.\n",
        env!("CARGO_PKG_VERSION")
    );
    ([(header::VARY, "accept")], text).into_response()
}

/// Names the leader beside every answer of a standby, which knows less of some things. A page can then link to it, too.
pub async fn name_leader(
    State(role): State<watch::Receiver<Role>>,
    request: Request,
    next: Next,
) -> Response {
    let mut answer = next.run(request).await;
    let leader = match &*role.borrow() {
        Role::Standby(leader) => HeaderValue::from_str(leader).ok(),
        Role::Leading | Role::Unavailable(_) | Role::DiskFull(_) => None,
    };
    if let Some(leader) = leader {
        answer.headers_mut().insert(LEADER, leader);
    }
    answer
}

async fn readyz(State(pages): State<Pages>) -> Response {
    let role = pages.role.borrow().clone();
    match role {
        Role::Leading => {
            // A probe must not wait for a store that is slow.
            let asked = pages.driver.ask_leader(|state| state.core.handing_in().1);
            let waiting = tokio::time::timeout(TIMEOUT, asked).await.ok().and_then(Result::ok).unwrap_or(0);
            // Nor does it ask a disk that may hang, as long as nothing waits for room there.
            let room = if waiting > 0 { room(&pages).await } else { None };
            format!("ready: leads\n{}", wants_room(waiting, room)).into_response()
        }
        Role::Standby(leader) => format!("ready: stands by for {leader}\n").into_response(),
        Role::Unavailable(why) | Role::DiskFull(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response()
        }
    }
}

/// Asked apart from the other tasks, since a disk that hangs holds up whoever asks.
async fn room(pages: &Pages) -> Option<(u64, u64)> {
    let blobs = pages.blobs.clone();
    let asked = tokio::task::spawn_blocking(move || blobs.room());
    tokio::time::timeout(TIMEOUT, asked).await.ok()?.ok()?
}

/// What an administrator should know while results wait; empty when none do.
fn wants_room(waiting: usize, room: Option<(u64, u64)>) -> String {
    let jobs = match waiting {
        0 => return String::new(),
        1 => "1 job's results wait".to_owned(),
        count => format!("{count} jobs' results wait"),
    };
    let disk = match room {
        Some((free, all)) => format!("the disk of `blob_dir` has {} of {} MiB free", free >> 20, all >> 20),
        None => "the disk of `blob_dir` does not say how much is free".to_owned(),
    };
    format!("{jobs} on agents to be handed in; {disk}: make room\n")
}

async fn metrics(State(pages): State<Pages>) -> Response {
    // What is known without the store is told without it.
    let census = pages.driver.ask_leader(|state| state.census()).await.ok();
    let role = pages.role.borrow().clone();
    let content = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    let counters = pages.telemetry.counters();
    let telemetry = [&counters.stored, &counters.dropped].map(|counter| counter.load(Ordering::Relaxed));
    let room = room(&pages).await;
    (content, exposition(&role, census.as_ref(), telemetry, room)).into_response()
}

/// A text in Prometheus' format.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, kind: &str, name: &str, help: &str, samples: Vec<(String, u64)>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    fn seconds(&mut self, name: &str, help: &str, samples: Vec<(String, f64)>) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut so_far = 0;
        for (at, count) in histogram.counts.iter().enumerate() {
            so_far += count;
            let bound = histogram.bounds.get(at).map_or("+Inf".to_owned(), f64::to_string);
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {so_far}");
        }
        let _ = writeln!(self.0, "{name}_sum {}\n{name}_count {so_far}", histogram.sum);
    }

    fn gauge(&mut self, name: &str, help: &str, samples: Vec<(String, u64)>) {
        self.family("gauge", name, help, samples);
    }

    fn counter(&mut self, name: &str, help: &str, samples: Vec<(String, u64)>) {
        self.family("counter", name, help, samples);
    }
}

fn label(name: &str, value: &str) -> String {
    format!("{{{name}=\"{}\"}}", value.to_lowercase())
}

/// A text that others chose, as a label's value.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn exposition(role: &Role, census: Option<&Census>, telemetry: [u64; 2], room: Option<(u64, u64)>) -> String {
    let mut text = Exposition::default();
    let version = label("version", env!("CARGO_PKG_VERSION"));
    text.gauge("trainyard_build_info", "Version of the scheduler.", vec![(version, 1)]);
    let help = "Whether the scheduler answers reads: it leads or stands by, and its store answers.";
    text.gauge("trainyard_scheduler_serving", help, vec![(String::new(), role.reads().into())]);
    let help = "Whether the scheduler leads; one of a cluster does.";
    text.gauge("trainyard_scheduler_leading", help, vec![(String::new(), role.leads().into())]);
    let help = "Samples of GPUs that were stored, or dropped because the store was away or too slow.";
    let results = ["stored", "dropped"].map(|result| label("result", result));
    text.counter("trainyard_telemetry_samples_total", help, results.into_iter().zip(telemetry).collect());
    if let Some((free, all)) = room {
        let help = "Bytes of the disk that blobs are on.";
        let bytes = [("free", free), ("used", all.saturating_sub(free))];
        let bytes = bytes.map(|(state, bytes)| (label("state", state), bytes));
        text.gauge("trainyard_blob_disk_bytes", help, bytes.into());
    }
    if let Some(census) = census {
        census_families(&mut text, census);
    }
    text.0
}

fn census_families(text: &mut Exposition, census: &Census) {
    let count = |count: usize| count as u64;
    let jobs = JobState::ALL.map(|state| {
        let known = census.jobs.get(&state).copied().unwrap_or(0);
        (label("state", state.name()), count(known))
    });
    text.gauge("trainyard_jobs", "Jobs by state.", jobs.into());
    let states = |names: &[&str], counts: &[usize]| -> Vec<(String, u64)> {
        names.iter().zip(counts).map(|(state, known)| (label("state", state), count(*known))).collect()
    };
    let agents = states(&["connected", "disconnected", "lost"], &census.agents);
    text.gauge("trainyard_agents", "Agents by state.", agents);
    let gpus = states(&["free", "busy", "unavailable", "away"], &census.gpus);
    let help = "GPUs by state: unavailable ones take no job, away ones are on agents that are not connected.";
    text.gauge("trainyard_gpus", help, gpus);
    let finished = [JobState::Succeeded, JobState::Failed, JobState::Cancelled].map(|state| {
        (label("result", state.name()), census.counters.finished.get(&state).copied().unwrap_or(0))
    });
    let help = "Jobs that came to an end since this scheduler leads.";
    text.counter("trainyard_jobs_finished_total", help, finished.into());
    let reasons = ["drained", "reserved", "owner", "agent_stopped", "placement"].map(|reason| {
        (label("reason", reason), census.counters.preemptions.get(reason).copied().unwrap_or(0))
    });
    let help = "Attempts that were preempted and queued again, since this scheduler leads.";
    text.counter("trainyard_preemptions_total", help, reasons.into());
    let (all, waiting) = census.handing_in;
    let help = "Jobs whose trainer has ended and whose results are handed in, or wait for room to be.";
    let states = [("going_on", all.saturating_sub(waiting)), ("waiting", waiting)];
    let states = states.map(|(state, jobs)| (label("state", state), count(jobs)));
    text.gauge("trainyard_jobs_handing_in", help, states.into());
    let help = "Slots that are closed because jobs ended there too soon.";
    text.gauge("trainyard_slots_shut", help, vec![(String::new(), count(census.shut_slots))]);
    let help = "Times that a slot was closed because jobs ended there too soon, since this scheduler leads.";
    text.counter("trainyard_slots_shut_total", help, vec![(String::new(), census.counters.slots_shut)]);
    let help =
        "Reports that came before an earlier one of their attempt and were sent again; 0 is as it should be.";
    text.counter("trainyard_metric_gaps_total", help, vec![(String::new(), census.counters.report_gaps)]);
    driver_families(text, census);
}

fn driver_families(text: &mut Exposition, census: &Census) {
    let metrics = &census.metrics;
    let help = "Jobs that were accepted since this scheduler leads.";
    text.counter("trainyard_jobs_submitted_total", help, vec![(String::new(), metrics.submitted)]);
    let help = "From a job's submission to its first placement.";
    text.histogram("trainyard_job_queue_wait_seconds", help, &metrics.queue_wait);
    let help = "What decisions took that placed at least one attempt.";
    text.histogram("trainyard_placement_duration_seconds", help, &metrics.placement);
    let outcomes = [("started", metrics.started), ("not_started", metrics.not_started)];
    let help = "Attempts that were placed and whose trainers came up, or that ended before.";
    let outcomes = outcomes.map(|(outcome, count)| (label("outcome", outcome), count));
    text.counter("trainyard_placements_total", help, outcomes.into());
    let ages = census.heartbeat_ages.iter().map(|((name, id), age)| {
        (format!("{{agent=\"{}\",agent_id=\"{id}\"}}", escaped(name)), age.as_secs_f64())
    });
    let help = "How long ago each agent was last heard of.";
    text.seconds("trainyard_agent_heartbeat_age_seconds", help, ages.collect());
}

#[cfg(test)]
mod tests {
    use trainyard_scheduler_core::Counters;

    use crate::driver::DriverMetrics;

    use super::*;

    #[test]
    fn results_that_wait_are_told_with_how_full_the_disk_is() {
        assert_eq!(wants_room(0, None), "");
        assert_eq!(
            wants_room(2, Some((3 << 20, 10 << 30))),
            "2 jobs' results wait on agents to be handed in; the disk of `blob_dir` has 3 of 10240 MiB free: make room\n"
        );
    }

    #[test]
    fn every_state_has_a_sample_even_without_jobs() {
        let mut counters = Counters::default();
        counters.preemptions.insert("owner", 4);
        let (jobs, gpus) = ([(JobState::Running, 2)].into(), [5, 2, 1, 0]);
        let mut metrics = DriverMetrics { submitted: 5, started: 3, ..DriverMetrics::default() };
        (metrics.queue_wait.counts[1], metrics.queue_wait.counts[11], metrics.queue_wait.sum) = (2, 1, 7.5);
        let heartbeat_ages =
            [(("lab \"1\"".to_owned(), "id".to_owned()), Duration::from_millis(1500))].into();
        let census = Census {
            jobs,
            agents: [1, 0, 3],
            gpus,
            handing_in: (3, 2),
            shut_slots: 1,
            counters,
            metrics,
            heartbeat_ages,
        };
        let text = exposition(&Role::Leading, Some(&census), [7, 0], Some((30, 100)));
        for line in [
            "# TYPE trainyard_jobs gauge",
            "trainyard_jobs{state=\"running\"} 2",
            "trainyard_jobs{state=\"queued\"} 0",
            "trainyard_agents{state=\"lost\"} 3",
            "trainyard_scheduler_serving 1",
            "trainyard_gpus{state=\"busy\"} 2",
            "trainyard_preemptions_total{reason=\"owner\"} 4",
            "trainyard_preemptions_total{reason=\"reserved\"} 0",
            "trainyard_metric_gaps_total 0",
            "trainyard_jobs_handing_in{state=\"waiting\"} 2",
            "trainyard_jobs_handing_in{state=\"going_on\"} 1",
            "trainyard_slots_shut 1",
            "trainyard_blob_disk_bytes{state=\"free\"} 30",
            "trainyard_blob_disk_bytes{state=\"used\"} 70",
            "trainyard_telemetry_samples_total{result=\"stored\"} 7",
            "trainyard_jobs_submitted_total 5",
            "# TYPE trainyard_job_queue_wait_seconds histogram",
            "trainyard_job_queue_wait_seconds_bucket{le=\"0.01\"} 0",
            "trainyard_job_queue_wait_seconds_bucket{le=\"0.1\"} 2",
            "trainyard_job_queue_wait_seconds_bucket{le=\"604800\"} 2",
            "trainyard_job_queue_wait_seconds_bucket{le=\"+Inf\"} 3",
            "trainyard_job_queue_wait_seconds_sum 7.5",
            "trainyard_job_queue_wait_seconds_count 3",
            "trainyard_placements_total{outcome=\"started\"} 3",
            "trainyard_placements_total{outcome=\"not_started\"} 0",
            "trainyard_agent_heartbeat_age_seconds{agent=\"lab \\\"1\\\"\",agent_id=\"id\"} 1.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
