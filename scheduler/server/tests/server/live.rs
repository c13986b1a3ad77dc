//! The one stream of a page: what it carries, and how it goes on after a cut, a restart, and without rights.

use serde_json::{Value, json};
use trainyard_proto::pb;
use trainyard_proto::pb::agent_message::Message as FromAgent;
use trainyard_scheduler::config::Visibility;

use crate::support::secure::SecureScheduler;
use crate::support::web::{Browser, Event, Events};
use crate::support::{Scheduler, started, submission};

const DRAIN: &str = "/trainyard.v1.ClusterService/DrainAgent";

/// The first event that fits, and its id.
async fn until(events: &mut Events, fits: impl Fn(&Value) -> bool) -> Event {
    loop {
        let event = events.next().await;
        if fits(&event.json()) {
            return event;
        }
    }
}

/// The job of this id, if an event has it, and how it is.
fn state_of<'a>(event: &'a Value, job: &str) -> Option<&'a str> {
    let jobs = event["jobs"].as_array()?;
    jobs.iter().find(|one| one["id"] == job)?["state"].as_str()
}

#[tokio::test]
async fn a_page_is_told_all_agents_then_what_changes_and_after_a_cut_what_it_missed() {
    let scheduler = Scheduler::start().await;
    let _one = scheduler.agent(1, &[]).await;
    let browser = Browser::of(&scheduler);
    let mut page = browser.events("/live", &[]).await;
    let first = page.next().await;
    assert_eq!((&first.json()["allAgents"], &first.json()["jobsMissed"]), (&json!(true), &json!(true)));
    assert_eq!(first.json()["agents"][0]["name"], "agent-1");
    assert_eq!(first.json()["agents"][0]["cpuSlots"][0]["status"], "free");
    let id = uuid::Uuid::from_u128(1).to_string();
    assert_eq!(browser.call(DRAIN, &json!({ "agent": id })).await.status, 200);
    let drained = until(&mut page, |event| event["agents"][0]["drained"] == true).await;
    assert_eq!(drained.json()["allAgents"], Value::Null);
    assert_eq!(drained.json()["agents"][0]["cpuSlots"][0]["status"], "drained");
    drop(page);
    // A job comes while nobody looks.
    let job = scheduler.submit(submission("")).await.unwrap().id;
    let mut page = browser.events("/live", &[("last-event-id", &drained.id)]).await;
    let next = page.next().await;
    assert_eq!((&next.json()["allAgents"], state_of(&next.json(), &job)), (&Value::Null, Some("QUEUED")));
    scheduler.jobs().cancel_job(pb::CancelJobRequest { job_id: job.clone() }).await.unwrap();
    until(&mut page, |event| state_of(event, &job) == Some("CANCELLED")).await;
}

#[tokio::test]
async fn after_a_restart_a_page_begins_anew_and_events_of_its_job_come_once() {
    let scheduler = Scheduler::start().await;
    let job = scheduler.submit(submission("")).await.unwrap().id;
    let path = format!("/live?job={job}");
    let browser = Browser::of(&scheduler);
    let mut page = browser.events(&path, &[]).await;
    let (mut cluster, mut of_job) = (false, None);
    while !cluster || of_job.is_none() {
        let event = page.next().await;
        cluster |= event.json()["allAgents"] == true;
        if event.json()["jobId"] == *job {
            of_job = Some(event.json()["jobEvents"][0]["cursor"].clone());
        }
        if cluster && of_job.is_some() {
            assert!(event.id.ends_with(";1"), "{}", event.id);
            drop(page);
            // While nobody looks it is cancelled, and the scheduler ends.
            scheduler.jobs().cancel_job(pb::CancelJobRequest { job_id: job.clone() }).await.unwrap();
            let scheduler = Scheduler::start_in(scheduler.stop().await).await;
            let browser = Browser::of(&scheduler);
            let mut page = browser.events(&path, &[("last-event-id", &event.id)]).await;
            let (mut cluster, mut cursors) = (0, Vec::new());
            while cluster == 0 || cursors.is_empty() {
                let event = page.next().await.json();
                cluster += usize::from(event["allAgents"] == true);
                cursors.extend(
                    event["jobEvents"].as_array().into_iter().flatten().map(|one| one["cursor"].clone()),
                );
            }
            assert_eq!((cluster, cursors), (1, vec![json!("2")]));
            return;
        }
    }
}

#[tokio::test]
async fn progress_of_a_job_reaches_all_pages() {
    let scheduler = Scheduler::start().await;
    let mut agent = scheduler.agent(1, &[]).await;
    let browser = Browser::of(&scheduler);
    let mut pages = [browser.events("/live", &[]).await, browser.events("/live", &[]).await];
    for page in &mut pages {
        page.next().await;
    }
    let job = scheduler.submit(submission("")).await.unwrap().id;
    let attempt = agent.assigned().await.attempt;
    agent.report_acked(&attempt, 1, started()).await;
    for page in &mut pages {
        until(page, |event| state_of(event, &job) == Some("RUNNING")).await;
    }
    agent.say(FromAgent::Heartbeat(pb::Heartbeat::default())).await;
}

#[tokio::test]
async fn a_page_shows_no_more_than_its_user_may_see_and_ends_with_the_token() {
    let scheduler = SecureScheduler::start(|config| config.visibility = Visibility::Own).await;
    let browser = Browser::of_secure(&scheduler);
    assert_eq!(browser.get("/live", &[]).await.status, 401);
    let ada = scheduler.token("ada", pb::AccessRole::User).await;
    let bob = scheduler.token("bob", pb::AccessRole::User).await;
    let bearer = format!("Bearer {ada}");
    let headers = [("authorization", bearer.as_str())];
    let mut page = browser.events("/live", &headers).await;
    page.next().await;
    let of_bob = scheduler.jobs(&bob).submit_job(submission("")).await.unwrap().into_inner().job_id;
    let own = scheduler.jobs(&ada).submit_job(submission("")).await.unwrap().into_inner().job_id;
    loop {
        let event = page.next().await.json();
        assert_eq!(state_of(&event, &of_bob), None);
        if state_of(&event, &own).is_some() {
            break;
        }
    }
    let hidden = browser.get(&format!("/live?job={of_bob}"), &headers).await;
    assert_eq!((hidden.status, hidden.json()["code"].as_str()), (404, Some("not_found")));
    let id = ada.parse::<trainyard_access::Token>().unwrap().id.to_string();
    scheduler.remove_token_in_store(&id).await;
    let end = loop {
        let event = page.next().await;
        if event.kind == "end" {
            break event;
        }
    };
    assert_eq!(end.json()["error"]["code"], "unauthenticated");
}

#[tokio::test]
async fn a_stream_that_cannot_be_is_refused_by_field() {
    let scheduler = Scheduler::start().await;
    let browser = Browser::of(&scheduler);
    for (path, status, word) in [
        ("/live?jobs=1", 400, "jobs"),
        ("/live?last=nonsense", 400, "cursor"),
        ("/live?job=0000", 404, "0000"),
    ] {
        let answer = browser.get(path, &[]).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.json()["message"].as_str().unwrap().contains(word), "{}", answer.text());
    }
}
