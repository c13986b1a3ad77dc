//! Agents' sessions, and the blobs that attempts leave behind.

use sha2::{Digest as _, Sha256};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use trainyard_proto::pb;
use trainyard_proto::pb::scheduler_message::Message as ToAgent;
use trainyard_proto::pb::upload_artifact_request::Part;

use crate::support::web::Browser;
use crate::support::{Agent, Scheduler, checkpoint, code, ended, started, submission};

fn artifact(name: &str, content: &[u8]) -> pb::Artifact {
    pb::Artifact {
        name: name.into(),
        size_bytes: content.len() as u64,
        sha256: hex::encode(Sha256::digest(content)),
        live: false,
    }
}

async fn upload(
    scheduler: &Scheduler,
    attempt: &str,
    session: u64,
    artifact: pb::Artifact,
    content: &[u8],
) -> Result<bool, Status> {
    let header = pb::UploadHeader { attempt: attempt.into(), session, artifact: Some(artifact) };
    let data = content.chunks(1 << 10).map(|chunk| Part::Data(chunk.to_vec()));
    let parts: Vec<_> = std::iter::once(Part::Header(header))
        .chain(data)
        .map(|part| pb::UploadArtifactRequest { part: Some(part) })
        .collect();
    Ok(scheduler.artifacts().upload_artifact(tokio_stream::iter(parts)).await?.into_inner().existed)
}

async fn download(scheduler: &Scheduler, request: pb::DownloadArtifactRequest) -> Result<Vec<u8>, Status> {
    let mut stream = scheduler.artifacts().download_artifact(request).await?.into_inner();
    let mut content = Vec::new();
    while let Some(message) = stream.message().await? {
        content.extend(message.data);
    }
    Ok(content)
}

fn by_hash(job_id: &str, artifact: &pb::Artifact) -> pb::DownloadArtifactRequest {
    let sha256 = artifact.sha256.clone();
    pb::DownloadArtifactRequest { job_id: job_id.into(), sha256, ..Default::default() }
}

#[tokio::test]
async fn a_job_runs_through_an_agent_and_its_artifacts_can_be_fetched() {
    let scheduler = Scheduler::start().await;
    let mut agent = scheduler.agent(1, &[]).await;
    let job = scheduler.submit(submission("")).await.unwrap().id;
    let assign = agent.assigned().await;
    assert_eq!(assign.attempt, format!("{job}/1"));
    let shown = scheduler.cluster().list_agents(pb::ListAgentsRequest::default()).await.unwrap().into_inner();
    assert_eq!(shown.agents[0].cpu_slots[0].job_id, job);
    agent.report_acked(&assign.attempt, 1, started()).await;
    assert_eq!(scheduler.get(&job).await.state(), pb::JobState::Running);

    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let (best, empty) = (artifact("weights/best.safetensors", &content), artifact("notes.txt", b""));
    let session = agent.welcome.session;
    assert!(!upload(&scheduler, &assign.attempt, session, best.clone(), &content).await.unwrap());
    // Whether or not the agent sends the bytes once more.
    assert!(upload(&scheduler, &assign.attempt, session, best.clone(), &[]).await.unwrap());
    assert!(upload(&scheduler, &assign.attempt, session, best.clone(), &content).await.unwrap());
    assert!(!upload(&scheduler, &assign.attempt, session, empty.clone(), &[]).await.unwrap());
    let end = ended(pb::attempt::EndReason::Completed, vec![best.clone(), empty.clone()]);
    agent.report_acked(&assign.attempt, 2, end).await;

    let metrics = scheduler.page("/metrics").await;
    for line in [
        "trainyard_jobs_submitted_total 1",
        "trainyard_job_queue_wait_seconds_count 1",
        "trainyard_placement_duration_seconds_count 1",
        "trainyard_placements_total{outcome=\"started\"} 1",
        "trainyard_placements_total{outcome=\"not_started\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    assert!(metrics.contains("trainyard_agent_heartbeat_age_seconds{agent=\"agent-1\","), "{metrics}");

    let request = pb::ListArtifactsRequest { job_id: job.clone(), page_size: 1, ..Default::default() };
    let page = scheduler.artifacts().list_artifacts(request.clone()).await.unwrap().into_inner();
    assert_eq!(page.artifacts, std::slice::from_ref(&empty));
    let next = pb::ListArtifactsRequest { page_token: page.next_page_token, ..request };
    let page = scheduler.artifacts().list_artifacts(next).await.unwrap().into_inner();
    assert_eq!((page.artifacts, page.next_page_token.as_str()), (vec![best.clone()], ""));

    let named = |name: &str, offset| pb::DownloadArtifactRequest {
        job_id: job.clone(),
        name: name.into(),
        offset,
        ..Default::default()
    };
    assert_eq!(download(&scheduler, named(&best.name, 0)).await.unwrap(), content);
    assert_eq!(download(&scheduler, named(&best.name, 399_990)).await.unwrap(), content[399_990..]);
    assert_eq!(download(&scheduler, named(&best.name, 400_000)).await.unwrap(), b"");
    assert_eq!(code(download(&scheduler, named(&best.name, 400_001)).await), Code::OutOfRange);
    assert_eq!(download(&scheduler, named("notes.txt", 0)).await.unwrap(), b"");
    assert_eq!(code(download(&scheduler, named("../lock", 0)).await), Code::NotFound);
    assert_eq!(code(download(&scheduler, named("", 0)).await), Code::InvalidArgument);
}

#[tokio::test]
async fn an_upload_must_be_whole_and_by_the_attempts_holder() {
    let scheduler = Scheduler::start().await;
    let mut agent = scheduler.agent(1, &[]).await;
    let stranger = scheduler.agent(2, &[]).await;
    scheduler.submit(submission("")).await.unwrap();
    let attempt = agent.assigned().await.attempt;
    let session = agent.welcome.session;
    let right = artifact("a", b"right");
    let wrong = upload(&scheduler, &attempt, session, right.clone(), b"wrong").await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert_eq!(wrong.get_details_bad_request().unwrap().field_violations[0].field, "header.artifact.sha256");
    let foreign = upload(&scheduler, &attempt, stranger.welcome.session, right.clone(), b"right").await;
    let foreign = foreign.unwrap_err();
    assert_eq!(foreign.code(), Code::FailedPrecondition);
    assert_eq!(foreign.get_details_error_info().unwrap().reason, "ATTEMPT_NOT_HELD");
    let escape = pb::Artifact { name: "../x".into(), ..right.clone() };
    let refused = upload(&scheduler, "nonsense", session, escape, b"right").await.unwrap_err();
    let fields: Vec<String> =
        refused.get_details_bad_request().unwrap().field_violations.into_iter().map(|v| v.field).collect();
    assert_eq!(fields, ["header.attempt", "header.artifact.name"]);
    agent.report_acked(&attempt, 1, ended(pb::attempt::EndReason::TrainerCrash, vec![])).await;
    let content = vec![7; 1 << 20];
    let late = upload(&scheduler, &attempt, session, artifact("a", &content), &content).await;
    assert_eq!(code(late), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_new_checkpoint_replaces_the_files_of_the_old_one() {
    let scheduler = Scheduler::start().await;
    let mut agent = scheduler.agent(1, &[]).await;
    let job = scheduler.submit(submission("")).await.unwrap().id;
    let attempt = agent.assigned().await.attempt;
    let session = agent.welcome.session;
    let (first, second, both) =
        (artifact("w", b"first"), artifact("w", b"second"), artifact("args", b"same"));
    for (artifact, content) in [(&first, &b"first"[..]), (&second, b"second"), (&both, b"same")] {
        upload(&scheduler, &attempt, session, artifact.clone(), content).await.unwrap();
    }
    agent.report_acked(&attempt, 1, checkpoint(1, vec![first.clone(), both.clone()])).await;
    assert_eq!(download(&scheduler, by_hash(&job, &first)).await.unwrap(), b"first");
    agent.report_acked(&attempt, 2, checkpoint(2, vec![second.clone(), both.clone()])).await;
    assert_eq!(download(&scheduler, by_hash(&job, &second)).await.unwrap(), b"second");
    assert_eq!(download(&scheduler, by_hash(&job, &both)).await.unwrap(), b"same");
    assert_eq!(code(download(&scheduler, by_hash(&job, &first)).await), Code::NotFound);
    let file = scheduler.dir.path().join("blobs").join(&job).join(&first.sha256);
    while file.exists() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_was_removed_from_the_store_is_not_found_whoever_asks() {
    let scheduler = Scheduler::start().await;
    let mut agent = scheduler.agent(1, &[]).await;
    let job = scheduler.submit(submission("")).await.unwrap().id;
    let attempt = agent.assigned().await.attempt;
    let best = artifact("weights/best.safetensors", b"best");
    upload(&scheduler, &attempt, agent.welcome.session, best.clone(), b"best").await.unwrap();
    agent.report_acked(&attempt, 1, started()).await;
    let end = ended(pb::attempt::EndReason::Completed, vec![best.clone()]);
    agent.report_acked(&attempt, 2, end).await;
    std::fs::remove_dir_all(scheduler.dir.path().join("blobs").join(&job)).unwrap();
    let told = format!("`weights/best.safetensors` of job {job} was removed from the store");
    let name = best.name.clone();
    let by_name = pb::DownloadArtifactRequest { job_id: job.clone(), name, ..Default::default() };
    for request in [by_name, by_hash(&job, &best)] {
        let refused = download(&scheduler, request).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::NotFound, told.as_str()));
        assert_eq!(refused.get_details_error_info().unwrap().reason, "ARTIFACT_REMOVED");
    }
    let browser = Browser::of(&scheduler);
    let path = format!("/files/jobs/{job}/weights/best.safetensors");
    for headers in [&[][..], &[("range", "bytes=1-")], &[("range", "bytes=-2")]] {
        let answer = browser.get(&path, headers).await;
        assert_eq!((answer.status, answer.json()["message"].as_str()), (404, Some(told.as_str())));
    }
    // Nor does a job begin from it.
    let mut next = submission("");
    let train = next.spec.as_mut().unwrap().train.as_mut().unwrap();
    train.pretrained = Some(format!("job:{job}"));
    let refused = scheduler.submit(next).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let told = format!("the weights of job {job} were removed from the store");
    assert!(refused.message().contains(&told), "{}", refused.message());
}

fn pictures(pictures: &[pb::Artifact]) -> pb::report::Report {
    pb::report::Report::PicturesStored(pb::PicturesStored { pictures: pictures.to_vec() })
}

async fn listed(scheduler: &Scheduler, job_id: &str) -> Vec<pb::Artifact> {
    let request = pb::ListArtifactsRequest { job_id: job_id.into(), ..Default::default() };
    scheduler.artifacts().list_artifacts(request).await.unwrap().into_inner().artifacts
}

#[tokio::test]
async fn a_running_jobs_newest_pictures_are_there_until_what_it_hands_in_takes_their_place() {
    let scheduler = Scheduler::start().await;
    let mut agent = scheduler.agent(1, &[]).await;
    assert!(agent.welcome.takes_pictures);
    let job = scheduler.submit(submission("")).await.unwrap().id;
    let attempt = agent.assigned().await.attempt;
    let (labels, old, new) =
        (artifact("labels.png", b"labels"), artifact("a.jpg", b"old"), artifact("a.jpg", b"new"));
    for (artifact, content) in [(&labels, &b"labels"[..]), (&old, b"old"), (&new, b"new")] {
        upload(&scheduler, &attempt, agent.welcome.session, artifact.clone(), content).await.unwrap();
    }
    agent.report_acked(&attempt, 1, started()).await;
    agent.report_acked(&attempt, 2, pictures(&[labels.clone(), old.clone()])).await;
    let live = |artifact: &pb::Artifact| pb::Artifact { live: true, ..artifact.clone() };
    assert_eq!(listed(&scheduler, &job).await, [live(&old), live(&labels)]);
    agent.report_acked(&attempt, 3, pictures(&[labels.clone(), new.clone()])).await;
    assert_eq!(listed(&scheduler, &job).await, [live(&new), live(&labels)]);
    let by_name =
        pb::DownloadArtifactRequest { job_id: job.clone(), name: "a.jpg".into(), ..Default::default() };
    assert_eq!(download(&scheduler, by_name.clone()).await.unwrap(), b"new");
    let shown = scheduler.page(&format!("/files/jobs/{job}/a.jpg")).await;
    assert_eq!(shown, "new");
    let part =
        Browser::of(&scheduler).get(&format!("/files/jobs/{job}/a.jpg"), &[("range", "bytes=-2")]).await;
    assert_eq!((part.status, part.bytes()), (206, &b"ew"[..]));
    let folder = scheduler.dir.path().join("blobs").join(&job);
    while folder.join(&old.sha256).exists() {
        tokio::task::yield_now().await;
    }
    // Another process of the scheduler knows them; the agent comes back to it with its attempt.
    let scheduler = Scheduler::start_in(scheduler.stop().await).await;
    assert_eq!(listed(&scheduler, &job).await, [live(&new), live(&labels)]);
    let mut agent = scheduler.agent(1, std::slice::from_ref(&attempt)).await;
    let end = ended(pb::attempt::EndReason::Completed, vec![new.clone()]);
    agent.report_acked(&attempt, 4, end).await;
    assert_eq!(listed(&scheduler, &job).await, std::slice::from_ref(&new));
    let folder = scheduler.dir.path().join("blobs").join(&job);
    while folder.join(&labels.sha256).exists() {
        tokio::task::yield_now().await;
    }
    assert_eq!(download(&scheduler, by_name).await.unwrap(), b"new");
}

/// What a newer agent and its trainer say must neither end the session nor stay unacknowledged: it would be
/// sent again for ever.
#[tokio::test]
async fn what_a_newer_agent_reports_is_taken_in_as_a_warning() {
    let scheduler = Scheduler::start().await;
    let mut agent = scheduler.agent(1, &[]).await;
    let job = scheduler.submit(submission("")).await.unwrap().id;
    let attempt = agent.assigned().await.attempt;
    agent.report_acked(&attempt, 1, started()).await;
    let line = r#"{"v":1,"time":5,"type":"sings","song":"a"}"#;
    agent.report_acked(&attempt, 2, pb::report::Report::TrainerEvent(line.into())).await;
    agent
        .report_acked(&attempt, 3, pb::report::Report::Ended(pb::Ended { reason: 99, ..ended_well() }))
        .await;
    let request = pb::WatchJobRequest { job_id: job.clone(), history_only: true, ..Default::default() };
    let mut events = scheduler.jobs().watch_job(request).await.unwrap().into_inner();
    let mut warned = false;
    while let Some(event) = events.message().await.unwrap() {
        warned |= format!("{event:?}").contains("unknown variant `sings`");
    }
    assert!(warned);
    let attempts = scheduler.get(&job).await.attempts;
    assert_eq!(attempts[0].end_reason(), pb::attempt::EndReason::TrainerCrash);
}

fn ended_well() -> pb::Ended {
    pb::Ended { message: "well".into(), ..Default::default() }
}

/// A megabyte of GPUs once took the scheduler minutes, during which it did nothing else.
#[tokio::test]
async fn a_machine_with_too_many_gpus_is_refused_at_once() {
    let scheduler = Scheduler::start().await;
    let gpu = |number: u32| pb::Gpu { uuid: format!("GPU-{number}"), ..Default::default() };
    let hello = pb::Hello {
        agent_id: uuid::Uuid::from_u128(1).to_string(),
        name: "a".into(),
        gpus: (0..50_000).map(gpu).collect(),
        ..Default::default()
    };
    let refused = Agent::connect_as(scheduler.channel(), hello).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "hello.gpus");
}

#[tokio::test]
async fn a_newer_session_ends_the_older_one() {
    let scheduler = Scheduler::start().await;
    let mut old = scheduler.agent(1, &[]).await;
    let new = scheduler.agent(1, &[]).await;
    assert!(new.welcome.session > old.welcome.session);
    assert_eq!(code(old.command().await), Code::Unavailable);
}

#[tokio::test]
async fn an_attempt_that_the_agent_does_not_hold_any_more_is_tried_again() {
    let scheduler = Scheduler::start().await;
    let mut agent = scheduler.agent(1, &[]).await;
    scheduler.submit(submission("")).await.unwrap();
    let first = agent.assigned().await.attempt;
    let mut agent = scheduler.agent(1, std::slice::from_ref(&first)).await;
    agent.report_acked(&first, 1, started()).await;
    let mut agent = scheduler.agent(1, &[]).await;
    let second = agent.assigned().await.attempt;
    assert_eq!(second, first.replace("/1", "/2"));
    agent.report(&first, 2, crate::support::log("late")).await;
    assert!(matches!(agent.command().await, Ok(ToAgent::Revoke(revoke)) if revoke.attempt == first));
}

#[tokio::test]
async fn a_first_message_that_is_no_hello_is_refused() {
    let scheduler = Scheduler::start().await;
    let heartbeat = pb::agent_message::Message::Heartbeat(pb::Heartbeat::default());
    let messages = tokio_stream::iter([pb::AgentMessage { message: Some(heartbeat) }]);
    let mut client = pb::agent_service_client::AgentServiceClient::new(scheduler.channel());
    let status = client.connect(messages).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(Agent::connect(scheduler.channel(), 1, &["nonsense".into()]).await.is_err());
}
