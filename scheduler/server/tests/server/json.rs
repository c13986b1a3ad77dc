//! The API as JSON, for browsers, scripts and curl: the same calls, the same refusals.

use serde_json::{Value, json};
use trainyard_proto::pb;

use crate::support::secure::SecureScheduler;
use crate::support::web::{Answer, Browser};
use crate::support::{Scheduler, submission};

const LIST: &str = "/trainyard.v1.JobService/ListJobs";
const SUBMIT: &str = "/trainyard.v1.JobService/SubmitJob";

fn spec() -> Value {
    json!({ "train": { "model": "yolov8n", "data": "/data/x/data.yaml" }, "resources": { "device": "cpu" } })
}

#[tokio::test]
async fn a_job_is_submitted_and_listed_by_json_as_by_grpc() {
    let scheduler = Scheduler::start().await;
    let browser = Browser::of(&scheduler);
    let answer = browser.call(SUBMIT, &json!({ "request_id": "a", "spec": spec() })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/json");
    let job = answer.json()["job"].clone();
    assert_eq!((job["state"].as_str(), job["user"].as_str()), (Some("QUEUED"), Some("anonymous")));
    // Nothing at all is a message without fields.
    let listed = browser.post(LIST, "application/json; charset=utf-8", "").await.json();
    assert_eq!(listed["jobs"][0]["id"], job["id"]);
    let told = scheduler.get(job["id"].as_str().unwrap()).await;
    assert_eq!(told.spec.unwrap().train.unwrap().data, "/data/x/data.yaml");
}

#[tokio::test]
async fn on_an_open_cluster_a_page_says_whose_its_jobs_are_as_other_clients_do() {
    let scheduler = Scheduler::start().await;
    let browser = Browser::of(&scheduler);
    let headers = [("content-type", "application/json"), ("trainyard-user", "ada")];
    let answer = browser.send("POST", SUBMIT, &headers, &json!({ "spec": spec() }).to_string()).await;
    assert_eq!(answer.json()["job"]["user"], "ada", "{}", answer.text());
    let headers = [("content-type", "application/json"), ("trainyard-user", "")];
    let answer = browser.send("POST", SUBMIT, &headers, &json!({ "spec": spec() }).to_string()).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("metadata[trainyard-user]"), "{}", answer.text());
}

#[tokio::test]
async fn what_is_wrong_is_told_by_code_sentence_and_field() {
    let scheduler = Scheduler::start().await;
    let browser = Browser::of(&scheduler);
    let violations = |answer: &Answer| {
        let details = answer.json()["details"].clone();
        let bad = details.as_array().unwrap().iter().find(|detail| detail["type"] == "google.rpc.BadRequest");
        let bad = bad.unwrap()["debug"]["fieldViolations"].clone();
        bad.as_array()
            .unwrap()
            .iter()
            .map(|one| one["field"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let answer = browser.call(SUBMIT, &json!({ "spec": { "train": { "epochs": "many" } } })).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (400, Some("invalid_argument")));
    assert_eq!(violations(&answer), ["spec.train.epochs"]);
    let wrong = json!({ "timeLimit": "abc", "train": { "epochs": -1, "epoch": 3 } });
    let answer = browser.call(SUBMIT, &json!({ "spec": wrong })).await;
    assert_eq!(violations(&answer), ["spec.time_limit", "spec.train.epoch", "spec.train.epochs"]);
    let told = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(told.contains("spec.train.epochs: is -1; give a whole number from 0"), "{told}");
    assert!(told.contains("spec.time_limit: is `abc`; give a duration such as \"5400s\""), "{told}");
    // Not the form, but what it says.
    let mut wrong = spec();
    wrong["train"]["epochs"] = json!(0);
    wrong["train"]["imgsz"] = json!(7);
    let answer = browser.call(SUBMIT, &json!({ "spec": wrong })).await;
    assert_eq!(answer.status, 400);
    assert_eq!(violations(&answer), ["spec.train.epochs", "spec.train.imgsz"]);
    let answer = browser.call("/trainyard.v1.JobService/GetJob", &json!({ "jobId": "0000" })).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (404, Some("not_found")));
    assert!(answer.json()["message"].as_str().unwrap().contains("yard jobs"));
    let answer = browser.call("/trainyard.v1.JobService/Nothing", &json!({})).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (501, Some("unimplemented")));
    assert!(answer.json()["message"].as_str().unwrap().contains("`JobService/Nothing` is no method"));
    let answer = browser.call("/trainyard.v1.JobService/WatchJob", &json!({})).await;
    assert_eq!(answer.status, 501);
    assert!(answer.text().contains("server-sent events"), "{}", answer.text());
}

#[tokio::test]
async fn a_deadline_and_a_limit_of_length_count_for_json_too() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        trainyard_scheduler::config::Config { max_message_mib: 1, ..crate::support::config(dir.path()) };
    let scheduler = Scheduler::start_with(dir, config).await;
    let browser = Browser::of(&scheduler);
    // A call that would not end by itself.
    let job = scheduler.submit(submission("")).await.unwrap();
    let path = format!("/trainyard.v1.JobService/WatchJob?jobId={}", job.id);
    let mut events = browser.events(&path, &[("connect-timeout-ms", "50")]).await;
    assert_eq!(events.next().await.id, "1");
    assert_eq!(events.next().await.json()["error"]["code"], "deadline_exceeded");
    let wrong = [("content-type", "application/json"), ("connect-timeout-ms", "soon")];
    assert_eq!(browser.send("POST", LIST, &wrong, "{}").await.status, 400);
    let long = json!({ "userName": "x".repeat(2 << 20) }).to_string();
    let answer = browser.post(LIST, "application/json", &long).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (400, Some("out_of_range")));
}

#[tokio::test]
async fn who_may_not_call_is_refused_before_anything_is_read() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let browser = Browser::of_secure(&scheduler);
    let answer = browser.call(LIST, &json!({})).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (401, Some("unauthenticated")));
    assert_eq!(answer.json()["details"][0]["debug"]["reason"], "TOKEN_MISSING");
    // Nobody has looked whether it is JSON at all.
    let answer = browser.post(SUBMIT, "application/json", &"[".repeat(100_000)).await;
    assert_eq!(answer.status, 401, "{}", answer.text());
    let ada = scheduler.token("ada", pb::AccessRole::User).await;
    let bearer = format!("Bearer {ada}");
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    let answer = browser.send("POST", SUBMIT, &headers, &json!({ "spec": spec() }).to_string()).await;
    assert_eq!(answer.json()["job"]["user"], "ada", "{}", answer.text());
    // The one that was refused is told as well, and before.
    let is_it = |event: &pb::AuditEvent| event.caller == "ada" && event.target == answer.json()["jobId"];
    while !scheduler.audit_of("JobService/SubmitJob", 1).await.iter().any(is_it) {}
}

#[tokio::test]
async fn events_of_a_job_are_followed_and_taken_up_where_they_broke_off() {
    let scheduler = Scheduler::start().await;
    let job = scheduler.submit(submission("")).await.unwrap();
    let browser = Browser::of(&scheduler);
    let path = format!("/trainyard.v1.JobService/WatchJob?jobId={}", job.id);
    let mut events = browser.events(&path, &[]).await;
    let first = events.next().await;
    assert_eq!((first.id.as_str(), first.json()["stateChange"]["state"].as_str()), ("1", Some("QUEUED")));
    drop(events);
    scheduler.jobs().cancel_job(pb::CancelJobRequest { job_id: job.id.clone() }).await.unwrap();
    let mut events = browser.events(&path, &[("last-event-id", "1")]).await;
    let second = events.next().await;
    assert_eq!(
        (second.id.as_str(), second.json()["stateChange"]["state"].as_str()),
        ("2", Some("CANCELLED"))
    );
    let end = events.next().await;
    assert_eq!((end.kind.as_str(), end.data.as_str()), ("end", "{}"));
    let answer = browser.get("/trainyard.v1.JobService/WatchJob?jobId=0000", &[]).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (404, Some("not_found")));
}

#[tokio::test]
async fn pages_of_others_call_nothing_by_json() {
    let scheduler = Scheduler::start().await;
    let browser = Browser::of(&scheduler);
    let foreign = [("content-type", "application/json"), ("origin", "https://evil.example")];
    let answer = browser.send("POST", LIST, &foreign, "{}").await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (403, Some("permission_denied")));
    // What a page may send anywhere without leave is no JSON.
    assert_eq!(browser.post(LIST, "text/plain", "{}").await.status, 415);
    let got = browser.get(LIST, &[]).await;
    assert_eq!((got.status, got.header("allow")), (405, "POST"));
}
