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

/// Takes the next check, and says that the data.yaml is there and a place that it names is not.
async fn lack(agent: &mut Agent, error: &str) {
    let check_id = asked(agent).await.check_id;
    let (outcome, message) = (Outcome::NotSeen.into(), error.to_owned());
    let errors = vec![message.clone()];
    answer(agent, pb::DataChecked { check_id, outcome, message, errors, ..Default::default() }).await;
}

/// Takes what an answer says of a data set that nobody has looked at.
fn not_checked(warnings: &[String]) -> &str {
    let [warning] = warnings else { panic!("{warnings:?}") };
    let why = warning.strip_prefix("data set not checked: ").unwrap();
    let waits = why.split_once("; the job waits for an agent that does: ").map(|(why, _)| why);
    waits.or_else(|| why.strip_suffix("; what may be wrong with it shows when its job starts")).unwrap()
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
    let nobody = "/data/bccd/data.yaml: no agent is connected that looks at data sets";
    assert_eq!(not_checked(&accepted(DATA.into()).await.warnings), nobody);
    // One that is too old to look at anything is not asked.
    let mut old = connect(scheduler, 1, false).await;
    assert_eq!(not_checked(&accepted(DATA.into()).await.warnings), nobody);
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
    let (left, ()) = tokio::join!(accepted("/data/left.yaml".into()), leave);
    assert!(
        not_checked(&left.warnings).starts_with("/data/left.yaml: the agents that were asked"),
        "{left:?}"
    );
    // One that never answers: that is not waited for twice.
    let silent = checker(scheduler, 3).await;
    let late = accepted("/data/silent.yaml".into()).await.warnings;
    assert_eq!(not_checked(&late), "/data/silent.yaml: its check took longer than 500ms");
    for number in 0..100 {
        not_checked(&accepted(format!("/data/{number}.yaml")).await.warnings);
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
    let unseen = tokio::join!(submit(&scheduler, on(DATA)), look).0.unwrap().warnings;
    assert_eq!(not_checked(&unseen), format!("{DATA}: no agent that was asked sees it: for a reason"));
    first.assigned().await;
    // One that has failed is not followed by others.
    let request = pb::SubmitJobRequest { validate_only: true, ..on("/data/crashes.yaml") };
    let failed = tokio::join!(submit(&scheduler, request), decline(&mut second, Outcome::NotChecked)).0;
    assert_eq!(not_checked(&failed.unwrap().warnings), "/data/crashes.yaml: for a reason");
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
async fn a_place_that_no_agent_has_is_refused_and_one_that_a_single_machine_has_is_not() {
    let scheduler = patient().await;
    let mut agents = Vec::new();
    for number in 1..=5 {
        agents.push(checker(&scheduler, number).await);
    }
    let dry = || pb::SubmitJobRequest { validate_only: true, ..on(DATA) };
    let missing = "data.yaml:1: `train: a` was not found; correct `train`";
    let look = async {
        for agent in &mut agents {
            lack(agent, missing).await;
        }
    };
    let (refused, ()) = tokio::join!(submit(&scheduler, dry()), look);
    let told = violations(&refused.unwrap_err());
    assert_eq!((told.len(), told[0].field.as_str()), (1, "spec.train.data"));
    let everywhere = "; looked on 5 agents: all that see the data.yaml and could run the job";
    assert_eq!(told[0].description, format!("{missing}{everywhere}"));
    // Three do not see the data.yaml at all, or lack the folder, and the last one has everything.
    let look = async {
        lack(&mut agents[0], missing).await;
        decline(&mut agents[1], Outcome::NotSeen).await;
        lack(&mut agents[2], missing).await;
        lack(&mut agents[3], missing).await;
        find(&mut agents[4], &[], &[]).await
    };
    let (accepted, _) = tokio::join!(submit(&scheduler, dry()), look);
    assert_eq!(accepted.unwrap().warnings, [""; 0]);
    // One that cannot tell may have it; so may one that is not connected.
    let other = || pb::SubmitJobRequest { validate_only: true, ..on("/data/other.yaml") };
    let look = async {
        for agent in &mut agents[..4] {
            lack(agent, missing).await;
        }
        decline(&mut agents[4], Outcome::NotChecked).await;
    };
    let (accepted, ()) = tokio::join!(submit(&scheduler, other()), look);
    let why = format!("no agent that was asked sees all of it: {missing}; 1 other agent did not answer");
    assert_eq!(not_checked(&accepted.unwrap().warnings), format!("/data/other.yaml: {why}"));
    drop(agents.pop());
    let look = async {
        for agent in &mut agents {
            lack(agent, missing).await;
        }
    };
    let (accepted, ()) = tokio::join!(submit(&scheduler, other()), look);
    assert!(not_checked(&accepted.unwrap().warnings).contains("no agent that was asked sees all of it"));
}

#[tokio::test]
async fn every_way_to_submit_says_that_a_data_set_was_not_checked() {
    let scheduler = patient().await;
    let mut jobs = scheduler.jobs();
    let why = |data: &str| format!("{data}: no agent is connected that looks at data sets");
    for validate_only in [true, false] {
        let specs = vec![on(DATA).spec.unwrap(), on(DATA).spec.unwrap()];
        let part = pb::SubmitJobsRequest { specs, validate_only, ..Default::default() };
        let answer = jobs.submit_jobs(tokio_stream::iter([part])).await.unwrap().into_inner();
        assert_eq!(not_checked(&answer.warnings), why(DATA));
        let values = vec!["/data/1.yaml".into(), "/data/2.yaml".into()];
        let axes = vec![pb::SweepAxis { parameter: "data".into(), values }];
        let sweep = pb::SubmitSweepRequest { spec: on(DATA).spec, axes, validate_only, ..Default::default() };
        let warnings = jobs.submit_sweep(sweep).await.unwrap().into_inner().warnings;
        assert_eq!(not_checked(&warnings[..1]), why("/data/1.yaml"));
        assert_eq!(not_checked(&warnings[1..]), why("/data/2.yaml"));
    }
    let specs = (0..20).map(|number| on(&format!("/data/{number}.yaml")).spec.unwrap()).collect();
    let part = pb::SubmitJobsRequest { specs, validate_only: true, ..Default::default() };
    let warnings = jobs.submit_jobs(tokio_stream::iter([part])).await.unwrap().into_inner().warnings;
    assert_eq!(warnings.len(), 17);
    assert!(
        warnings[16].starts_with("data set not checked: all behind the first 16 data sets"),
        "{warnings:?}"
    );
    let job_id = submit(&scheduler, on(DATA)).await.unwrap().job_id;
    jobs.cancel_job(pb::CancelJobRequest { job_id: job_id.clone() }).await.unwrap();
    let again = jobs.retry_job(pb::RetryJobRequest { job_id: job_id.clone() }).await.unwrap().into_inner();
    assert_eq!(not_checked(&again.warnings), why(DATA));
    let job = jobs.get_job(pb::GetJobRequest { job_id }).await.unwrap().into_inner();
    assert_eq!(job.warnings, [""; 0]);
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
