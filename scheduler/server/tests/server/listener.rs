//! What every caller is owed, whatever it calls: deadlines that hold, refusals that explain themselves, and
//! others that do not starve it.

use std::time::Duration;

use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;
use trainyard_proto::pb;

use crate::support::{Scheduler, log, started, submission};

#[tokio::test]
async fn refusals_that_tonic_makes_have_an_error_info_too() {
    let scheduler = Scheduler::start().await;
    let mut grpc = tonic::client::Grpc::new(scheduler.channel());
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<pb::GetJobRequest, pb::Job>::default();
    let path = PathAndQuery::from_static("/trainyard.v1.JobService/FlyJob");
    let refused = grpc.unary(Request::new(pb::GetJobRequest::default()), path, codec).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "UNIMPLEMENTED");
    assert_eq!(refused.get_details_error_info().unwrap().domain, "trainyard");

    let codec = tonic_prost::ProstCodec::<pb::GetJobRequest, pb::Job>::default();
    let path = PathAndQuery::from_static("/trainyard.v1.NoService/GetJob");
    grpc.ready().await.unwrap();
    let refused = grpc.unary(Request::new(pb::GetJobRequest::default()), path, codec).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "UNIMPLEMENTED");

    let long = pb::GetJobRequest { job_id: "x".repeat(17 << 20) };
    let refused = scheduler.jobs().get_job(long).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    assert_eq!(refused.get_details_error_info().unwrap().reason, "OUT_OF_RANGE");
    // One that explains itself is left as it is.
    let refused = scheduler.jobs().get_job(pb::GetJobRequest::default()).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "INVALID_FIELDS");
}

#[tokio::test]
async fn a_stream_ends_by_the_deadline_that_its_caller_has_set() {
    let scheduler = Scheduler::start().await;
    let job_id = scheduler.submit(submission("a")).await.unwrap().id;
    let mut request = Request::new(pb::WatchJobRequest { job_id, ..Default::default() });
    request.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
    let mut events = scheduler.jobs().watch_job(request).await.unwrap().into_inner();
    assert_eq!(events.message().await.unwrap().unwrap().cursor, 1);
    let end = events.message().await.unwrap_err();
    assert_eq!(end.code(), Code::DeadlineExceeded);
    assert_eq!(end.get_details_error_info().unwrap().reason, "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn a_call_that_cannot_be_answered_in_time_is_ended() {
    let scheduler = Scheduler::start().await;
    let redis = nix::unistd::Pid::from_raw(scheduler.server.redis().unwrap().pid().try_into().unwrap());
    nix::sys::signal::kill(redis, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let mut request = Request::new(submission("a"));
    // Beside the client's own patience, so that it is the server that ends the call.
    request.metadata_mut().insert("grpc-timeout", "100m".parse().unwrap());
    let end = scheduler.jobs().submit_job(request).await.unwrap_err();
    nix::sys::signal::kill(redis, nix::sys::signal::Signal::SIGCONT).unwrap();
    assert!(matches!(end.code(), Code::DeadlineExceeded | Code::Cancelled), "{end:?}");
    // It may have landed all the same.
    scheduler.submit(submission("a")).await.unwrap();
    assert_eq!(scheduler.list(pb::ListJobsRequest::default()).await.unwrap().jobs.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flooding_agent_and_a_watcher_that_does_not_read_hold_up_nobody() {
    const REPORTS: u64 = 5000;
    let scheduler = Scheduler::start().await;
    let mut agent = scheduler.agent(1, &[]).await;
    let job = scheduler.submit(submission("flood")).await.unwrap().id;
    let attempt = agent.assigned().await.attempt;
    agent.report_acked(&attempt, 1, started()).await;
    // It opens a stream and never looks at it.
    let _idle = scheduler.watch(&job, 0).await;
    let before = memory_kib();
    let flood = async {
        let mut acked = 1;
        for sequence in 2..=REPORTS {
            agent.report(&attempt, sequence, log(format!("line {sequence} {}", "x".repeat(200)))).await;
            // As an agent does, it reads what it is told.
            while let Ok(Ok(command)) = tokio::time::timeout(Duration::ZERO, agent.command()).await {
                if let pb::scheduler_message::Message::Ack(ack) = command {
                    acked = acked.max(ack.sequence);
                }
            }
        }
        while acked < REPORTS {
            if let pb::scheduler_message::Message::Ack(ack) = agent.command().await.unwrap() {
                acked = ack.sequence;
            }
        }
    };
    tokio::pin!(flood);
    let mut others = 0;
    loop {
        tokio::select! {
            () = &mut flood => break,
            answer = scheduler.submit(submission(&format!("other-{others}"))) => {
                answer.unwrap();
                others += 1;
            }
        }
    }
    println!("{others} submissions beside {REPORTS} reports; memory grew by {} KiB", memory_kib() - before);
    assert!(others >= 20, "only {others} submissions were answered beside {REPORTS} reports");
    // A watcher that does read gets all of it.
    let mut events = scheduler.watch(&job, 0).await;
    let mut lines = 0;
    while lines < REPORTS - 1 {
        let event = events.message().await.unwrap().unwrap().event;
        lines += u64::from(matches!(event, Some(pb::job_event::Event::LogLine(_))));
    }
}

fn memory_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
