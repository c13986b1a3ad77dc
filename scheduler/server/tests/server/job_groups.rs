//! Many jobs in one call, sweeps, limits of users, and what becomes of jobs that expire; over real Redis.

use tonic::Code;
use tonic_types::StatusExt as _;
use trainyard_proto::pb;
use trainyard_proto::pb::attempt::EndReason;
use trainyard_scheduler::config::Config;

use crate::support::{Scheduler, code, config, ended, started, submission};

fn spec(name: &str) -> pb::JobSpec {
    pb::JobSpec { name: name.into(), ..submission("").spec.unwrap() }
}

fn parts(request_id: &str, names: &[&str]) -> Vec<pb::SubmitJobsRequest> {
    let part = |name: &&str| pb::SubmitJobsRequest {
        request_id: request_id.into(),
        specs: vec![spec(name)],
        validate_only: false,
    };
    names.iter().map(part).collect()
}

async fn submit(
    scheduler: &Scheduler,
    parts: Vec<pb::SubmitJobsRequest>,
) -> Result<Vec<String>, tonic::Status> {
    let answer = scheduler.jobs().submit_jobs(tokio_stream::iter(parts)).await?;
    Ok(answer.into_inner().job_ids)
}

fn axis(parameter: &str, values: &[&str]) -> pb::SweepAxis {
    let values = values.iter().map(|&value| value.to_owned()).collect();
    pb::SweepAxis { parameter: parameter.into(), values }
}

fn sweep(request_id: &str, axes: Vec<pb::SweepAxis>) -> pb::SubmitSweepRequest {
    pb::SubmitSweepRequest {
        request_id: request_id.into(),
        spec: Some(spec("swept")),
        axes,
        validate_only: false,
    }
}

#[tokio::test]
async fn jobs_of_one_call_are_there_in_order_and_a_repeat_makes_no_more() {
    let scheduler = Scheduler::start().await;
    let names = ["a", "b", "c"];
    let ids = submit(&scheduler, parts("r", &names)).await.unwrap();
    assert_eq!(submit(&scheduler, parts("r", &names)).await.unwrap(), ids);
    assert_eq!(code(submit(&scheduler, parts("r", &["a"])).await), Code::AlreadyExists);
    for (id, name) in ids.iter().zip(names) {
        assert_eq!(scheduler.get(id).await.spec.unwrap().name, name);
    }
    // They outlive the scheduler, though none of them has a record of its own yet.
    let scheduler = Scheduler::start_in(scheduler.stop().await).await;
    assert_eq!(submit(&scheduler, parts("r", &names)).await.unwrap(), ids);
    let jobs = scheduler.list(pb::ListJobsRequest::default()).await.unwrap().jobs;
    assert_eq!(jobs.iter().rev().map(|job| job.id.clone()).collect::<Vec<_>>(), ids);
    let mut events = scheduler.watch(&ids[0], 0).await;
    assert_eq!(events.message().await.unwrap().unwrap().cursor, 1);
}

#[tokio::test]
async fn of_a_call_with_one_bad_job_none_is_queued_and_each_bad_field_is_named() {
    let scheduler = Scheduler::start().await;
    let mut bad = parts("r", &["a", "b", "c"]);
    bad[1].specs[0].train.as_mut().unwrap().epochs = Some(0);
    bad[2].specs[0].priority = 1000;
    let status = submit(&scheduler, bad).await.unwrap_err();
    let fields = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<&str> = fields.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["specs[1].train.epochs", "specs[2].priority"]);
    assert_eq!(code(submit(&scheduler, vec![]).await), Code::InvalidArgument);
    assert!(scheduler.list(pb::ListJobsRequest::default()).await.unwrap().jobs.is_empty());
}

#[tokio::test]
async fn a_sweep_trains_every_combination_and_is_cancelled_as_one() {
    let scheduler = Scheduler::start().await;
    let axes = vec![axis("lr0", &["0.01", "0.02"]), axis("model", &["yolov8n", "yolov8s"])];
    let answer = scheduler.jobs().submit_sweep(sweep("r", axes.clone())).await.unwrap().into_inner();
    assert_eq!(answer.jobs, 4);
    let again = scheduler.jobs().submit_sweep(sweep("r", axes)).await.unwrap().into_inner();
    assert_eq!(again, answer);
    let mut agent = scheduler.agent(1, &[]).await;
    let (first, second) = (agent.assigned().await, agent.assigned().await);
    let told = [&first, &second].map(|assign| {
        let spec = assign.spec.clone().unwrap();
        let train = spec.train.unwrap();
        (train.lr0, train.model, spec.labels["lr0"].clone())
    });
    assert_eq!(told[0], (Some(0.01), "yolov8n".into(), "0.01".into()));
    assert_eq!(told[1], (Some(0.01), "yolov8s".into(), "0.01".into()));
    let sweep_id = answer.sweep_id[..18].to_owned();
    let labels = [("lr0".to_owned(), "0.02".to_owned())].into();
    let request = pb::ListJobsRequest { sweep_id: sweep_id.clone(), labels, ..Default::default() };
    let found = scheduler.list(request).await.unwrap().jobs;
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|job| job.sweep_id == answer.sweep_id && job.state() == pb::JobState::Queued));
    let request = pb::CancelSweepRequest { sweep_id };
    let counts = scheduler.jobs().cancel_sweep(request.clone()).await.unwrap().into_inner().counts;
    let counts: Vec<(pb::JobState, u32)> = counts.iter().map(|count| (count.state(), count.jobs)).collect();
    assert_eq!(counts, [(pb::JobState::Starting, 2), (pb::JobState::Cancelled, 2)]);
    scheduler.jobs().cancel_sweep(request).await.unwrap();
    let scheduler = Scheduler::start_in(scheduler.stop().await).await;
    let jobs = scheduler.list(pb::ListJobsRequest::default()).await.unwrap().jobs;
    assert_eq!(jobs.iter().filter(|job| job.state() == pb::JobState::Cancelled).count(), 2);
}

#[tokio::test]
async fn a_sweep_says_which_value_is_wrong() {
    let scheduler = Scheduler::start().await;
    let axes = vec![
        axis("lr0", &["0.01", "many"]),
        axis("lr0", &["0.1"]),
        axis("no_such", &["1"]),
        axis("epochs", &["0"]),
        axis("seed", &[]),
    ];
    let status = scheduler.jobs().submit_sweep(sweep("", axes)).await.unwrap_err();
    let fields = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<&str> = fields.iter().map(|violation| violation.field.as_str()).collect();
    let wanted = [
        "axes[0].values[1]",
        "axes[1].parameter",
        "axes[2].values[0]",
        "axes[3].values[0]",
        "axes[4].values",
    ];
    assert_eq!(fields, wanted, "{status}");
    let many: Vec<String> = (0..400).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let axes = vec![axis("seed", &many), axis("epochs", &many[1..])];
    assert_eq!(code(scheduler.jobs().submit_sweep(sweep("", axes)).await), Code::InvalidArgument);
    let request = pb::GetSweepRequest { sweep_id: "0000".into() };
    assert_eq!(code(scheduler.jobs().get_sweep(request).await), Code::NotFound);
}

#[tokio::test]
async fn a_full_queue_is_refused_with_the_name_of_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { queued_jobs: 2, ..config(dir.path()) };
    let scheduler = Scheduler::start_with(dir, config).await;
    submit(&scheduler, parts("", &["a", "b"])).await.unwrap();
    let status = scheduler.submit(submission("")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.metadata["limit"].as_str(), info.metadata["allowed"].as_str()), ("queued_jobs", "2"));
    assert!(status.get_details_quota_failure().is_some() && status.message().contains("`queued_jobs`"));
}

#[tokio::test]
async fn a_job_that_expires_leaves_its_history_beside_its_artifacts() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { keep_finished: 1, ..config(dir.path()) };
    let scheduler = Scheduler::start_with(dir, config.clone()).await;
    let mut agent = scheduler.agent(1, &[]).await;
    let mut ids = Vec::new();
    for name in ["old", "new"] {
        ids.push(scheduler.submit(submission(name)).await.unwrap().id);
        let attempt = agent.assigned().await.attempt;
        agent.report_acked(&attempt, 1, started()).await;
        agent.report_acked(&attempt, 2, ended(EndReason::Completed, vec![])).await;
    }
    // The archive is written behind the user's back.
    let get = || async {
        let request = pb::GetJobRequest { job_id: ids[0].clone() };
        scheduler.jobs().get_job(request).await
    };
    while get().await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(scheduler.get(&ids[1]).await.state(), pb::JobState::Succeeded);
    let history = config.blobs().join(&ids[0]).join("history.jsonl");
    let text = std::fs::read_to_string(history).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["id"], &lines[0]["state"]), (&ids[0].as_str().into(), &"SUCCEEDED".into()));
    let cursors: Vec<u64> = lines[1..].iter().map(|line| line["cursor"].as_u64().unwrap()).collect();
    assert_eq!(cursors, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_job_out_of_time_is_stopped_and_says_so() {
    let scheduler = Scheduler::start().await;
    let mut agent = scheduler.agent(1, &[]).await;
    let mut request = submission("a");
    request.spec.as_mut().unwrap().time_limit = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let id = scheduler.submit(request).await.unwrap().id;
    let assign = agent.assigned().await;
    // Agents that know of no limits are not told of them.
    assert_eq!(assign.spec.unwrap().time_limit, None);
    agent.report_acked(&assign.attempt, 1, started()).await;
    match agent.command().await.unwrap() {
        pb::scheduler_message::Message::Stop(stop) => assert_eq!(stop.reason(), EndReason::Preempted),
        other => panic!("{other:?}"),
    }
    agent.report_acked(&assign.attempt, 2, ended(EndReason::Preempted, vec![])).await;
    let job = scheduler.get(&id).await;
    assert_eq!((job.state(), job.attempts[0].end_reason()), (pb::JobState::Failed, EndReason::TimeLimit));
    assert!(job.state_reason.contains("time limit of 1 s"), "{}", job.state_reason);
}

#[tokio::test]
async fn a_call_with_too_many_bytes_is_refused_while_it_comes_in() {
    let scheduler = Scheduler::start().await;
    let labels = (0..60).map(|key| (key.to_string(), "x".repeat(255))).collect();
    let large = pb::JobSpec { labels, ..spec("large") };
    let part = pb::SubmitJobsRequest { specs: vec![large; 700], ..Default::default() };
    // Together 77 MB.
    let refused = submit(&scheduler, vec![part; 7]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let field = &refused.get_details_bad_request().unwrap().field_violations[0];
    assert_eq!((field.field.as_str(), field.description.contains("64 MiB")), ("specs", true));
}
