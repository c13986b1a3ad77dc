//! What people order of agents, and what is told of GPUs, over real gRPC and Redis.

use std::time::{Duration, SystemTime};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use trainyard_proto::pb;
use trainyard_proto::pb::agent_message::Message as FromAgent;
use trainyard_proto::pb::attempt::EndReason;
use trainyard_proto::pb::scheduler_message::Message as ToAgent;

use crate::support::{Agent, Scheduler, code, ended, started, submission};

fn gpu(uuid: &str, index: u32) -> pb::Gpu {
    let model = "NVIDIA GeForce RTX 4090".to_owned();
    pb::Gpu { uuid: uuid.into(), index, model, memory_total_mib: 24564, ..Default::default() }
}

fn quarantined(uuid: &str, index: u32) -> pb::Gpu {
    let cause = pb::unavailable::Cause::Quarantined.into();
    let unavailable = Some(pb::Unavailable { cause, message: "XID 79, fallen off the bus".into() });
    pb::Gpu { unavailable, ..gpu(uuid, index) }
}

fn hello(number: u128, gpus: Vec<pb::Gpu>, attempts: &[&str]) -> pb::Hello {
    pb::Hello {
        agent_id: uuid::Uuid::from_u128(number).to_string(),
        name: format!("lab-{number}"),
        gpus,
        attempts: attempts.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

async fn connect(scheduler: &Scheduler, hello: pb::Hello) -> Agent {
    Agent::connect_as(scheduler.channel(), hello).await.unwrap()
}

fn gpu_job(request_id: &str) -> pb::SubmitJobRequest {
    let mut request = submission(request_id);
    request.spec.as_mut().unwrap().resources = None;
    request
}

async fn drain(scheduler: &Scheduler, agent: &str, keep_running: bool) -> Result<pb::Agent, Status> {
    let request = pb::DrainAgentRequest { agent: agent.into(), keep_running };
    Ok(scheduler.cluster().drain_agent(request).await?.into_inner())
}

async fn resume(scheduler: &Scheduler, agent: &str) -> Result<pb::Agent, Status> {
    let request = pb::ResumeAgentRequest { agent: agent.into() };
    Ok(scheduler.cluster().resume_agent(request).await?.into_inner())
}

async fn reserve(
    scheduler: &Scheduler,
    agent: &str,
    gpus: &[&str],
    seconds: i64,
) -> Result<pb::Agent, Status> {
    let span = Some(prost_types::Duration { seconds, nanos: 0 });
    let gpus = gpus.iter().map(ToString::to_string).collect();
    let request = pb::ReserveGpusRequest { agent: agent.into(), gpus, span };
    Ok(scheduler.cluster().reserve_gpus(request).await?.into_inner())
}

async fn stopped(agent: &mut Agent) -> (EndReason, u32) {
    loop {
        match agent.command().await.unwrap() {
            ToAgent::Stop(stop) => return (stop.reason(), stop.grace_ms),
            ToAgent::Ack(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_drained_agents_job_goes_to_another_one_and_back_work_comes_after_resume() {
    let scheduler = Scheduler::start().await;
    let mut one = connect(&scheduler, hello(1, vec![gpu("GPU-a", 0)], &[])).await;
    let job = scheduler.submit(gpu_job("")).await.unwrap().id;
    let attempt = one.assigned().await.attempt;
    one.report_acked(&attempt, 1, started()).await;
    let mut two = connect(&scheduler, hello(2, vec![gpu("GPU-b", 0)], &[])).await;
    assert!(drain(&scheduler, "lab-1", false).await.unwrap().drained);
    assert!(drain(&scheduler, "lab-1", false).await.unwrap().drained);
    assert_eq!(stopped(&mut one).await, (EndReason::Drained, 0));
    one.report_acked(&attempt, 2, ended(EndReason::Drained, vec![])).await;
    assert_eq!(two.assigned().await.attempt, format!("{job}/2"));
    let waits = scheduler.submit(gpu_job("")).await.unwrap();
    assert_eq!(waits.state(), pb::JobState::Queued);
    assert!(!resume(&scheduler, "lab-1").await.unwrap().drained);
    assert_eq!(one.assigned().await.attempt, format!("{}/1", waits.id));
}

#[tokio::test]
async fn a_reserved_gpu_is_left_and_given_back() {
    let scheduler = Scheduler::start().await;
    let mut agent = connect(&scheduler, hello(1, vec![gpu("GPU-a", 0), gpu("GPU-b", 1)], &[])).await;
    let job = scheduler.submit(gpu_job("")).await.unwrap().id;
    let assign = agent.assigned().await;
    assert_eq!(assign.slot, Some(pb::assign::Slot::Gpu("GPU-a".into())));
    let shown = reserve(&scheduler, "lab-1", &["0"], 3600).await.unwrap();
    assert_eq!(stopped(&mut agent).await, (EndReason::Preempted, 20_000));
    assert!(shown.gpus[0].reserved_until.is_some() && shown.gpus[1].reserved_until.is_none());
    agent.report_acked(&assign.attempt, 1, ended(EndReason::Preempted, vec![])).await;
    let second = agent.assigned().await;
    assert_eq!(second.slot, Some(pb::assign::Slot::Gpu("GPU-b".into())));
    assert_eq!(scheduler.get(&job).await.attempts[0].end_reason(), EndReason::Preempted);
    // All GPUs, by no name.
    let release = pb::ReleaseGpusRequest { agent: "lab-1".into(), gpus: vec![] };
    let shown = scheduler.cluster().release_gpus(release).await.unwrap().into_inner();
    assert!(shown.gpus.iter().all(|gpu| gpu.reserved_until.is_none()));
    let next = scheduler.submit(gpu_job("")).await.unwrap();
    assert_eq!(agent.assigned().await.attempt, format!("{}/1", next.id));
}

#[tokio::test]
async fn a_wrong_order_names_the_field_the_value_and_the_way_out() {
    let scheduler = Scheduler::start().await;
    let _agent = connect(&scheduler, hello(1, vec![gpu("GPU-a", 0)], &[])).await;
    let unknown = drain(&scheduler, "lab-9", false).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(unknown.message(), "there is no agent `lab-9`; `yard agents` lists what there is");
    assert_eq!(code(resume(&scheduler, "").await), Code::InvalidArgument);
    let gpu = reserve(&scheduler, "lab-1", &["0", "7"], 3600).await.unwrap_err();
    assert_eq!(gpu.code(), Code::InvalidArgument);
    assert_eq!(gpu.message(), "gpus[1]: is `7`; agent `lab-1` has 0 (GPU-a): give an index or a UUID");
    for seconds in [0, 59, 30 * 24 * 3600 + 1, -5] {
        let span = reserve(&scheduler, "lab-1", &[], seconds).await.unwrap_err();
        assert_eq!(span.message(), "span: must be from 1 minute to 30 days; leave it out for 2 hours");
    }
    let no_gpu = scheduler.agent(5, &[]).await;
    let refused = reserve(&scheduler, "agent-5", &[], 3600).await.unwrap_err();
    assert!(refused.message().contains("has no GPU"), "{}", refused.message());
    drop(no_gpu);
}

#[tokio::test]
async fn a_quarantined_gpu_says_why_and_is_cleared_by_its_agent() {
    let scheduler = Scheduler::start().await;
    let mut agent = connect(&scheduler, hello(1, vec![quarantined("GPU-a", 0)], &[])).await;
    let job = scheduler.submit(gpu_job("")).await.unwrap();
    assert_eq!(
        job.waiting_for,
        "the only GPU that would do is quarantined: GPU 0 of `lab-1`, XID 79, fallen off the bus"
    );
    let clear = || pb::ClearGpuRequest { agent: "lab-1".into(), gpu: "0".into() };
    scheduler.cluster().clear_gpu(clear()).await.unwrap();
    match agent.command().await.unwrap() {
        ToAgent::ClearGpu(clear) => assert_eq!(clear.gpu, "GPU-a"),
        other => panic!("{other:?}"),
    }
    // Its agent finds the GPU well.
    let beat = pb::Heartbeat { gpus: vec![gpu("GPU-a", 0)], ..Default::default() };
    agent.say(FromAgent::Heartbeat(beat)).await;
    assert_eq!(agent.assigned().await.attempt, format!("{}/1", job.id));
    drop(agent);
    loop {
        let away = scheduler.cluster().clear_gpu(clear()).await;
        if let Err(away) = away {
            // Not UNAVAILABLE, which clients take for a reason to ask again.
            assert_eq!(away.code(), Code::FailedPrecondition);
            assert_eq!(away.get_details_error_info().unwrap().reason, "AGENT_NOT_CONNECTED");
            assert!(away.message().contains("agent `lab-1` is not connected"), "{}", away.message());
            break;
        }
    }
}

fn samples(from_ms: u64, count: u64, gpu: &str) -> Vec<pb::TelemetrySample> {
    let sample = |at| pb::TelemetrySample {
        time: Some((SystemTime::UNIX_EPOCH + Duration::from_millis(from_ms + at * 1000)).into()),
        gpu: gpu.into(),
        utilization_ratio: Some(0.5),
        ..Default::default()
    };
    (0..count).map(sample).collect()
}

async fn telemetry(scheduler: &Scheduler, gpu: &str) -> Result<Vec<pb::TelemetrySample>, Status> {
    let request = pb::GetTelemetryRequest { agent: "lab-1".into(), gpu: gpu.into(), ..Default::default() };
    Ok(scheduler.cluster().get_telemetry(request).await?.into_inner().samples)
}

#[tokio::test]
async fn what_gpus_did_can_be_asked_for() {
    let scheduler = Scheduler::start().await;
    let agent = connect(&scheduler, hello(1, vec![gpu("GPU-a", 0), gpu("GPU-b", 1)], &[])).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    let mut told = samples(now - 9000, 5, "GPU-b");
    told.extend(samples(now - 9000, 5, "GPU-a"));
    agent.say(FromAgent::Telemetry(pb::Telemetry { samples: told })).await;
    agent.say(FromAgent::Telemetry(pb::Telemetry { samples: samples(now - 4000, 4, "GPU-a") })).await;
    while telemetry(&scheduler, "").await.unwrap().len() < 14 {
        tokio::task::yield_now().await;
    }
    let of_a = telemetry(&scheduler, "0").await.unwrap();
    assert_eq!(of_a.len(), 9);
    assert!(of_a.iter().all(|sample| sample.gpu == "GPU-a" && sample.utilization_ratio == Some(0.5)));
    assert!(of_a.is_sorted_by_key(|sample| sample.time.map(|time| (time.seconds, time.nanos))));
    assert_eq!(code(telemetry(&scheduler, "5").await), Code::InvalidArgument);
    let request = pb::GetTelemetryRequest { agent: "nobody".into(), ..Default::default() };
    assert_eq!(code(scheduler.cluster().get_telemetry(request).await), Code::NotFound);
}

#[tokio::test]
async fn an_agent_is_named_by_any_start_of_its_id_and_two_of_one_name_are_told_apart() {
    let scheduler = Scheduler::start().await;
    let of = |id: &str, name: &str, version: &str| pb::Hello {
        agent_id: id.into(),
        name: name.into(),
        version: version.into(),
        gpus: vec![gpu(&format!("GPU-{id}"), 0)],
        ..Default::default()
    };
    let (first, second) = ("b6a5d511-86fd-4000-8000-000000000001", "b6a5d511-86fe-4000-8000-000000000002");
    let _one = connect(&scheduler, of(first, "lab-1", env!("CARGO_PKG_VERSION"))).await;
    let _other = connect(&scheduler, of(second, "lab-1", "0.0.7")).await;

    // Every order that takes an agent.
    let start = "b6a5d511-86fd";
    assert_eq!(drain(&scheduler, start, false).await.unwrap().id, first);
    assert_eq!(resume(&scheduler, "B6A5D51186FD").await.unwrap().id, first);
    assert_eq!(reserve(&scheduler, start, &[], 60).await.unwrap().id, first);
    let release = pb::ReleaseGpusRequest { agent: start.into(), gpus: Vec::new() };
    assert_eq!(scheduler.cluster().release_gpus(release).await.unwrap().into_inner().id, first);
    let clear = pb::ClearGpuRequest { agent: start.into(), gpu: String::new() };
    assert_eq!(scheduler.cluster().clear_gpu(clear).await.unwrap().into_inner().id, first);
    let shown = |agent: &str| pb::GetAgentRequest { agent: agent.into() };
    let shown = scheduler.cluster().get_agent(shown("b6a5d511-86fe")).await.unwrap().into_inner();
    assert_eq!(shown.id, second);
    let telemetry = pb::GetTelemetryRequest { agent: start.into(), ..Default::default() };
    scheduler.cluster().get_telemetry(telemetry).await.unwrap();

    for ambiguous in ["lab-1", "b6a5"] {
        let refused = drain(&scheduler, ambiguous, false).await.unwrap_err();
        let ids = "b6a5d511-86fd (connected), b6a5d511-86fe (connected)";
        assert!(refused.message().contains(ids), "{refused}");
    }
    assert_eq!(drain(&scheduler, "b7", false).await.unwrap_err().code(), Code::NotFound);

    // Both are told, and so is another version.
    let same_name = shown.notices.iter().any(|notice| notice.contains("another machine has this name, too"));
    assert!(same_name, "{:?}", shown.notices);
    let version = format!("is of version 0.0.7, and the scheduler of {}", env!("CARGO_PKG_VERSION"));
    assert!(shown.notices.iter().any(|notice| notice.starts_with(&version)), "{:?}", shown.notices);
    let of_first = pb::GetAgentRequest { agent: first.into() };
    let first = scheduler.cluster().get_agent(of_first).await.unwrap().into_inner();
    assert!(!first.notices.iter().any(|notice| notice.contains("version")), "{:?}", first.notices);
}
