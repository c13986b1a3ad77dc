//! `JobService` over a real Redis: submissions, lists, and following a job.

use tonic::Code;
use tonic_types::StatusExt as _;
use trainyard_proto::pb;

use crate::support::{Scheduler, code, ended, log, started, submission};

#[tokio::test]
async fn a_submission_is_queued_with_its_defaults_and_found_by_a_prefix() {
    let scheduler = Scheduler::start().await;
    let mut request = tonic::Request::new(submission(""));
    request.metadata_mut().insert("trainyard-user", "ada".parse().unwrap());
    let answer = scheduler.jobs().submit_job(request).await.unwrap().into_inner();
    let job = scheduler.get(&answer.job_id[..13]).await;
    assert_eq!((job.id.as_str(), job.user.as_str()), (answer.job_id.as_str(), "ada"));
    assert_eq!((job.state(), job.queue_position), (pb::JobState::Queued, Some(1)));
    assert_eq!(job.waiting_for, "no agent is connected");
    assert_eq!(job.spec.unwrap().train.unwrap().epochs, Some(100));
}

#[tokio::test]
async fn every_bad_field_is_named_at_once_with_details() {
    let scheduler = Scheduler::start().await;
    let mut request = submission(&"r".repeat(200));
    let spec = request.spec.as_mut().unwrap();
    spec.priority = 1000;
    spec.train.as_mut().unwrap().epochs = Some(0);
    spec.train.as_mut().unwrap().model = "yolov9".into();
    let status = scheduler.submit(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let mut fields: Vec<String> =
        status.get_details_bad_request().unwrap().field_violations.into_iter().map(|v| v.field).collect();
    fields.sort();
    assert_eq!(fields, ["request_id", "spec.priority", "spec.train.epochs", "spec.train.model"]);
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INVALID_FIELDS", "trainyard"));
    let empty = pb::SubmitJobRequest::default();
    assert!(scheduler.submit(empty).await.unwrap_err().message().contains("spec: is missing"));
}

#[tokio::test]
async fn a_repeated_request_id_makes_no_second_job() {
    let scheduler = Scheduler::start().await;
    let first = scheduler.submit(submission("r")).await.unwrap();
    assert_eq!(scheduler.submit(submission("r")).await.unwrap().id, first.id);
    let mut other = submission("r");
    other.spec.as_mut().unwrap().priority = 1;
    let status = scheduler.submit(other).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), &info.metadata["job"]), ("REQUEST_ID_REUSED", &first.id));
    assert_eq!(scheduler.list(pb::ListJobsRequest::default()).await.unwrap().jobs.len(), 1);
}

#[tokio::test]
async fn a_validation_changes_nothing() {
    let scheduler = Scheduler::start().await;
    let request = pb::SubmitJobRequest { validate_only: true, ..submission("r") };
    let answer = scheduler.jobs().submit_job(request).await.unwrap().into_inner();
    assert_eq!(answer.job_id, "");
    assert_eq!(scheduler.list(pb::ListJobsRequest::default()).await.unwrap().jobs.len(), 0);
}

#[tokio::test]
async fn a_validation_says_where_and_when_the_job_would_run() {
    let scheduler = Scheduler::start().await;
    let plan = async || {
        let request = pb::SubmitJobRequest { validate_only: true, ..submission("") };
        scheduler.jobs().submit_job(request).await.unwrap().into_inner().plan.unwrap()
    };
    assert_eq!(plan().await.waiting_sentence, "No agent is connected.");
    let mut agent = scheduler.agent(1, &[]).await;
    let free = plan().await;
    assert_eq!((free.options[0].device.as_str(), free.options[0].free), ("CPU", free.options[0].total));
    assert!(free.start_time.is_some() && free.waiting_sentence.is_empty(), "{free:?}");
    for _ in 0..free.options[0].total {
        scheduler.submit(submission("")).await.unwrap();
        agent.assigned().await;
    }
    let busy = plan().await;
    assert_eq!(busy.options[0].free, 0);
    assert!(busy.waiting_sentence.starts_with("It waits for "), "{busy:?}");
    let mut asked = submission("");
    asked.spec.as_mut().unwrap().train.as_mut().unwrap().batch = Some(12.0);
    let request = pb::SubmitJobRequest { validate_only: true, ..asked };
    let answer = scheduler.jobs().submit_job(request).await.unwrap().into_inner();
    assert_eq!(answer.plan.unwrap().options[0].batch_size, 12);
}

#[tokio::test]
async fn the_priority_of_a_job_that_waits_is_changed_by_its_user_and_outlives_a_restart() {
    let scheduler = Scheduler::start().await;
    let ids = [
        scheduler.submit(submission("")).await.unwrap().id,
        scheduler.submit(submission("")).await.unwrap().id,
    ];
    let wish = |job_id: &str, priority| pb::SetJobPriorityRequest { job_id: job_id.into(), priority };
    let job = scheduler.jobs().set_job_priority(wish(&ids[1][..20], 5)).await.unwrap().into_inner();
    assert_eq!((job.spec.unwrap().priority, job.queue_position), (5, Some(1)));
    assert_eq!(scheduler.get(&ids[0]).await.queue_position, Some(2));
    let wrong = scheduler.jobs().set_job_priority(wish(&ids[1], 101)).await.unwrap_err();
    assert_eq!(wrong.get_details_bad_request().unwrap().field_violations[0].field, "priority");
    let scheduler = Scheduler::start_in(scheduler.stop().await).await;
    assert_eq!(scheduler.get(&ids[1]).await.spec.unwrap().priority, 5);
    let events = pb::WatchJobRequest { job_id: ids[1].clone(), cursor: 1, history_only: true };
    let told = scheduler.jobs().watch_job(events).await.unwrap().into_inner().message().await.unwrap();
    assert!(format!("{told:?}").contains("its priority was changed from 0 to 5"), "{told:?}");
    scheduler.jobs().cancel_job(pb::CancelJobRequest { job_id: ids[1].clone() }).await.unwrap();
    let over = scheduler.jobs().set_job_priority(wish(&ids[1], 1)).await.unwrap_err();
    assert_eq!(over.code(), Code::FailedPrecondition);
    assert_eq!(over.get_details_error_info().unwrap().reason, "JOB_NOT_QUEUED");
}

#[tokio::test]
async fn shares_tell_what_each_user_has_and_has_had() {
    let scheduler = Scheduler::start().await;
    let agent = scheduler.agent(1, &[]).await;
    for _ in 0..3 {
        scheduler.submit(submission("")).await.unwrap();
    }
    let shares = scheduler.jobs().list_user_shares(pb::ListUserSharesRequest {}).await.unwrap().into_inner();
    let [user] = &shares.users[..] else { panic!("{shares:?}") };
    assert_eq!((user.user.as_str(), user.weight, user.gpus), ("anonymous", 1, 0));
    assert_eq!(user.cpu_slots + user.queued_jobs, 3);
    drop(agent);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let scheduler = Scheduler::start().await;
    let missing = pb::GetJobRequest { job_id: "ffff".into() };
    let status = scheduler.jobs().get_job(missing).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, "jobs/ffff");
    assert_eq!(status.get_details_error_info().unwrap().reason, "JOB_NOT_FOUND");
    let missing = pb::GetAgentRequest { agent: "nobody".into() };
    assert_eq!(code(scheduler.cluster().get_agent(missing).await), Code::NotFound);
    for text in ["", "not hexadecimal"] {
        let request = pb::CancelJobRequest { job_id: text.into() };
        let status = scheduler.jobs().cancel_job(request).await.unwrap_err();
        assert!(matches!(status.code(), Code::InvalidArgument | Code::NotFound), "{status}");
    }
}

#[tokio::test]
async fn pages_stay_in_place_while_jobs_come() {
    let scheduler = Scheduler::start().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(scheduler.submit(submission("")).await.unwrap().id);
    }
    ids.reverse();
    let first = pb::ListJobsRequest { page_size: 2, ..Default::default() };
    let mut page = scheduler.list(first.clone()).await.unwrap();
    let mut seen = Vec::new();
    loop {
        seen.extend(page.jobs.into_iter().map(|job| job.id));
        if page.next_page_token.is_empty() {
            break;
        }
        // A newer job moves nothing on later pages.
        scheduler.submit(submission("")).await.unwrap();
        let next = pb::ListJobsRequest { page_token: page.next_page_token.clone(), ..first.clone() };
        let other = pb::ListJobsRequest { user: "ada".into(), ..next.clone() };
        assert_eq!(code(scheduler.list(other).await), Code::InvalidArgument);
        // A token that was cut off must not lead back to the beginning.
        let short = pb::ListJobsRequest { page_token: next.page_token[..30].to_owned(), ..next.clone() };
        assert_eq!(code(scheduler.list(short).await), Code::InvalidArgument);
        page = scheduler.list(next).await.unwrap();
    }
    assert_eq!(seen, ids);
    let negative = pb::ListJobsRequest { page_size: -1, ..Default::default() };
    assert_eq!(code(scheduler.list(negative).await), Code::InvalidArgument);
    let queued = pb::ListJobsRequest { states: vec![pb::JobState::Running.into()], ..Default::default() };
    assert_eq!(scheduler.list(queued).await.unwrap().jobs.len(), 0);
}

#[tokio::test]
async fn only_a_failed_or_cancelled_job_is_retried() {
    let scheduler = Scheduler::start().await;
    let job_id = scheduler.submit(submission("")).await.unwrap().id;
    let retry = pb::RetryJobRequest { job_id: job_id.clone() };
    let status = scheduler.jobs().retry_job(retry.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.get_details_precondition_failure().is_some());
    let cancel = pb::CancelJobRequest { job_id };
    for _ in 0..2 {
        let job = scheduler.jobs().cancel_job(cancel.clone()).await.unwrap().into_inner();
        assert_eq!(job.state(), pb::JobState::Cancelled);
    }
    let job = scheduler.jobs().retry_job(retry).await.unwrap().into_inner();
    assert_eq!(job.state(), pb::JobState::Queued);
}

#[tokio::test]
async fn a_watcher_that_comes_back_misses_nothing_and_sees_nothing_twice() {
    const LINES: u64 = 600;
    let scheduler = Scheduler::start().await;
    let job = scheduler.submit(submission("")).await.unwrap().id;
    let mut agent = scheduler.agent(1, &[]).await;
    let attempt = agent.assigned().await.attempt;
    agent.report_acked(&attempt, 1, started()).await;
    let reports = async {
        for number in 0..LINES {
            agent.report_acked(&attempt, number + 2, log(format!("line {number}"))).await;
        }
        agent.report_acked(&attempt, LINES + 2, ended(pb::attempt::EndReason::Completed, vec![])).await;
    };
    let watching = async {
        let (mut cursors, mut lines) = (Vec::new(), Vec::new());
        // Hangs up after every seventh event, and goes on from the last one seen.
        'again: loop {
            let mut events = scheduler.watch(&job, cursors.last().copied().unwrap_or(0)).await;
            for taken in 0.. {
                match events.message().await.unwrap() {
                    None => break 'again,
                    Some(_) if taken == 7 => break,
                    Some(event) => {
                        cursors.push(event.cursor);
                        if let Some(pb::job_event::Event::LogLine(line)) = event.event {
                            lines.push(line.message);
                        }
                    }
                }
            }
        }
        (cursors, lines)
    };
    let ((), (cursors, lines)) = tokio::join!(reports, watching);
    assert_eq!(cursors, (1..=cursors.len() as u64).collect::<Vec<_>>());
    assert_eq!(lines, (0..LINES).map(|number| format!("line {number}")).collect::<Vec<_>>());
    assert_eq!(scheduler.get(&job).await.state(), pb::JobState::Succeeded);
}

#[tokio::test]
async fn a_history_ends_where_it_ends() {
    let scheduler = Scheduler::start().await;
    let job_id = scheduler.submit(submission("")).await.unwrap().id;
    let request = pb::WatchJobRequest { job_id, cursor: 0, history_only: true };
    let mut events = scheduler.jobs().watch_job(request).await.unwrap().into_inner();
    assert_eq!(events.message().await.unwrap().unwrap().cursor, 1);
    assert!(events.message().await.unwrap().is_none());
}

#[tokio::test]
async fn both_versions_of_reflection_list_the_services_and_know_the_errors() {
    use tonic_reflection::pb::{v1, v1alpha};
    let scheduler = Scheduler::start().await;
    macro_rules! ask {
        ($version:ident) => {{
            use $version::server_reflection_client::ServerReflectionClient;
            use $version::server_reflection_request::MessageRequest;
            use $version::server_reflection_response::MessageResponse;
            let request = |message| $version::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(message),
            };
            let questions = [
                request(MessageRequest::ListServices(String::new())),
                request(MessageRequest::FileContainingSymbol("google.rpc.BadRequest".into())),
            ];
            let mut client = ServerReflectionClient::new(scheduler.channel());
            let answers = client.server_reflection_info(tokio_stream::iter(questions)).await.unwrap();
            let mut answers = answers.into_inner();
            let mut next = async || answers.message().await.unwrap().unwrap().message_response.unwrap();
            let MessageResponse::ListServicesResponse(list) = next().await else { panic!("no list") };
            assert!(matches!(next().await, MessageResponse::FileDescriptorResponse(_)));
            list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
        }};
    }
    for services in [ask!(v1), ask!(v1alpha)] {
        for name in ["JobService", "ClusterService", "AgentService", "ArtifactService"] {
            assert!(services.contains(&format!("trainyard.v1.{name}")), "{services:?}");
        }
    }
}

#[tokio::test]
async fn streams_end_when_the_scheduler_does() {
    let scheduler = Scheduler::start().await;
    let job = scheduler.submit(submission("")).await.unwrap().id;
    let mut events = scheduler.watch(&job, 1).await;
    let mut agent = scheduler.agent(1, &[]).await;
    agent.assigned().await;
    scheduler.stop().await;
    let watched = loop {
        match events.message().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(code(watched), Code::Unavailable);
    assert_eq!(code(agent.command().await), Code::Unavailable);
}
