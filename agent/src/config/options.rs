//! The agent's flags, and how the effective configuration is put together.

use std::path::PathBuf;

use clap::Args;
use trainyard_config::{Effective, LoadError, Sources};
use trainyard_service::installed;

use super::Config;

/// Flags; each wins over the environment and the file.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Configuration file, TOML [default: /etc/trainyard/agent.toml where root runs this and it is there].
    #[arg(long, value_name = "FILE", env = "TRAINYARD_AGENT_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// URL of the scheduler, or of several with commas between [default: the one that was joined, or
    /// http://127.0.0.1:7433].
    #[arg(long, value_name = "URL", global = true)]
    pub scheduler: Option<String>,
    /// What people call this agent [default: the host's name].
    #[arg(long, global = true)]
    pub name: Option<String>,
    /// A user who may reserve and drain this agent; repeat for more.
    #[arg(long = "owner", alias = "owners", value_name = "NAME", global = true)]
    pub owners: Vec<String>,
    /// File with a token to join with, as soon as there is no certificate.
    #[arg(long, value_name = "FILE", global = true)]
    pub join_token_file: Option<PathBuf>,
    /// Authorities that certify the scheduler, PEM [default: the cluster's own, by the token].
    #[arg(long, value_name = "FILE", global = true)]
    pub ca: Option<PathBuf>,
    /// Directory for identity, certificate, jobs and spools.
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Directory for decoded images, and for data sets and weights that are fetched [default: `cache` in the data
    /// directory].
    #[arg(long, value_name = "DIR", global = true)]
    pub cache_dir: Option<PathBuf>,
    /// GiB that decoded images may take; those used longest ago go first [default: half of the disk].
    #[arg(long, value_name = "N", global = true)]
    pub cache_quota_gib: Option<u32>,
    /// GiB that data sets and weights of the cluster's store may take; those used longest ago go first [default: a
    /// quarter of the disk].
    #[arg(long, value_name = "N", global = true)]
    pub fetched_quota_gib: Option<u32>,
    /// GiB of that disk that stay free [default: a twentieth of it, at most 10].
    #[arg(long, value_name = "N", global = true)]
    pub cache_floor_gib: Option<u32>,
    /// MiB that the reports of one attempt may take on disk while no scheduler takes them [default: 32].
    #[arg(long, value_name = "N", global = true)]
    pub spool_quota_mib: Option<u32>,
    /// GiB that jobs' directories may take; those used longest ago go first [default: 50].
    #[arg(long, value_name = "N", global = true)]
    pub jobs_quota_gib: Option<u32>,
    /// MiB of the data directory's disk that stay free; below, no new jobs come [default: 1024].
    #[arg(long, value_name = "N", global = true)]
    pub disk_floor_mib: Option<u32>,
    /// Control group (version 2) for trainers' own [default: the agent's, if nobody else is in it].
    #[arg(long, value_name = "DIR", global = true)]
    pub cgroup: Option<PathBuf>,
    /// The trainer's binary [default: trainyard-trainer beside this one].
    #[arg(long, value_name = "FILE", global = true)]
    pub trainer: Option<PathBuf>,
    /// NVML's library [default: the driver's].
    #[arg(long, value_name = "FILE", global = true)]
    pub nvml_library: Option<PathBuf>,
    /// Jobs that may train on the CPU at a time [default: 0].
    #[arg(long, value_name = "N", global = true)]
    pub cpu_slots: Option<u32>,
    /// A directory that jobs may read data sets from; repeat for more.
    #[arg(long = "data-root", alias = "data-roots", value_name = "DIR", global = true)]
    pub data_roots: Vec<PathBuf>,
    /// Address where Prometheus scrapes this agent; empty is nowhere [default: 127.0.0.1:9433].
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub metrics_listen: Option<String>,
    /// Time from SIGTERM to SIGKILL of a trainer [default: 30s].
    #[arg(long, value_name = "TIME", global = true)]
    pub stop_grace: Option<String>,
    /// Time to hand jobs back when the agent is stopped [default: 90s].
    #[arg(long, value_name = "TIME", global = true)]
    pub shutdown_grace: Option<String>,
    /// How often a running job's checkpoint is uploaded at most [default: 5m].
    #[arg(long, value_name = "TIME", global = true)]
    pub checkpoint_upload_every: Option<String>,
    /// After how long without progress a trainer has stalled [default: 5m].
    #[arg(long, value_name = "TIME", global = true)]
    pub stall_after: Option<String>,
    /// Whether each device does one tiny step before it takes jobs [default: true].
    #[arg(long, value_name = "BOOL", global = true)]
    pub self_test: Option<bool>,
}

impl Options {
    /// The file that is read: the named one, or for root the installed one.
    pub fn file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| installed::configuration("agent.toml"))
    }

    /// The effective configuration: defaults, file, environment, these flags.
    ///
    /// # Errors
    /// An unknown key, an unreadable file, a value of the wrong type.
    pub fn load(&self) -> Result<Effective<Config>, LoadError> {
        let text = |path: &Option<PathBuf>| path.as_deref().map(|path| path.to_string_lossy().into_owned());
        let roots: Vec<String> =
            self.data_roots.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        Sources::new("TRAINYARD_AGENT")
            .file(self.file().as_deref())
            .process_environment()
            .flag("scheduler", self.scheduler.clone())
            .flag("name", self.name.clone())
            .flag("owners", (!self.owners.is_empty()).then(|| self.owners.clone()))
            .flag("join_token_file", text(&self.join_token_file))
            .flag("ca", text(&self.ca))
            .flag("data_dir", text(&self.data_dir))
            .flag("cache_dir", text(&self.cache_dir))
            .flag("cache_quota_gib", self.cache_quota_gib)
            .flag("fetched_quota_gib", self.fetched_quota_gib)
            .flag("cache_floor_gib", self.cache_floor_gib)
            .flag("spool_quota_mib", self.spool_quota_mib)
            .flag("jobs_quota_gib", self.jobs_quota_gib)
            .flag("disk_floor_mib", self.disk_floor_mib)
            .flag("cgroup", text(&self.cgroup))
            .flag("trainer", text(&self.trainer))
            .flag("nvml_library", text(&self.nvml_library))
            .flag("cpu_slots", self.cpu_slots)
            .flag("data_roots", (!roots.is_empty()).then_some(roots))
            .flag("metrics_listen", self.metrics_listen.clone())
            .flag("stop_grace", self.stop_grace.clone())
            .flag("shutdown_grace", self.shutdown_grace.clone())
            .flag("checkpoint_upload_every", self.checkpoint_upload_every.clone())
            .flag("stall_after", self.stall_after.clone())
            .flag("self_test", self.self_test)
            .load()
    }
}
