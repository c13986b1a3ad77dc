//! What a trainer may use on this machine, by the agent's configuration and by what it is started for. The crate
//! `trainyard-confinement` holds it to that.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};
use trainyard_confinement::{Confinement, Ready, Support, machine};
use trainyard_types::environment::Child;

use super::libraries::{self, Program};
use crate::config::Config;
use crate::device::Device;

/// Where a system's programs are, for scripts.
const PROGRAMS: [&str; 2] = ["/usr", "/bin"];

/// Variables with folders or files of libraries, separated by colons or blanks (ld.so(8)).
const LIBRARY_VARIABLES: [&str; 2] = ["LD_LIBRARY_PATH", "LD_PRELOAD"];

/// What one trainer works with, beside what all do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Work {
    /// Files and folders that it reads: its spec, the data roots.
    pub read: Vec<PathBuf>,
    /// Folders that it writes: its run directory, the cache.
    pub write: Vec<PathBuf>,
}

/// How long opening all that is allowed may take: a share may have stopped answering just now.
const OPENED_WITHIN: Duration = Duration::from_secs(20);

/// The confinement of a trainer on `device`; `None` where the configuration wants none.
///
/// # Errors
/// The kernel refuses it, or a disk does not answer.
pub async fn ready(config: &Config, device: &Device, work: Work) -> io::Result<Option<Ready>> {
    if !config.confine_trainers {
        return Ok(None);
    }
    let (config, device) = (config.clone(), device.clone());
    let opening = spawn_blocking(move || describe(&config, &device, work).ready());
    match timeout(OPENED_WITHIN, opening).await {
        Ok(Ok(ready)) => ready.map(Some).map_err(io::Error::other),
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "what trainers may read (`data_roots`, `trainer_reads`, `cache_dir`) does not answer",
        )),
    }
}

/// What a trainer may use. Asks the disks.
fn describe(config: &Config, device: &Device, work: Work) -> Confinement {
    let with_gpus = matches!(device, Device::Gpu(_));
    let environment: Vec<(OsString, OsString)> = Child::Trainer.environment(env::vars_os()).collect();
    let mut confinement = Confinement {
        read: machine::reads(with_gpus),
        run: config.trainer_reads.clone(),
        write: machine::writes(with_gpus),
        devices: machine::devices(with_gpus),
    };
    confinement.read.extend(named_libraries(&environment));
    // A script mostly sets something and executes the trainer that came with the agent.
    for program in BTreeSet::from([config.trainer(), Config::own_trainer()]) {
        match Program::of(&program) {
            Program::Script(interpreter) => {
                confinement.run.extend(PROGRAMS.map(PathBuf::from));
                confinement.run.push(interpreter);
            }
            Program::Loaded(loader) => {
                confinement.read.extend(libraries::needed(&loader, &program, &environment));
                confinement.run.push(loader);
            }
            Program::Other => {}
        }
        confinement.run.push(program);
    }
    confinement.write.extend(config.trainer_writes.iter().cloned().chain(work.write));
    confinement.read.extend(work.read);
    confinement
}

/// The libraries that the environment names.
fn named_libraries(environment: &[(OsString, OsString)]) -> Vec<PathBuf> {
    let named = environment
        .iter()
        .filter(|(name, _)| LIBRARY_VARIABLES.iter().any(|known| name == OsStr::new(known)));
    let paths = named.flat_map(|(_, value)| {
        let text = value.to_string_lossy();
        text.split([':', ' ', '\n']).map(PathBuf::from).collect::<Vec<_>>()
    });
    let absolute = paths.filter(|path| path.is_absolute());
    absolute
        .flat_map(|path| if path.is_dir() { libraries::libraries_in(&path) } else { vec![path] })
        .collect()
}

/// Says once, at the agent's start, what this machine cannot hold trainers to.
pub fn warn_of_gaps(config: &Config) {
    if !config.confine_trainers {
        info!("`confine_trainers` is off: trainers may do all that the agent's user may");
        return;
    }
    let support = Support::of_kernel();
    if let Some(complaint) = support.complaint() {
        warn!(landlock = support.landlock, seccomp = support.seccomp, "{complaint}");
    }
}

/// Makes the device of the driver's shared memory, where it is missing. Its library would make it at the first call, by a
/// program of root's, which a confined process cannot start.
pub fn make_gpu_devices(config: &Config) {
    let there = |name: &str| Path::new(name).exists();
    if config.confine_trainers && there("/dev/nvidiactl") && !there("/dev/nvidia-uvm") {
        let made = std::process::Command::new("nvidia-modprobe").args(["-c", "0", "-u"]).status();
        match made {
            Ok(status) if status.success() => {}
            Ok(status) => warn!(%status, "nvidia-modprobe cannot make /dev/nvidia-uvm; GPUs may not start"),
            Err(error) => warn!(%error, "nvidia-modprobe does not start, and /dev/nvidia-uvm is missing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use trainyard_types::GpuUuid;

    use super::*;

    fn described(device: &Device) -> Confinement {
        let config = Config {
            data_dir: "/agent".into(),
            trainer: Some("/bin/sh".into()),
            trainer_reads: vec!["/opt/torch".into()],
            trainer_writes: vec!["/scratch".into()],
            ..Config::default()
        };
        let work =
            Work { read: vec!["/agent/jobs/7/spec.json".into()], write: vec!["/agent/jobs/7/run".into()] };
        describe(&config, device, work)
    }

    #[test]
    fn a_job_gets_what_is_its_own_and_nothing_of_the_agents_or_of_other_jobs() {
        let described = described(&Device::Cpu);
        let all = [&described.read, &described.run, &described.write, &described.devices];
        let of_agent: Vec<&PathBuf> =
            all.into_iter().flatten().filter(|path| path.starts_with("/agent")).collect();
        assert_eq!(of_agent, ["/agent/jobs/7/spec.json", "/agent/jobs/7/run"].map(Path::new));
        assert_eq!(described.write, ["/scratch", "/agent/jobs/7/run"].map(PathBuf::from));
        assert!(described.run.contains(&"/opt/torch".into()) && described.run.contains(&"/bin/sh".into()));
        for secret in ["/", "/etc", "/home", "/root", "/proc", "/dev", "/run", "/tmp", "/var"] {
            assert!(!described.read.contains(&secret.into()), "{secret}");
        }
    }

    #[test]
    fn only_a_trainer_on_a_gpu_gets_devices_of_gpus_and_shared_memory() {
        let (gpu, cpu) = (described(&Device::Gpu(GpuUuid("GPU-1".into()))), described(&Device::Cpu));
        assert!(gpu.write.contains(&"/dev/shm".into()) && !cpu.write.contains(&"/dev/shm".into()));
        assert!(cpu.devices.contains(&"/dev/null".into()));
        let names = |confinement: &Confinement| {
            confinement.devices.iter().filter(|path| path.to_string_lossy().contains("nvidia")).count()
        };
        assert_eq!(names(&cpu), 0);
    }

    #[test]
    fn libraries_that_the_environment_names_are_found() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["liba.so.1", "b.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let folder = folder.path().as_os_str().to_owned();
        let mut path = folder.clone();
        path.push(":relative");
        let found = named_libraries(&[("LD_LIBRARY_PATH".into(), path), ("HOME".into(), "/root".into())]);
        assert_eq!(found, [Path::new(&folder).join("liba.so.1")]);
    }
}
