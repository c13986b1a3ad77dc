//! A browser, as far as HTTP goes: requests with headers, answers, server-sent events.

use reqwest::{Client, Method, Response};
use serde_json::Value;

use super::Scheduler;
use super::secure::SecureScheduler;

/// Asks one scheduler.
pub struct Browser {
    base: String,
    client: Client,
}

/// A whole answer.
pub struct Answer {
    pub status: u16,
    headers: reqwest::header::HeaderMap,
    body: Vec<u8>,
}

/// One server-sent event; comments are left out.
#[derive(Debug, Default)]
pub struct Event {
    pub id: String,
    pub kind: String,
    pub data: String,
}

/// A stream of events.
pub struct Events {
    response: Response,
    come: String,
}

impl Browser {
    pub fn of(scheduler: &Scheduler) -> Self {
        Self::at(format!("http://{}", scheduler.server.address()))
    }

    pub fn of_secure(scheduler: &SecureScheduler) -> Self {
        Self::at(format!("https://{}", scheduler.server.address()))
    }

    fn at(base: String) -> Self {
        // Whoever was first has installed it.
        let _known = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
        Self { base, client }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut request =
            self.client.request(method.parse::<Method>().unwrap(), format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body.to_owned()).send().await.unwrap()
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let response = self.ask(method, path, headers, body).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
    }

    pub async fn post(&self, path: &str, content: &str, body: &str) -> Answer {
        self.send("POST", path, &[("content-type", content)], body).await
    }

    /// A method of the API, as JSON.
    pub async fn call(&self, path: &str, message: &Value) -> Answer {
        self.post(path, "application/json", &message.to_string()).await
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", path, headers, "").await
    }

    pub async fn events(&self, path: &str, headers: &[(&str, &str)]) -> Events {
        let response = self.ask("GET", path, headers, "").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { response, come: String::new() }
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|cause| panic!("{cause}: {}", self.text()))
    }
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

impl Events {
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some((text, rest)) = self.come.split_once("\n\n") {
                let mut event = Event::default();
                for line in text.lines() {
                    match line.split_once(": ") {
                        Some(("id", text)) => event.id = text.to_owned(),
                        Some(("event", text)) => event.kind = text.to_owned(),
                        Some(("data", text)) => event.data = text.to_owned(),
                        _ => {}
                    }
                }
                self.come = rest.to_owned();
                if !event.data.is_empty() {
                    return event;
                }
                continue;
            }
            let more = self.response.chunk().await.unwrap().expect("the stream goes on");
            self.come.push_str(std::str::from_utf8(&more).unwrap());
        }
    }
}
