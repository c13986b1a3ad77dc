//! What callers are told who are not let in.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::caller::Caller;
use super::permissions::Needs;
use super::registry::Denied;
use super::web_page::FromPage;
use crate::access_records::AccessRole;
use crate::refusal::details;

/// Why a call goes no further.
pub struct Refused {
    pub status: Status,
    /// Whether the audit is told: noise is not.
    pub is_told: bool,
    /// Whose call it was, where that is known.
    pub caller: String,
}

impl Refused {
    /// One that the audit is told of, of a caller that is not known.
    const fn told(status: Status) -> Self {
        Self { status, is_told: true, caller: String::new() }
    }

    /// A denial that says nothing of anybody.
    const fn noise(status: Status) -> Self {
        Self { status, is_told: false, caller: String::new() }
    }
}

/// Somebody came without a token.
pub fn no_token(needs: Needs) -> Status {
    let text = "no token came with the call; run `yard login`, or set YARD_TOKEN";
    status(Code::Unauthenticated, text, "TOKEN_MISSING", [("needs", needs.name())])
}

/// Somebody may not do this.
pub fn wrong_role(caller: &Caller, needs: Needs) -> Status {
    let role = caller.role().map_or("none", AccessRole::name);
    let text = format!("the role `{role}` may not do this; it needs {}", needs.name());
    let metadata = [("role", role), ("needs", needs.name())];
    status(Code::PermissionDenied, &text, "ROLE_REQUIRED", metadata)
}

/// A token or certificate that does not count; `is_agent` for a certificate.
pub fn denial(denied: Denied, is_agent: bool) -> Refused {
    let (reason, text) = match (denied, is_agent) {
        (Denied::NotReady, _) => {
            let text = "the scheduler has not read its tokens yet; try again";
            let mut details = details("UNAVAILABLE", []);
            details.set_retry_info(Some(Duration::from_secs(1)));
            let status = Status::with_error_details(Code::Unavailable, text, details);
            return Refused::noise(status);
        }
        (_, true) => (
            "CERTIFICATE_REVOKED",
            "the agent's certificate was revoked; run `trainyard-agent join` on its machine with a new token",
        ),
        (Denied::Expired, false) => {
            ("TOKEN_EXPIRED", "the token has expired; ask an admin for a new one, then run `yard login`")
        }
        (Denied::Invalid | Denied::Revoked, false) => (
            "TOKEN_INVALID",
            "the token is not known here, or was revoked; ask an admin for a new one, then run `yard login`",
        ),
    };
    Refused::told(status(Code::Unauthenticated, text, reason, []))
}

/// A web page of somebody else's sent it.
pub fn of_a_page(found: &FromPage) -> Status {
    let text = match found {
        FromPage::Foreign(origin) => {
            format!("a page of `{origin}` is none of this scheduler's, and calls nothing here")
        }
        FromPage::Form => "methods are called by POST, by gRPC or with JSON: the content-type is application/grpc or application/json".to_owned(),
    };
    status(Code::PermissionDenied, &text, "FOREIGN_PAGE", [])
}

/// Somebody who is no admin wants to act for another.
pub fn not_for_another(caller: &str, user: &str) -> Refused {
    let text = format!("only an admin acts for another, and the call is for `{user}`; leave `--as` out");
    let metadata = [("user", user), ("needs", "admin")];
    let refused = Refused::told(status(Code::PermissionDenied, &text, "ADMIN_REQUIRED", metadata));
    Refused { caller: caller.to_owned(), ..refused }
}

/// A page was asked for by a name that is another machine's.
pub fn not_this_machine(name: &str) -> Status {
    let text = format!(
        "`{name}` is no name of this machine, and this scheduler is for its programs alone; call it localhost, or \
         listen beyond loopback"
    );
    status(Code::PermissionDenied, &text, "NOT_THIS_MACHINE", [("name", name)])
}

/// Wrong tokens came from there before.
pub fn slow_down(wait: Duration) -> Refused {
    let text =
        format!("too many calls with a wrong token came from this address; wait {} s", wait.as_secs() + 1);
    let mut details = details("TOO_MANY_WRONG_TOKENS", []);
    details.set_retry_info(Some(wait));
    Refused::noise(Status::with_error_details(Code::ResourceExhausted, text, details))
}

/// A token has as many calls under way as it may have.
pub fn too_many_calls() -> Refused {
    let text =
        "too many calls are under way by this token; end some of them, such as streams that nobody reads";
    Refused::noise(status(Code::ResourceExhausted, text, "TOO_MANY_CALLS", []))
}

/// Callers without a token have as many calls under way as they may have together.
pub fn too_many_strangers() -> Refused {
    let text =
        "too many calls without a token are under way; send a token, or ask for the page /healthz or /readyz";
    Refused::noise(status(Code::ResourceExhausted, text, "TOO_MANY_CALLS", []))
}

/// A token stands where it is seen.
pub fn token_in_address() -> Status {
    let text = "the address has a token in it, where proxies and logs keep it: revoke that token, and send the next \
                one as the header `authorization: Bearer TOKEN`";
    status(Code::Unauthenticated, text, "TOKEN_IN_ADDRESS", [])
}

/// The status that an open stream ends with when its caller counts no more.
pub fn revoked() -> Status {
    let text = "the token or certificate that the call was made with was revoked, or has expired";
    status(Code::Unauthenticated, text, "TOKEN_REVOKED", [])
}

fn status<const N: usize>(code: Code, text: &str, reason: &str, metadata: [(&str, &str); N]) -> Status {
    let metadata = metadata.map(|(key, value)| (key, value.to_owned()));
    Status::with_error_details(code, text, details(reason, metadata))
}
