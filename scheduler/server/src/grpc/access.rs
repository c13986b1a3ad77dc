//! `AccessService`: tokens, agents' certificates, and the audit.

use std::sync::Arc;
use std::time::Duration;

use prost_types::Timestamp;
use tonic::{Request, Response, Status};
use trainyard_access::{Token, TokenId};
use trainyard_proto::convert::job::timestamp;
use trainyard_proto::pb::{self, access_service_server::AccessService};
use trainyard_scheduler_core::{Event, Refusal};
use trainyard_types::{AgentId, Time, Violation};

use super::status::ApiError;
use super::{Context, about, cluster};
use crate::access::{Caller, Registry};
use crate::access_records::{AccessRole, AuditRecord, EnrolledAgent, TokenRecord};
use crate::clock::Clock;
use crate::driver::{RequestError, StateView};
use crate::store::{AccessStore, StoreError};
use crate::tls::{AgentCertificate, Authority};

/// How long agents' tokens count unless the caller says so, and the longest that any may.
const JOIN_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const MOST_USES: u32 = 10_000;
/// Certificates of one agent that count at a time: while one is renewed, both do.
const KEYS: usize = 2;
/// Tokens of one user that count at a time.
const MOST_TOKENS: usize = 100;
const TOKENS_HINT: &str = "`yard token list` lists what there is";
const MOST_AUDIT_EVENTS: usize = 1000;

/// What a scheduler that asks people who they are works with.
#[derive(Clone)]
pub struct Parts {
    pub authority: Arc<Authority>,
    pub registry: Arc<Registry>,
    pub store: Arc<dyn AccessStore>,
    pub clock: Clock,
}

/// The service of tokens and certificates. Without its parts, nobody is asked who they are.
pub struct Access(pub Context, pub Option<Parts>);

const fn role(role: AccessRole) -> pb::AccessRole {
    match role {
        AccessRole::Viewer => pb::AccessRole::Viewer,
        AccessRole::User => pb::AccessRole::User,
        AccessRole::Admin => pb::AccessRole::Admin,
        AccessRole::Agent => pb::AccessRole::Agent,
    }
}

fn parse_role(number: i32) -> Result<AccessRole, ApiError> {
    match pb::AccessRole::try_from(number) {
        Ok(pb::AccessRole::Viewer) => Ok(AccessRole::Viewer),
        Ok(pb::AccessRole::User | pb::AccessRole::Unspecified) => Ok(AccessRole::User),
        Ok(pb::AccessRole::Admin) => Ok(AccessRole::Admin),
        Ok(pb::AccessRole::Agent) => Ok(AccessRole::Agent),
        Err(_) => Err(ApiError::field("role", format!("is {number}; use VIEWER, USER, ADMIN or AGENT"))),
    }
}

fn info(record: &TokenRecord) -> pb::TokenInfo {
    pb::TokenInfo {
        id: record.id.to_string(),
        user: record.user.clone(),
        role: role(record.role).into(),
        create_time: Some(timestamp(record.created)),
        expire_time: record.expires.map(timestamp),
        uses_left: record.uses_left,
        created_by: record.created_by.clone(),
    }
}

fn shown(cursor: String, record: AuditRecord) -> pb::AuditEvent {
    let AuditRecord { time, caller, role: of, address, action, target, outcome } = record;
    let role = of.map_or(pb::AccessRole::Unspecified, role).into();
    pb::AuditEvent { cursor, time: Some(timestamp(time)), caller, role, address, action, target, outcome }
}

/// Everything that is wrong with the wish for a token, at once.
fn parse_wish(
    request: &pb::CreateTokenRequest,
    caller: &Caller,
) -> Result<(AccessRole, Option<Duration>), ApiError> {
    let role = parse_role(request.role)?;
    let mut found = Vec::new();
    let user = &request.user;
    let is_name = user.len() <= 128 && user.chars().all(|c| c.is_ascii_graphic());
    match role {
        AccessRole::Agent if !user.is_empty() => {
            found
                .push(Violation::new("user", format!("is `{user}`; a token that agents join with has none")));
        }
        AccessRole::Agent => {}
        _ if user.is_empty() || !is_name => {
            let text = "use 1 to 128 ASCII characters without spaces, such as a login name";
            found.push(Violation::new("user", text));
        }
        _ => {}
    }
    let lifetime = request.lifetime.map(Duration::try_from);
    match lifetime {
        Some(Ok(span)) if (Duration::from_secs(1)..=LONGEST_LIFE).contains(&span) => {}
        None => {}
        Some(_) => found.push(Violation::new("lifetime", "must be from 1 second to 10 years, or left out")),
    }
    if request.uses > MOST_USES {
        let text = format!("is {}; use at most {MOST_USES}", request.uses);
        found.push(Violation::new("uses", text));
    }
    if request.uses > 0 && role != AccessRole::Agent {
        found.push(Violation::new("uses", "only a token that agents join with has uses; leave it out"));
    }
    if !found.is_empty() {
        return Err(ApiError::Invalid(found));
    }
    // Nobody makes a token that may do more than they may.
    if !caller.is_admin() {
        caller.may_change([user.as_str()])?;
        if caller.role().is_none_or(|own| role > own) {
            return Err(ApiError::RoleRequired { needs: "admin" });
        }
    }
    let lifetime = lifetime.and_then(Result::ok);
    Ok((role, lifetime.or((role == AccessRole::Agent).then_some(JOIN_LIFE))))
}

/// What a new token comes from, and when it ends: one that somebody makes for themselves does not outlive their own, or a
/// stolen token could never be revoked. An admin's may.
fn descent(caller: &Caller, expires: Option<Time>) -> Result<(Option<TokenId>, Option<Time>), ApiError> {
    let Caller::Person { token, expires: own, role, .. } = caller else { return Ok((None, expires)) };
    if *role == AccessRole::Admin {
        return Ok((None, expires));
    }
    match (expires, *own) {
        (Some(wanted), Some(own)) if wanted > own => {
            let text = format!(
                "is longer than that of your own token, which ends at {}; ask an admin for a new one",
                timestamp(own)
            );
            Err(ApiError::field("lifetime", text))
        }
        (wanted, own) => Ok((Some(*token), wanted.or(own))),
    }
}

impl Access {
    fn parts(&self) -> Result<&Parts, ApiError> {
        self.1.as_ref().ok_or(ApiError::OpenCluster)
    }

    /// What has changed counts here at once.
    async fn refreshed(parts: &Parts) -> Result<(), StoreError> {
        parts.registry.refresh().await
    }

    async fn enrol(
        &self,
        token: Option<TokenId>,
        request: pb::EnrolAgentRequest,
    ) -> Result<AgentCertificate, ApiError> {
        let parts = self.parts()?;
        let pb::EnrolAgentRequest { agent_id, name, certificate_request } = request;
        let id: AgentId =
            agent_id.parse().map_err(|_| ApiError::field("agent_id", format!("`{agent_id}` is no UUID")))?;
        if name.is_empty() || name.len() > 255 {
            return Err(ApiError::field("name", format!("has {} bytes; use 1 to 255", name.len())));
        }
        let certificate = sign(parts, &certificate_request, id)?;
        let known = parts.registry.enrolled(id).filter(|known| known.expires > parts.clock.now());
        if let Some(known) = known {
            // The same machine, to which the answer was lost, has the key. Anybody else must not become another's agent.
            if known.keys.first() != Some(&certificate.key) {
                return Err(ApiError::AgentHasJoined { id, name: known.name });
            }
            return Ok(certificate);
        }
        let agent = EnrolledAgent {
            id,
            name,
            keys: vec![certificate.key],
            pin: parts.authority.pin(),
            expires: certificate.expires,
        };
        let is_done = match token {
            Some(token) => parts.store.enrol(token, &agent).await?,
            // An admin's own.
            None => parts.store.put_enrolled(&agent).await.map(|()| true)?,
        };
        if !is_done {
            return Err(ApiError::TokenUsedUp);
        }
        Self::refreshed(parts).await?;
        Ok(certificate)
    }
}

fn sign(parts: &Parts, request: &str, id: AgentId) -> Result<AgentCertificate, ApiError> {
    let signed = parts.authority.agent_certificate(request, id);
    signed.map_err(|error| ApiError::field("certificate_request", error.to_string()))
}

fn times(certificate: &AgentCertificate) -> (Option<Timestamp>, Option<Timestamp>) {
    (Some(timestamp(certificate.renew)), Some(timestamp(certificate.expires)))
}

#[tonic::async_trait]
impl AccessService for Access {
    async fn who_am_i(&self, request: Request<pb::WhoAmIRequest>) -> Result<Response<pb::Caller>, Status> {
        let caller = match Caller::of(&request) {
            Caller::Person { user, role: of, token, expires, .. } => pb::Caller {
                user,
                role: role(of).into(),
                token_id: token.to_string(),
                expire_time: expires.map(timestamp),
            },
            Caller::Joining(token) => pb::Caller {
                role: pb::AccessRole::Agent.into(),
                token_id: token.to_string(),
                ..Default::default()
            },
            _ => pb::Caller::default(),
        };
        Ok(Response::new(caller))
    }

    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        let parts = self.parts()?;
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let (role, lifetime) = parse_wish(&request, &caller)?;
        let now = parts.clock.now();
        let own = parts
            .registry
            .tokens()
            .into_iter()
            .filter(|known| known.user == request.user && !known.is_over(now));
        if role != AccessRole::Agent && own.count() >= MOST_TOKENS {
            let text = format!("`{}` has {MOST_TOKENS} tokens; revoke some that nobody uses", request.user);
            return Err(ApiError::field("user", text).into());
        }
        let (parent, expires) = descent(&caller, lifetime.map(|lifetime| now + lifetime))?;
        let token = Token::make(parts.authority.pin()).map_err(|_| ApiError::Internal)?;
        let record = TokenRecord {
            id: token.id,
            user: request.user,
            role,
            digest: token.secret.digest(),
            pin: token.pin,
            parent,
            created: now,
            expires,
            uses_left: if role == AccessRole::Agent { request.uses.max(1) } else { 0 },
            created_by: caller.name(),
        };
        parts.store.put_token(&record).await.map_err(ApiError::from)?;
        Self::refreshed(parts).await.map_err(ApiError::from)?;
        let target = record.described();
        Ok(about(pb::CreateTokenResponse { token: token.reveal(), info: Some(info(&record)) }, target))
    }

    async fn list_tokens(
        &self,
        request: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        let parts = self.parts()?;
        let caller = Caller::of(&request);
        Self::refreshed(parts).await.map_err(ApiError::from)?;
        let mut tokens = parts.registry.tokens();
        tokens.retain(|record| caller.may_change([record.user.as_str()]).is_ok());
        tokens.sort_by_key(|record| (record.created, record.id));
        Ok(Response::new(pb::ListTokensResponse { tokens: tokens.iter().map(info).collect() }))
    }

    async fn revoke_token(
        &self,
        request: Request<pb::RevokeTokenRequest>,
    ) -> Result<Response<pb::TokenInfo>, Status> {
        let parts = self.parts()?;
        let caller = Caller::of(&request);
        let text = request.into_inner().id;
        let id: TokenId = text
            .parse()
            .map_err(|_| ApiError::field("id", "is no token's id; `yard token list` shows the ids"))?;
        Self::refreshed(parts).await.map_err(ApiError::from)?;
        let found = parts.registry.tokens().into_iter().find(|record| record.id == id);
        let record = found.ok_or(ApiError::NotFound { kind: "token", name: text, hint: TOKENS_HINT })?;
        caller.may_change([record.user.as_str()]).map_err(ApiError::from)?;
        parts.store.remove_token(id).await.map_err(ApiError::from)?;
        // What was made with it counts no more, and needs not be kept.
        for further in parts.registry.made_with(id) {
            parts.store.remove_token(further).await.map_err(ApiError::from)?;
        }
        Self::refreshed(parts).await.map_err(ApiError::from)?;
        let target = record.described();
        Ok(about(info(&record), target))
    }

    async fn enrol_agent(
        &self,
        request: Request<pb::EnrolAgentRequest>,
    ) -> Result<Response<pb::EnrolAgentResponse>, Status> {
        let token = match Caller::of(&request) {
            Caller::Joining(token) => Some(token),
            _ => None,
        };
        let request = request.into_inner();
        let target = format!("agent {} ({})", request.agent_id, request.name);
        let certificate = self.enrol(token, request).await?;
        let (renew_time, expire_time) = times(&certificate);
        let certificate_chain = certificate.chain;
        Ok(about(pb::EnrolAgentResponse { certificate_chain, renew_time, expire_time }, target))
    }

    async fn renew_certificate(
        &self,
        request: Request<pb::RenewCertificateRequest>,
    ) -> Result<Response<pb::RenewCertificateResponse>, Status> {
        let parts = self.parts()?;
        let Caller::Agent(id) = Caller::of(&request) else { return Err(ApiError::Internal.into()) };
        let known = parts.registry.enrolled(id).ok_or(ApiError::Internal)?;
        let certificate = sign(parts, &request.into_inner().certificate_request, id)?;
        let mut keys = known.keys;
        keys.retain(|key| *key != certificate.key);
        keys.insert(0, certificate.key);
        keys.truncate(KEYS);
        let agent =
            EnrolledAgent { id, name: known.name, keys, pin: known.pin, expires: certificate.expires };
        let target = format!("agent {id} ({})", agent.name);
        parts.store.put_enrolled(&agent).await.map_err(ApiError::from)?;
        Self::refreshed(parts).await.map_err(ApiError::from)?;
        let (renew_time, expire_time) = times(&certificate);
        let certificate_chain = certificate.chain;
        Ok(about(pb::RenewCertificateResponse { certificate_chain, renew_time, expire_time }, target))
    }

    async fn forget_agent(
        &self,
        request: Request<pb::ForgetAgentRequest>,
    ) -> Result<Response<pb::ForgetAgentResponse>, Status> {
        let parts = self.parts()?;
        let wanted = request.into_inner().agent;
        let id = match wanted.parse::<AgentId>() {
            Ok(id) => id,
            Err(_) => {
                // A machine that has joined and never come is known by its certificate alone.
                let joined = parts.registry.enrolled_as(&wanted);
                let find =
                    move |state: &mut StateView<'_>| cluster::find(state, &wanted).map(|view| view.record.id);
                match (self.0.driver.ask_leader(find).await.map_err(ApiError::from)?, joined) {
                    (Ok(id), _) | (Err(ApiError::NotFound { .. }), Some(id)) => id,
                    (Err(error), _) => return Err(error.into()),
                }
            }
        };
        parts.store.remove_enrolled(id).await.map_err(ApiError::from)?;
        Self::refreshed(parts).await.map_err(ApiError::from)?;
        // Its row and its name are free as soon as it is gone.
        match self.0.driver.order(Event::ForgetAgent { agent: id }).await {
            // It has joined and never come.
            Ok(()) | Err(RequestError::Refused(Refusal::UnknownAgent(_))) => {}
            Err(error) => return Err(ApiError::from(error).into()),
        }
        Ok(about(pb::ForgetAgentResponse { agent_id: id.to_string() }, format!("agent {id}")))
    }

    async fn list_audit_events(
        &self,
        request: Request<pb::ListAuditEventsRequest>,
    ) -> Result<Response<pb::ListAuditEventsResponse>, Status> {
        let parts = self.parts()?;
        let pb::ListAuditEventsRequest { after, page_size } = request.into_inner();
        let limit = match usize::try_from(page_size) {
            Ok(0) => 100,
            Ok(size) if size <= MOST_AUDIT_EVENTS => size,
            _ => {
                let text = format!("is {page_size}; use 1 to {MOST_AUDIT_EVENTS}, or 0 for 100");
                return Err(ApiError::field("page_size", text).into());
            }
        };
        let is_cursor = |text: &str| {
            let (time, number) = text.split_once('-').unwrap_or((text, "0"));
            time.parse::<u64>().is_ok() && number.parse::<u64>().is_ok()
        };
        if !after.is_empty() && !is_cursor(&after) {
            return Err(ApiError::field("after", "is no cursor of an audit event").into());
        }
        let after = Some(after.as_str()).filter(|after| !after.is_empty());
        let events = parts.store.audit(after, limit).await.map_err(ApiError::from)?;
        let events = events.into_iter().map(|(cursor, record)| shown(cursor, record)).collect();
        Ok(Response::new(pb::ListAuditEventsResponse { events }))
    }
}
