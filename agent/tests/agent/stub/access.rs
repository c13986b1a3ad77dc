//! The stub's word on who may join, and an encrypted door in front of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use tonic::{Request, Response, Status};
use trainyard_access::Token;
use trainyard_access::testing::{Door, TestAuthority};
use trainyard_proto::pb;
use trainyard_proto::pb::access_service_server::AccessService;

use super::{Agent, Service, Stub, World};

/// How long certificates count.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// From which day, from today.
    pub from_days: i64,
    /// To which.
    pub to_days: i64,
    /// After so many seconds the next one is due.
    pub renew_after_secs: i64,
}

impl Default for Life {
    fn default() -> Self {
        Self { from_days: -1, to_days: 30, renew_after_secs: 20 * 86_400 }
    }
}

/// Who has joined, and what the stub makes of it.
#[derive(Default)]
pub struct Joining {
    authority: TestAuthority,
    life: Mutex<Life>,
    refuse_sessions: Mutex<Option<Status>>,
    refused: AtomicU32,
    enrolled: Mutex<Vec<(String, pb::EnrolAgentRequest)>>,
    renewed: AtomicU32,
}

impl Joining {
    /// What a session is answered, if it is refused.
    pub fn check_session(&self) -> Result<(), Status> {
        let Some(status) = self.refuse_sessions.lock().unwrap().clone() else { return Ok(()) };
        self.refused.fetch_add(1, Ordering::SeqCst);
        Err(status)
    }
}

impl Stub {
    /// A scheduler behind an encrypted door, at which agents find it.
    pub async fn encrypted() -> (Self, Door) {
        let mut stub = Self::start().await;
        let behind = stub.url.trim_start_matches("http://").parse().unwrap();
        let door = Door::open(stub.shared.access.authority.server(&["lab-head"], -1, 1), behind).await;
        stub.url = format!("https://{}", door.address);
        (stub, door)
    }

    /// A token to join with.
    pub fn token(&self) -> String {
        Token::make(self.shared.access.authority.pin()).unwrap().reveal()
    }

    /// How long the next certificates count.
    pub fn set_life(&self, life: Life) {
        *self.shared.access.life.lock().unwrap() = life;
    }

    /// What sessions are answered from now on.
    pub fn refuse_sessions(&self, with: Option<Status>) {
        *self.shared.access.refuse_sessions.lock().unwrap() = with;
    }

    /// Waits until it is as `wanted`.
    pub async fn until(&self, wanted: impl Fn() -> bool) {
        while !wanted() {
            assert!(tokio::time::Instant::now() < self.deadline, "what the test waits for does not come");
            tokio::task::yield_now().await;
        }
    }

    /// How many sessions were refused.
    pub fn refused(&self) -> u32 {
        self.shared.access.refused.load(Ordering::SeqCst)
    }

    /// What machines have shown and said to join.
    pub fn enrolled(&self) -> Vec<(String, pb::EnrolAgentRequest)> {
        self.shared.access.enrolled.lock().unwrap().clone()
    }

    /// How many certificates were renewed.
    pub fn renewed(&self) -> u32 {
        self.shared.access.renewed.load(Ordering::SeqCst)
    }
}

impl World {
    /// Starts an agent whose scheduler is the one that it has joined.
    pub fn agent_that_joined(&self) -> Agent {
        let program = std::process::Command::new(env!("CARGO_BIN_EXE_trainyard-agent"));
        self.start(program, "", &[], &[], self.log_file())
    }
}

impl Service {
    fn certificate(
        &self,
        request: &str,
        agent: &str,
    ) -> (String, prost_types::Timestamp, prost_types::Timestamp) {
        let Life { from_days, to_days, renew_after_secs } = *self.0.access.life.lock().unwrap();
        let now = prost_types::Timestamp::from(std::time::SystemTime::now()).seconds;
        let at = |seconds| prost_types::Timestamp { seconds: now + seconds, nanos: 0 };
        let chain = self.0.access.authority.sign_agent(request, agent, from_days, to_days);
        (chain, at(renew_after_secs), at(to_days * 86_400))
    }
}

#[tonic::async_trait]
impl AccessService for Service {
    async fn enrol_agent(
        &self,
        request: Request<pb::EnrolAgentRequest>,
    ) -> Result<Response<pb::EnrolAgentResponse>, Status> {
        let shown = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let request = request.into_inner();
        let (chain, renew, expire) = self.certificate(&request.certificate_request, &request.agent_id);
        self.0.access.enrolled.lock().unwrap().push((shown.unwrap_or_default(), request));
        Ok(Response::new(pb::EnrolAgentResponse {
            certificate_chain: chain,
            renew_time: Some(renew),
            expire_time: Some(expire),
        }))
    }

    async fn renew_certificate(
        &self,
        request: Request<pb::RenewCertificateRequest>,
    ) -> Result<Response<pb::RenewCertificateResponse>, Status> {
        let known =
            self.0.access.enrolled.lock().unwrap().last().map(|(_, enrolled)| enrolled.agent_id.clone());
        let agent = known.ok_or_else(|| Status::unauthenticated("nobody has joined"))?;
        let (chain, renew, expire) = self.certificate(&request.into_inner().certificate_request, &agent);
        self.0.access.renewed.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(pb::RenewCertificateResponse {
            certificate_chain: chain,
            renew_time: Some(renew),
            expire_time: Some(expire),
        }))
    }

    async fn who_am_i(&self, _request: Request<pb::WhoAmIRequest>) -> Result<Response<pb::Caller>, Status> {
        Err(Status::unimplemented("not of the agents"))
    }

    async fn create_token(
        &self,
        _request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        Err(Status::unimplemented("not of the agents"))
    }

    async fn list_tokens(
        &self,
        _request: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        Err(Status::unimplemented("not of the agents"))
    }

    async fn revoke_token(
        &self,
        _request: Request<pb::RevokeTokenRequest>,
    ) -> Result<Response<pb::TokenInfo>, Status> {
        Err(Status::unimplemented("not of the agents"))
    }

    async fn forget_agent(
        &self,
        _request: Request<pb::ForgetAgentRequest>,
    ) -> Result<Response<pb::ForgetAgentResponse>, Status> {
        Err(Status::unimplemented("not of the agents"))
    }

    async fn list_audit_events(
        &self,
        _request: Request<pb::ListAuditEventsRequest>,
    ) -> Result<Response<pb::ListAuditEventsResponse>, Status> {
        Err(Status::unimplemented("not of the agents"))
    }
}
