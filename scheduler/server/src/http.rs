//! The pages beside gRPC, on the same port: health for probes, metrics for Prometheus.

use std::fmt::Write as _;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;
use tonic::Status;
use trainyard_types::JobState;

use crate::driver::{Census, Handle, Role};

#[derive(Clone)]
struct Pages {
    driver: Handle,
    role: watch::Receiver<Role>,
}

/// Everything but gRPC.
pub fn routes(driver: Handle, role: watch::Receiver<Role>) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Pages { driver, role })
}

/// What no route takes: a gRPC client is told so in its own terms.
pub async fn not_found(request: Request) -> Response {
    let content = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let path = request.uri().path();
    if content.starts_with(b"application/grpc") {
        Status::unimplemented(format!("there is no method `{path}`")).into_http()
    } else {
        (StatusCode::NOT_FOUND, format!("there is no page `{path}`; / lists what there is\n")).into_response()
    }
}

async fn root() -> String {
    format!(
        "Trainyard scheduler {}: gRPC (trainyard.v1, with reflection) and /metrics, /healthz, /readyz are on \
         this port; `yard jobs` lists jobs.\n",
        env!("CARGO_PKG_VERSION")
    )
}

async fn readyz(State(pages): State<Pages>) -> Response {
    match &*pages.role.borrow() {
        Role::Leading => "ready: leads\n".into_response(),
        Role::Standby(leader) => format!("ready: stands by for {leader}\n").into_response(),
        Role::Away(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

async fn metrics(State(pages): State<Pages>) -> Response {
    // What is known without the store is told without it.
    let census = pages.driver.ask_leader(|live| live.census()).await.ok();
    let role = pages.role.borrow().clone();
    let content = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content, exposition(&role, census.as_ref())).into_response()
}

fn exposition(role: &Role, census: Option<&Census>) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, samples: Vec<(String, u64)>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    family("trainyard_build_info", "Version of the scheduler.", vec![(version, 1)]);
    let help = "Whether the scheduler answers reads: it leads or stands by, and its store answers.";
    family("trainyard_scheduler_serving", help, vec![(String::new(), role.reads().into())]);
    let help = "Whether the scheduler leads; one of a cluster does.";
    family("trainyard_scheduler_leading", help, vec![(String::new(), role.leads().into())]);
    if let Some(census) = census {
        let label = |state: &str| format!("{{state=\"{}\"}}", state.to_lowercase());
        let count = |count: usize| count as u64;
        let jobs = JobState::ALL.map(|state| {
            let known = census.jobs.get(&state).copied().unwrap_or(0);
            (label(state.name()), count(known))
        });
        family("trainyard_jobs", "Jobs by state.", jobs.into());
        let states = ["connected", "disconnected", "lost"];
        let agents = states.into_iter().zip(census.agents).map(|(state, known)| (label(state), count(known)));
        family("trainyard_agents", "Agents by state.", agents.collect());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_sample_even_without_jobs() {
        let census = Census { jobs: [(JobState::Running, 2)].into(), agents: [1, 0, 3] };
        let text = exposition(&Role::Leading, Some(&census));
        for line in [
            "# TYPE trainyard_jobs gauge",
            "trainyard_jobs{state=\"running\"} 2",
            "trainyard_jobs{state=\"queued\"} 0",
            "trainyard_agents{state=\"lost\"} 3",
            "trainyard_scheduler_serving 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
