//! The connection to a scheduler: metadata on every call, bounded retries, ids from prefixes.

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_types::StatusExt as _;
use trainyard_proto::pb;
use trainyard_proto::pb::artifact_service_client::ArtifactServiceClient;
use trainyard_proto::pb::cluster_service_client::ClusterServiceClient;
use trainyard_proto::pb::job_service_client::JobServiceClient;

use crate::failure::{Failure, is_temporary};
use crate::settings::Settings;

/// How a call travels: over one channel, with the user's metadata.
pub type Link = InterceptedService<Channel, Identity>;

/// Waits between tries of one call; as many retries as entries.
const WAITS_MS: [u64; 4] = [100, 300, 700, 1400];
/// Longest answer to a unary call. (A page of 1000 jobs with their attempts is far below.)
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Adds who is calling to every request.
#[derive(Clone)]
pub struct Identity {
    user: Option<MetadataValue<Ascii>>,
    authorization: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Identity {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(user) = &self.user {
            request.metadata_mut().insert("trainyard-user", user.clone());
        }
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        Ok(request)
    }
}

/// The scheduler as commands see it.
#[derive(Clone)]
pub struct Client {
    /// For messages.
    pub server: String,
    link: Link,
}

impl Client {
    /// Prepares a connection; it opens with the first call.
    ///
    /// # Errors
    /// A token that cannot be sent, an address that is none.
    pub fn new(settings: &Settings) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_shared(settings.server.clone())
            .map_err(|error| Failure::usage(format!("server `{}`: {error}", settings.server)))?
            .connect_timeout(Duration::from_secs(5))
            // A server that vanished without a word is noticed in half a minute.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let authorization = settings.token.as_ref().map(|token| bearer(token)).transpose()?;
        // A user name that is not ASCII cannot travel; the scheduler then says "unknown".
        let user = settings.user.parse().ok();
        let identity = Identity { user, authorization };
        let link = InterceptedService::new(endpoint.connect_lazy(), identity);
        Ok(Self { server: settings.server.clone(), link })
    }

    /// Jobs.
    pub fn jobs(&self) -> JobServiceClient<Link> {
        JobServiceClient::new(self.link.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Agents.
    pub fn cluster(&self) -> ClusterServiceClient<Link> {
        ClusterServiceClient::new(self.link.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Artifacts.
    pub fn artifacts(&self) -> ArtifactServiceClient<Link> {
        ArtifactServiceClient::new(self.link.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The failure that `status` means for the user.
    pub fn failure(&self, status: &Status) -> Failure {
        Failure::from_status(status, &self.server)
    }

    /// A job by its id or a prefix of it.
    ///
    /// # Errors
    /// No such job, more than one, no server.
    pub async fn job(&self, id: &str) -> Result<pb::Job, Failure> {
        let id = check_id(id)?;
        self.retrying(|| {
            let request = pb::GetJobRequest { job_id: id.clone() };
            async move { self.jobs().get_job(request).await }
        })
        .await
    }

    /// The whole id that `prefix` begins; one that is whole already is not looked up.
    ///
    /// # Errors
    /// As [`Client::job`].
    pub async fn job_id(&self, prefix: &str) -> Result<String, Failure> {
        let id = check_id(prefix)?;
        if uuid::Uuid::try_parse(&id).is_ok() { Ok(id) } else { Ok(self.job(&id).await?.id) }
    }

    /// Makes a call until it is answered or has failed for good; only what may pass is tried again.
    ///
    /// # Errors
    /// The last answer.
    pub async fn retrying<T, F>(&self, call: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut waits = WAITS_MS.into_iter();
        loop {
            let status = match call().await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            match waits.next() {
                Some(wait) if is_temporary(&status) => tokio::time::sleep(pause(&status, wait)).await,
                _ => return Err(self.failure(&status)),
            }
        }
    }
}

/// How long to wait before the next try: what the server asks for (at most 5 s), or `wait_ms`, give
/// or take a quarter so that many clients do not come back together.
fn pause(status: &Status, wait_ms: u64) -> Duration {
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let base = asked.unwrap_or(Duration::from_millis(wait_ms)).min(Duration::from_secs(5));
    jittered(base)
}

/// `base`, give or take a quarter.
pub fn jittered(base: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_bytes()[0];
    base.mul_f64(0.75 + f64::from(random) / 512.0)
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>, Failure> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
        .parse()
        .map_err(|_| Failure::usage("the token has characters that cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Refuses what cannot begin an id, before a server is asked.
fn check_id(text: &str) -> Result<String, Failure> {
    let id = text.trim().to_lowercase();
    let fits = !id.is_empty() && id.len() <= 36 && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if fits {
        return Ok(id);
    }
    let shown = crate::terminal::clean(text);
    Err(Failure::usage(format!("`{shown}` is not a job id"))
        .hint("an id is a UUID or the beginning of one; `yard jobs` lists them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_begin_an_id_is_wrong_usage() {
        for wrong in ["", "cells", "019a/1", "019ab3c4-0000-7000-8000-0000000000000"] {
            assert_eq!(check_id(wrong).unwrap_err().exit.code(), 2, "{wrong}");
        }
        assert_eq!(check_id(" 019AB3c4-").unwrap(), "019ab3c4-");
    }
}
