//! A scheduler that asks people who they are, over encrypted connections.

use std::time::Duration;

use tonic::Code;
use trainyard_access::{KeyRequest, Token};
use trainyard_content::Digest;
use trainyard_proto::pb;
use trainyard_proto::pb::agent_message::Message as FromAgent;
use trainyard_proto::pb::push_dataset_request::Part;
use trainyard_scheduler::access::{METHODS, Needs};
use trainyard_scheduler::config::{Config, Visibility};
use trainyard_scheduler::embedded::EmbeddedRedis;
use trainyard_scheduler::server::{Issue, issue_token};

use crate::support::secure::{self, SecureScheduler, hello, reason};
use crate::support::{Agent, config, submission};

fn get(job_id: &str) -> pb::GetJobRequest {
    pb::GetJobRequest { job_id: job_id.into() }
}

#[tokio::test]
async fn each_role_may_call_what_the_table_says() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let roles = [pb::AccessRole::Viewer, pb::AccessRole::User, pb::AccessRole::Admin];
    let mut tokens = Vec::new();
    for role in roles {
        tokens.push((role, scheduler.token("ada", role).await));
    }
    let joining = scheduler.token("", pb::AccessRole::Agent).await;
    for method in METHODS {
        let call = async |token: &str| {
            let status = scheduler.raw(&format!("/trainyard.v1.{}", method.name), Some(token)).await;
            status.is_none_or(|status| reason(&status) != "ROLE_REQUIRED")
        };
        for (role, token) in &tokens {
            let expected = match method.needs {
                Needs::Nothing | Needs::Token | Needs::Viewer | Needs::ViewerOrAgent => true,
                Needs::User => *role != pb::AccessRole::Viewer,
                Needs::Admin | Needs::JoinToken => *role == pb::AccessRole::Admin,
                Needs::Agent => false,
            };
            assert_eq!(call(token).await, expected, "{} {role:?}", method.name);
        }
        let expected = matches!(method.needs, Needs::JoinToken | Needs::Token | Needs::Nothing);
        assert_eq!(call(&joining).await, expected, "{} of a machine that joins", method.name);
    }
}

#[tokio::test]
async fn a_job_is_the_token_s_users_and_others_do_not_change_it() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let ada = scheduler.token("ada", pb::AccessRole::User).await;
    let bob = scheduler.token("bob", pb::AccessRole::User).await;
    let admin = scheduler.admin().reveal();
    let mut request = tonic::Request::new(submission(""));
    request.metadata_mut().insert("trainyard-user", "bob".parse().unwrap());
    let job = scheduler.jobs(&ada).submit_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!(job.user, "ada");
    let mut request = tonic::Request::new(submission(""));
    request.metadata_mut().insert("trainyard-as", "bob".parse().unwrap());
    let refused = scheduler.jobs(&ada).submit_job(request).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "ADMIN_REQUIRED"));
    let cancel = pb::CancelJobRequest { job_id: job.id.clone() };
    let refused = scheduler.jobs(&bob).cancel_job(cancel.clone()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "NOT_OWNER"));
    assert!(refused.message().contains("`ada`"), "{refused}");
    assert_eq!(scheduler.jobs(&bob).get_job(get(&job.id)).await.unwrap().into_inner().user, "ada");
    scheduler.jobs(&ada).cancel_job(cancel.clone()).await.unwrap();
    let retry = pb::RetryJobRequest { job_id: job.id.clone() };
    assert_eq!(
        scheduler.jobs(&bob).retry_job(retry.clone()).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    scheduler.jobs(&admin).retry_job(retry).await.unwrap();
    // An admin acts for another.
    let mut request = tonic::Request::new(submission(""));
    request.metadata_mut().insert("trainyard-as", "bob".parse().unwrap());
    let job = scheduler.jobs(&admin).submit_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!(job.user, "bob");
    let audit = scheduler.audit_of("JobService/SubmitJob", 3).await;
    assert_eq!(
        audit.iter().map(|event| event.caller.as_str()).collect::<Vec<_>>(),
        ["ada", "ada", "admin as bob"]
    );
    assert_eq!(audit[2].target, job.id);
    let refused = scheduler.audit_of("JobService/CancelJob", 2).await;
    assert_eq!((refused[0].caller.as_str(), refused[0].outcome.as_str()), ("bob", "PERMISSION_DENIED"));
}

#[tokio::test]
async fn the_audit_tells_how_a_push_has_ended_and_to_which_name() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let ada = scheduler.token("ada", pb::AccessRole::User).await;
    let push = async |name: &str, content: &'static [u8]| {
        let header = pb::PushHeader { name: name.into(), files: 1, ..Default::default() };
        let sha256 = Digest::of(b"names: [a]").0.to_vec();
        let file = pb::DatasetFile { path: "data.yaml".into(), size_bytes: 10, sha256 };
        let files = pb::DatasetFiles { files: vec![file] };
        let parts = [Part::Header(header), Part::Files(files), Part::Data(content.into())];
        let parts = parts.map(|part| pb::PushDatasetRequest { part: Some(part) });
        let mut client = scheduler.datasets(&ada);
        let mut answers = client.push_dataset(tokio_stream::iter(parts)).await.unwrap().into_inner();
        while let Ok(Some(_)) = answers.message().await {}
    };
    // Other bytes than were announced.
    push("wolves", b"names: [w]").await;
    push("cells", b"names: [a]").await;
    push("../etc", b"names: [a]").await;
    let told = scheduler.audit_of("DatasetService/PushDataset", 3).await;
    let told: Vec<_> = told.iter().map(|event| (event.target.as_str(), event.outcome.as_str())).collect();
    assert_eq!(told, [("wolves", "INVALID_ARGUMENT"), ("cells", "OK"), ("../etc", "INVALID_ARGUMENT")]);
}

#[tokio::test]
async fn where_jobs_are_shown_to_their_users_alone_others_do_not_exist() {
    let scheduler = SecureScheduler::start(|config| config.visibility = Visibility::Own).await;
    let ada = scheduler.token("ada", pb::AccessRole::User).await;
    let bob = scheduler.token("bob", pb::AccessRole::User).await;
    let job = scheduler.jobs(&ada).submit_job(submission("")).await.unwrap().into_inner().job_id;
    let list = async |token: &str, user: &str| {
        let request = pb::ListJobsRequest { user: user.into(), ..Default::default() };
        scheduler.jobs(token).list_jobs(request).await.unwrap().into_inner().jobs.len()
    };
    assert_eq!((list(&ada, "").await, list(&bob, "").await, list(&bob, "ada").await), (1, 0, 0));
    assert_eq!(list(&scheduler.admin().reveal(), "").await, 1);
    assert_eq!(scheduler.jobs(&bob).get_job(get(&job)).await.unwrap_err().code(), Code::NotFound);
    let watch = pb::WatchJobRequest { job_id: job.clone(), ..Default::default() };
    assert_eq!(scheduler.jobs(&bob).watch_job(watch).await.err().unwrap().code(), Code::NotFound);
    let cancel = pb::CancelJobRequest { job_id: job };
    assert_eq!(scheduler.jobs(&bob).cancel_job(cancel).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_revoked_token_ends_the_streams_that_are_open() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let ada = scheduler.token("ada", pb::AccessRole::User).await;
    let job_id = scheduler.jobs(&ada).submit_job(submission("")).await.unwrap().into_inner().job_id;
    let watch = pb::WatchJobRequest { job_id, ..Default::default() };
    let mut events = scheduler.jobs(&ada).watch_job(watch).await.unwrap().into_inner();
    assert!(events.message().await.unwrap().is_some());
    let id = ada.parse::<Token>().unwrap().id.to_string();
    // As another scheduler does it: this one hears of it by the store.
    scheduler.remove_token_in_store(&id).await;
    let end = loop {
        match events.message().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(reason(&end.unwrap_err()), "TOKEN_REVOKED");
    let refused = scheduler.jobs(&ada).list_jobs(pb::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "TOKEN_INVALID");
}

#[tokio::test]
async fn users_make_and_revoke_tokens_of_their_own_and_of_no_higher_role() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let ada = scheduler.token("ada", pb::AccessRole::User).await;
    let wish = |user: &str, role: pb::AccessRole| pb::CreateTokenRequest {
        user: user.into(),
        role: role.into(),
        ..Default::default()
    };
    let own =
        scheduler.access(&ada).create_token(wish("ada", pb::AccessRole::Viewer)).await.unwrap().into_inner();
    for (user, role) in
        [("bob", pb::AccessRole::User), ("ada", pb::AccessRole::Admin), ("", pb::AccessRole::Agent)]
    {
        let refused = scheduler.access(&ada).create_token(wish(user, role)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{user} {role:?}");
    }
    let wrong = pb::CreateTokenRequest { user: "a b".into(), uses: 3, ..Default::default() };
    let refused = scheduler.access(&ada).create_token(wrong).await.unwrap_err();
    assert!(refused.message().contains("user:") && refused.message().contains("uses:"), "{refused}");
    let listed =
        scheduler.access(&ada).list_tokens(pb::ListTokensRequest {}).await.unwrap().into_inner().tokens;
    assert_eq!(listed.iter().map(|token| token.user.as_str()).collect::<Vec<_>>(), ["ada", "ada"]);
    let admins = scheduler.admin().id.to_string();
    let refused =
        scheduler.access(&ada).revoke_token(pb::RevokeTokenRequest { id: admins }).await.unwrap_err();
    assert_eq!(reason(&refused), "NOT_OWNER");
    let id = own.info.unwrap().id;
    scheduler.access(&ada).revoke_token(pb::RevokeTokenRequest { id }).await.unwrap();
    let refused = scheduler.jobs(&own.token).list_jobs(pb::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "TOKEN_INVALID");
}

#[tokio::test]
async fn what_somebody_makes_for_themselves_does_not_outlive_their_own_token() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let hour = |hours: u64| Some(Duration::from_secs(hours * 3600).try_into().unwrap());
    let admin = scheduler.admin().reveal();
    let wish = |lifetime| pb::CreateTokenRequest { user: "ada".into(), lifetime, ..Default::default() };
    let ada = scheduler.access(&admin).create_token(wish(hour(2))).await.unwrap().into_inner();
    let refused = scheduler.access(&ada.token).create_token(wish(hour(3))).await.unwrap_err();
    assert!(refused.message().contains("lifetime: is longer"), "{refused}");
    let child = scheduler.access(&ada.token).create_token(wish(None)).await.unwrap().into_inner();
    let ends = |token: &pb::CreateTokenResponse| token.info.clone().unwrap().expire_time;
    assert_eq!(ends(&child), ends(&ada));
    scheduler.jobs(&child.token).list_jobs(pb::ListJobsRequest::default()).await.unwrap();
    let id = ada.info.unwrap().id;
    scheduler.access(&admin).revoke_token(pb::RevokeTokenRequest { id }).await.unwrap();
    let refused = scheduler.jobs(&child.token).list_jobs(pb::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "TOKEN_INVALID");
}

#[tokio::test]
async fn a_machine_that_joined_and_never_came_is_forgotten_by_name() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let joining = scheduler.token("", pb::AccessRole::Agent).await;
    let identity = scheduler.enrol(&joining, 7).await.unwrap();
    let forget = |agent: &str| pb::ForgetAgentRequest { agent: agent.into() };
    let admin = scheduler.admin().reveal();
    assert_eq!(
        scheduler.access(&admin).forget_agent(forget("agent-8")).await.unwrap_err().code(),
        Code::NotFound
    );
    scheduler.access(&admin).forget_agent(forget("agent-7")).await.unwrap();
    let channel = scheduler.dial(None, Some(identity)).await.unwrap();
    assert_eq!(reason(&Agent::connect_as(channel, hello(7)).await.err().unwrap()), "CERTIFICATE_REVOKED");
}

#[tokio::test]
async fn an_agent_joins_once_and_speaks_for_itself_alone() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let joining = scheduler.token("", pb::AccessRole::Agent).await;
    let identity = scheduler.enrol(&joining, 7).await.unwrap();
    let channel = scheduler.dial(None, Some(identity)).await.unwrap();
    let agent = Agent::connect_as(channel.clone(), hello(7)).await.unwrap();
    assert!(agent.welcome.session > 0);
    let refused = Agent::connect_as(channel.clone(), hello(8)).await.err().unwrap();
    assert!(refused.message().contains("hello.agent_id"), "{refused}");
    // One use was all.
    assert_eq!(reason(&scheduler.enrol(&joining, 8).await.unwrap_err()), "TOKEN_USED_UP");
    let again = scheduler.token("", pb::AccessRole::Agent).await;
    assert_eq!(reason(&scheduler.enrol(&again, 7).await.unwrap_err()), "AGENT_HAS_JOINED");
    // It is nobody's user.
    let mut jobs = pb::job_service_client::JobServiceClient::new(channel.clone());
    let refused = jobs.list_jobs(pb::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "ROLE_REQUIRED");
    let mut artifacts = pb::artifact_service_client::ArtifactServiceClient::new(channel);
    let admin = scheduler.admin().reveal();
    let job_id = scheduler.jobs(&admin).submit_job(submission("")).await.unwrap().into_inner().job_id;
    let other = SecureScheduler::submission_on_no_agent();
    let not_its = scheduler.jobs(&admin).submit_job(other).await.unwrap().into_inner().job_id;
    let wish = pb::DownloadArtifactRequest { job_id: not_its, name: "x".into(), ..Default::default() };
    assert_eq!(artifacts.download_artifact(wish).await.unwrap_err().code(), Code::NotFound);
    drop(job_id);
}

#[tokio::test]
async fn an_agent_does_nothing_for_an_attempt_of_another() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let mut channels = Vec::new();
    for id in [7, 8] {
        let joining = scheduler.token("", pb::AccessRole::Agent).await;
        let identity = scheduler.enrol(&joining, id).await.unwrap();
        channels.push(scheduler.dial(None, Some(identity)).await.unwrap());
    }
    let admin = scheduler.admin().reveal();
    let mut victim = Agent::connect_as(channels[0].clone(), hello(7)).await.unwrap();
    let job_id = scheduler.jobs(&admin).submit_job(submission("")).await.unwrap().into_inner().job_id;
    let attempt = victim.assigned().await.attempt;
    let thief = Agent::connect_as(channels[1].clone(), hello(8)).await.unwrap();
    let sha256 = "0".repeat(64);
    let artifact =
        pb::Artifact { name: "weights/best.pt".into(), size_bytes: 1, sha256, ..Default::default() };
    let seed: u64 = rand_seed();
    println!("seed {seed}");
    // Sessions are small numbers that anybody can guess.
    let guesses = [victim.welcome.session, thief.welcome.session, seed, 0, u64::MAX];
    for session in guesses {
        let header = pb::UploadHeader { attempt: attempt.clone(), session, artifact: Some(artifact.clone()) };
        let part = Some(pb::upload_artifact_request::Part::Header(header));
        let parts = tokio_stream::once(pb::UploadArtifactRequest { part });
        let mut artifacts = pb::artifact_service_client::ArtifactServiceClient::new(channels[1].clone());
        let refused = artifacts.upload_artifact(parts).await.unwrap_err();
        assert_eq!(reason(&refused), "ATTEMPT_NOT_HELD", "session {session}");
    }
    let mut artifacts = pb::artifact_service_client::ArtifactServiceClient::new(channels[1].clone());
    let wish = pb::DownloadArtifactRequest { job_id: job_id.clone(), name: "x".into(), ..Default::default() };
    assert_eq!(reason(&artifacts.download_artifact(wish).await.unwrap_err()), "JOB_NOT_FOUND");
    for id in [7, seed, u64::MAX] {
        let refused = Agent::connect_as(channels[1].clone(), hello(u128::from(id))).await.err().unwrap();
        assert!(refused.message().contains("hello.agent_id"), "{refused}");
    }
    thief.report(&attempt, 1, crate::support::log("not mine")).await;
    victim.report_acked(&attempt, 1, crate::support::started()).await;
    let job = scheduler.jobs(&admin).get_job(get(&job_id)).await.unwrap().into_inner();
    assert_eq!((job.state(), job.attempts.len()), (pb::JobState::Running, 1));
}

/// Another one each time.
fn rand_seed() -> u64 {
    u64::from_le_bytes(trainyard_access::random().unwrap())
}

#[tokio::test]
async fn a_lost_admin_s_token_is_replaced_by_whoever_has_the_files() {
    let mut kept = None;
    let scheduler = SecureScheduler::start(|config| kept = Some(config.clone())).await;
    let kept = kept.unwrap();
    let (token, _) = issue_token(&kept, Issue::Admin).await.unwrap();
    let token = token.reveal();
    // Within a second, as on any other scheduler.
    while scheduler.jobs(&token).list_jobs(pb::ListJobsRequest::default()).await.is_err() {}
    // A machine joins with one that was made the same way, and the audit tells of both.
    let wanted = Issue::Join { uses: 1, lifetime: Duration::from_secs(60) };
    let (joining, _) = issue_token(&kept, wanted).await.unwrap();
    while scheduler.enrol(&joining.reveal(), 7).await.is_err() {}
    let mut access = scheduler.access(&token);
    let events = access.list_audit_events(pb::ListAuditEventsRequest::default()).await.unwrap();
    let made = events.get_ref().events.iter().filter(|event| event.caller.contains("command line"));
    assert_eq!(made.count(), 2);
    let open = issue_token(&config(std::path::Path::new("/nowhere")), Issue::Admin).await;
    assert!(open.unwrap_err().to_string().contains("nobody needs a token"));
}

#[tokio::test]
async fn a_forgotten_agent_is_out_at_once_and_may_join_again() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let joining = scheduler.token("", pb::AccessRole::Agent).await;
    let identity = scheduler.enrol(&joining, 7).await.unwrap();
    let channel = scheduler.dial(None, Some(identity)).await.unwrap();
    let mut agent = Agent::connect_as(channel.clone(), hello(7)).await.unwrap();
    let admin = scheduler.admin().reveal();
    let forget = pb::ForgetAgentRequest { agent: "agent-7".into() };
    scheduler.access(&admin).forget_agent(forget).await.unwrap();
    let end = loop {
        if let Err(end) = agent.command().await {
            break end;
        }
    };
    assert_eq!(end.code(), Code::Unauthenticated, "{end}");
    // Its row and its name are free.
    let list = || pb::ListAgentsRequest::default();
    while !scheduler.cluster(&admin).list_agents(list()).await.unwrap().into_inner().agents.is_empty() {}
    let refused = Agent::connect_as(channel, hello(7)).await.err().unwrap();
    assert_eq!(reason(&refused), "CERTIFICATE_REVOKED");
    let again = scheduler.token("", pb::AccessRole::Agent).await;
    let identity = scheduler.enrol(&again, 7).await.unwrap();
    let channel = scheduler.dial(None, Some(identity)).await.unwrap();
    Agent::connect_as(channel, hello(7)).await.unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_counts_beside_the_one_before() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let joining = scheduler.token("", pb::AccessRole::Agent).await;
    let first = scheduler.enrol(&joining, 7).await.unwrap();
    let channel = scheduler.dial(None, Some(first.duplicate())).await.unwrap();
    let agent = Agent::connect_as(channel.clone(), hello(7)).await.unwrap();
    let key = KeyRequest::make().unwrap();
    let mut access = pb::access_service_client::AccessServiceClient::new(channel);
    let wish = pb::RenewCertificateRequest { certificate_request: key.request_pem.clone() };
    let answer = access.renew_certificate(wish).await.unwrap().into_inner();
    let second = secure::identity(&answer.certificate_chain, &key.key_pem);
    agent.say(FromAgent::Heartbeat(pb::Heartbeat::default())).await;
    let channel = scheduler.dial(None, Some(second)).await.unwrap();
    Agent::connect_as(channel, hello(7)).await.unwrap();
}

#[tokio::test]
async fn a_token_that_expires_ends_what_is_open_and_counts_no_more() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let wish = pb::CreateTokenRequest {
        user: "ada".into(),
        lifetime: Some(Duration::from_secs(2).try_into().unwrap()),
        ..Default::default()
    };
    let admin = scheduler.admin().reveal();
    let job_id = scheduler.jobs(&admin).submit_job(submission("")).await.unwrap().into_inner().job_id;
    let made = scheduler.access(&admin).create_token(wish).await.unwrap().into_inner();
    let watch = pb::WatchJobRequest { job_id, ..Default::default() };
    let mut events = scheduler.jobs(&made.token).watch_job(watch).await.unwrap().into_inner();
    let end = loop {
        match events.message().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(reason(&end.unwrap_err()), "TOKEN_REVOKED");
    let refused = scheduler.jobs(&made.token).list_jobs(pb::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "TOKEN_EXPIRED");
}

#[tokio::test]
async fn schedulers_of_one_redis_share_authority_tokens_and_revocations() {
    let redis_dir = tempfile::tempdir().unwrap();
    let redis = EmbeddedRedis::start("redis-server".as_ref(), redis_dir.path()).unwrap();
    let shared = tempfile::tempdir().unwrap();
    let change = |config: &mut Config| {
        config.redis_url = redis.url();
        config.tls_dir = Some(shared.path().join("tls"));
        config.blob_dir = Some(shared.path().join("blobs"));
        config.leader_lease = Duration::from_secs(9);
    };
    let leader = SecureScheduler::start(change).await;
    let standby = leader.replica(change).await;
    let ada = leader.token("ada", pb::AccessRole::User).await;
    // The standby hears of it within a second.
    while standby.jobs(&ada).list_jobs(pb::ListJobsRequest::default()).await.is_err() {}
    let job_id = leader.jobs(&ada).submit_job(submission("")).await.unwrap().into_inner().job_id;
    let watch = pb::WatchJobRequest { job_id, ..Default::default() };
    let mut events = loop {
        if let Ok(events) = standby.jobs(&ada).watch_job(watch.clone()).await {
            break events.into_inner();
        }
    };
    // A standby makes and revokes tokens, too.
    let admin = leader.admin().reveal();
    let id = ada.parse::<Token>().unwrap().id.to_string();
    standby.access(&admin).revoke_token(pb::RevokeTokenRequest { id }).await.unwrap();
    let end = loop {
        match events.message().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(reason(&end.unwrap_err()), "TOKEN_REVOKED");
    while leader.jobs(&ada).list_jobs(pb::ListJobsRequest::default()).await.is_ok() {}
    // A machine that joins at one of them shows its certificate at each.
    let joining = leader.token("", pb::AccessRole::Agent).await;
    let identity = loop {
        if let Ok(identity) = standby.enrol(&joining, 7).await {
            break identity;
        }
    };
    let channel = leader.dial(None, Some(identity)).await.unwrap();
    while Agent::connect_as(channel.clone(), hello(7)).await.is_err() {}
}
