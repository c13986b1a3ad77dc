//! The page for browsers: its files, what it may load, who logs in, and what a cookie is good for.

use std::io::Read as _;

use serde_json::json;
use trainyard_proto::pb;

use crate::support::secure::SecureScheduler;
use crate::support::web::Browser;
use crate::support::{Scheduler, submission};

const HTML: (&str, &str) = ("accept", "text/html,*/*;q=0.8");
const OWN: (&str, &str) = ("sec-fetch-site", "same-origin");
const JSON: (&str, &str) = ("content-type", "application/json");
const LIST: &str = "/trainyard.v1.JobService/ListJobs";

#[tokio::test]
async fn browsers_get_the_page_at_each_of_its_addresses_and_programs_get_text() {
    let scheduler = Scheduler::start().await;
    let browser = Browser::of(&scheduler);
    for path in ["/", "/queue", "/jobs/0199", "/compare?jobs=a,b", "/login"] {
        let page = browser.get(path, &[HTML]).await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"), "{path}");
        assert!(page.text().contains("<noscript>") && page.text().contains("app.js"), "{path}");
        let policy = page.header("content-security-policy");
        for rule in ["default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"]
        {
            assert!(policy.contains(rule), "{policy}");
        }
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert_eq!(page.header("referrer-policy"), "no-referrer");
    }
    let text = browser.get("/", &[("accept", "*/*")]).await;
    assert!(text.text().starts_with("Trainyard scheduler"), "{}", text.text());
    assert_eq!(browser.get("/jobs/0199", &[]).await.status, 404);
    assert_eq!(browser.get("/nothing", &[HTML]).await.status, 404);
}

#[tokio::test]
async fn files_are_kept_by_browsers_compressed_and_asked_for_again_cheaply() {
    let scheduler = Scheduler::start().await;
    let browser = Browser::of(&scheduler);
    let page = browser.get("/", &[HTML]).await;
    let known = browser.get("/", &[HTML, ("if-none-match", page.header("etag"))]).await;
    assert_eq!((known.status, known.bytes().len()), (304, 0));
    assert_eq!((page.header("cache-control"), page.header("vary")), ("no-cache", "accept, accept-encoding"));
    let text = page.text();
    let style = text.split('"').find(|part| part.ends_with("/style.css")).unwrap();
    let plain = browser.get(style, &[]).await;
    assert_eq!(plain.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(plain.header("content-type"), "text/css; charset=utf-8");
    let brotli = browser.get(style, &[("accept-encoding", "gzip, br")]).await;
    assert_eq!(brotli.header("content-encoding"), "br");
    let gzip = browser.get(style, &[("accept-encoding", "gzip")]).await;
    assert_eq!(gzip.header("content-encoding"), "gzip");
    assert!(brotli.bytes().len() < gzip.bytes().len());
    assert!(gzip.bytes().len() < plain.bytes().len() && gzip.header("etag") != plain.header("etag"));
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(gzip.bytes()).read_to_string(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain.text());
    // A page that was loaded before an upgrade still finds its files, and does not keep them.
    let old = browser.get("/assets/0000/style.css", &[]).await;
    assert_eq!((old.status, old.header("cache-control")), (200, "no-cache"));
    assert_eq!(browser.get("/assets/0000/nothing.js", &[]).await.status, 404);
}

#[tokio::test]
async fn whoever_logs_in_gets_a_cookie_that_is_good_for_calls_of_the_own_page_alone() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let browser = Browser::of_secure(&scheduler);
    // The page itself needs nobody, what it shows does.
    assert_eq!(browser.get("/jobs/0199", &[HTML]).await.status, 200);
    assert_eq!(browser.send("POST", LIST, &[JSON, OWN], "{}").await.status, 401);
    let ada = scheduler.token("ada", pb::AccessRole::User).await;
    let login = json!({ "token": ada }).to_string();
    assert_eq!(browser.send("POST", "/session", &[JSON], &login).await.status, 403);
    let cross = [JSON, ("sec-fetch-site", "cross-site")];
    assert_eq!(browser.send("POST", "/session", &cross, &login).await.status, 403);
    // A wrong body and a wrong token are not the same.
    for (body, told) in [
        (json!({ "token": "hunter2" }), "this is not a token; a token begins with `ty1.`"),
        (json!({ "token": "ty1.ü" }), "this is not a token; a token begins with `ty1.`"),
        (json!({ "token": "" }), "this is not a token; a token begins with `ty1.`"),
        (json!({ "tokens": [] }), "the body is no `{\"token\": …}`"),
    ] {
        let answer = browser.send("POST", "/session", &[JSON, OWN], &body.to_string()).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.json()["message"].as_str().unwrap().starts_with(told), "{}", answer.text());
    }
    let answer = browser.send("POST", "/session", &[JSON, OWN], &login).await;
    assert_eq!((answer.status, answer.json()["user"].as_str()), (200, Some("ada")), "{}", answer.text());
    let set = answer.header("set-cookie").to_owned();
    for word in ["__Host-trainyard=", "HttpOnly", "Secure", "SameSite=Strict", "Path=/"] {
        assert!(set.contains(word), "{set}");
    }
    let cookie = ("cookie", set.split(';').next().unwrap());
    assert_eq!(browser.send("POST", LIST, &[JSON, OWN, cookie], "{}").await.status, 200);
    // A page of others, or a form: a browser would send the cookie along.
    for headers in [
        vec![JSON, cookie],
        vec![JSON, cookie, ("sec-fetch-site", "cross-site")],
        vec![JSON, cookie, OWN, ("origin", "https://evil.example")],
    ] {
        let answer = browser.send("POST", LIST, &headers, "{}").await;
        assert_eq!(answer.status, 403, "{headers:?}");
        assert_eq!(answer.json()["details"][0]["debug"]["reason"], "FOREIGN_PAGE");
    }
    let form = [("content-type", "text/plain"), cookie, OWN];
    assert_eq!(browser.send("POST", LIST, &form, "{}").await.status, 415);
    // A page of others shows nothing of it either.
    for path in ["/files/jobs/0199/labels.png", "/live", "/metrics"] {
        let answer = browser.get(path, &[cookie, ("sec-fetch-site", "cross-site")]).await;
        assert_eq!(answer.status, 403, "{path}");
    }
    // It may do what its token may.
    let tokens = "/trainyard.v1.AccessService/ListAuditEvents";
    assert_eq!(browser.send("POST", tokens, &[JSON, OWN, cookie], "{}").await.status, 403);
    let metrics = browser.get("/metrics", &[cookie]).await;
    assert_eq!(metrics.status, 200);
    let out = browser.send("DELETE", "/session", &[OWN, cookie], "").await;
    assert!(out.status == 204 && out.header("set-cookie").contains("Max-Age=0"));
    let id = ada.parse::<trainyard_access::Token>().unwrap().id.to_string();
    scheduler.remove_token_in_store(&id).await;
    loop {
        let answer = browser.send("POST", LIST, &[JSON, OWN, cookie], "{}").await;
        // One that is under way just then is told that its token was revoked.
        if answer.status == 401 && answer.json()["details"][0]["debug"]["reason"] == "TOKEN_INVALID" {
            break;
        }
    }
}

#[tokio::test]
async fn whoever_logs_out_sees_nothing_more_in_any_tab() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let browser = Browser::of_secure(&scheduler);
    let log_in = async |user: &str| {
        let token = scheduler.token(user, pb::AccessRole::User).await;
        let login = json!({ "token": token }).to_string();
        let answer = browser.send("POST", "/session", &[JSON, OWN], &login).await;
        answer.header("set-cookie").split(';').next().unwrap().to_owned()
    };
    let (ada, bob) = (log_in("ada").await, log_in("bob").await);
    let (ada, bob) = (("cookie", ada.as_str()), ("cookie", bob.as_str()));
    let mut tabs = [browser.events("/live", &[ada, OWN]).await, browser.events("/live", &[ada, OWN]).await];
    let mut other = browser.events("/live", &[bob, OWN]).await;
    for page in tabs.iter_mut().chain([&mut other]) {
        assert_eq!(page.next().await.json()["allAgents"], true);
    }
    // Nobody else logs her out.
    let forged = ("cookie", "__Host-trainyard=ty1.forged");
    for headers in [vec![ada, ("sec-fetch-site", "cross-site")], vec![forged, OWN]] {
        browser.send("DELETE", "/session", &headers, "").await;
    }
    let job = scheduler.jobs(&scheduler.admin().reveal()).submit_job(submission("")).await.unwrap();
    let job = job.into_inner().job_id;
    for page in tabs.iter_mut().chain([&mut other]) {
        while page.next().await.json()["jobs"][0]["id"] != *job {}
    }
    assert_eq!(browser.send("DELETE", "/session", &[ada, OWN], "").await.status, 204);
    for page in &mut tabs {
        let end = page.next().await;
        assert_eq!((end.kind.as_str(), &end.json()["error"]["code"]), ("end", &json!("unauthenticated")));
        assert_eq!(end.json()["error"]["details"][0]["debug"]["reason"], "LOGGED_OUT");
    }
    let wish = pb::CancelJobRequest { job_id: job.clone() };
    scheduler.jobs(&scheduler.admin().reveal()).cancel_job(wish).await.unwrap();
    let next = other.next().await;
    assert_eq!((next.kind.as_str(), &next.json()["jobs"][0]["state"]), ("", &json!("CANCELLED")));
}

#[tokio::test]
async fn wrong_tokens_are_refused_and_slowed_down_at_the_login_too() {
    let scheduler = SecureScheduler::start(|_| {}).await;
    let browser = Browser::of_secure(&scheduler);
    for body in ["", "{}", "{\"token\":\"a b\"}", &format!("{{\"token\":\"{}\"}}", "x".repeat(10_000))] {
        let answer = browser.send("POST", "/session", &[JSON, OWN], body).await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (400, Some("invalid_argument")),
            "{body}"
        );
    }
    let joining = json!({ "token": scheduler.token("", pb::AccessRole::Agent).await }).to_string();
    let answer = browser.send("POST", "/session", &[JSON, OWN], &joining).await;
    assert_eq!((answer.status, answer.header("set-cookie")), (403, ""), "{}", answer.text());
    let wrong = json!({ "token": trainyard_access::Token::make(scheduler.admin().pin).unwrap().reveal() })
        .to_string();
    loop {
        let answer = browser.send("POST", "/session", &[JSON, OWN], &wrong).await;
        assert_eq!(answer.header("set-cookie"), "");
        if answer.status == 429 {
            break;
        }
        assert_eq!(answer.status, 401, "{}", answer.text());
    }
}
