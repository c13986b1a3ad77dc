//! An open scheduler on loopback answers this machine's own programs, and no web page that got to it by a name of its
//! maker's choice (DNS rebinding).

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header;

/// The name by which a request calls this machine, unless a program of this machine would call it so. Whoever made a
/// page chooses where names of the world's resolve, but neither addresses nor names without a dot.
pub fn foreign_name(request: &Request, hostname: &str) -> Option<String> {
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let called = authority.or(host)?;
    let name = match called.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => called.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let is_ours = !name.contains('.')
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok()
        || name == hostname.to_ascii_lowercase();
    (!is_ours).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_the_machines_own_names_are_answered_and_no_other() {
        let table = [
            ("localhost:7433", None),
            ("127.0.0.1:7433", None),
            ("[::1]:7433", None),
            ("lab.localhost", None),
            ("LAB-1:7433", None),
            ("lab-1.", None),
            ("evil.example:7433", Some("evil.example")),
            ("localhost.evil.example", Some("localhost.evil.example")),
        ];
        for (host, expected) in table {
            let request = Request::builder().uri("/").header("host", host).body(Default::default()).unwrap();
            assert_eq!(foreign_name(&request, "lab-1").as_deref(), expected, "{host}");
        }
        let absolute = Request::builder().uri("http://evil.example:1/x").body(Default::default()).unwrap();
        assert_eq!(foreign_name(&absolute, "lab-1").as_deref(), Some("evil.example"));
    }
}
