//! Wires everything up: directory, store, driver, port; and takes it down in the opposite order.

mod content_store;
mod issued_tokens;
mod port_holder;
mod redis_address;
mod reload;
mod security;
mod status_line;

use std::fs::{File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};
use trainyard_config::{masked, masked_text};
use trainyard_files::{create_private_folder, keep_folder_private};
use trainyard_service::{ServiceManager, installed};
use trainyard_types::LeaderEpoch;
use uuid::Uuid;

use crate::access::{Admission, admit};
use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::config::{Config, ConfigError, SERVICE, SecurityMode};
use crate::data_checks::DataChecks;
use crate::driver::{DiskProblem, Driver, Limits, Role, Unusable};
use crate::embedded::{EmbeddedError, EmbeddedRedis};
use crate::grpc::ClusterFeed;
use crate::notify::{Messenger, Notifier};
use crate::objects::Objects;
use crate::store::{Candidate, RedisOptions, RedisStore, StoreError};
use crate::telemetry::Recorder;
use crate::tls::TlsError;
use crate::{grpc, http, listener, web};
pub use issued_tokens::{Issue, IssueError, issue_token};
pub use redis_address::RedisAddressError;
use redis_address::redis_address;
pub use reload::Reload;
use security::Security;

/// Why the scheduler does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The directory cannot be used.
    #[error("data_dir: cannot use `{path}`: {cause}; {}", installed::way_to_write(SERVICE, path, cause))]
    Directory { path: PathBuf, cause: io::Error },
    /// The directory of blobs cannot be used.
    #[error("blob_dir: cannot use `{path}`: {cause}; {}", installed::way_to_write(SERVICE, path, cause))]
    Blobs { path: PathBuf, cause: io::Error },
    /// The store of blobs cannot be used.
    #[error(
        "blob_url: cannot use `{url}`: {cause}; write `s3://BUCKET/PREFIX` with `blob_options` such as \
         `endpoint=http://host:9000`, and give the credentials in the environment"
    )]
    BlobUrl { url: String, cause: String },
    /// Another scheduler has the directory.
    #[error("data_dir: another scheduler uses `{0}`; stop it, or give this one its own directory")]
    Locked(PathBuf),
    /// The port cannot be had.
    #[error("listen: cannot listen on `{address}`: {cause}; {way_out}")]
    Listen { address: String, cause: io::Error, way_out: String },
    /// The private server does not start.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// Connections cannot be encrypted.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Redis' URL cannot be parsed.
    #[error(
        "redis_url: {0}; write `redis://host:6379/` or `redis+sentinel://host:26379,host:26379/mymaster`, or \
         leave it empty for a private server"
    )]
    Url(StoreError),
    /// What belongs to Redis' URL cannot be used.
    #[error(transparent)]
    RedisAddress(#[from] RedisAddressError),
    /// The descriptors that were compiled in cannot be read.
    #[error("the services' descriptors cannot be read: {0}")]
    Descriptors(#[from] tonic_reflection::server::Error),
}

/// A running scheduler.
pub struct Server {
    address: SocketAddr,
    closing: CancellationToken,
    redis: Option<Arc<EmbeddedRedis>>,
    reload: Reload,
    task: JoinHandle<Result<(), Unusable>>,
}

impl Server {
    /// Starts everything. Once this returns, the port is open; calls succeed as soon as the store has been
    /// read.
    ///
    /// # Errors
    /// The data directory, the port or the store cannot be had, as [`StartError`] says.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_under(config, &ServiceManager::none()).await
    }

    /// The same under a service manager, which is told how the scheduler is.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_under(config: Config, service: &ServiceManager) -> Result<Self, StartError> {
        config.validate()?;
        let lock = lock(&config.data_dir)?;
        let listener = listen(&config).await?;
        let address = listener.local_addr().map_err(|cause| listen_error(&config, cause))?;
        let objects = open_objects(&config)?;
        let blobs = open_blobs(&config, &objects).await?;
        let (redis, store) = open_store(&config).await?;
        let candidate = Candidate {
            instance: Uuid::new_v4(),
            address: config.advertised(address),
            lease: config.leader_lease,
            // Nobody else can reach the private server.
            exclusive: redis.is_some(),
            known: LeaderEpoch(0),
        };
        let content = content_store::open(&config, &objects, store.clone());
        let recorder = Recorder::start(store.clone(), Clock::start());
        let (driver, handle, role) = Driver::new(store.clone(), config.core(), blobs.clone(), candidate);
        let (limits, new_limits) = watch::channel(Limits::of(&config.core()));
        let driver = driver.with_limits(new_limits).with_watchdog(service.watchdog());
        let driver = driver.with_disk_problem(disk_problem_of(redis.as_ref()));
        let (closing, tasks) = (CancellationToken::new(), TaskTracker::new());
        let wait = config.data_check_timeout;
        let context = grpc::Context {
            notifier: open_notifier(&config, address, store.clone()),
            data_checks: DataChecks::new(handle.clone(), wait, closing.clone(), tasks.clone()),
            driver: handle.clone(),
            access: store.clone(),
            store,
            telemetry: recorder.clone(),
            blobs,
            content,
            closing: closing.clone(),
            tasks,
            feed: ClusterFeed::default(),
            heartbeat: config.heartbeat,
            lease: config.lease,
            max_message_bytes: (config.max_message_mib as usize) << 20,
        };
        let store = context.access.clone();
        let security = Security::of(&config, address, store, service, &context)?;
        let Security { acceptor, parts, admission, look_at_certificate } = security;
        let reload = Reload { limits, look_at_certificate };
        let health = HealthReporter::new();
        let authority = parts.as_ref().map(|parts| parts.authority.clone());
        let services = grpc::routes(&context, parts, health.clone())?;
        let (role_of_pages, blobs) = (role.clone(), context.blobs.clone());
        let pages =
            http::Pages { driver: handle, role: role_of_pages, telemetry: recorder, blobs, authority };
        let plaintext = pages.clone().probes().merge(grpc::refuse_plaintext());
        let edge = web::Edge::new(context.max_message_bytes, acceptor.is_some());
        let routes = pages.router().merge(services.prepare().into_axum_router());
        let routes = layered(routes, admission, edge, role.clone());
        let encryption = acceptor.map(|acceptor| listener::Encryption {
            acceptor,
            plaintext: plaintext.fallback(http::plaintext_refused),
        });
        grpc::set_health(&health, &role.borrow().clone()).await;
        spawn_care(&context, health, &role, service, config.data_grace);
        let running =
            Running { driver, listener, routes, encryption, tasks: context.tasks, closing: closing.clone() };
        let owned = redis.clone();
        let task = tokio::spawn(async move {
            let end = running.run().await;
            // Ending the private server blocks.
            let _ = spawn_blocking(move || drop((owned, lock))).await;
            end
        });
        info!(%address, data_dir = %config.data_dir.display(), "listening");
        Ok(Self { address, closing, redis, reload, task })
    }

    /// Where it listens; the port that was chosen when the configuration says 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The private Redis server, if there is one.
    pub fn redis(&self) -> Option<&EmbeddedRedis> {
        self.redis.as_deref()
    }

    /// The way to what can change while the scheduler runs.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Cancelling it ends the scheduler gently.
    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// Waits for the end, which comes once [`Server::closing`] is cancelled.
    ///
    /// # Errors
    /// The configuration does not fit the store.
    pub async fn wait(self) -> Result<(), Unusable> {
        // The private server is the task's to end.
        drop(self.redis);
        match self.task.await {
            Ok(end) => end,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

/// How long calls under way may take before the leadership is given up.
const HAND_OVER_DELAY: Duration = Duration::from_secs(1);

/// The tasks of a running scheduler.
struct Running {
    driver: Driver,
    listener: TcpListener,
    routes: axum::Router,
    encryption: Option<listener::Encryption>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl Running {
    /// Runs until closed, or until the store turns out not to fit. The driver ends last, so that calls under way are still answered.
    async fn run(self) -> Result<(), Unusable> {
        let Self { driver, listener, routes, encryption, tasks, closing } = self;
        let stop = CancellationToken::new();
        // Were the driver to panic, the process could only pretend to serve.
        let driving = {
            let (closing, stop) = (closing.clone().drop_guard(), stop.clone());
            tokio::spawn(async move {
                let end = driver.run(stop).await;
                drop(closing);
                end
            })
        };
        // A standby takes over at once, even where a large download is still under way.
        let handing_over = {
            let (closing, stop) = (closing.clone(), stop.clone());
            tokio::spawn(async move {
                closing.cancelled().await;
                sleep(HAND_OVER_DELAY).await;
                stop.cancel();
            })
        };
        let bounds = listener::Bounds::of_this_process();
        listener::serve(listener, routes, encryption, bounds, closing).await;
        handing_over.abort();
        stop.cancel();
        let end = driving.await;
        tasks.close();
        tasks.wait().await;
        match end {
            Ok(end) => end,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

/// Makes the directory this process's alone.
fn lock(dir: &Path) -> Result<File, StartError> {
    let error = |path: &Path, cause| StartError::Directory { path: path.to_owned(), cause };
    create_private_folder(dir).map_err(|cause| error(dir, cause))?;
    let path = dir.join("lock");
    let file = File::options().create(true).append(true).open(&path).map_err(|cause| error(&path, cause))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked(dir.to_owned())),
        Err(TryLockError::Error(cause)) => Err(error(&path, cause)),
    }
}

/// What is wrong with the disk under the private Redis, as long as there is that server.
fn disk_problem_of(redis: Option<&Arc<EmbeddedRedis>>) -> DiskProblem {
    let redis = redis.map(Arc::downgrade);
    Box::new(move || redis.as_ref()?.upgrade()?.disk_problem())
}

fn listen_error(config: &Config, cause: io::Error) -> StartError {
    let port = config.address().map(|address| address.port()).unwrap_or_default();
    let way_out = match cause.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "a port under 1024 needs a right: `systemctl edit {SERVICE}` with `[Service]`, \
             `AmbientCapabilities=CAP_NET_BIND_SERVICE` and `CapabilityBoundingSet=CAP_NET_BIND_SERVICE`, or set `listen` to a port from 1024 on"
        ),
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have the address (`ip address` lists what it has): set \
                                            `listen` to one of its own, or to 0.0.0.0 or [::] for all of them"
                .to_owned()
        }
        io::ErrorKind::AddrInUse => match port_holder::find(port) {
            Some(holder) => format!("{holder} has the port: stop it, or set `listen` to another port"),
            None => "stop what uses it, or set `listen` to another port".to_owned(),
        },
        _ => "set `listen` to another address or port".to_owned(),
    };
    StartError::Listen { address: config.listen.clone(), cause, way_out }
}

async fn listen(config: &Config) -> Result<TcpListener, StartError> {
    let address = config.address()?;
    if !address.ip().is_loopback() && config.security == SecurityMode::Off {
        warn!(%address, "listening in plaintext beyond this machine: whoever reaches the port may do everything");
    }
    TcpListener::bind(address).await.map_err(|cause| listen_error(config, cause))
}

/// Starts what looks after the scheduler while it runs.
fn spawn_care(
    context: &grpc::Context,
    health: HealthReporter,
    role: &watch::Receiver<Role>,
    service: &ServiceManager,
    data_grace: Duration,
) {
    let (driver, closing) = (&context.driver, &context.closing);
    let tasks = &context.tasks;
    tasks.spawn(grpc::report_health(health, role.clone(), closing.clone()));
    tasks.spawn(status_line::tell(service.clone(), driver.clone(), role.clone(), closing.clone()));
    tasks.spawn(context.notifier.clone().run(driver.clone(), role.clone(), closing.clone()));
    let content = (context.content.clone(), context.blobs.clone());
    tasks.spawn(content_store::tend(content, driver.clone(), role.clone(), data_grace, closing.clone()));
}

/// What every call passes, from the innermost on: who may call, deadlines, browsers, who leads.
fn layered(
    routes: axum::Router,
    admission: Admission,
    edge: web::Edge,
    role: watch::Receiver<Role>,
) -> axum::Router {
    let routes = routes.merge(web::pages()).fallback(http::not_found);
    let routes = routes.layer(axum::middleware::from_fn_with_state(admission, admit));
    let routes = web::layered(routes.layer(axum::middleware::from_fn(grpc::deadlines::enforce)), edge);
    routes.layer(axum::middleware::from_fn_with_state(role, http::name_leader))
}

/// What tells people of their jobs, with the address of the pages that its messages link to.
fn open_notifier(config: &Config, listening: SocketAddr, store: Arc<RedisStore>) -> Notifier {
    let allows_local = config.webhook_local_addresses || !config.is_secure(listening);
    let site = config.advertised(listening);
    let messenger = Messenger::new(site.trim_end_matches('/'), config.webhook_timeout, allows_local);
    Notifier { store, messenger, clock: Clock::start(), give_up: config.webhook_give_up }
}

async fn open_blobs(config: &Config, objects: &Objects) -> Result<Blobs, StartError> {
    let opened = Blobs::open(objects.clone()).await;
    opened.map_err(|cause| blobs_error(config, io::Error::other(cause)))
}

fn blobs_error(config: &Config, cause: io::Error) -> StartError {
    if config.blob_url.is_empty() {
        return StartError::Blobs { path: config.blobs(), cause };
    }
    StartError::BlobUrl { url: masked(&config.blob_url), cause: masked_text(&cause.to_string()) }
}

/// Where files are kept: the object store that is configured, or a directory.
fn open_objects(config: &Config) -> Result<Objects, StartError> {
    if !config.blob_url.is_empty() {
        let opened = Objects::at(&config.blob_url, &config.blob_options()?);
        return opened.map_err(|cause| blobs_error(config, io::Error::other(cause)));
    }
    let dir = config.blobs();
    let is_ours = config.blob_dir.is_none();
    let kept = if is_ours { keep_folder_private(&dir) } else { create_private_folder(&dir) };
    kept.and_then(|()| Objects::directory(&dir)).map_err(|cause| blobs_error(config, cause))
}

async fn open_store(config: &Config) -> Result<(Option<Arc<EmbeddedRedis>>, Arc<RedisStore>), StartError> {
    let replicas = config.redis_replicas as usize;
    let options = RedisOptions { event_history: config.event_history, replicas };
    if !config.redis_url.is_empty() {
        let store = RedisStore::at(&redis_address(config)?, options).map_err(StartError::Url)?;
        if let Some(weakness) = store.weakness().await {
            warn!(
                weakness,
                "Redis may lose acknowledged submissions; set appendonly yes, appendfsync always, \
                 maxmemory-policy noeviction, and with replicas min-replicas-to-write"
            );
        }
        return Ok((None, Arc::new(store)));
    }
    if let Some(kind) = installed::network_file_system(&config.data_dir) {
        warn!(
            data_dir = %config.data_dir.display(),
            "`data_dir` is on {kind}: the private Redis can lose acknowledged jobs there, and hangs with the share; use a \
             local disk, and for blobs alone set `blob_dir`"
        );
    }
    // Relative, it would be relative to the private server's own directory.
    let dir = std::path::absolute(config.data_dir.join("redis"))
        .map_err(|cause| StartError::Directory { path: config.data_dir.clone(), cause })?;
    let program = config.redis_server.clone();
    let started = spawn_blocking(move || EmbeddedRedis::start(&program, &dir)).await;
    let redis = match started {
        Ok(started) => Arc::new(started?),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    };
    let store = RedisStore::at_socket(redis.socket(), options).map_err(StartError::Url)?;
    Ok((Some(redis), Arc::new(store)))
}
