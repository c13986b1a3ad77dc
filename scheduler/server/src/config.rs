//! Every setting of the scheduler with its default, stated once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trainyard_config::masked;
use trainyard_scheduler_core::{CoreConfig, Policy, UserLimits};

/// Whether callers say who they are, over encrypted connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecurityMode {
    /// As soon as the scheduler listens beyond loopback.
    Auto,
    On,
    Off,
}

/// Whose jobs a user sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    All,
    Own,
}

/// The scheduler's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port of gRPC and HTTP.
    pub listen: String,
    /// Whether connections are encrypted and callers say who they are: `auto` as soon as `listen` is beyond loopback,
    /// `on`, or `off`, where whoever reaches the port may do everything.
    pub security: SecurityMode,
    /// Directory of the cluster's own authority; `tls` in `data_dir` when unset. Schedulers of one Redis share it.
    pub tls_dir: Option<PathBuf>,
    /// A certificate of one's own with those that vouch for it, and its key, PEM; read again when they change. Unset,
    /// the cluster's authority makes one.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// Further names and addresses that the made certificate is for, beside this machine's own.
    pub tls_names: Vec<String>,
    /// Whose jobs a user sees: `all`, or `own`.
    pub visibility: Visibility,
    /// URL by which clients and agents reach this scheduler, told to them by its standbys; empty makes one of
    /// `listen` (and of the host's name, where that is every address).
    pub advertise: String,
    /// Holds the private Redis server's files, and the blobs. One scheduler at a time.
    pub data_dir: PathBuf,
    /// Checkpoints and artifacts; `blobs` in `data_dir` when unset. Schedulers of one Redis share it.
    pub blob_dir: Option<PathBuf>,
    /// An object store for all of that instead: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`.
    pub blob_url: String,
    /// What belongs to that URL, each as `KEY=VALUE`: `endpoint=http://minio:9000`, `region=…`, `allow_http=true`. Credentials
    /// are better in the environment, `AWS_ACCESS_KEY_ID` and so on.
    pub blob_options: Vec<String>,
    /// GiB of data sets and weights that one user may keep; 0 is no limit.
    pub data_quota_gib: u32,
    /// How long what no data set or weights need is kept, for pushes that broke off.
    #[serde(with = "humantime_serde")]
    pub data_grace: Duration,
    /// How long a submission waits at most for an agent to look at its data set, where that is a path; 0 has none looked at.
    #[serde(with = "humantime_serde")]
    pub data_check_timeout: Duration,
    /// A Redis server to use, `redis[s]://[user[:password]@]host[:port]/[db]`, `unix:///path`, or
    /// `redis[s]+sentinel://[user[:password]@]host[:port],…/MASTER[/db]`; empty starts a private one in `data_dir`.
    pub redis_url: String,
    /// A file with the password, which then is not in the URL.
    pub redis_password_file: Option<PathBuf>,
    /// Authorities that certify a server of `rediss://`, PEM; the system's when unset.
    pub redis_ca: Option<PathBuf>,
    /// Replicas of Redis that must have a write before it is acknowledged.
    pub redis_replicas: u32,
    /// How long the leader may be silent before a standby takes over.
    #[serde(with = "humantime_serde")]
    pub leader_lease: Duration,
    /// The private server's program.
    pub redis_server: PathBuf,
    /// How often agents say that they live.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// How long an agent may stay silent before its jobs are queued again. At least three times
    /// `heartbeat`, so that one lost message costs nothing.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Wait before a crashed job is tried again; doubles with each further crash.
    #[serde(with = "humantime_serde")]
    pub retry_delay: Duration,
    /// The longest wait before a retry.
    #[serde(with = "humantime_serde")]
    pub retry_delay_max: Duration,
    /// After how long a GPU-second that a user had counts half when users take turns.
    #[serde(with = "humantime_serde")]
    pub share_half_life: Duration,
    /// GPUs that the jobs of one user may use at a time; 0 is no limit.
    pub running_gpus: u32,
    /// Jobs that one user may have waiting; 0 is no limit.
    pub queued_jobs: u32,
    /// Users who differ, each as `NAME weight=2 running_gpus=4 queued_jobs=1000`; what is left out is as for
    /// all, and 1 for the weight. A user of weight 2 gets twice the GPU-time of one of weight 1.
    pub users: Vec<String>,
    /// Who goes next, and where: `finish-time` (every job finishes as early as the mix of GPUs allows), `fair`
    /// (users take turns) or `fifo` (by submission).
    pub policy: Policy,
    /// With `finish-time`: how long a job may be overtaken, beside four times its own length.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
    /// How long a job that has ended can be listed; then its record and events are written to `history.jsonl`
    /// beside its artifacts, and it is forgotten.
    #[serde(with = "humantime_serde")]
    pub keep_finished_for: Duration,
    /// How many such jobs are kept at most; the oldest go first.
    pub keep_finished: usize,
    /// How long an agent that is not heard of is remembered, with what people ordered of it.
    #[serde(with = "humantime_serde")]
    pub keep_agents_for: Duration,
    /// Events of a job that Redis keeps; older ones go into files beside its artifacts.
    pub event_history: usize,
    /// How long a call of a webhook may take.
    #[serde(with = "humantime_serde")]
    pub webhook_timeout: Duration,
    /// How long a webhook may fail before it is called no more.
    #[serde(with = "humantime_serde")]
    pub webhook_give_up: Duration,
    /// Whether webhooks may lead to this machine itself, its link, or a cloud's address for secrets; where connections are
    /// not encrypted they always may.
    pub webhook_local_addresses: bool,
    /// Largest gRPC message taken in, in MiB.
    pub max_message_mib: u32,
    /// What is logged: `info`, or directives such as `warn,trainyard_scheduler=debug`.
    pub log: String,
}

impl Default for Config {
    fn default() -> Self {
        let core = CoreConfig::default();
        Self {
            listen: "127.0.0.1:7433".to_owned(),
            security: SecurityMode::Auto,
            tls_dir: None,
            tls_cert: None,
            tls_key: None,
            tls_names: Vec::new(),
            visibility: Visibility::All,
            advertise: String::new(),
            data_dir: default_data_dir(),
            blob_dir: None,
            blob_url: String::new(),
            blob_options: Vec::new(),
            data_quota_gib: 0,
            data_grace: Duration::from_secs(24 * 3600),
            data_check_timeout: Duration::from_secs(10),
            redis_url: String::new(),
            redis_password_file: None,
            redis_ca: None,
            redis_replicas: 0,
            leader_lease: Duration::from_secs(3),
            redis_server: "redis-server".into(),
            heartbeat: Duration::from_secs(5),
            lease: core.lease,
            retry_delay: core.retry_delay,
            retry_delay_max: core.retry_delay_max,
            share_half_life: core.share_half_life,
            running_gpus: 0,
            queued_jobs: 250_000,
            users: Vec::new(),
            policy: Policy::FinishTime,
            patience: core.patience,
            keep_finished_for: core.keep_finished_for,
            keep_finished: core.keep_finished,
            keep_agents_for: core.keep_agents_for,
            event_history: 50_000,
            webhook_timeout: Duration::from_secs(10),
            webhook_give_up: Duration::from_secs(24 * 3600),
            webhook_local_addresses: false,
            max_message_mib: 16,
            log: "info".to_owned(),
        }
    }
}

/// The name of the scheduler's service, for sentences about it.
pub const SERVICE: &str = "trainyard-scheduler";

fn default_data_dir() -> PathBuf {
    match std::env::var_os("HOME") {
        Some(home) if !home.is_empty() => PathBuf::from(home).join(".local/share/trainyard/scheduler"),
        _ => "/var/lib/trainyard/scheduler".into(),
    }
}

/// A value that cannot be used, or two that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No address with a port.
    #[error("listen: `{0}` is no address with a port; write one such as `127.0.0.1:7433` or `[::]:7433`")]
    Listen(String),
    /// No URL that others can dial.
    #[error("advertise: `{0}` is no URL; write one such as `https://scheduler-1:7433`, or leave it empty")]
    Advertise(String),
    /// One of two keys that go together is set.
    #[error("{given}: is set without `{missing}`; give both, or neither")]
    Half { given: &'static str, missing: &'static str },
    /// A private server has no replicas.
    #[error("redis_replicas: is {0} without `redis_url`; the private Redis server has no replicas, use 0")]
    Replicas(u32),
    /// The lease is too short.
    #[error(
        "lease: {lease:?} is shorter than three heartbeats of {heartbeat:?}; lengthen `lease` or shorten `heartbeat`"
    )]
    Lease { lease: Duration, heartbeat: Duration },
    /// A user's limits that cannot be read.
    #[error("users: `{line}`: {problem}; write `NAME weight=2 running_gpus=4 queued_jobs=1000`")]
    User {
        line: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An option of `blob_url` that is none.
    #[error(
        "blob_options: item {0} is no option (it is not shown, as it may be a part of a secret); write `KEY=VALUE`, such \
         as `endpoint=http://minio:9000`"
    )]
    BlobOption(usize),
    /// A number out of range.
    #[error("{key}: is {value}; use {range}")]
    Range {
        key: &'static str,
        value: String,
        /// The values that would be right.
        range: &'static str,
    },
}

impl Config {
    /// The address to listen on.
    ///
    /// # Errors
    /// `listen` is none.
    pub fn address(&self) -> Result<SocketAddr, ConfigError> {
        let text = self.listen.replacen("localhost:", "127.0.0.1:", 1);
        text.parse().map_err(|_| ConfigError::Listen(self.listen.clone()))
    }

    /// Where the blobs are.
    pub fn blobs(&self) -> PathBuf {
        self.blob_dir.clone().unwrap_or_else(|| self.data_dir.join("blobs"))
    }

    /// The options of `blob_url` as pairs of key and value.
    ///
    /// # Errors
    /// An option is none.
    pub fn blob_options(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let parse = |(at, text): (usize, &String)| {
            let parts = text.split_once('=').filter(|(key, _)| !key.trim().is_empty());
            let owned = parts.map(|(key, value)| (key.trim().to_lowercase(), value.trim().to_owned()));
            owned.ok_or(ConfigError::BlobOption(at + 1))
        };
        self.blob_options.iter().enumerate().map(parse).collect()
    }

    /// Where the cluster's authority is kept.
    pub fn tls_dir(&self) -> PathBuf {
        self.tls_dir.clone().unwrap_or_else(|| self.data_dir.join("tls"))
    }

    /// Whether connections are encrypted and callers say who they are, given where it listens.
    pub fn is_secure(&self, listening: SocketAddr) -> bool {
        match self.security {
            SecurityMode::Auto => !listening.ip().is_loopback(),
            SecurityMode::On => true,
            SecurityMode::Off => false,
        }
    }

    /// The URL that others are told, given where it listens.
    pub fn advertised(&self, listening: SocketAddr) -> String {
        let scheme = if self.is_secure(listening) { "https" } else { "http" };
        if let Some((_, address)) = self.advertise.split_once("://") {
            return format!("{scheme}://{address}");
        }
        match hostname().filter(|_| listening.ip().is_unspecified()) {
            Some(name) => format!("{scheme}://{name}:{}", listening.port()),
            None => format!("{scheme}://{listening}"),
        }
    }

    /// The names and addresses that a certificate for this scheduler is for.
    pub fn certified_names(&self, listening: SocketAddr) -> Vec<String> {
        let advertised = self.advertise.split_once("://").map(|(_, address)| address);
        let advertised = advertised.and_then(|address| address.split(['/', ':']).next()).map(str::to_owned);
        let own = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|address| address.ip().to_string());
            v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().to_string()))
        });
        let listening = Some(listening.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
        let mut names: Vec<String> =
            own.into_iter().chain(hostname()).chain(advertised).chain(listening).collect();
        names.extend(addresses);
        names.extend(self.tls_names.iter().cloned());
        names.retain(|name| !name.is_empty() && name.is_ascii());
        names.sort();
        names.dedup();
        names
    }

    /// What is wrong with the configuration that types cannot rule out.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.address()?;
        let is_web = ["http://", "https://"].iter().any(|scheme| self.advertise.starts_with(scheme));
        let is_url = is_web && !self.advertise.contains([' ', ',']);
        if !self.advertise.is_empty() && !is_url {
            return Err(ConfigError::Advertise(masked(&self.advertise)));
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => return Err(ConfigError::Half { given: "tls_cert", missing: "tls_key" }),
            (None, Some(_)) => return Err(ConfigError::Half { given: "tls_key", missing: "tls_cert" }),
            (Some(_), Some(_)) | (None, None) => {}
        }
        let files = [("redis_password_file", &self.redis_password_file), ("redis_ca", &self.redis_ca)];
        if let Some((given, _)) =
            files.into_iter().find(|(_, file)| file.is_some() && self.redis_url.is_empty())
        {
            return Err(ConfigError::Half { given, missing: "redis_url" });
        }
        if let Some(file) = self.redis_ca.as_ref().filter(|_| !self.redis_url.starts_with("rediss")) {
            let way_out = "it with a `redis_url` that begins with `rediss`, or leave it out";
            return Err(ConfigError::Range {
                key: "redis_ca",
                value: file.display().to_string(),
                range: way_out,
            });
        }
        if self.redis_url.is_empty() && self.redis_replicas > 0 {
            return Err(ConfigError::Replicas(self.redis_replicas));
        }
        let range = |key, value, range| Err(ConfigError::Range { key, value, range });
        if self.heartbeat < Duration::from_millis(10) {
            return range("heartbeat", format!("{:?}", self.heartbeat), "at least 10ms");
        }
        if self.lease < self.heartbeat * 3 {
            return Err(ConfigError::Lease { lease: self.lease, heartbeat: self.heartbeat });
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(600)).contains(&self.leader_lease) {
            return range("leader_lease", format!("{:?}", self.leader_lease), "100ms to 10m");
        }
        if self.data_check_timeout > Duration::from_secs(60) {
            return range("data_check_timeout", format!("{:?}", self.data_check_timeout), "at most 1m");
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.webhook_timeout) {
            return range("webhook_timeout", format!("{:?}", self.webhook_timeout), "100ms to 1m");
        }
        if self.retry_delay_max < self.retry_delay {
            return range("retry_delay_max", format!("{:?}", self.retry_delay_max), "at least `retry_delay`");
        }
        if !(1..=1024).contains(&self.max_message_mib) {
            return range("max_message_mib", self.max_message_mib.to_string(), "1 to 1024");
        }
        if self.share_half_life < Duration::from_secs(1) {
            return range("share_half_life", format!("{:?}", self.share_half_life), "at least 1s");
        }
        for line in &self.users {
            parse_user(line, &self.user_limits())
                .map_err(|problem| ConfigError::User { line: line.clone(), problem })?;
        }
        if self.keep_agents_for < self.lease {
            return range("keep_agents_for", format!("{:?}", self.keep_agents_for), "at least `lease`");
        }
        if self.event_history < 100 {
            return range("event_history", self.event_history.to_string(), "at least 100");
        }
        Ok(())
    }

    /// The core's share. What cannot be read of `users` is left out: [`Config::validate`] has named it.
    pub fn core(&self) -> CoreConfig {
        let limits = self.user_limits();
        let users = self.users.iter().filter_map(|line| parse_user(line, &limits).ok());
        CoreConfig {
            lease: self.lease,
            heartbeat: self.heartbeat,
            retry_delay: self.retry_delay,
            retry_delay_max: self.retry_delay_max,
            share_half_life: self.share_half_life,
            users: users.collect(),
            user_limits: limits,
            keep_finished_for: self.keep_finished_for,
            keep_finished: self.keep_finished,
            keep_agents_for: self.keep_agents_for,
            policy: self.policy,
            patience: self.patience,
            ..CoreConfig::default()
        }
    }

    fn user_limits(&self) -> UserLimits {
        UserLimits { weight: 1, running_gpus: limit(self.running_gpus), queued_jobs: limit(self.queued_jobs) }
    }
}

/// What this machine is called.
pub fn hostname() -> Option<String> {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok())
}

fn limit(number: u32) -> Option<u32> {
    (number > 0).then_some(number)
}

/// Reads `NAME weight=2 running_gpus=4 queued_jobs=1000`.
fn parse_user(line: &str, usual: &UserLimits) -> Result<(String, UserLimits), String> {
    let mut words = line.split_whitespace();
    let name = words.next().filter(|name| !name.contains('=')).ok_or("has no name")?;
    let mut limits = usual.clone();
    for word in words {
        let (key, number) = word.split_once('=').ok_or_else(|| format!("`{word}` has no `=`"))?;
        let number: u32 = number.parse().map_err(|_| format!("`{number}` is no whole number"))?;
        match key {
            "weight" if (1..=1000).contains(&number) => limits.weight = number,
            "weight" => return Err(format!("a weight of {number} is not 1 to 1000")),
            "running_gpus" => limits.running_gpus = limit(number),
            "queued_jobs" => limits.queued_jobs = limit(number),
            _ => return Err(format!("`{key}` is neither weight, running_gpus nor queued_jobs")),
        }
    }
    Ok((name.to_owned(), limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn values_that_do_not_go_together_are_named_with_a_way_out() {
        let lease = Duration::from_secs(10);
        let table = [
            (Config { listen: "7433".into(), ..Config::default() }, "listen: `7433`"),
            (Config { lease, ..Config::default() }, "lease: 10s is shorter than three heartbeats"),
            (Config { max_message_mib: 0, ..Config::default() }, "max_message_mib: is 0; use 1 to 1024"),
        ];
        for (config, expected) in table {
            let text = config.validate().unwrap_err().to_string();
            assert!(text.starts_with(expected), "{text}");
        }
    }

    #[test]
    fn users_who_differ_are_read_from_a_line_each() {
        let users = vec!["ada weight=3 running_gpus=2".to_owned(), "bob queued_jobs=0".to_owned()];
        let config = Config { running_gpus: 4, users, ..Config::default() };
        assert_eq!(config.validate(), Ok(()));
        let core = config.core();
        let ada = UserLimits { weight: 3, running_gpus: Some(2), queued_jobs: Some(250_000) };
        let bob = UserLimits { weight: 1, running_gpus: Some(4), queued_jobs: None };
        assert_eq!(core.users, [("ada".to_owned(), ada), ("bob".to_owned(), bob)].into());
        for wrong in ["", "weight=1", "ada weight=0", "ada gpus=1", "ada weight"] {
            let config = Config { users: vec![wrong.into()], ..Config::default() };
            assert!(matches!(config.validate(), Err(ConfigError::User { .. })), "{wrong}");
        }
    }

    #[test]
    fn beyond_loopback_a_scheduler_is_secure_unless_told_otherwise() {
        let (near, far): (SocketAddr, SocketAddr) =
            ("127.0.0.1:1".parse().unwrap(), "10.0.0.1:1".parse().unwrap());
        let mode = |security| Config { security, ..Config::default() };
        let table = [
            (SecurityMode::Auto, [false, true]),
            (SecurityMode::On, [true, true]),
            (SecurityMode::Off, [false, false]),
        ];
        for (security, expected) in table {
            assert_eq!([near, far].map(|at| mode(security).is_secure(at)), expected, "{security:?}");
        }
        let config = Config { advertise: "http://lab-head:7433".into(), ..Config::default() };
        assert_eq!(config.advertised(far), "https://lab-head:7433");
        assert!(config.certified_names(far).contains(&"lab-head".to_owned()));
        let half = Config { tls_key: Some("k".into()), ..Config::default() };
        assert_eq!(
            half.validate().unwrap_err().to_string(),
            "tls_key: is set without `tls_cert`; give both, or neither"
        );
    }

    #[test]
    fn localhost_is_the_loopback_address() {
        let config = Config { listen: "localhost:0".into(), ..Config::default() };
        assert!(config.address().unwrap().ip().is_loopback());
    }
}
