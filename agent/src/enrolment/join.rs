//! A machine joins a cluster: it makes a key, shows the token, and gets a certificate.

use std::path::PathBuf;

use tonic::Code;
use tracing::debug;
use trainyard_access::{AddressError, KeyRequest, Token, Trust, encrypted_url};
use trainyard_proto::pb;
use trainyard_proto::route::parse_list;
use trainyard_types::AgentId;

use super::calls::{self, Refusal};
use super::files::{Joined, Record};
use super::renewal::times;

/// An agent's wish to join a cluster.
pub struct JoinRequest {
    /// `https://` URLs of the schedulers.
    pub schedulers: Vec<String>,
    /// What the scheduler is checked by, and what it knows the machine by.
    pub token: Token,
    /// The agent's id.
    pub agent: AgentId,
    /// The agent's name for people.
    pub name: String,
    /// Where the certificate is kept.
    pub data_dir: PathBuf,
    /// Authorities that certify the scheduler, where it is not the cluster's own.
    pub ca: Option<PathBuf>,
}

/// Why a machine has not joined, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct JoinError {
    text: String,
    /// Whether another try may do.
    pub may_pass: bool,
}

impl JoinError {
    fn local(text: impl Into<String>) -> Self {
        Self { text: text.into(), may_pass: false }
    }

    fn refused(refusal: &Refusal) -> Self {
        let (scheduler, text) = (&refusal.scheduler, refusal.text());
        let problem = trainyard_access::ConnectionProblem::of(&refusal.status);
        let way_out = match (refusal.status.code(), refusal.reason().as_str(), problem) {
            (_, _, Some(trainyard_access::ConnectionProblem::OtherAuthority)) => {
                "; the token was not sent: check the address, or ask for a token of this cluster"
            }
            (_, _, Some(trainyard_access::ConnectionProblem::NotEncrypted)) => {
                "; a scheduler without encryption asks no machine to join: set `scheduler` to its http:// URL"
            }
            (
                _,
                _,
                Some(
                    trainyard_access::ConnectionProblem::Expired { .. }
                    | trainyard_access::ConnectionProblem::NotYetValid { .. },
                ),
            ) => {
                "; if this machine's clock is wrong, set it; if not, the scheduler's certificate must be made anew"
            }
            (Code::Unauthenticated | Code::PermissionDenied, _, _) => {
                "; ask an admin for a new token: `yard token create --agents`"
            }
            (Code::Unimplemented, _, _) => "; the scheduler is too old: upgrade it",
            _ => "",
        };
        let may_pass = refusal.may_pass();
        Self { text: format!("cannot join at {scheduler}: {text}{way_out}"), may_pass }
    }
}

/// The URLs of schedulers to join, from what a person writes: encrypted ones. A name alone gets the usual port.
///
/// # Errors
/// An address that is none, or that is not encrypted.
pub fn addresses(text: &str) -> Result<Vec<String>, JoinError> {
    let url = |text: &str| {
        encrypted_url(text).map_err(|error| {
            let open = "A scheduler without encryption asks no machine to join: set `scheduler` to its URL";
            match error {
                AddressError::Plaintext { .. } => JoinError::local(format!("{error}. {open}")),
                AddressError::NotAnAddress(_) | AddressError::NoBrackets(_) | AddressError::Token => {
                    JoinError::local(error.to_string())
                }
            }
        })
    };
    let urls: Vec<String> = parse_list(text).map(url).collect::<Result<_, _>>()?;
    if urls.is_empty() { Err(JoinError::local("no address was given")) } else { Ok(urls) }
}

/// Joins, and keeps what came of it. Also says whether the machine had joined before: then its certificate was renewed,
/// and the token not used.
///
/// # Errors
/// The scheduler is not the token's, does not take the token, or cannot be reached; or the disk's.
pub async fn join(request: &JoinRequest) -> Result<(Joined, bool), JoinError> {
    if let Some(joined) = renewed(request).await {
        keep(&joined, request)?;
        return Ok((joined, true));
    }
    let trust = match &request.ca {
        Some(file) => {
            Trust::none().authorities(file).map_err(|error| JoinError::local(format!("ca: {error}")))?
        }
        None => Trust::none().pin(request.token.pin),
    };
    let connector = trust.connector().map_err(|error| JoinError::local(error.to_string()))?;
    let KeyRequest { key_pem, request_pem } =
        KeyRequest::make().map_err(|error| JoinError::local(error.to_string()))?;
    let call = pb::EnrolAgentRequest {
        agent_id: request.agent.to_string(),
        name: request.name.clone(),
        certificate_request: request_pem,
    };
    let enrolled = calls::enrol(&request.schedulers, &connector, &request.token, &call).await;
    let answer = enrolled.map_err(|refusal| JoinError::refused(&refusal))?;
    let (renew_time, expire_time) = times(answer.renew_time, answer.expire_time).map_err(JoinError::local)?;
    let record = Record {
        scheduler: request.schedulers.join(","),
        agent: request.agent,
        pin: request.token.pin.to_string(),
        renew_time,
        expire_time,
    };
    let joined = Joined { record, key_pem, chain_pem: answer.certificate_chain };
    // A certificate that could not be used is not kept.
    joined.credentials(request.ca.as_deref()).map_err(|error| JoinError::local(format!("{error:#}")))?;
    keep(&joined, request)?;
    Ok((joined, false))
}

fn keep(joined: &Joined, request: &JoinRequest) -> Result<(), JoinError> {
    joined.save(&request.data_dir).map_err(|error| JoinError::local(format!("{error:#}")))
}

/// The certificate of a machine that has joined this cluster before, renewed; `None` where the scheduler does not take
/// it any more, or there is none.
async fn renewed(request: &JoinRequest) -> Option<Joined> {
    let before = Joined::load(&request.data_dir).ok()??;
    let is_same = before.record.agent == request.agent && before.record.pin == request.token.pin.to_string();
    if !is_same || before.is_over() {
        return None;
    }
    let connector = before.credentials(request.ca.as_deref()).ok()?.connector;
    match before.renewed(&request.schedulers, &connector).await {
        Ok(mut joined) => {
            joined.record.scheduler = request.schedulers.join(",");
            Some(joined)
        }
        Err(reason) => {
            debug!(reason, "the certificate is not renewed; the token is used");
            None
        }
    }
}
