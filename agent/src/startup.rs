//! What happens before the agent's tasks run: the data directory is locked, what a former process has left is ended, the
//! GPUs are found.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};
use trainyard_config::Effective;
use trainyard_files::{create_private_folder, keep_folder_private};
use trainyard_service::{ServiceManager, installed};
use trainyard_types::Inventory;

use crate::config::Config;
use crate::content::move_decoded;
use crate::disk::job_dir;
use crate::enrolment::{self, Credentials, EnrolmentSettings, JoinRequest, Renewal};
use crate::gpu::GpuProbe;
use crate::gpu::monitor::{Found, LONGEST_CALL, start_finding};
use crate::gpu::quarantine::{QuarantineStore, boot_id};
use crate::gpu::states::GpuStates;
use crate::host::Host;
use crate::identity::Identity;
use crate::message::Readings;
use crate::trainer::confinement;
use crate::trainer::control_groups::ControlGroups;
use crate::trainer::leftovers;

/// What is known before any task runs.
pub struct Started {
    /// The agent's configuration.
    pub config: Arc<Config>,
    /// Keeps a second agent out of the data directory.
    pub lock: File,
    /// The agent's identity.
    pub identity: Identity,
    /// The credentials that connections are made with.
    pub credentials: watch::Receiver<Credentials>,
    /// Renews the agent's certificate, if it has one.
    pub renewal: Option<Renewal>,
    /// Where trainers' control groups are made; `None` where they have process groups only.
    pub groups: Option<ControlGroups>,
    /// What a person should know of the machine, a sentence each.
    pub notices: Vec<String>,
    /// The machine's main memory and processors.
    pub host: Host,
    /// The machine's GPUs.
    pub gpus: GpuStates,
    /// What the machine offers.
    pub readings: Readings,
}

/// Makes the data directory this process' own and finds out what the machine has.
///
/// # Errors
/// The data directory cannot be used, or another agent uses it.
pub async fn start(
    config: Config,
    probe: &Arc<dyn GpuProbe>,
    service: &ServiceManager,
) -> anyhow::Result<Started> {
    let config = Arc::new(config);
    make_data_dir(&config)?;
    let lock = lock(&config.data_dir)?;
    close_folders(&config);
    let identity = load_identity(&config)?;
    warn_of_gaps(&config);
    // Before the GPUs are read: what a former agent's trainers left counts as no other process.
    let (groups, notices) = end_leftovers(&config, identity.owner()).await;
    let host = Host::new(groups.as_ref().map(ControlGroups::folder));
    let (gpus, readings) = find_gpus(probe, &config, &host).await?;
    if !gpus.gpus().is_empty() {
        let make = {
            let config = Arc::clone(&config);
            move || confinement::make_gpu_devices(&config)
        };
        let made = timeout(LONGEST_CALL, tokio::task::spawn_blocking(make)).await;
        if made.is_err() {
            warn!("nvidia-modprobe does not end: the driver hangs");
        }
    }
    // Not only when a scheduler answers: it may be away for days, and starting the agent again would not help.
    service.ready();
    let tell_problem = |problem: &str| service.status(&format!("not joined: {problem}"));
    let prepare = enrolment::prepare(enrolment_settings(&config), &identity, &tell_problem);
    let (credentials, renewal) = service.watchdog().during(prepare).await?;
    Ok(Started { config, lock, identity, credentials, renewal, groups, notices, host, gpus, readings })
}

fn make_data_dir(config: &Config) -> anyhow::Result<()> {
    create_private_folder(&config.data_dir).map_err(|error| {
        let way_out = installed::way_to_write("trainyard-agent", &config.data_dir, &error);
        anyhow::anyhow!("cannot make `data_dir` {}: {error}; {way_out}", config.data_dir.display())
    })
}

/// Closes what is in the data directory to other users of the machine, for directories that somebody has opened, or that
/// an older build made. Where that fails the self-test tells whether they can be used.
fn close_folders(config: &Config) {
    let mut folders = vec![config.data_dir.join("jobs")];
    folders.extend(job_dir::folders(&config.data_dir));
    if config.cache_dir.is_none() {
        folders.push(config.cache_dir());
    }
    move_decoded(&config.cache_dir(), &config.decoded_dir());
    for folder in folders {
        if let Err(error) = keep_folder_private(&folder) {
            warn!(path = %folder.display(), %error, "a folder cannot be closed to other users of this machine");
        }
    }
}

fn load_identity(config: &Config) -> anyhow::Result<Identity> {
    let holds_jobs = !job_dir::spooled_attempts(&config.data_dir).is_empty();
    Identity::load(&config.data_dir, &config.machine_id_file, holds_jobs)
}

fn enrolment_settings(config: &Config) -> EnrolmentSettings {
    EnrolmentSettings {
        schedulers: config.schedulers(),
        follows_join: config.follows_join,
        name: config.name.clone(),
        data_dir: config.data_dir.clone(),
        ca: config.ca.clone(),
        join_token_file: config.join_token_file(),
    }
}

/// Takes the scheduler that this machine has joined, if the configuration names none.
pub fn use_joined_scheduler(effective: &mut Effective<Config>) {
    let Some(setting) = effective.settings.iter_mut().find(|setting| setting.key == "scheduler") else {
        return;
    };
    if setting.source != "default" {
        return;
    }
    effective.value.follows_join = true;
    if let Some(scheduler) = enrolment::joined_scheduler(&effective.value.data_dir) {
        setting.value = Some(serde_json::Value::from(scheduler.as_str()).to_string());
        setting.source = format!("file {}", enrolment::record_path(&effective.value.data_dir).display());
        effective.value.scheduler = scheduler;
    }
}

/// Refuses to join for an ordinary user where the machine's own service is installed: root joins for that one, and another
/// agent would use the token up. Who names files of their own means another agent. `installed` is the service's
/// configuration.
///
/// # Errors
/// The service is most likely meant.
pub fn check_who_joins(
    effective: &Effective<Config>,
    names_file: bool,
    is_root: bool,
    installed: &Path,
    addresses: &str,
) -> anyhow::Result<()> {
    let own =
        effective.settings.iter().any(|setting| setting.key == "data_dir" && setting.source != "default");
    if is_root || names_file || own || !installed.is_file() {
        return Ok(());
    }
    bail!(
        "trainyard-agent is installed as a service of this machine, and root joins for it: run `sudo trainyard-agent join \
         {addresses}`; for another agent, of your own, name its folder with `--data-dir`"
    )
}

/// Joins a cluster, and says what came of it. Also says whether the cluster is new to this machine.
///
/// # Errors
/// An address that cannot be joined, a scheduler that refuses, or the disk's.
pub async fn join(
    config: &Config,
    addresses: &str,
    token: trainyard_access::Token,
) -> anyhow::Result<(String, bool)> {
    let schedulers = enrolment::addresses(addresses)?;
    make_data_dir(config)?;
    let identity = load_identity(config)?;
    enrolment::give_identity_to_owner(&config.data_dir);
    let agent = identity.agent();
    let (name, data_dir, ca) = (config.name.clone(), config.data_dir.clone(), config.ca.clone());
    let request = JoinRequest { schedulers, token, agent, name, data_dir, ca };
    let (joined, had_joined) = enrolment::join(&request).await?;
    let (scheduler, expires) = (&joined.record.scheduler, joined.record.expire_time);
    let what = if had_joined {
        "had joined before; its certificate is new, and the token was not used"
    } else {
        "has joined"
    };
    let mut said = format!(
        "{} {what}: {scheduler}, as agent {agent}; its certificate counts until {expires} and is renewed by itself",
        config.name
    );
    if !config.follows_join && config.schedulers() != request.schedulers {
        said.push_str(&format!(
            "\nbut `scheduler` is set to `{}`, and counts before what was joined: change or remove it",
            config.scheduler
        ));
    }
    Ok((said, !had_joined))
}

/// Keeps a second agent out of the data directory for as long as the file is held.
fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("agent.lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another agent uses {}; give each its own `data_dir`", data_dir.display())
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Warns early of what would otherwise end the first job.
fn warn_of_gaps(config: &Config) {
    let trainer = config.trainer();
    if !trainer.is_file() {
        warn!(trainer = %trainer.display(), "there is no trainer at `trainer`; no jobs come until there is");
    }
    if config.data_roots.is_empty() {
        info!(
            "`data_roots` is empty: jobs train on pushed data sets here, and on none that is named by a path"
        );
    }
    confinement::warn_of_gaps(config);
    if let Some(kind) = installed::network_file_system(&config.data_dir) {
        warn!(
            data_dir = %config.data_dir.display(),
            "`data_dir` is on {kind}: identity and jobs are this machine's alone, and a share that hangs stops them; use a \
             local disk"
        );
    }
}

/// Ends what a former process of this agent has left running, and removes what it has left half-written.
/// Returns where trainers' control groups are made, and what a person should know of them.
async fn end_leftovers(config: &Arc<Config>, owner: String) -> (Option<ControlGroups>, Vec<String>) {
    let config = Arc::clone(config);
    let end = move || {
        let (groups, notices) = match ControlGroups::find(config.cgroup.as_deref()) {
            Ok(groups) => (groups, Vec::new()),
            Err(problem) => {
                warn!("{problem}");
                (None, vec![problem])
            }
        };
        if let Some(groups) = &groups {
            groups.end_leftovers();
        }
        let ended = leftovers::end(&owner);
        if ended > 0 {
            warn!(ended, "a former agent's trainers left processes behind: they were killed");
        }
        job_dir::remove_unfinished(&config.data_dir);
        (groups, notices)
    };
    tokio::task::spawn_blocking(end).await.unwrap_or_default()
}

/// The GPUs that there are and what the machine offers. A GPU that stops answering keeps its place and loses its readings;
/// one that answers only later is taken in then. A driver that hangs is given up after a while.
async fn find_gpus(
    probe: &Arc<dyn GpuProbe>,
    config: &Config,
    host: &Host,
) -> anyhow::Result<(GpuStates, Readings)> {
    let Found { gpus, driver_version } = match timeout(LONGEST_CALL, start_finding(probe)).await {
        Ok(found) => found.context("cannot look for GPUs")?,
        Err(_) => {
            warn!("the driver hangs: no GPUs until it answers");
            Found::default()
        }
    };
    let (rules, data_dir) = (config.rules(), config.data_dir.clone());
    let read = tokio::task::spawn_blocking(move || (QuarantineStore::load(&data_dir), boot_id())).await;
    let (quarantine, boot_id) = read.context("cannot read which GPUs have failed")?;
    let gpus = GpuStates::new(rules, gpus, quarantine, boot_id);
    let inventory = Inventory {
        gpus: gpus.gpus(),
        cpu_slots: config.cpu_slots,
        memory_total_mib: host.memory_total_mib(),
        driver_version,
    };
    Ok((gpus, Readings { inventory, ..Readings::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_user_is_sent_to_root_where_the_service_is_installed_unless_another_agent_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let installed = dir.path().join("agent.toml");
        let load = |data_dir: Option<&str>| {
            let sources = trainyard_config::Sources::new("TRAINYARD_AGENT").flag("data_dir", data_dir);
            sources.load::<Config>().unwrap()
        };
        let check = |data_dir, names_file, is_root| {
            check_who_joins(&load(data_dir), names_file, is_root, &installed, "lab:7433")
        };
        assert!(check(None, false, false).is_ok(), "no service is installed");
        std::fs::write(&installed, "").unwrap();
        let refused = check(None, false, false).unwrap_err().to_string();
        assert!(refused.contains("`sudo trainyard-agent join lab:7433`"), "{refused}");
        assert!(check(None, false, true).is_ok() && check(None, true, false).is_ok());
        assert!(check(Some("/home/ada/agent"), false, false).is_ok());
    }
}
