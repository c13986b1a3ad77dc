//! Data sets of machines that agents look at before a job queues, over real gRPC and Redis.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{FieldViolation, StatusExt as _};
use trainyard_proto::pb;
use trainyard_proto::pb::agent_message::Message as FromAgent;
use trainyard_proto::pb::data_checked::Outcome;
use trainyard_proto::pb::scheduler_message::Message as ToAgent;
use trainyard_scheduler::config::Config;

use crate::support::{Agent, Scheduler, config, submission};

const DATA: &str = "/data/bccd/data.yaml";

/// A scheduler that waits for agents as long as a test needs.
async fn patient() -> Scheduler {
    waiting_for(Duration::from_secs(60)).await
}

async fn waiting_for(data_check_timeout: Duration) -> Scheduler {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { data_check_timeout, ..config(dir.path()) };
    Scheduler::start_with(dir, config).await
}

/// An agent that looks at data sets.
async fn checker(scheduler: &Scheduler, number: u128) -> Agent {
    connect(scheduler, number, true).await
}

async fn connect(scheduler: &Scheduler, number: u128, checks_data: bool) -> Agent {
    let root = pb::DataRoot { path: "/data".into(), problem: String::new() };
    let fitness = pb::Fitness { data_roots: vec![root], checks_data, ..Default::default() };
    let hello = pb::Hello {
        agent_id: uuid::Uuid::from_u128(number).to_string(),
        name: format!("lab-{number}"),
        cpu_slots: 1,
        fitness: Some(fitness),
        ..Default::default()
    };
    Agent::connect_as(scheduler.channel(), hello).await.unwrap()
}

async fn asked(agent: &mut Agent) -> pb::CheckData {
    match agent.command().await.unwrap() {
        ToAgent::CheckData(check) => check,
        other => panic!("{other:?}"),
    }
}

async fn answer(agent: &Agent, checked: pb::DataChecked) {
    agent.say(FromAgent::DataChecked(checked)).await;
}

/// Takes the next check, and answers with these errors and warnings.
async fn find(agent: &mut Agent, errors: &[&str], warnings: &[&str]) -> pb::CheckData {
    let check = asked(agent).await;
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    let checked = pb::DataChecked {
        check_id: check.check_id,
        outcome: Outcome::Checked.into(),
        errors: texts(errors),
        warnings: texts(warnings),
        ..Default::default()
    };
    answer(agent, checked).await;
    check
}

/// Takes the next check, and says that nothing was looked at.
async fn decline(agent: &mut Agent, outcome: Outcome) {
    let check_id = asked(agent).await.check_id;
    let message = "for a reason".to_owned();
    answer(agent, pb::DataChecked { check_id, outcome: outcome.into(), message, ..Default::default() }).await;
}

fn on(data: &str) -> pb::SubmitJobRequest {
    let mut request = submission("");
    request.spec.as_mut().unwrap().train.as_mut().unwrap().data = data.into();
    request
}

async fn submit(
    scheduler: &Scheduler,
    request: pb::SubmitJobRequest,
) -> Result<pb::SubmitJobResponse, Status> {
    scheduler.jobs().submit_job(request).await.map(tonic::Response::into_inner)
}

fn violations(status: &Status) -> Vec<FieldViolation> {
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_error_info().unwrap().reason, "DATA_NOT_USABLE");
    status.get_details_bad_request().unwrap().field_violations
}

#[tokio::test]
async fn a_class_out_of_range_is_the_answer_and_the_mended_data_set_is_accepted_at_once() {
    let scheduler = patient().await;
    let mut agent = checker(&scheduler, 1).await;
    let errors = ["train: /data/bccd/labels/a.txt:2: class 7", "train: /data/bccd/labels/b.txt:1: class 9"];
    for validate_only in [true, false] {
        let request = pb::SubmitJobRequest { validate_only, ..on(DATA) };
        let (refused, check) = tokio::join!(submit(&scheduler, request), find(&mut agent, &errors, &[]));
        assert_eq!((check.data.as_str(), check.fraction, check.single_cls), (DATA, 1.0, false));
        assert!((50_000..60_000).contains(&check.time_limit_ms), "{check:?}");
        let refused = refused.unwrap_err();
        let told = violations(&refused);
        assert!(told.iter().all(|one| one.field == "spec.train.data"), "{told:?}");
        assert_eq!(told.iter().map(|one| one.description.as_str()).collect::<Vec<_>>(), errors);
    }
    assert!(scheduler.list(pb::ListJobsRequest::default()).await.unwrap().jobs.is_empty());
    let one_odd = ["train: 1 label rows that repeat another; dropped"];
    let (accepted, _) = tokio::join!(submit(&scheduler, on(DATA)), find(&mut agent, &[], &one_odd));
    assert_eq!(accepted.unwrap().warnings, one_odd);
    assert_eq!(agent.assigned().await.spec.unwrap().train.unwrap().data, DATA);
    // What was found is kept, and nobody is asked.
    let dry = pb::SubmitJobRequest { validate_only: true, ..on(DATA) };
    assert_eq!(submit(&scheduler, dry).await.unwrap().warnings, one_odd);
    let (_, check) = tokio::join!(submit(&scheduler, on("/data/other.yaml")), find(&mut agent, &[], &[]));
    assert_eq!(check.data, "/data/other.yaml");
}

#[tokio::test]
async fn without_an_answer_jobs_queue_as_ever() {
    let scheduler = waiting_for(Duration::from_millis(500)).await;
    let scheduler = &scheduler;
    let accepted = |data: String| async move { submit(scheduler, on(&data)).await.unwrap() };
    accepted(DATA.into()).await;
    // One that is too old to look at anything is not asked.
    let mut old = connect(scheduler, 1, false).await;
    accepted(DATA.into()).await;
    old.assigned().await;
    // One that goes away.
    let mut leaving = checker(scheduler, 2).await;
    let leave = async {
        // It has the first job, too, or not yet.
        loop {
            match leaving.command().await.unwrap() {
                ToAgent::CheckData(check) => break drop((check, leaving)),
                ToAgent::Assign(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::join!(accepted("/data/left.yaml".into()), leave);
    // One that cannot tell, and one that never answers: that is not waited for twice.
    let silent = checker(scheduler, 3).await;
    accepted("/data/silent.yaml".into()).await;
    for number in 0..100 {
        accepted(format!("/data/{number}.yaml")).await;
    }
    drop(silent);
}

#[tokio::test]
async fn another_agent_is_asked_when_one_does_not_see_the_data_set() {
    let scheduler = patient().await;
    let (mut first, mut second) = (checker(&scheduler, 1).await, checker(&scheduler, 2).await);
    let (mut third, mut fourth) = (checker(&scheduler, 3).await, checker(&scheduler, 4).await);
    let look = async {
        decline(&mut first, Outcome::NotSeen).await;
        find(&mut second, &["a.txt:1: class 7"], &[]).await
    };
    let (refused, _) = tokio::join!(submit(&scheduler, on(DATA)), look);
    assert_eq!(violations(&refused.unwrap_err()).len(), 1);
    // Three are asked, and then the job queues.
    let look = async {
        for agent in [&mut first, &mut second, &mut third] {
            decline(agent, Outcome::NotSeen).await;
        }
    };
    tokio::join!(submit(&scheduler, on(DATA)), look).0.unwrap();
    first.assigned().await;
    // One that has failed is not followed by others.
    let request = pb::SubmitJobRequest { validate_only: true, ..on("/data/crashes.yaml") };
    tokio::join!(submit(&scheduler, request), decline(&mut second, Outcome::NotChecked)).0.unwrap();
    let request = pb::SubmitJobRequest { validate_only: true, ..on("/data/other.yaml") };
    let look = async {
        decline(&mut second, Outcome::NotSeen).await;
        decline(&mut third, Outcome::NotSeen).await;
        find(&mut fourth, &[], &[]).await
    };
    let (accepted, check) = tokio::join!(submit(&scheduler, request), look);
    assert_eq!(check.data, "/data/other.yaml");
    accepted.unwrap();
}

#[tokio::test]
async fn a_sweep_and_a_call_with_many_jobs_are_looked_at_once_and_name_their_fields() {
    let scheduler = patient().await;
    let mut agent = checker(&scheduler, 1).await;
    let values = |parameter: &str, values: Vec<String>| pb::SweepAxis { parameter: parameter.into(), values };
    let rates = || values("lr0", (1..=500).map(|number| format!("0.{number:04}")).collect());
    let sweep = |axes| pb::SubmitSweepRequest {
        spec: on(DATA).spec,
        axes,
        validate_only: true,
        ..Default::default()
    };
    let call = async { scheduler.jobs().submit_sweep(sweep(vec![rates()])).await };
    let (refused, _) = tokio::join!(call, find(&mut agent, &["a.txt:1: class 7"], &[]));
    assert_eq!(violations(&refused.unwrap_err())[0].field, "spec.train.data");
    let data = values("data", vec![DATA.into(), "/data/b.yaml".into()]);
    let call = async { scheduler.jobs().submit_sweep(sweep(vec![rates(), data])).await };
    let look = async {
        find(&mut agent, &[], &[]).await;
        find(&mut agent, &["b.txt:1: class 7"], &[]).await
    };
    let (refused, _) = tokio::join!(call, look);
    assert_eq!(violations(&refused.unwrap_err())[0].field, "axes[1].values[1]");
    // The first data set is known by now; of the second only one class is asked for.
    let mut single = on("/data/b.yaml").spec.unwrap();
    single.train.as_mut().unwrap().single_cls = Some(true);
    let specs = vec![on(DATA).spec.unwrap(), single.clone(), single];
    let part = pb::SubmitJobsRequest { specs, ..Default::default() };
    let call = async { scheduler.jobs().submit_jobs(tokio_stream::iter([part])).await };
    let (refused, check) = tokio::join!(call, find(&mut agent, &["data.yaml:1: no names"], &[]));
    assert!(check.single_cls);
    assert_eq!(violations(&refused.unwrap_err())[0].field, "specs[1].train.data");
}

#[tokio::test]
async fn a_repeated_request_answers_with_its_job_whatever_has_become_of_the_files() {
    let scheduler = waiting_for(Duration::from_secs(60)).await;
    let request = || pb::SubmitJobRequest { request_id: "r".into(), ..on(DATA) };
    let first = submit(&scheduler, request()).await.unwrap().job_id;
    let mut agent = checker(&scheduler, 1).await;
    agent.assigned().await;
    let (again, _) =
        tokio::join!(submit(&scheduler, request()), find(&mut agent, &["a.txt:1: class 7"], &[]));
    assert_eq!(again.unwrap().job_id, first);
}

#[tokio::test]
async fn jobs_that_come_while_a_data_set_is_looked_at_wait_for_the_same_check() {
    let scheduler = patient().await;
    let mut agent = checker(&scheduler, 1).await;
    let together = many(&scheduler, 20);
    let (accepted, _) = tokio::join!(together, find(&mut agent, &[], &[]));
    assert_eq!(accepted.into_iter().filter(Result::is_ok).count(), 20);
    assert_eq!(agent.assigned().await.spec.unwrap().train.unwrap().data, DATA);
}

async fn many(scheduler: &Scheduler, count: usize) -> Vec<Result<pb::SubmitJobResponse, Status>> {
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..count {
        let mut jobs = scheduler.jobs();
        calls.spawn(async move { jobs.submit_job(on(DATA)).await.map(tonic::Response::into_inner) });
    }
    calls.join_all().await
}

#[tokio::test]
async fn a_caller_that_does_not_wait_for_long_has_an_answer_in_time() {
    let scheduler = patient().await;
    let mut agent = checker(&scheduler, 1).await;
    let mut request = tonic::Request::new(on(DATA));
    request.set_timeout(Duration::from_secs(4));
    let (accepted, _) = tokio::join!(async { scheduler.jobs().submit_job(request).await }, asked(&mut agent));
    accepted.unwrap();
}
