//! What to do about a server that does not know the user, or that the user cannot trust.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use trainyard_access::ConnectionProblem;

use crate::terminal::clean;

/// The way out of a refusal, or of a connection that is not trusted; `None` where `status` is about something else.
pub fn hint(status: &Status, server: &str) -> Option<String> {
    let address = server.split_once("://").map_or(server, |(_, address)| address);
    if super::is_transport(status) {
        return of_connection(&ConnectionProblem::of(status)?, address);
    }
    let info = status.get_details_error_info();
    let reason = info.as_ref().map_or("", |info| info.reason.as_str());
    let known = |key: &str| info.as_ref().and_then(|info| info.metadata.get(key)).map(|text| clean(text));
    match (status.code(), reason) {
        (_, "TLS_REQUIRED") => Some(format!(
            "`yard login {address}` logs in with a token; an admin makes one with `yard token create --user NAME`"
        )),
        (Code::Unauthenticated, "TOKEN_EXPIRED" | "TOKEN_REVOKED" | "TOKEN_INVALID") => Some(format!(
            "ask an admin for a new token (`yard token create --user NAME`), then run `yard login {address}`"
        )),
        (Code::Unauthenticated, _) => Some(format!(
            "run `yard login {address}` with a token, or give one with YARD_TOKEN or `token` in cli.toml"
        )),
        (Code::PermissionDenied, "ROLE_REQUIRED") => {
            let role = known("needs")
                .map_or_else(|| "another role".into(), |needs| format!("the role {}", needs.to_lowercase()));
            Some(format!("this needs {role}; `yard whoami` shows yours"))
        }
        (Code::PermissionDenied, "ADMIN_REQUIRED") => {
            Some("`yard whoami` shows who you are; only an admin's token acts for others".to_owned())
        }
        (Code::PermissionDenied, "NOT_OWNER") => {
            Some(match known("owner").filter(|owner| !owner.is_empty()) {
                Some(owner) => format!("it is {owner}'s; an admin may act with `--as {owner}`"),
                None => "it has no owner, so this is an admin's; an agent's key `owners` names its owners"
                    .to_owned(),
            })
        }
        _ => None,
    }
}

fn of_connection(problem: &ConnectionProblem, address: &str) -> Option<String> {
    Some(match problem {
        ConnectionProblem::OtherAuthority => format!(
            "the token was not sent; check the address, and whether the cluster was set up anew: then ask an admin for \
             a new token, and run `yard login {address}`"
        ),
        ConnectionProblem::NobodyTrusted => format!("log in first: `yard login {address}`"),
        ConnectionProblem::NotEncrypted | ConnectionProblem::Cut => format!(
            "nothing was sent; a scheduler that listens on loopback alone, or with `--insecure`, has no encryption and \
             needs no login: `--server http://{address}`"
        ),
        ConnectionProblem::Expired { .. } | ConnectionProblem::NotYetValid { .. } => {
            "if this machine's clock is wrong, set it; if not, the scheduler's certificate must be made anew"
                .into()
        }
        ConnectionProblem::OtherName { .. } => {
            "use a name that the certificate is for as the address, or have it made for this one".into()
        }
        ConnectionProblem::UnknownAuthority => {
            "give the file of the authority that has signed it with `--ca` or `ca` in cli.toml".into()
        }
        ConnectionProblem::Refused(_) | ConnectionProblem::Other(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn refusal(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
        let metadata: HashMap<String, String> =
            metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Status::with_error_details(code, "no", ErrorDetails::with_error_info(reason, "trainyard", metadata))
    }

    #[test]
    fn each_refusal_has_its_way_out() {
        let table = [
            (refusal(Code::Unauthenticated, "TOKEN_MISSING", &[]), "`yard login lab:7433`"),
            (refusal(Code::Unauthenticated, "TOKEN_EXPIRED", &[]), "ask an admin for a new token"),
            (refusal(Code::FailedPrecondition, "TLS_REQUIRED", &[]), "`yard login lab:7433`"),
            (refusal(Code::PermissionDenied, "ROLE_REQUIRED", &[("needs", "ADMIN")]), "the role admin"),
            (refusal(Code::PermissionDenied, "NOT_OWNER", &[("owner", "ada")]), "`--as ada`"),
            (refusal(Code::PermissionDenied, "NOT_OWNER", &[("owner", "")]), "key `owners`"),
            (refusal(Code::PermissionDenied, "ADMIN_REQUIRED", &[]), "an admin's token"),
            (Status::unauthenticated("who?"), "`yard login lab:7433`"),
        ];
        for (status, wanted) in table {
            let hint = hint(&status, "https://lab:7433").unwrap();
            assert!(hint.contains(wanted), "{hint}");
        }
        assert_eq!(hint(&Status::not_found("x"), "http://x"), None);
    }
}
