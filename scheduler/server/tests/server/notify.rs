//! People are told of their jobs, by webhooks that fail, hang and accept.

use std::time::Duration;

use ring::hmac;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;
use trainyard_proto::pb;
use trainyard_proto::pb::notification_service_client::NotificationServiceClient;
use trainyard_scheduler::config::Config;

use crate::support::receiver::{Answer, Call, FAILED, Receiver, TAKEN};
use crate::support::secure::SecureScheduler;
use crate::support::{Scheduler, code, config, ended, started, submission};

fn notifications(scheduler: &Scheduler) -> NotificationServiceClient<Channel> {
    NotificationServiceClient::new(scheduler.channel())
}

async fn start(change: impl FnOnce(&mut Config)) -> Scheduler {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config { webhook_timeout: Duration::from_millis(300), ..config(dir.path()) };
    change(&mut config);
    Scheduler::start_with(dir, config).await
}

async fn add(scheduler: &Scheduler, url: &str) -> pb::CreateWebhookResponse {
    let request = pb::CreateWebhookRequest { url: url.into(), ..Default::default() };
    notifications(scheduler).create_webhook(request).await.unwrap().into_inner()
}

async fn list(scheduler: &Scheduler) -> Vec<pb::Webhook> {
    notifications(scheduler).list_webhooks(pb::ListWebhooksRequest {}).await.unwrap().into_inner().webhooks
}

/// A job that has ended, by its id.
async fn cancelled(scheduler: &Scheduler) -> String {
    let id = scheduler.submit(submission("")).await.unwrap().id;
    scheduler.jobs().cancel_job(pb::CancelJobRequest { job_id: id.clone() }).await.unwrap();
    id
}

fn job_of(call: &Call) -> String {
    call.json()["job"]["id"].as_str().unwrap().to_owned()
}

/// As a receiver does it.
fn is_signed(call: &Call, secret: &str) -> bool {
    let (time, signature) = call.header("trainyard-signature").split_once(",v1=").unwrap();
    let signed = format!("{}.{}", time.strip_prefix("t=").unwrap(), call.body);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::verify(&key, signed.as_bytes(), &hex::decode(signature).unwrap()).is_ok()
}

#[tokio::test]
async fn a_webhook_that_fails_hangs_and_accepts_gets_all_messages_in_order_and_signed() {
    let mut receiver = Receiver::start(&[FAILED, Answer::Hangs, FAILED], TAKEN).await;
    let scheduler = start(|_| {}).await;
    let before = cancelled(&scheduler).await;
    let made = add(&scheduler, &receiver.url()).await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(cancelled(&scheduler).await);
    }
    let mut ids = Vec::new();
    for _ in 0..3 {
        let failed = receiver.call().await;
        assert!(!failed.taken && is_signed(&failed, &made.secret));
        ids.push(failed.header("trainyard-id").to_owned());
    }
    let mut taken = Vec::new();
    for _ in 0..3 {
        let call = receiver.taken().await;
        assert!(is_signed(&call, &made.secret) && !is_signed(&call, "another"), "{call:?}");
        assert_eq!((call.header("trainyard-event"), call.json()["event"].as_str()), ("ended", Some("ended")));
        taken.push(call);
    }
    // What was before the webhook is not told.
    assert_eq!(taken.iter().map(job_of).collect::<Vec<_>>(), jobs);
    assert!(!jobs.contains(&before));
    ids.push(taken[0].header("trainyard-id").to_owned());
    ids.dedup();
    assert_eq!(ids.len(), 1, "each try has the same id");
    let link = format!("http://{}/jobs/{}", scheduler.server.address(), jobs[0]);
    assert_eq!(taken[0].json()["url"], serde_json::json!(link));
    scheduler.stop().await;
}

#[tokio::test]
async fn a_job_that_failed_says_why() {
    let mut receiver = Receiver::start(&[], TAKEN).await;
    let scheduler = start(|_| {}).await;
    let url = receiver.url();
    let events = vec![pb::NotificationEvent::JobFailed.into()];
    let kind = pb::WebhookKind::Mattermost.into();
    let request = pb::CreateWebhookRequest { url, kind, events };
    notifications(&scheduler).create_webhook(request).await.unwrap();
    // Not what it is called for.
    cancelled(&scheduler).await;
    let mut agent = scheduler.agent(1, &[]).await;
    let job = scheduler.submit(submission("")).await.unwrap();
    let assigned = agent.assigned().await;
    agent.report_acked(&assigned.attempt, 1, started()).await;
    agent.report_acked(&assigned.attempt, 2, ended(pb::attempt::EndReason::BadSpec, vec![])).await;
    let text = receiver.taken().await.json()["text"].as_str().unwrap().to_owned();
    let short: String = job.id.chars().take(13).collect();
    assert!(
        text.contains(&format!("({short}) failed")) || text.contains(&format!("{short} failed")),
        "{text}"
    );
    assert!(text.contains("over") && text.ends_with(&format!("/jobs/{}", job.id)), "{text}");
    scheduler.stop().await;
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    let mut receiver = Receiver::start(&[], FAILED).await;
    let scheduler = start(|_| {}).await;
    add(&scheduler, &receiver.url()).await;
    let (first, second) = (cancelled(&scheduler).await, cancelled(&scheduler).await);
    assert_eq!(job_of(&receiver.call().await), first);
    let dir = scheduler.stop().await;
    receiver.now(TAKEN);
    let scheduler = Scheduler::start_in(dir).await;
    let third = cancelled(&scheduler).await;
    for expected in [first, second, third] {
        assert_eq!(job_of(&receiver.taken().await), expected);
    }
    scheduler.stop().await;
}

#[tokio::test]
async fn a_slow_webhook_holds_up_no_other() {
    let mut slow = Receiver::start(&[], Answer::Hangs).await;
    let mut quick = Receiver::start(&[], TAKEN).await;
    let scheduler = start(|config| config.webhook_timeout = Duration::from_secs(60)).await;
    add(&scheduler, &slow.url()).await;
    let gone = add(&scheduler, &quick.url()).await.webhook.unwrap();
    let (first, second) = (cancelled(&scheduler).await, cancelled(&scheduler).await);
    assert_eq!(job_of(&slow.call().await), first);
    assert_eq!(job_of(&quick.taken().await), first);
    assert_eq!(job_of(&quick.taken().await), second);
    // Ids that were made in one millisecond differ in their last characters alone.
    let (start, _) = gone.id.split_at(gone.id.len() - 1);
    let request = pb::DeleteWebhookRequest { id: start.into() };
    notifications(&scheduler).delete_webhook(request).await.unwrap();
    assert_eq!(list(&scheduler).await.len(), 1);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_webhook_that_is_dead_for_long_is_given_up_until_it_takes_a_test() {
    let mut receiver = Receiver::start(&[], Answer::Says("404 Not Found")).await;
    let scheduler = start(|config| config.webhook_give_up = Duration::from_millis(1)).await;
    let id = add(&scheduler, &receiver.url()).await.webhook.unwrap().id;
    cancelled(&scheduler).await;
    let given_up = loop {
        let webhook = list(&scheduler).await.remove(0);
        if webhook.given_up_time.is_some() {
            break webhook;
        }
        receiver.call().await;
    };
    assert_eq!((given_up.failures, given_up.problem.as_str()), (2, "it answered 404 Not Found"));
    assert!(!given_up.url.contains("secret"), "{given_up:?}");
    let test = async || {
        let request = pb::TestWebhookRequest { id: id.clone() };
        notifications(&scheduler).test_webhook(request).await.unwrap().into_inner()
    };
    assert_eq!(test().await.problem, "it answered 404 Not Found");
    receiver.now(TAKEN);
    assert_eq!(test().await.problem, "");
    assert_eq!(receiver.taken().await.json()["event"], "test");
    let job = cancelled(&scheduler).await;
    assert_eq!(job_of(&receiver.taken().await), job);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let mut other = Receiver::start(&[], TAKEN).await;
    let line: &'static str = Box::leak(format!("307 Temporary Redirect\r\nlocation: {}", other.url()).into());
    let receiver = Receiver::start(&[], Answer::Says(line)).await;
    let scheduler = start(|_| {}).await;
    let id = add(&scheduler, &receiver.url()).await.webhook.unwrap().id;
    let tested = notifications(&scheduler).test_webhook(pb::TestWebhookRequest { id }).await.unwrap();
    assert_eq!(tested.into_inner().problem, "it answered 307 Temporary Redirect");
    assert!(other.is_quiet());
    scheduler.stop().await;
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_webhook_is_named_by_its_field() {
    let scheduler = start(|_| {}).await;
    let wrong = pb::CreateWebhookRequest { url: "ftp://x".into(), kind: 99, events: vec![1, 77] };
    let status = notifications(&scheduler).create_webhook(wrong).await.unwrap_err();
    let details = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<&str> = details.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["url", "kind", "events[1]"]);
    for _ in 0..10 {
        add(&scheduler, "https://ntfy.sh/cells").await;
    }
    let request = pb::CreateWebhookRequest { url: "https://ntfy.sh/cells".into(), ..Default::default() };
    let status = notifications(&scheduler).create_webhook(request).await.unwrap_err();
    let details = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(details[0].field, "url");
    assert!(details[0].description.contains("has 10 webhooks"), "{details:?}");
    assert!(list(&scheduler).await.iter().all(|webhook| webhook.kind() == pb::WebhookKind::Ntfy));
    let unknown = pb::DeleteWebhookRequest { id: "ffff".into() };
    assert_eq!(code(notifications(&scheduler).delete_webhook(unknown).await), Code::NotFound);
    scheduler.stop().await;
}

#[tokio::test]
async fn where_people_log_in_webhooks_are_their_own_and_lead_to_no_local_address() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let ada = scheduler.token("ada", pb::AccessRole::User).await;
    let bob = scheduler.token("bob", pb::AccessRole::User).await;
    let admin = scheduler.admin().reveal();
    let request = |url: &str| pb::CreateWebhookRequest { url: url.into(), ..Default::default() };
    for local in ["http://127.0.0.1:9/", "http://localhost/", "http://169.254.169.254/", "http://[::1]/"] {
        let refused = scheduler.notifications(&ada).create_webhook(request(local)).await;
        assert_eq!(code(refused), Code::InvalidArgument, "{local}");
    }
    let made = scheduler.notifications(&ada).create_webhook(request("http://10.0.0.9/hook")).await;
    let webhook = made.unwrap().into_inner().webhook.unwrap();
    assert_eq!(webhook.user, "ada");
    let listed = async |token: &str| {
        let list = scheduler.notifications(token).list_webhooks(pb::ListWebhooksRequest {}).await;
        list.unwrap().into_inner().webhooks.len()
    };
    assert_eq!([listed(&ada).await, listed(&bob).await, listed(&admin).await], [1, 0, 1]);
    let remove = pb::DeleteWebhookRequest { id: webhook.id };
    let refused = scheduler.notifications(&bob).delete_webhook(remove.clone()).await;
    assert_eq!(code(refused), Code::NotFound);
    scheduler.notifications(&admin).delete_webhook(remove).await.unwrap();
    assert_eq!(listed(&ada).await, 0);
}
