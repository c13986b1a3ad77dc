//! The connection to a scheduler: metadata on every call, bounded retries, ids from prefixes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use trainyard_proto::pb;
use trainyard_proto::pb::artifact_service_client::ArtifactServiceClient;
use trainyard_proto::pb::cluster_service_client::ClusterServiceClient;
use trainyard_proto::pb::job_service_client::JobServiceClient;
use trainyard_proto::route::{Next, Route, leader_of};

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

/// How long a cluster that answers may take to have a leader.
const ELECTION_PATIENCE: Duration = Duration::from_secs(15);

/// The scheduler as commands see it: one of those that the user named, or where a standby sent us.
#[derive(Clone)]
pub struct Client {
    identity: Identity,
    current: Arc<Mutex<Current>>,
}

struct Current {
    route: Route,
    link: Link,
}

/// A connection that opens with the first call.
fn dial(server: &str, identity: &Identity) -> Result<Link, Failure> {
    let endpoint = Endpoint::from_shared(server.to_owned())
        .map_err(|error| Failure::usage(format!("server `{server}`: {error}")))?
        .connect_timeout(Duration::from_secs(5))
        // A server that vanished without a word is noticed in half a minute.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    Ok(InterceptedService::new(endpoint.connect_lazy(), identity.clone()))
}

impl Client {
    /// Prepares a connection to the first server.
    ///
    /// # Errors
    /// A token that cannot be sent, an address that is none.
    pub fn new(settings: &Settings) -> Result<Self, Failure> {
        let authorization = settings.token.as_ref().map(|token| bearer(token)).transpose()?;
        // A user name that is not ASCII cannot travel; the scheduler then says "unknown".
        let user = settings.user.parse().ok();
        let identity = Identity { user, authorization };
        for server in &settings.servers {
            dial(server, &identity)?;
        }
        let route = Route::new(settings.servers.clone());
        let link = dial(route.target(), &identity)?;
        Ok(Self { identity, current: Arc::new(Mutex::new(Current { route, link })) })
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> Link {
        self.current().link.clone()
    }

    /// The server that the next call goes to.
    pub fn server(&self) -> String {
        self.current().route.target().to_owned()
    }

    /// After a call that failed for now: turns to the next server, or to the leader that a standby names.
    pub fn turn(&self, status: &Status) -> Next {
        let mut current = self.current();
        let before = current.route.target().to_owned();
        let next = current.route.failed(Some(status));
        // A leader that is named by what is no address cannot be dialled; the next round asks others.
        if current.route.target() != before
            && let Ok(link) = dial(current.route.target(), &self.identity)
        {
            current.link = link;
        }
        next
    }

    /// A call was answered: later ones go the same way.
    pub fn settled(&self) {
        self.current().route.worked();
    }

    /// Jobs.
    pub fn jobs(&self) -> JobServiceClient<Link> {
        JobServiceClient::new(self.link()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Agents.
    pub fn cluster(&self) -> ClusterServiceClient<Link> {
        ClusterServiceClient::new(self.link()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Artifacts.
    pub fn artifacts(&self) -> ArtifactServiceClient<Link> {
        ArtifactServiceClient::new(self.link()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The failure that `status` means for the user.
    pub fn failure(&self, status: &Status) -> Failure {
        Failure::from_status(status, &self.server())
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
        self.retrying_if(is_temporary, call).await
    }

    /// Makes a call that must not be made twice: it is made again only where a standby has refused it.
    ///
    /// # Errors
    /// The last answer.
    pub async fn once<T, F>(&self, call: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.retrying_if(|status| leader_of(status).is_some(), call).await
    }

    async fn retrying_if<T, F>(
        &self,
        may_pass: impl Fn(&Status) -> bool,
        call: impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let begun = Instant::now();
        let mut waits = WAITS_MS.into_iter();
        loop {
            let status = match call().await {
                Ok(response) => {
                    self.settled();
                    return Ok(response.into_inner());
                }
                Err(status) => status,
            };
            // What is said of a failure names the server that failed.
            let failure = self.failure(&status);
            if !may_pass(&status) {
                return Err(failure);
            }
            let wait = match self.turn(&status) {
                Next::Now => continue,
                Next::After(Some(asked)) if begun.elapsed() < ELECTION_PATIENCE => asked,
                Next::After(_) => Duration::from_millis(waits.next().ok_or(failure)?),
            };
            tokio::time::sleep(jittered(wait)).await;
        }
    }
}

/// `base`, give or take a quarter, so that many clients do not come back together.
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

/// All pages of a list; `page` asks for the one with a token, and returns what follows it, too.
///
/// # Errors
/// The first page that cannot be had.
pub async fn every_page<T>(
    mut page: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Failure>,
) -> Result<Vec<T>, Failure> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let (entries, next) = page(page_token).await?;
        all.extend(entries);
        if next.is_empty() {
            return Ok(all);
        }
        page_token = next;
    }
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
