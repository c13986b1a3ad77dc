//! Those who have no business here: each way in, with each thing that a stranger could have.

use tokio::io::AsyncWriteExt as _;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use trainyard_access::{KeyRequest, Token};
use trainyard_proto::pb;
use trainyard_scheduler::access::{METHODS, Needs};
use trainyard_scheduler::tls::Authority;
use trainyard_types::AgentId;

use crate::support::secure::{self, SecureScheduler, hello, reason};
use crate::support::web::Browser;
use crate::support::{Agent, Scheduler, config, submission};

#[tokio::test]
async fn no_method_answers_a_stranger_whatever_it_brings() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let admin = scheduler.admin();
    let revoked = scheduler.token("ada", pb::AccessRole::Admin).await;
    let id = revoked.parse::<Token>().unwrap().id.to_string();
    scheduler.access(&admin.reveal()).revoke_token(pb::RevokeTokenRequest { id }).await.unwrap();
    let forged = Token { secret: Token::make(admin.pin).unwrap().secret, ..admin.clone() }.reveal();
    let foreign = Token::make("00112233445566778899aabbccddeeff".parse().unwrap()).unwrap().reveal();
    let whole = admin.reveal();
    let truncated = whole[..whole.len() - 1].to_owned();
    let brings = [revoked, forged, foreign, truncated, String::new(), "Basic YWRtaW46".to_owned()];
    let is_out = |status: Option<tonic::Status>, what: &str| {
        let code = status.map(|status| status.code());
        // After some wrong tokens the address has to wait.
        assert!(matches!(code, Some(Code::Unauthenticated | Code::ResourceExhausted)), "{what}: {code:?}");
    };
    for method in METHODS {
        let path = format!("/trainyard.v1.{}", method.name);
        for token in &brings {
            is_out(scheduler.raw(&path, Some(token)).await, method.name);
        }
        is_out(scheduler.raw(&path, None).await, method.name);
    }
}

#[tokio::test]
async fn a_machine_that_has_joined_calls_nothing_but_what_is_an_agents() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let joining = scheduler.token("", pb::AccessRole::Agent).await;
    let identity = scheduler.enrol(&joining, 7).await.unwrap();
    let channel = scheduler.dial(None, Some(identity)).await.unwrap();
    for method in METHODS {
        let status = secure::raw_on(channel.clone(), &format!("/trainyard.v1.{}", method.name)).await;
        let is_refused = status.is_some_and(|status| reason(&status) == "ROLE_REQUIRED");
        let is_its_own = matches!(method.needs, Needs::Agent | Needs::ViewerOrAgent | Needs::Nothing);
        assert_eq!(!is_refused, is_its_own, "{}", method.name);
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_opens_nothing() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Authority::open(elsewhere.path()).unwrap();
    let key = KeyRequest::make().unwrap();
    let signed = other.agent_certificate(&key.request_pem, AgentId(uuid::Uuid::from_u128(7))).unwrap();
    let identity = secure::identity(&signed.chain, &key.key_pem);
    // A refused certificate is heard of at the first call, since TLS 1.3 clients are done before the server is.
    let channel: Result<Channel, _> = scheduler.dial(None, Some(identity)).await;
    if let Ok(channel) = channel {
        assert!(Agent::connect_as(channel, hello(7)).await.is_err());
    }
}

#[tokio::test]
async fn who_has_no_token_or_a_wrong_one_is_told_what_to_do() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let refused = scheduler.nobody().list_jobs(pb::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "TOKEN_MISSING"));
    assert!(refused.message().contains("yard login"), "{refused}");
    let admin = scheduler.admin();
    let forged = Token { secret: Token::make(admin.pin).unwrap().secret, ..admin.clone() };
    for wrong in [forged.reveal(), Token::make(admin.pin).unwrap().reveal(), "hunter2".to_owned()] {
        let refused = scheduler.jobs(&wrong).list_jobs(pb::ListJobsRequest::default()).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "TOKEN_INVALID"));
        assert!(!format!("{refused:?}").contains(&wrong));
    }
    let caller = scheduler.access(&admin.reveal()).who_am_i(pb::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((caller.user.as_str(), caller.role()), ("admin", pb::AccessRole::Admin));
}

#[tokio::test]
async fn a_token_of_another_cluster_is_not_even_sent() {
    let (one, other) = (SecureScheduler::start(|_| {}).await, SecureScheduler::start(|_| {}).await);
    let error = one.dial(Some(other.admin().pin), None).await.unwrap_err();
    assert!(secure::causes(&error).contains("another key"), "{}", secure::causes(&error));
    assert!(one.dial(Some(one.admin().pin), None).await.is_ok());
}

#[tokio::test]
async fn wrong_tokens_of_one_address_wait_and_right_ones_do_not() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let wrong = Token::make(scheduler.admin().pin).unwrap().reveal();
    let refused = loop {
        let refused = scheduler.jobs(&wrong).list_jobs(pb::ListJobsRequest::default()).await.unwrap_err();
        if refused.code() != Code::Unauthenticated {
            break refused;
        }
    };
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::ResourceExhausted, "TOO_MANY_WRONG_TOKENS")
    );
    let right = scheduler.admin().reveal();
    scheduler.jobs(&right).list_jobs(pb::ListJobsRequest::default()).await.unwrap();
}

#[tokio::test]
async fn whoever_has_no_token_yet_uses_up_nobodys_patience() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let browser = Browser::of_secure(&scheduler);
    let own = [("content-type", "application/json"), ("sec-fetch-site", "same-origin")];
    // A lab behind one address opens the page: each asks first who it is.
    for _ in 0..50 {
        let answer = browser.send("POST", "/trainyard.v1.AccessService/WhoAmI", &own, "{}").await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.json()["details"][0]["debug"]["reason"], "TOKEN_MISSING");
    }
    let login = |token: String| format!("{{\"token\":\"{token}\"}}");
    let wrong = Token::make(scheduler.admin().pin).unwrap().reveal();
    assert_eq!(browser.send("POST", "/session", &own, &login(wrong)).await.status, 401);
    let right = scheduler.admin().reveal();
    assert_eq!(browser.send("POST", "/session", &own, &login(right)).await.status, 200);
    // Nor do they fill the audit.
    let told = scheduler.audit_of("AccessService/WhoAmI", 1).await;
    assert!(told.len() < 50, "{}", told.len());
}

#[tokio::test]
async fn a_token_in_an_address_is_refused_by_name() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let path = format!("/metrics?access_token={}", scheduler.admin().reveal());
    let (status, page) = scheduler.page(&path).await;
    assert_eq!(status, 401, "{page}");
    assert!(page.contains("revoke that token") && page.contains("authorization: Bearer"), "{page}");
}

#[tokio::test]
async fn a_token_in_a_path_is_refused_and_kept_nowhere() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let (token, encoded) = (scheduler.admin().reveal(), scheduler.admin().reveal().replace('.', "%2e"));
    for shown in [&token, &encoded] {
        let (status, page) = scheduler.page(&format!("/api/{shown}/jobs")).await;
        assert_eq!((status, page.contains("revoke that token")), (401, true), "{page}");
        let refused = scheduler.raw(&format!("/trainyard.v1.JobService/{shown}"), None).await.unwrap();
        assert_eq!(reason(&refused), "TOKEN_IN_ADDRESS");
    }
    assert_eq!(scheduler.audit_of("/api/", 1).await.len(), 1);
    assert_eq!(scheduler.audit_of("JobService/", 1).await.len(), 1);
    // What the stream has is in the file before long; the last of the four is the last to come.
    let secret = token.rsplit('.').next().unwrap();
    let kept = loop {
        let kept = scheduler.audit_file();
        if kept.matches("UNAUTHENTICATED").count() >= 4 {
            break kept;
        }
        tokio::task::yield_now().await;
    };
    assert!(!kept.contains(secret), "{kept}");
}

#[tokio::test]
async fn calls_without_a_token_share_a_few_places_and_pages_for_probes_need_none() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let channel = scheduler.dial(None, None).await.unwrap();
    let watch = || HealthCheckRequest { service: String::new() };
    let mut open = Vec::new();
    let refused = loop {
        match HealthClient::new(channel.clone()).watch(watch()).await {
            Ok(stream) => open.push(stream.into_inner()),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "TOO_MANY_CALLS"));
    assert_eq!(open.len(), 256);
    assert_eq!(scheduler.page("/healthz").await.0, 200);
    assert_eq!(scheduler.page("/ca.pem").await.0, 200);
    let admin = scheduler.admin().reveal();
    scheduler.jobs(&admin).list_jobs(pb::ListJobsRequest::default()).await.unwrap();
    drop(open);
    // Each place is free again once the scheduler has heard of its stream's end.
    while HealthClient::new(channel.clone()).check(watch()).await.is_err() {}
}

#[tokio::test]
async fn whoever_is_refused_on_and_on_pushes_nothing_out_of_the_audit() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let viewer = scheduler.token("eve", pb::AccessRole::Viewer).await;
    for _ in 0..200 {
        let wish = pb::CancelJobRequest::default();
        let refused = scheduler.jobs(&viewer).cancel_job(wish).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let admin = scheduler.admin().reveal();
    scheduler.jobs(&admin).submit_job(submission("")).await.unwrap();
    // What came later is there, and so is all that came before.
    scheduler.audit_of("JobService/SubmitJob", 1).await;
    let refused = scheduler.audit_of("JobService/CancelJob", 60).await;
    let of_a_minute = refused.iter().filter(|event| event.target.is_empty());
    assert!(of_a_minute.count() <= 120, "at most two minutes' share");
}

#[tokio::test]
async fn one_token_has_only_so_many_calls_under_way() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let (ada, bob) = (
        scheduler.token("ada", pb::AccessRole::User).await,
        scheduler.token("bob", pb::AccessRole::User).await,
    );
    let job_id = scheduler.jobs(&ada).submit_job(submission("")).await.unwrap().into_inner().job_id;
    let watch = || pb::WatchJobRequest { job_id: job_id.clone(), ..Default::default() };
    // A connection has only so many streams, too.
    let channels = [scheduler.dial(None, None).await.unwrap(), scheduler.dial(None, None).await.unwrap()];
    let mut open = Vec::new();
    let refused = loop {
        let channel = channels[open.len() % 2].clone();
        match scheduler.jobs_on(channel, &ada).watch_job(watch()).await {
            Ok(stream) => open.push(stream.into_inner()),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "TOO_MANY_CALLS"));
    assert_eq!(open.len(), 1024);
    scheduler.jobs_on(channels[0].clone(), &bob).list_jobs(pb::ListJobsRequest::default()).await.unwrap();
    drop(open);
    // Each place is free again once the scheduler has heard of its stream's end.
    while scheduler.jobs(&ada).list_jobs(pb::ListJobsRequest::default()).await.is_err() {}
}

#[tokio::test]
async fn thousands_of_handshakes_that_stop_half_way_keep_nobody_out() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let mut silent = Vec::new();
    for number in 0..2000 {
        let mut stream = tokio::net::TcpStream::connect(scheduler.server.address()).await.unwrap();
        // Half say nothing at all, the others begin a handshake.
        if number % 2 == 0 {
            stream.write_all(b"\x16\x03\x01").await.unwrap();
        }
        silent.push(stream);
    }
    // A new connection, since the scheduler's own one was there before.
    let channel = loop {
        if let Ok(channel) = scheduler.dial(None, None).await {
            break channel;
        }
    };
    let admin = scheduler.admin().reveal();
    scheduler.jobs_on(channel, &admin).list_jobs(pb::ListJobsRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_web_page_submits_nothing_at_an_open_scheduler() {
    let scheduler = Scheduler::start().await;
    let address = scheduler.server.address();
    // What a browser sends for a form, without asking anybody.
    let body = "\0\0\0\0\0";
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /trainyard.v1.JobService/ListJobs HTTP/1.1\r\nhost: {address}\r\ncontent-type: text/plain\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 415") && answer.contains("application/grpc"), "{answer}");
}

#[tokio::test]
async fn a_web_page_reaches_no_open_scheduler_by_a_name_of_its_own() {
    let scheduler = Scheduler::start_with(tempfile::tempdir().unwrap(), {
        let dir = tempfile::tempdir().unwrap().keep();
        config(&dir)
    })
    .await;
    let page = secure::plain_request(scheduler.server.address(), "/metrics", "evil.example:7433").await;
    assert!(page.starts_with("HTTP/1.1 403"), "{page}");
    let page = secure::plain_request(scheduler.server.address(), "/metrics", "localhost:7433").await;
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
}

#[tokio::test]
async fn an_agent_in_plaintext_is_told_to_join_and_pages_for_probes_are_open() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let plain = scheduler.plaintext();
    let refused = Agent::connect_as(plain.clone(), hello(7)).await.err().unwrap();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "TLS_REQUIRED"));
    assert!(
        refused.message().contains("agent-7") && refused.message().contains("trainyard-agent join"),
        "{refused}"
    );
    let mut jobs = pb::job_service_client::JobServiceClient::new(plain);
    let refused = jobs.list_jobs(pb::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "TLS_REQUIRED");
    assert!(scheduler.plain_page("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(scheduler.plain_page("/metrics").await.starts_with("HTTP/1.1 426"));
}
