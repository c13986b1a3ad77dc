//! What a person can do about a scheduler that does not know this agent, or that this agent does not trust.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use trainyard_access::ConnectionProblem;

use crate::enrolment::how_to_join;

/// The way out, a sentence; `None` where waiting is all that is to be done.
pub fn way_out(
    answer: Option<&Status>,
    problem: Option<&ConnectionProblem>,
    scheduler: &str,
) -> Option<String> {
    let address = scheduler.split_once("://").map_or(scheduler, |(_, address)| address);
    let join = how_to_join(scheduler);
    if let Some(problem) = problem {
        return of_problem(problem, scheduler, &join);
    }
    let status = answer?;
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    match (status.code(), reason.as_str()) {
        (_, "TLS_REQUIRED") => Some(format!(
            "`scheduler` is `{scheduler}`, and the scheduler takes encrypted connections only: {join}, and set \
             `scheduler` to `https://{address}` or leave it out"
        )),
        (Code::Unauthenticated, "CERTIFICATE_REVOKED") => Some(format!(
            "the scheduler does not take this machine's certificate any more, since it was forgotten or has joined again \
             elsewhere: {join}"
        )),
        (Code::Unauthenticated | Code::PermissionDenied, _) => {
            Some(format!("the scheduler does not know this machine: {join}"))
        }
        _ => None,
    }
}

fn of_problem(problem: &ConnectionProblem, scheduler: &str, join: &str) -> Option<String> {
    Some(match problem {
        ConnectionProblem::OtherAuthority | ConnectionProblem::NobodyTrusted => {
            format!("check `scheduler`; if its cluster was set up anew, {join}")
        }
        ConnectionProblem::NotEncrypted => {
            format!("`scheduler` is `{scheduler}`; write http:// for a scheduler without encryption")
        }
        ConnectionProblem::Expired { .. } | ConnectionProblem::NotYetValid { .. } => {
            "if this machine's clock is wrong, set it; if not, the scheduler's certificate must be made anew"
                .into()
        }
        ConnectionProblem::OtherName { .. } => "use a name in `scheduler` that the certificate is for".into(),
        ConnectionProblem::UnknownAuthority => {
            "give the file of the authority that has signed it in `ca`".into()
        }
        ConnectionProblem::Refused(_) => join.to_owned(),
        ConnectionProblem::Cut | ConnectionProblem::Other(_) => return None,
    })
}
