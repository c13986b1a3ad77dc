//! The agent's configuration: every key and its default, stated once.

mod options;

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trainyard_proto::route::parse_list;

use crate::disk::space;
use crate::gpu::owner_mode::OwnerModeConfig;
use crate::gpu::states::{GpuRules, HealthConfig};
pub use options::Options;

/// What the agent runs with. See [`Options`] for the flags of the same names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// URL of the scheduler, or of several, separated by commas.
    pub scheduler: String,
    /// Whether nobody set `scheduler`, so that it is whatever the machine has joined. No key.
    #[serde(skip)]
    pub follows_join: bool,
    /// The agent's name for people.
    pub name: String,
    /// Users who may reserve and drain this agent, beside admins.
    pub owners: Vec<String>,
    /// Directory of identity, certificate, jobs and spools.
    pub data_dir: PathBuf,
    /// File with a token to join with, as soon as there is no certificate.
    pub join_token_file: Option<PathBuf>,
    /// PEM file of authorities that certify the scheduler, where it is not the cluster's own.
    pub ca: Option<PathBuf>,
    /// Directory of decoded images, and of data sets and weights that were fetched; `cache` in `data_dir` when unset.
    pub cache_dir: Option<PathBuf>,
    /// GiB that decoded images may take; half of the disk when unset.
    pub cache_quota_gib: Option<u32>,
    /// GiB that data sets and weights of the cluster's store may take; a quarter of the disk when unset.
    pub fetched_quota_gib: Option<u32>,
    /// GiB of that disk that stay free; a twentieth of it, at most 10, when unset.
    pub cache_floor_gib: Option<u32>,
    /// MiB that the reports of one attempt may take on disk while no scheduler takes them; then they are
    /// thinned out.
    pub spool_quota_mib: u32,
    /// GiB that jobs' directories may take; those of jobs that are over, used longest ago, go first.
    pub jobs_quota_gib: u32,
    /// MiB of the disk of `data_dir` that stay free; below, no new jobs come.
    pub disk_floor_mib: u32,
    /// Control group (version 2) in which each trainer gets one of its own; the agent's own when unset, if nobody
    /// else is in it.
    pub cgroup: Option<PathBuf>,
    /// The trainer's binary; beside the agent's own when unset.
    pub trainer: Option<PathBuf>,
    /// Whether trainers are kept to what their jobs need of this machine.
    pub confine_trainers: bool,
    /// What they may read and execute beside that: a folder of libraries, the trainer that a script in `trainer` executes.
    pub trainer_reads: Vec<PathBuf>,
    /// What they may write beside that.
    pub trainer_writes: Vec<PathBuf>,
    /// NVML's library; the driver's own when unset.
    pub nvml_library: Option<PathBuf>,
    /// Jobs that may train on the CPU at a time.
    pub cpu_slots: u32,
    /// Directories that jobs may read data sets from; none means that no job may read any.
    pub data_roots: Vec<PathBuf>,
    /// Where Prometheus scrapes this agent; empty is nowhere.
    pub metrics_listen: String,
    /// Memory that other processes may hold on a GPU that takes jobs, in MiB.
    #[serde(rename = "foreign_memory_allowance_mib")]
    pub others_memory_allowance_mib: u64,
    /// When jobs leave GPUs to their owner.
    #[serde(rename = "guest")]
    pub owner_mode: OwnerModeConfig,
    /// How failed GPUs are treated.
    pub health: HealthConfig,
    /// From SIGTERM to SIGKILL of a trainer.
    #[serde(with = "humantime_serde")]
    pub stop_grace: Duration,
    /// From SIGTERM to the agent until it gives up on handing its jobs back.
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
    /// At most so often a running job's checkpoint is uploaded.
    #[serde(with = "humantime_serde")]
    pub checkpoint_upload_every: Duration,
    /// A trainer, or a transfer, that shows no progress for so long has stalled; one that starts or scans a data set
    /// may take three times as long, and one that has shown longer pauses twenty times those.
    #[serde(with = "humantime_serde")]
    pub stall_after: Duration,
    /// Whether each device does one tiny step before it takes jobs.
    pub self_test: bool,
    /// How long that step may take.
    #[serde(with = "humantime_serde")]
    pub self_test_limit: Duration,
    /// What is logged: `info`, or directives such as `warn,trainyard_agent=debug`.
    pub log: String,
    /// What names this machine, so that a copied `data_dir` gets an identity of its own.
    pub machine_id_file: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        let name = hostname::get().ok().and_then(|name| name.into_string().ok());
        Self {
            scheduler: "http://127.0.0.1:7433".into(),
            follows_join: false,
            name: name.filter(|name| !name.is_empty()).unwrap_or_else(|| "agent".into()),
            owners: Vec::new(),
            data_dir: default_data_dir(),
            join_token_file: None,
            ca: None,
            cache_dir: None,
            cache_quota_gib: None,
            fetched_quota_gib: None,
            cache_floor_gib: None,
            spool_quota_mib: 32,
            jobs_quota_gib: 50,
            disk_floor_mib: 1024,
            cgroup: None,
            trainer: None,
            confine_trainers: true,
            trainer_reads: Vec::new(),
            trainer_writes: Vec::new(),
            nvml_library: None,
            cpu_slots: 0,
            data_roots: Vec::new(),
            metrics_listen: "127.0.0.1:9433".into(),
            others_memory_allowance_mib: 1024,
            owner_mode: OwnerModeConfig::default(),
            health: HealthConfig::default(),
            stop_grace: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(90),
            checkpoint_upload_every: Duration::from_secs(300),
            stall_after: Duration::from_secs(300),
            self_test: true,
            self_test_limit: Duration::from_secs(60),
            log: "info".into(),
            machine_id_file: "/etc/machine-id".into(),
        }
    }
}

/// The longest that handing jobs back may take.
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(3600);

/// The folder that a variable names; an empty one names none.
fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn default_data_dir() -> PathBuf {
    folder("XDG_DATA_HOME")
        .or_else(|| Some(folder("HOME")?.join(".local/share")))
        .unwrap_or_else(|| "/var/lib".into())
        .join("trainyard/agent")
}

impl Config {
    /// Where decoded images, and data sets and weights that were fetched, are kept.
    pub fn cache_dir(&self) -> PathBuf {
        self.cache_dir.clone().unwrap_or_else(|| self.data_dir.join("cache"))
    }

    /// Where decoded images are kept: trainers write there, and nowhere else in `cache_dir`.
    pub fn decoded_dir(&self) -> PathBuf {
        self.cache_dir().join("decoded")
    }

    /// What jobs' directories may take.
    pub fn disk_limits(&self) -> space::Limits {
        space::Limits {
            quota: u64::from(self.jobs_quota_gib) << 30,
            floor: u64::from(self.disk_floor_mib) << 20,
        }
    }

    /// Why the disk of the data directory takes no job now, a sentence; `None` when it does.
    pub fn disk_shortage(&self) -> Option<String> {
        space::shortage(&self.data_dir, self.disk_limits().floor)
    }

    /// The trainer's binary.
    pub fn trainer(&self) -> PathBuf {
        self.trainer.clone().unwrap_or_else(Self::own_trainer)
    }

    /// The trainer's binary that came with the agent.
    pub fn own_trainer() -> PathBuf {
        let beside = || env::current_exe().ok()?.parent().map(|folder| folder.join("trainyard-trainer"));
        beside().unwrap_or_else(|| "trainyard-trainer".into())
    }

    /// Bytes that one attempt's reports may take.
    pub fn spool_quota_bytes(&self) -> u64 {
        u64::from(self.spool_quota_mib) << 20
    }

    /// How GPUs are treated.
    pub fn rules(&self) -> GpuRules {
        GpuRules {
            owner_mode: self.owner_mode.clone(),
            others_memory_allowance_mib: self.others_memory_allowance_mib,
            health: self.health.clone(),
        }
    }

    /// The file with a token to join with: the configured one, or else systemd's credential of that name.
    pub fn join_token_file(&self) -> Option<PathBuf> {
        let credential = || Some(folder("CREDENTIALS_DIRECTORY")?.join("join-token"));
        self.join_token_file.clone().or_else(|| credential().filter(|file| file.is_file()))
    }

    /// What is logged: by `RUST_LOG` where that is set, and else by `log`.
    pub fn log(&self) -> String {
        env::var("RUST_LOG").ok().filter(|text| !text.is_empty()).unwrap_or_else(|| self.log.clone())
    }

    /// The schedulers' URLs.
    pub fn schedulers(&self) -> Vec<String> {
        parse_list(&self.scheduler).map(str::to_owned).collect()
    }

    /// What is wrong with the values together, for a person.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let schedulers = self.schedulers();
        let is_url = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        if schedulers.is_empty() || !schedulers.iter().all(is_url) {
            let text = format!(
                "`scheduler` is `{}`; use a URL such as http://127.0.0.1:7433 or https://lab-head:7433, or several with \
                 commas between",
                self.scheduler
            );
            found.push(text);
        }
        if let Some(file) = &self.join_token_file
            && !schedulers.iter().any(|url| url.starts_with("https://"))
        {
            found.push(format!(
                "`join_token_file` is `{}`, and `scheduler` is `{}`, which is not encrypted; use a https:// URL",
                file.display(),
                self.scheduler
            ));
        }
        if let Some(owner) = self.owners.iter().find(|owner| owner.is_empty() || owner.len() > 255) {
            found.push(format!("`owners` has a name of {} bytes; use 1 to 255", owner.len()));
        }
        if self.owners.len() > 256 {
            found.push(format!("`owners` has {} names; use at most 256", self.owners.len()));
        }
        if self.shutdown_grace > LONGEST_SHUTDOWN {
            found.push(format!(
                "`shutdown_grace` is {}; use at most 1h: nothing waits longer for a service that stops",
                humantime_serde::re::humantime::format_duration(self.shutdown_grace)
            ));
        }
        if self.name.is_empty() || self.name.len() > 255 {
            found.push(format!("`name` has {} bytes; use 1 to 255", self.name.len()));
        }
        // With 0, no report and no pushed data set would ever fit.
        let quotas =
            [("spool_quota_mib", Some(self.spool_quota_mib)), ("fetched_quota_gib", self.fetched_quota_gib)];
        for (key, _) in quotas.iter().filter(|(_, quota)| *quota == Some(0)) {
            found.push(format!("`{key}` is 0; use at least 1, or leave it out for the default"));
        }
        if self.cpu_slots > 1024 {
            found.push(format!("`cpu_slots` is {}; use at most 1024", self.cpu_slots));
        }
        for (key, span) in [("stall_after", self.stall_after), ("self_test_limit", self.self_test_limit)] {
            if span < Duration::from_secs(1) {
                found.push(format!(
                    "`{key}` is {}; use at least 1s",
                    humantime_serde::re::humantime::format_duration(span)
                ));
            }
        }
        found.extend(self.owner_mode.problems());
        let paths = [
            ("data_roots", &self.data_roots),
            ("trainer_reads", &self.trainer_reads),
            ("trainer_writes", &self.trainer_writes),
        ];
        for (key, path) in
            paths.into_iter().flat_map(|(key, paths)| paths.iter().map(move |path| (key, path)))
        {
            if !path.is_absolute() {
                found.push(format!("`{key}` has `{}`; use absolute paths", path.display()));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_survive_their_own_printing() {
        assert_eq!(Config::default().problems(), Vec::<String>::new());
        let text = serde_json::to_string(&Config::default()).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), Config::default());
    }

    #[test]
    fn every_unsound_value_is_named() {
        let config = Config {
            scheduler: "localhost:7433".into(),
            data_roots: vec!["data".into()],
            owners: vec![String::new()],
            join_token_file: Some("/run/token".into()),
            fetched_quota_gib: Some(0),
            ..Config::default()
        };
        let problems = config.problems().join("\n");
        for key in
            ["`scheduler` is", "`data_roots`", "`owners`", "`join_token_file` is", "`fetched_quota_gib` is 0"]
        {
            assert!(problems.contains(key), "{problems}");
        }
    }
}
