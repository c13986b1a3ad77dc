//! The connection to a scheduler: metadata on every call, bounded retries, ids from prefixes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Extensions, Request, Response, Status};
use trainyard_access::{Connector, SeenAuthority};
use trainyard_proto::pb;
use trainyard_proto::pb::access_service_client::AccessServiceClient;
use trainyard_proto::pb::artifact_service_client::ArtifactServiceClient;
use trainyard_proto::pb::cluster_service_client::ClusterServiceClient;
use trainyard_proto::pb::dataset_service_client::DatasetServiceClient;
use trainyard_proto::pb::job_service_client::JobServiceClient;
use trainyard_proto::pb::notification_service_client::NotificationServiceClient;
use trainyard_proto::route::{Next, Route, leader_beside, leader_of};

use crate::failure::{Failure, is_temporary};
use crate::settings::Settings;
use crate::settings::credential::Credential;

/// A channel to a server that sends the user's metadata with every call.
pub type AuthenticatedChannel = InterceptedService<Channel, CallerMetadata>;

/// Delays before the retries of one call; there are as many retries as entries.
const RETRY_DELAYS_MS: [u64; 4] = [100, 300, 700, 1400];
/// Longest answer to a unary call. (A page of 1000 jobs with their attempts is far below.)
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Adds who is calling to every request.
#[derive(Clone)]
pub struct CallerMetadata {
    user: Option<MetadataValue<Ascii>>,
    act_as: Option<MetadataValue<Ascii>>,
    authorization: Option<MetadataValue<Ascii>>,
}

impl Interceptor for CallerMetadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(user) = &self.user {
            request.metadata_mut().insert("trainyard-user", user.clone());
        }
        if let Some(act_as) = &self.act_as {
            request.metadata_mut().insert("trainyard-as", act_as.clone());
        }
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        Ok(request)
    }
}

/// How long a cluster that answers may take to have a leader.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// The scheduler as commands see it: one of those that the user named, or where a standby sent us.
#[derive(Clone)]
pub struct Client {
    dialer: Dialer,
    connection: Arc<Mutex<Connection>>,
}

struct Connection {
    route: Route,
    channel: AuthenticatedChannel,
    /// Whether a standby has named a leader that did not answer: it is not asked for again.
    leader_is_away: bool,
}

/// How connections are made, and what is sent with each call.
#[derive(Clone)]
struct Dialer {
    connector: Connector,
    user: Option<MetadataValue<Ascii>>,
    act_as: Option<MetadataValue<Ascii>>,
    credential: Option<Credential>,
}

impl Dialer {
    fn new(settings: &Settings, seen: &SeenAuthority) -> Result<Self, Failure> {
        let act_as = settings.act_as.as_ref().map(|name| {
            let wrong =
                || Failure::usage(format!("--as `{}`: not a user's name", crate::terminal::clean(name)));
            name.parse().map_err(|_| wrong())
        });
        Ok(Self {
            connector: settings.connector(seen)?,
            // A user name that is not ASCII cannot travel; the scheduler then says "unknown".
            user: settings.user.parse().ok(),
            act_as: act_as.transpose()?,
            credential: settings.credential.clone(),
        })
    }

    /// A connection that opens with the first call.
    fn dial(&self, server: &str) -> Result<AuthenticatedChannel, Failure> {
        let secret = self.credential.as_ref().and_then(|credential| credential.reveal_to(server));
        let authorization = secret.map(|secret| bearer(&secret)).transpose()?;
        let (user, act_as) = (self.user.clone(), self.act_as.clone());
        let metadata = CallerMetadata { user, act_as, authorization };
        let endpoint = Endpoint::from_shared(server.to_owned())
            .map_err(|error| Failure::usage(format!("server `{server}`: {error}")))?
            .connect_timeout(Duration::from_secs(5))
            // A server that vanished without a word is noticed in half a minute.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        Ok(InterceptedService::new(endpoint.connect_with_connector_lazy(self.connector.clone()), metadata))
    }
}

impl Client {
    /// Prepares a connection to the first server.
    ///
    /// # Errors
    /// A token that cannot be sent, an address that is none, a server that nothing can check.
    pub fn new(settings: &Settings) -> Result<Self, Failure> {
        Self::remembering(settings, &SeenAuthority::default())
    }

    /// The same; the authority of the server that answers is kept in `seen`.
    ///
    /// # Errors
    /// The failures of [`Client::new`].
    pub fn remembering(settings: &Settings, seen: &SeenAuthority) -> Result<Self, Failure> {
        let dialer = Dialer::new(settings, seen)?;
        for server in &settings.servers {
            dialer.dial(server)?;
        }
        let route = Route::new(settings.servers.clone());
        let channel = dialer.dial(route.target())?;
        Ok(Self {
            dialer,
            connection: Arc::new(Mutex::new(Connection { route, channel, leader_is_away: false })),
        })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channel(&self) -> AuthenticatedChannel {
        self.connection().channel.clone()
    }

    /// The server that the next call goes to.
    pub fn server(&self) -> String {
        self.connection().route.target().to_owned()
    }

    /// After a call that failed for now: later calls go to the next server, or to the leader that a standby names.
    pub fn fail_over(&self, status: &Status) -> Next {
        let mut connection = self.connection();
        let before = connection.route.target().to_owned();
        let next = connection.route.failed(Some(status));
        // A leader that is named by what is no address cannot be dialled; the next round asks others.
        if connection.route.target() != before
            && let Ok(channel) = self.dialer.dial(connection.route.target())
        {
            connection.channel = channel;
        }
        next
    }

    /// Later calls go to this server. Returns whether its address is one.
    fn turn_to(&self, server: &str) -> bool {
        let Ok(channel) = self.dialer.dial(server) else { return false };
        let mut connection = self.connection();
        connection.route.turn_to(server);
        connection.channel = channel;
        true
    }

    /// After a call that was answered: later calls go to the same server.
    pub fn succeeded(&self) {
        self.connection().route.worked();
    }

    /// A client for calls about jobs.
    pub fn jobs(&self) -> JobServiceClient<AuthenticatedChannel> {
        JobServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// A client for calls about agents and GPUs.
    pub fn cluster(&self) -> ClusterServiceClient<AuthenticatedChannel> {
        ClusterServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// A client for calls about artifacts.
    pub fn artifacts(&self) -> ArtifactServiceClient<AuthenticatedChannel> {
        ArtifactServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// A client for calls about data sets and weights.
    pub fn datasets(&self) -> DatasetServiceClient<AuthenticatedChannel> {
        DatasetServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// A client for calls about who may use the cluster.
    pub fn access(&self) -> AccessServiceClient<AuthenticatedChannel> {
        AccessServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// A client for calls about webhooks.
    pub fn notifications(&self) -> NotificationServiceClient<AuthenticatedChannel> {
        NotificationServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The failure that `status` means for the user.
    pub fn failure(&self, status: &Status) -> Failure {
        Failure::from_status(status, &self.server())
    }

    /// A job by its id or a prefix of it.
    ///
    /// # Errors
    /// There is no such job, or more than one, or the scheduler cannot be reached.
    pub async fn job(&self, id: &str) -> Result<pb::Job, Failure> {
        let id = check_id(id)?;
        self.of_leader(|| {
            let request = pb::GetJobRequest { job_id: id.clone() };
            async move { self.jobs().get_job(request).await }
        })
        .await
    }

    /// The whole id that `prefix` begins; one that is whole already is not looked up.
    ///
    /// # Errors
    /// There is no such job, or more than one, or the scheduler cannot be reached.
    pub async fn job_id(&self, prefix: &str) -> Result<String, Failure> {
        let id = check_id(prefix)?;
        if uuid::Uuid::try_parse(&id).is_ok() { Ok(id) } else { Ok(self.job(&id).await?.id) }
    }

    /// Makes a call until it is answered or has failed for good; only what may pass is tried again.
    ///
    /// # Errors
    /// The failure of the last try.
    pub async fn retrying<T, F>(&self, call: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.retrying_if(is_temporary, call).await.map(Response::into_inner)
    }

    /// Makes a call that is safe to repeat, of which only the leader has the whole answer: a standby knows what is stored,
    /// and names the leader, whose answer counts. Where no leader answers, the standby's does.
    ///
    /// # Errors
    /// The failure of the last try of the first server that answered.
    pub async fn of_leader<T, F>(&self, call: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let stored = self.retrying_if(is_temporary, &call).await?;
        let Some(leader) = leader_beside(stored.metadata()) else { return Ok(stored.into_inner()) };
        let standby = self.server();
        for server in self.perhaps_leading(&leader, &standby) {
            if !self.turn_to(&server) {
                continue;
            }
            if let Ok(whole) = call().await
                && leader_beside(whole.metadata()).is_none()
            {
                self.succeeded();
                return Ok(whole.into_inner());
            }
        }
        self.turn_to(&standby);
        self.connection().leader_is_away = true;
        Ok(stored.into_inner())
    }

    /// Where the leader may be that a standby has named: the name may be one that is known inside of its cluster alone.
    fn perhaps_leading(&self, leader: &str, standby: &str) -> Vec<String> {
        let connection = self.connection();
        if connection.leader_is_away {
            return Vec::new();
        }
        let known = connection.route.known().iter().filter(|known| *known != leader && *known != standby);
        std::iter::once(leader.to_owned()).chain(known.cloned()).collect()
    }

    /// Has later calls go to the leader, where it can be found.
    ///
    /// # Errors
    /// No server answers.
    pub async fn find_leader(&self) -> Result<(), Failure> {
        let call = || async {
            let answer = self.access().who_am_i(pb::WhoAmIRequest {}).await;
            answer.map(|answer| answer.map(drop)).or_else(|refused| {
                // Whoever may not ask has met the server all the same.
                if is_temporary(&refused) {
                    return Err(refused);
                }
                Ok(Response::from_parts(refused.metadata().clone(), (), Extensions::default()))
            })
        };
        self.of_leader(call).await
    }

    /// Makes a call that must not be made twice: it is made again only where a standby has refused it.
    ///
    /// # Errors
    /// The failure of the last try.
    pub async fn once<T, F>(&self, call: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.retrying_if(|status| leader_of(status).is_some(), call).await.map(Response::into_inner)
    }

    async fn retrying_if<T, F>(
        &self,
        may_pass: impl Fn(&Status) -> bool,
        call: impl Fn() -> F,
    ) -> Result<Response<T>, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let begun = Instant::now();
        let mut delays = RETRY_DELAYS_MS.into_iter();
        loop {
            let status = match call().await {
                Ok(response) => {
                    self.succeeded();
                    return Ok(response);
                }
                Err(status) => status,
            };
            // What is said of a failure names the server that failed.
            let failure = self.failure(&status);
            if !may_pass(&status) {
                return Err(failure);
            }
            let wait = match self.fail_over(&status) {
                Next::Now => continue,
                Next::After(Some(asked)) if begun.elapsed() < ELECTION_TIMEOUT => asked,
                Next::After(_) => Duration::from_millis(delays.next().ok_or(failure)?),
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
pub async fn all_pages<T>(
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
