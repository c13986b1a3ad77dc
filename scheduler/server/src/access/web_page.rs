//! Requests that a page of somebody else's makes in a user's browser.

use axum::extract::Request;
use axum::http::header;

use crate::refusal;

/// What only a web page would send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromPage {
    /// The page is of this origin, which is another than the scheduler's.
    Foreign(String),
    /// A call of gRPC in a form that each page may send anywhere without being asked for leave.
    Form,
}

/// What of a request only a web page would send that is not the scheduler's own (cross-site request forgery): a browser
/// names the page's origin, and lets a page send forms and plain text anywhere.
pub fn from_page(request: &Request) -> Option<FromPage> {
    let text = |name| request.headers().get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let called = request.uri().authority().map(|authority| authority.as_str()).or_else(|| text(header::HOST));
    if let Some(origin) = text(header::ORIGIN) {
        let own = origin.split_once("://").map(|(_, authority)| authority);
        if own.is_none() || own != called {
            return Some(FromPage::Foreign(origin.chars().take(128).collect()));
        }
    }
    let is_call = request.uri().path().starts_with("/trainyard.v1.");
    (is_call && !refusal::is_grpc(request.headers())).then_some(FromPage::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_call_and_pages_of_others_do_not() {
        let grpc = [("content-type", "application/grpc"), ("host", "localhost:7433")];
        let foreign = |origin: &str| Some(FromPage::Foreign(origin.to_owned()));
        type Headers = &'static [(&'static str, &'static str)];
        let table: [(Headers, Option<FromPage>); 6] = [
            (&[], None),
            (&[("content-type", "text/plain")], Some(FromPage::Form)),
            (&[("origin", "http://localhost:7433")], None),
            (&[("origin", "http://evil.example")], foreign("http://evil.example")),
            (&[("origin", "http://localhost:8080")], foreign("http://localhost:8080")),
            (&[("origin", "null")], foreign("null")),
        ];
        for (more, expected) in table {
            let mut request = Request::builder().uri("/trainyard.v1.JobService/SubmitJob");
            let is_own = |(name, _): &&(&str, &str)| more.iter().all(|(other, _)| other != name);
            for (name, value) in grpc.iter().filter(is_own).chain(more) {
                request = request.header(*name, *value);
            }
            assert_eq!(from_page(&request.body(Default::default()).unwrap()), expected, "{more:?}");
        }
        let page = Request::builder().uri("/metrics").body(Default::default()).unwrap();
        assert_eq!(from_page(&page), None);
    }
}
