//! People in a browser: a cookie carries their token, which nobody but the browser keeps. Who they are and what they may
//! is asked and told as with a token in a header.
//!
//! A browser sends the cookie whoever made the page that calls. So what changes something is heard from the scheduler's
//! own pages alone, in a form that no other page may send.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http_body_util::{BodyExt as _, Limited};
use prost::Message as _;
use serde::Deserialize;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use trainyard_access::TOKEN_START;
use trainyard_proto::pb;

use super::open_streams::OpenStreams;
use super::{connect_error, is_json, unary};
use crate::refusal::details;

pub const PATH: &str = "/session";
const WHO_AM_I: &str = "/trainyard.v1.AccessService/WhoAmI";
/// Browsers take a cookie of such a name from encrypted connections alone, for this host alone.
const COOKIE: &str = "__Host-trainyard";
/// How long a browser keeps it. A token that ends sooner counts no more then.
const DAYS: u32 = 30;
/// A token and a little JSON around it.
const MOST_BYTES: usize = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    token: String,
}

/// Logs in or out; the streams of whoever logs out end in all tabs.
pub async fn change(request: Request, next: Next, streams: &OpenStreams) -> Response {
    if !is_own_page(request.headers()) {
        return connect_error::answer(&foreign());
    }
    match *request.method() {
        Method::POST if is_json(request.headers()) => log_in(request, next).await,
        Method::DELETE => {
            if let Some(token) = cookie(request.headers()) {
                streams.log_out(token);
            }
            with_cookie_set(StatusCode::NO_CONTENT.into_response(), "", 0)
        }
        _ => {
            let text = "POST `{\"token\": …}` as application/json logs in, DELETE logs out";
            connect_error::answer(&status(Code::Unimplemented, text, "UNIMPLEMENTED"))
        }
    }
}

/// A token that somebody is known by becomes their cookie; a wrong one is refused as in any call.
async fn log_in(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MOST_BYTES).collect().await.map(http_body_util::Collected::to_bytes);
    let login = body.ok().and_then(|body| serde_json::from_slice::<Login>(&body).ok());
    let Some(login) = login else {
        let text = "the body is no `{\"token\": …}` with a token as `yard token create` prints it";
        return connect_error::answer(&status(Code::InvalidArgument, text, "INVALID_ARGUMENT"));
    };
    let bearer = bearer(login.token.trim()).filter(|_| login.token.trim().starts_with(TOKEN_START));
    let Some(bearer) = bearer else {
        let text = format!(
            "this is not a token; a token begins with `{TOKEN_START}`, and has letters, digits and dots alone"
        );
        return connect_error::answer(&status(Code::InvalidArgument, &text, "NO_TOKEN"));
    };
    let mut asked = Request::from_parts(parts, Body::empty());
    unary::turn_to(&mut asked, WHO_AM_I);
    asked.headers_mut().insert(header::AUTHORIZATION, bearer);
    let answer = unary::answer_of(asked, |_| unary::whole(&[]), next).await;
    match answer {
        Err(status) => connect_error::answer(&status),
        Ok(caller) if is_machine(&caller) => {
            let text = "machines join with this token; people log in with one of their own, which an admin makes them";
            connect_error::answer(&status(Code::PermissionDenied, text, "ROLE_REQUIRED"))
        }
        Ok(caller) => {
            let answer = unary::json_answer(WHO_AM_I, &caller);
            with_cookie_set(answer, login.token.trim(), DAYS * 24 * 3600)
        }
    }
}

fn is_machine(caller: &[u8]) -> bool {
    pb::Caller::decode(caller).is_ok_and(|caller| caller.role() == pb::AccessRole::Agent)
}

/// Why a cookie does not count.
#[derive(Debug)]
pub enum Refused {
    /// Another page than the scheduler's made the call.
    Foreign,
    /// It is no JSON: a form, or what any page may send.
    NoJson,
}

impl Refused {
    pub fn answer(&self) -> Response {
        match self {
            Self::Foreign => connect_error::answer(&foreign()),
            Self::NoJson => {
                let text = "a call with a browser's cookie has the content-type application/json";
                let status = status(Code::InvalidArgument, text, "CONTENT_TYPE");
                connect_error::answer_as(StatusCode::UNSUPPORTED_MEDIA_TYPE, &status)
            }
        }
    }
}

/// Gives a request with a cookie its token, which is told.
///
/// # Errors
/// It would change something, and the scheduler's own page did not make it; or another page would have something of what
/// the scheduler shows.
pub fn identify(request: &mut Request) -> Result<Option<String>, Refused> {
    let headers = request.headers();
    if headers.contains_key(header::AUTHORIZATION) {
        return Ok(None);
    }
    let Some((token, value)) = cookie(headers).and_then(|token| Some((token.to_owned(), bearer(token)?)))
    else {
        return Ok(None);
    };
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        let says = |name: &str, words: &[&str]| {
            headers.get(name).is_some_and(|said| words.iter().any(|word| said == word))
        };
        if says("sec-fetch-site", &["cross-site", "same-site"]) {
            // Whoever follows a link of another page comes as a stranger. That page itself gets nothing.
            return if says("sec-fetch-mode", &["navigate"]) { Ok(None) } else { Err(Refused::Foreign) };
        }
    } else if !is_own_page(headers) {
        return Err(Refused::Foreign);
    } else if !is_json(headers) {
        return Err(Refused::NoJson);
    }
    request.headers_mut().insert(header::AUTHORIZATION, value);
    Ok(Some(token))
}

/// Whether the scheduler's own page makes a request, as browsers say. An `Origin` that is another's is refused for all.
fn is_own_page(headers: &HeaderMap) -> bool {
    match headers.get("sec-fetch-site") {
        Some(site) => site == "same-origin",
        // Older browsers name the origin alone, which the gate compares.
        None => headers.contains_key(header::ORIGIN),
    }
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

/// `None` for what no header can hold, and for what a cookie could not.
fn bearer(token: &str) -> Option<HeaderValue> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    (!token.is_empty() && token.bytes().all(is_plain)).then_some(value)
}

fn with_cookie_set(mut answer: Response, token: &str, seconds: u32) -> Response {
    let cookie = format!("{COOKIE}={token}; Path=/; Max-Age={seconds}; HttpOnly; Secure; SameSite=Strict");
    answer
        .headers_mut()
        .extend(HeaderValue::from_str(&cookie).ok().map(|cookie| (header::SET_COOKIE, cookie)));
    answer
}

fn foreign() -> Status {
    let text = "a browser's cookie came with a call that this scheduler's own page did not make; send a token in the \
                header `authorization` instead";
    status(Code::PermissionDenied, text, "FOREIGN_PAGE")
}

fn status(code: Code, text: &str, reason: &str) -> Status {
    Status::with_error_details(code, text, details(reason, []))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Headers = &'static [(&'static str, &'static str)];

    const CALL: (&str, &str) = ("content-type", "application/json");
    const COOKIE_OF_ADA: (&str, &str) = ("cookie", "theme=dark; __Host-trainyard=ty1.a.b.c");

    fn identified(
        method: Method,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Option<String>, StatusCode> {
        let mut request = Request::builder().method(method).uri("/trainyard.v1.JobService/SubmitJob");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        identify(&mut request).map_err(|refused| refused.answer().status())?;
        let token = request.headers().get(header::AUTHORIZATION);
        Ok(token.map(|token| token.to_str().unwrap().to_owned()))
    }

    #[test]
    fn a_cookie_counts_as_its_token_in_calls_of_the_own_page_and_in_nobody_elses() {
        let ada = Ok(Some("Bearer ty1.a.b.c".to_owned()));
        let table: [(Headers, _); 7] = [
            (&[CALL, COOKIE_OF_ADA, ("sec-fetch-site", "same-origin")], ada.clone()),
            (&[CALL, COOKIE_OF_ADA, ("origin", "https://lab:7433")], ada.clone()),
            (&[CALL, COOKIE_OF_ADA, ("sec-fetch-site", "same-site")], Err(StatusCode::FORBIDDEN)),
            (&[CALL, COOKIE_OF_ADA, ("sec-fetch-site", "cross-site")], Err(StatusCode::FORBIDDEN)),
            (&[CALL, COOKIE_OF_ADA], Err(StatusCode::FORBIDDEN)),
            (
                &[("content-type", "text/plain"), COOKIE_OF_ADA, ("sec-fetch-site", "same-origin")],
                Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            ),
            (&[CALL, ("cookie", "trainyard=ty1.a.b.c")], Ok(None)),
        ];
        for (headers, expected) in table {
            assert_eq!(identified(Method::POST, headers), expected, "{headers:?}");
        }
        // What only reads needs no more than the cookie, which browsers send with pages of the same site alone.
        assert_eq!(identified(Method::GET, &[COOKIE_OF_ADA]), ada);
        assert_eq!(identified(Method::HEAD, &[COOKIE_OF_ADA, ("sec-fetch-site", "same-origin")]), ada);
        assert_eq!(identified(Method::GET, &[COOKIE_OF_ADA, ("sec-fetch-site", "none")]), ada);
        // What a page of others shows with it, and where its links lead.
        for site in ["cross-site", "same-site"] {
            let picture = [COOKIE_OF_ADA, ("sec-fetch-site", site), ("sec-fetch-mode", "no-cors")];
            assert_eq!(identified(Method::GET, &picture), Err(StatusCode::FORBIDDEN));
            let link = [COOKIE_OF_ADA, ("sec-fetch-site", site), ("sec-fetch-mode", "navigate")];
            assert_eq!(identified(Method::GET, &link), Ok(None));
        }
        let own = identified(Method::POST, &[CALL, COOKIE_OF_ADA, ("authorization", "Bearer ty1.x")]);
        assert_eq!(own, Ok(Some("Bearer ty1.x".to_owned())));
        assert_eq!(identified(Method::GET, &[("cookie", "__Host-trainyard=a b")]), Ok(None));
    }
}
