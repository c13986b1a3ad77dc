//! What machines have of what jobs need, and what is wrong with them, over real gRPC and Redis.

use std::time::SystemTime;

use tonic::Code;
use tonic_types::StatusExt as _;
use trainyard_proto::pb;
use trainyard_proto::pb::agent_message::Message as FromAgent;
use trainyard_proto::pb::attempt::EndReason;
use trainyard_proto::pb::report::Report;
use trainyard_proto::pb::scheduler_message::Message as ToAgent;
use trainyard_proto::pb::unavailable::Cause;

use crate::support::{Agent, Scheduler, ended, started, submission};

const DATA: &str = "/data/bccd/data.yaml";

fn hello(number: u128, cpu_slots: u32) -> pb::Hello {
    pb::Hello {
        agent_id: uuid::Uuid::from_u128(number).to_string(),
        name: format!("lab-{number}"),
        cpu_slots,
        ..Default::default()
    }
}

fn fitness(roots: &[&str], missing: &[&str]) -> pb::Fitness {
    let root = |path: &&str| pb::DataRoot { path: (*path).into(), problem: String::new() };
    pb::Fitness {
        data_roots: roots.iter().map(root).collect(),
        missing_paths: missing.iter().map(|path| (*path).into()).collect(),
        ..Default::default()
    }
}

async fn connect(scheduler: &Scheduler, hello: pb::Hello) -> Agent {
    Agent::connect_as(scheduler.channel(), hello).await.unwrap()
}

async fn shown(scheduler: &Scheduler, agent: &str) -> pb::Agent {
    let request = pb::GetAgentRequest { agent: agent.into() };
    scheduler.cluster().get_agent(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_second_process_with_the_id_of_a_living_agent_is_refused_and_the_first_goes_on() {
    let scheduler = Scheduler::start().await;
    let process = |instance: &str| pb::Hello { instance: instance.into(), ..hello(1, 1) };
    let mut first = connect(&scheduler, process("first")).await;
    let refused = Agent::connect_as(scheduler.channel(), process("second")).await.err().unwrap();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "AGENT_ID_IN_USE");
    assert!(refused.message().contains("must not share a `data_dir`"), "{}", refused.message());
    assert!(shown(&scheduler, "lab-1").await.notices[0].contains("another process with this agent's id"));
    let job = scheduler.submit(submission("")).await.unwrap().id;
    assert_eq!(first.assigned().await.attempt, format!("{job}/1"));
    // Once the first is gone the second gets in, with what the first held.
    drop(first);
    loop {
        let attempts = vec![format!("{job}/1")];
        match Agent::connect_as(scheduler.channel(), pb::Hello { attempts, ..process("second") }).await {
            Ok(_) => break,
            Err(refused) => assert_eq!(refused.code(), Code::AlreadyExists),
        }
    }
    assert_eq!(scheduler.get(&job).await.attempts.len(), 1);
}

#[tokio::test]
async fn a_path_that_no_agent_has_fails_the_job_at_once_and_lists_them() {
    let scheduler = Scheduler::start().await;
    let outside = pb::Hello { fitness: Some(fitness(&["/scratch"], &[])), ..hello(1, 1) };
    let _outside = connect(&scheduler, outside).await;
    let mut asked =
        connect(&scheduler, pb::Hello { fitness: Some(fitness(&["/data"], &[])), ..hello(2, 1) }).await;
    let job = scheduler.submit(submission("")).await.unwrap().id;
    let attempt = asked.assigned().await.attempt;
    // As agents do it: first what they lack, then the end.
    let beat = pb::Heartbeat { fitness: Some(fitness(&["/data"], &[DATA])), ..Default::default() };
    asked.say(FromAgent::Heartbeat(beat)).await;
    let kind = pb::unfit::Kind::PathMissing.into();
    let unfit = pb::Unfit { kind, path: DATA.into(), message: format!("{DATA} is not there") };
    let reason = EndReason::AgentUnfit.into();
    let end =
        pb::Ended { reason, message: "is not there".into(), artifacts: vec![], unfit: Some(unfit.clone()) };
    asked.report_acked(&attempt, 1, Report::Ended(end)).await;
    let job = scheduler.get(&job).await;
    assert_eq!(job.state(), pb::JobState::Failed);
    assert_eq!(job.attempts[0].unfit, Some(unfit));
    for part in
        ["agent `lab-1`: /data/bccd/data.yaml is outside", "agent `lab-2`: /data/bccd/data.yaml is not there"]
    {
        assert!(job.state_reason.contains(part), "{}", job.state_reason);
    }
    let lab = shown(&scheduler, "lab-2").await;
    assert_eq!((lab.data_roots[0].path.as_str(), lab.missing_paths), ("/data", vec![DATA.to_owned()]));
}

#[tokio::test]
async fn what_is_not_as_it_should_be_on_a_machine_is_told_in_sentences() {
    let scheduler = Scheduler::start().await;
    let _bare = connect(&scheduler, hello(1, 0)).await;
    let told = shown(&scheduler, "lab-1").await.notices;
    assert!(told.len() == 1 && told[0].starts_with("has no GPU that NVIDIA's driver tells of"), "{told:?}");
    let root = pb::DataRoot { path: "/data".into(), problem: "stale NFS handle".into() };
    let unavailable =
        Some(pb::Unavailable { cause: Cause::SelfTest.into(), message: "libtorch cannot be loaded".into() });
    let sick = pb::Fitness {
        data_roots: vec![root],
        missing_paths: vec![DATA.into()],
        cpu_unavailable: unavailable,
        notices: vec!["its disk is slow".into()],
        ..Default::default()
    };
    let closed = pb::Hello { fitness: Some(sick), unavailable: "its disk is full".into(), ..hello(2, 1) };
    let _sick = connect(&scheduler, closed).await;
    assert_eq!(
        shown(&scheduler, "lab-2").await.notices,
        [
            "its disk is full",
            "/data cannot be read now: stale NFS handle",
            "jobs asked for what cannot be read there: /data/bccd/data.yaml",
            "CPU slot 0 takes no job: libtorch cannot be loaded",
            "its disk is slow",
        ]
    );
}

#[tokio::test]
async fn a_job_that_has_trained_gives_its_slot_back_and_the_administrator_is_told() {
    let scheduler = Scheduler::start().await;
    let mut agent = connect(&scheduler, hello(1, 1)).await;
    let job = scheduler.submit(submission("")).await.unwrap().id;
    let next = scheduler.submit(submission("next")).await.unwrap().id;
    let attempt = agent.assigned().await.attempt;
    agent.report_acked(&attempt, 1, started()).await;
    let waits_for = "room on the scheduler's disk".to_owned();
    agent.report(&attempt, 2, Report::SlotReleased(pb::SlotReleased { waits_for, is_trained: true })).await;
    assert_eq!(agent.assigned().await.attempt, format!("{next}/1"));
    let waiting = scheduler.get(&job).await;
    assert_eq!(waiting.state(), pb::JobState::Running);
    assert_eq!(
        waiting.state_reason,
        "trained; its results wait on agent `lab-1` for room on the scheduler's disk"
    );
    assert!(waiting.attempts[0].slot_released_time.is_some());
    let ready = scheduler.page("/readyz").await;
    assert!(
        ready.contains("1 job's results wait on agents to be handed in; the disk of `blob_dir` has "),
        "{ready}"
    );
    let metrics = scheduler.page("/metrics").await;
    for name in
        ["trainyard_jobs_handing_in{state=\"waiting\"} 1", "trainyard_blob_disk_bytes{state=\"free\"} "]
    {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    agent.report_acked(&attempt, 3, ended(EndReason::Completed, vec![])).await;
    assert_eq!(scheduler.get(&job).await.state(), pb::JobState::Succeeded);
    assert!(!scheduler.page("/readyz").await.contains("wait"));
}

fn step() -> Report {
    let line = r#"{"v":1,"time":1,"type":"step","epoch":1,"batch":1,"batches":10,"images_per_second":1.0,"loader_wait_ratio":0.0,"metrics":{}}"#;
    Report::TrainerEvent(line.into())
}

#[tokio::test]
async fn a_machine_on_which_jobs_end_too_soon_is_closed_shown_and_cleared() {
    let scheduler = Scheduler::start().await;
    let mut well = connect(&scheduler, hello(2, 1)).await;
    scheduler.submit(submission("well")).await.unwrap();
    let attempt = well.assigned().await.attempt;
    well.report_acked(&attempt, 1, started()).await;
    well.report_acked(&attempt, 2, step()).await;
    let mut sick = connect(&scheduler, hello(1, 1)).await;
    for number in 0..3 {
        let job = scheduler.submit(submission(&number.to_string())).await.unwrap().id;
        let attempt = sick.assigned().await.attempt;
        sick.report_acked(&attempt, 1, ended(EndReason::TrainerCrash, vec![])).await;
        scheduler.jobs().cancel_job(pb::CancelJobRequest { job_id: job }).await.unwrap();
    }
    let lab = shown(&scheduler, "lab-1").await;
    let unavailable = lab.cpu_slots[0].unavailable.clone().unwrap();
    assert_eq!(unavailable.cause(), Cause::QuickEnds);
    assert!(unavailable.message.contains("yard agents clear lab-1"), "{}", unavailable.message);
    assert!(scheduler.page("/metrics").await.contains("trainyard_slots_shut 1\n"));
    let clear = pb::ClearGpuRequest { agent: "lab-1".into(), gpu: String::new() };
    let lab = scheduler.cluster().clear_gpu(clear).await.unwrap().into_inner();
    assert_eq!(lab.cpu_slots[0].unavailable, None);
    match sick.command().await.unwrap() {
        ToAgent::ClearGpu(clear) => assert_eq!(clear.gpu, ""),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_agents_clock_is_told_and_its_times_are_corrected() {
    let scheduler = Scheduler::start().await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let clock = Some(prost_types::Timestamp { seconds: now - 25 * 3600, nanos: 0 });
    let condition = pb::Fitness { clock, ..fitness(&["/data"], &[]) };
    let _agent = connect(&scheduler, pb::Hello { fitness: Some(condition), ..hello(1, 1) }).await;
    let lab = shown(&scheduler, "lab-1").await;
    let offset = lab.clock_offset.unwrap().seconds;
    assert!((-25 * 3600 - 60..=-25 * 3600).contains(&offset), "{offset}");
    assert!(lab.notices[0].contains("1 d 1 h"), "{:?}", lab.notices);
}
