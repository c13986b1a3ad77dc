//! The fake's word on who may use the cluster, and an encrypted door in front of it.

use tonic::{Request, Response, Status};
use trainyard_access::testing::Door;
use trainyard_proto::pb;
use trainyard_proto::pb::access_service_server::AccessService;

use super::{Fake, Server};

/// What one call of this service sent of the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub authorization: Option<String>,
    pub act_as: Option<String>,
}

impl Server {
    /// An encrypted door to this server.
    pub fn door(&self, config: rustls::ServerConfig) -> Door {
        self.runtime.as_ref().unwrap().block_on(Door::open(config, self.address))
    }
}

impl Fake {
    pub fn note<T: std::fmt::Debug>(&self, request: Request<T>) -> T {
        let text = |key: &str| Some(request.metadata().get(key)?.to_str().unwrap().to_owned());
        let shown = Shown { authorization: text("authorization"), act_as: text("trainyard-as") };
        let mut script = self.0.lock().unwrap();
        script.shown.push(shown);
        let request = request.into_inner();
        script.orders.push(format!("{request:?}"));
        request
    }
}

fn info(id: &str, user: &str, role: pb::AccessRole) -> pb::TokenInfo {
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let uses_left = u32::from(role == pb::AccessRole::Agent) * 3;
    let (create_time, expire_time) = (time(1_700_000_000), time(1_800_000_000));
    let (id, user, role, created_by) = (id.into(), user.into(), role.into(), "root".into());
    pb::TokenInfo { id, user, role, create_time, expire_time, uses_left, created_by }
}

#[tonic::async_trait]
impl AccessService for Fake {
    async fn who_am_i(&self, request: Request<pb::WhoAmIRequest>) -> Result<Response<pb::Caller>, Status> {
        self.note(request);
        let script = self.0.lock().unwrap();
        match &script.refuse {
            Some((_, status)) => Err(status.clone()),
            None => Ok(super::answer(&script, script.caller.clone())),
        }
    }

    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        let request = self.note(request);
        let info = Some(info("00aa", &request.user, request.role()));
        Ok(Response::new(pb::CreateTokenResponse { token: "ty1.a.b.c".into(), info }))
    }

    async fn list_tokens(
        &self,
        request: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        self.note(request);
        let tokens = vec![info("00aa", "ada", pb::AccessRole::User), info("00bb", "", pb::AccessRole::Agent)];
        Ok(Response::new(pb::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<pb::RevokeTokenRequest>,
    ) -> Result<Response<pb::TokenInfo>, Status> {
        let id = self.note(request).id;
        Ok(Response::new(info(&id, "ada", pb::AccessRole::User)))
    }

    async fn enrol_agent(
        &self,
        _request: Request<pb::EnrolAgentRequest>,
    ) -> Result<Response<pb::EnrolAgentResponse>, Status> {
        Err(Status::unimplemented("agents only"))
    }

    async fn renew_certificate(
        &self,
        _request: Request<pb::RenewCertificateRequest>,
    ) -> Result<Response<pb::RenewCertificateResponse>, Status> {
        Err(Status::unimplemented("agents only"))
    }

    async fn forget_agent(
        &self,
        request: Request<pb::ForgetAgentRequest>,
    ) -> Result<Response<pb::ForgetAgentResponse>, Status> {
        self.note(request);
        Ok(Response::new(pb::ForgetAgentResponse { agent_id: super::ID.into() }))
    }

    async fn list_audit_events(
        &self,
        request: Request<pb::ListAuditEventsRequest>,
    ) -> Result<Response<pb::ListAuditEventsResponse>, Status> {
        let request = self.note(request);
        let event = |number: i64| pb::AuditEvent {
            cursor: number.to_string(),
            time: Some(prost_types::Timestamp { seconds: 1_700_000_000 + number, nanos: 0 }),
            caller: "ada".into(),
            role: pb::AccessRole::User.into(),
            address: "10.0.0.7".into(),
            action: "JobService/CancelJob".into(),
            target: super::ID.into(),
            outcome: "OK".into(),
        };
        let after: i64 = request.after.parse().unwrap_or(0);
        // Two at the first call, one at each that follows.
        let events = if after == 0 { vec![event(1), event(2)] } else { vec![event(after + 1)] };
        Ok(Response::new(pb::ListAuditEventsResponse { events }))
    }
}
