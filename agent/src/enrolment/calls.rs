//! Calls of the service of access, to whichever scheduler leads.

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use trainyard_access::{ConnectionProblem, Connector, Token};
use trainyard_proto::pb;
use trainyard_proto::pb::access_service_client::AccessServiceClient;
use trainyard_proto::route::{Next, Route};

/// How long one call may take.
const CALL_WITHIN: Duration = Duration::from_secs(10);

/// A call that was not answered well.
#[derive(Debug)]
pub struct Refusal {
    /// URL of the scheduler that was asked.
    pub scheduler: String,
    /// The scheduler's answer, or why there is none.
    pub status: Status,
}

impl Refusal {
    /// Whether the same call may be answered later.
    pub fn may_pass(&self) -> bool {
        let problem = ConnectionProblem::of(&self.status);
        let is_local = std::error::Error::source(&self.status).is_some();
        let is_away =
            matches!(self.status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled);
        (is_local || is_away) && problem.is_none_or(|problem| !problem.is_final())
    }

    /// The scheduler's reason, a word in capitals; empty when it gave none.
    pub fn reason(&self) -> String {
        self.status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
    }

    /// Why the call was refused, a sentence.
    pub fn text(&self) -> String {
        if let Some(problem) = ConnectionProblem::of(&self.status) {
            return problem.to_string();
        }
        let mut text = self.status.message().to_owned();
        let mut cause = std::error::Error::source(&self.status);
        while let Some(error) = cause {
            text = error.to_string();
            cause = error.source();
        }
        text
    }
}

/// A client for one scheduler. tonic connects with the first call.
fn client(
    scheduler: &str,
    connector: &Connector,
) -> Result<AccessServiceClient<tonic::transport::Channel>, Status> {
    if !scheduler.starts_with("https://") {
        return Err(Status::failed_precondition(format!("`{scheduler}` is not encrypted")));
    }
    let endpoint = Endpoint::from_shared(scheduler.to_owned())
        .map_err(|error| Status::failed_precondition(format!("`{scheduler}` is no URL: {error}")))?
        .connect_timeout(CALL_WITHIN)
        .timeout(CALL_WITHIN);
    Ok(AccessServiceClient::new(endpoint.connect_with_connector_lazy(connector.clone())))
}

/// Asks one scheduler after the other, and the leader that a standby names. Each is asked once.
async fn ask<T, F>(schedulers: &[String], call: impl Fn(String) -> F) -> Result<T, Refusal>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut route = Route::new(schedulers.to_vec());
    loop {
        let scheduler = route.target().to_owned();
        let status = match call(scheduler.clone()).await {
            Ok(answer) => return Ok(answer),
            Err(status) => status,
        };
        let next = route.failed(Some(&status));
        let refusal = Refusal { scheduler, status };
        if next != Next::Now || !refusal.may_pass() {
            return Err(refusal);
        }
    }
}

/// Joins; the token is sent to a scheduler that the connector trusts, and encrypted.
pub async fn enrol(
    schedulers: &[String],
    connector: &Connector,
    token: &Token,
    request: &pb::EnrolAgentRequest,
) -> Result<pb::EnrolAgentResponse, Refusal> {
    let call = |scheduler: String| async move {
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {}", token.reveal()).parse().map_err(|_| Status::internal("a token is ASCII"))?;
        value.set_sensitive(true);
        let mut request = Request::new(request.clone());
        request.metadata_mut().insert("authorization", value);
        Ok(client(&scheduler, connector)?.enrol_agent(request).await?.into_inner())
    };
    ask(schedulers, call).await
}

/// Asks for a new certificate by means of the one that the connector shows.
pub async fn renew(
    schedulers: &[String],
    connector: &Connector,
    request_pem: &str,
) -> Result<pb::RenewCertificateResponse, Refusal> {
    let call = |scheduler: String| async move {
        let request = pb::RenewCertificateRequest { certificate_request: request_pem.to_owned() };
        Ok(client(&scheduler, connector)?.renew_certificate(request).await?.into_inner())
    };
    ask(schedulers, call).await
}
