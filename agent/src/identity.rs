//! The agent's identity: made once, and bound to the machine, so that a copied disk does not make two machines one.
//!
//! The machine is known by its machine-id, which is nobody else's business: only a hash of it with a secret of this
//! data directory is kept.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{info, warn};
use trainyard_files::{open_to_others, write_private};
use trainyard_types::AgentId;
use uuid::Uuid;

/// The identity's file in `data_dir`.
const FILE: &str = "identity.json";

/// The file that held it in older builds, for which it is still written.
const OLD_FILE: &str = "agent-id";

/// What the identity's file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    agent: AgentId,
    /// A random text, made with the identity.
    secret: String,
    /// Hash of machine-id and secret; empty on a machine without one.
    machine: String,
}

impl Record {
    fn new(machine_id: &str) -> Self {
        Self::of(AgentId(Uuid::new_v4()), machine_id)
    }

    fn of(agent: AgentId, machine_id: &str) -> Self {
        let secret = Uuid::new_v4().simple().to_string();
        let machine = machine_hash(&secret, machine_id);
        Self { agent, secret, machine }
    }

    /// Whether it was made on another machine, as far as that can be known.
    fn is_of_another_machine(&self, machine_id: &str) -> bool {
        !self.machine.is_empty()
            && !machine_id.is_empty()
            && self.machine != machine_hash(&self.secret, machine_id)
    }
}

/// What binds an identity to a machine: a hash of the machine-id with the identity's secret.
fn machine_hash(secret: &str, machine_id: &str) -> String {
    if machine_id.is_empty() {
        return String::new();
    }
    hex::encode(Sha256::digest(format!("trainyard {secret} {machine_id}")))
}

/// The agent's identity. Clones share it, so all of them see a new one at once.
#[derive(Debug, Clone)]
pub struct Identity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    data_dir: PathBuf,
    machine_id: String,
    agent: Mutex<AgentId>,
    /// A random name of this process.
    instance: String,
}

impl Identity {
    /// Reads the identity of `data_dir`, or makes one. A data directory that comes from another machine and holds no jobs
    /// gets a new identity.
    ///
    /// # Errors
    /// The files are damaged, or the disk's.
    pub fn load(data_dir: &Path, machine_id_file: &Path, holds_jobs: bool) -> anyhow::Result<Self> {
        let machine_id = fs::read_to_string(machine_id_file).unwrap_or_default().trim().to_owned();
        let path = data_dir.join(FILE);
        close(&path);
        let found = read(&path)?.map(|text| {
            let parsed = serde_json::from_str::<Record>(&text);
            parsed.with_context(|| format!("{} is damaged", path.display()))
        });
        let record = match found.transpose()? {
            Some(record) if record.is_of_another_machine(&machine_id) && holds_jobs => {
                warn!(
                    agent = %record.agent,
                    "`data_dir` {} comes from another machine and holds reports of jobs, which are handed in under its \
                     identity; if it is a copy and the other machine still runs, stop this agent, remove `{}` and start \
                     it again",
                    data_dir.display(),
                    data_dir.join("jobs").display(),
                );
                record
            }
            Some(record) if record.is_of_another_machine(&machine_id) => {
                let new = Record::new(&machine_id);
                warn!(
                    before = %record.agent, now = %new.agent,
                    "`data_dir` {} comes from another machine: this agent has a new identity",
                    data_dir.display(),
                );
                write(data_dir, &new)?;
                new
            }
            Some(record) => record,
            None => {
                let path = data_dir.join(OLD_FILE);
                let old = read(&path)?.map(|text| {
                    let parsed = text.trim().parse::<AgentId>();
                    parsed.with_context(|| format!("{} is damaged", path.display()))
                });
                let new = match old.transpose()? {
                    Some(agent) => Record::of(agent, &machine_id),
                    None => Record::new(&machine_id),
                };
                write(data_dir, &new)?;
                new
            }
        };
        let (data_dir, agent) = (data_dir.to_owned(), Mutex::new(record.agent));
        let instance = Uuid::new_v4().simple().to_string();
        Ok(Self(Arc::new(Inner { data_dir, machine_id, agent, instance })))
    }

    /// The agent's id.
    pub fn agent(&self) -> AgentId {
        *self.0.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names all processes of this agent, so that they are found again.
    pub fn owner(&self) -> String {
        owner(self.agent(), &self.0.data_dir)
    }

    /// Names this process, so that the scheduler can tell it from another process with the same identity.
    pub fn instance(&self) -> &str {
        &self.0.instance
    }

    /// Takes a new identity: another machine has this one, and runs.
    ///
    /// # Errors
    /// The disk's; the identity stays.
    pub fn renew(&self) -> anyhow::Result<()> {
        let new = Record::new(&self.0.machine_id);
        write(&self.0.data_dir, &new)?;
        let before =
            std::mem::replace(&mut *self.0.agent.lock().unwrap_or_else(PoisonError::into_inner), new.agent);
        info!(%before, now = %new.agent, "this agent has a new identity");
        Ok(())
    }
}

/// What the processes of an agent have in common, and those of no other: its id, and which folder its data directory
/// is. A copy of that folder holds the same id, and its agent must leave the first one's trainers alone.
fn owner(agent: AgentId, data_dir: &Path) -> String {
    match fs::metadata(data_dir) {
        Ok(known) => format!("{agent}@{:x}.{:x}", known.dev(), known.ino()),
        Err(_) => agent.to_string(),
    }
}

/// Takes the file, in which older builds left the identity's secret open, from other users of the machine.
fn close(path: &Path) {
    if open_to_others(path).is_none() {
        return;
    }
    if let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(0o600)) {
        warn!(path = %path.display(), %error, "the identity's file cannot be closed to other users of this machine");
    }
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => {
            ensure!(!text.trim().is_empty(), "{} is damaged: it is empty", path.display());
            Ok(Some(text))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn write(data_dir: &Path, record: &Record) -> anyhow::Result<()> {
    let put = |name: &str, text: String| {
        let path = data_dir.join(name);
        // The secret in it is nobody else's business.
        write_private(&path, text.as_bytes(), |_| {})
            .with_context(|| format!("cannot write {}", path.display()))
    };
    put(FILE, serde_json::to_string_pretty(record)? + "\n")?;
    put(OLD_FILE, format!("{}\n", record.agent))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World(tempfile::TempDir);

    impl World {
        fn new(machine_id: &str) -> Self {
            let world = Self(tempfile::tempdir().unwrap());
            world.moves_to(machine_id);
            world
        }

        fn moves_to(&self, machine_id: &str) {
            fs::write(self.machine_id(), format!("{machine_id}\n")).unwrap();
        }

        fn machine_id(&self) -> PathBuf {
            self.0.path().join("machine-id")
        }

        fn load(&self, holds_jobs: bool) -> Identity {
            Identity::load(self.0.path(), &self.machine_id(), holds_jobs).unwrap()
        }
    }

    #[test]
    fn an_identity_stays_on_its_machine_and_each_process_has_a_name_of_its_own() {
        let world = World::new("m1");
        let (first, second) = (world.load(false), world.load(false));
        assert_eq!(first.agent(), second.agent());
        assert_ne!(first.instance(), second.instance());
        let kept = fs::read_to_string(world.0.path().join(FILE)).unwrap();
        assert!(!kept.contains("m1"), "the machine-id itself is not kept: {kept}");
    }

    #[test]
    fn nobody_else_may_read_the_identity_that_an_older_build_left_open() {
        let world = World::new("m1");
        let mode = || fs::metadata(world.0.path().join(FILE)).unwrap().permissions().mode() & 0o777;
        let first = world.load(false).agent();
        assert_eq!(mode(), 0o600);
        fs::set_permissions(world.0.path().join(FILE), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!((world.load(false).agent(), mode()), (first, 0o600));
    }

    #[test]
    fn a_copy_on_another_machine_is_somebody_else_unless_it_holds_jobs() {
        let world = World::new("m1");
        let first = world.load(false).agent();
        world.moves_to("m2");
        assert_eq!(world.load(true).agent(), first);
        let copy = world.load(false).agent();
        assert_ne!(copy, first);
        assert_eq!(world.load(false).agent(), copy);
        assert_eq!(fs::read_to_string(world.0.path().join(OLD_FILE)).unwrap().trim(), copy.to_string());
    }

    #[test]
    fn a_machine_without_a_machine_id_keeps_its_identity() {
        let world = World::new("m1");
        let first = world.load(false).agent();
        fs::remove_file(world.machine_id()).unwrap();
        assert_eq!(world.load(false).agent(), first);
        let renewed = world.load(false);
        renewed.renew().unwrap();
        assert_ne!(renewed.agent(), first);
        assert_eq!(world.load(false).agent(), renewed.agent());
    }

    #[test]
    fn the_identity_of_an_older_build_is_kept_and_bound_to_this_machine() {
        let world = World::new("m1");
        let old = AgentId(Uuid::new_v4());
        fs::write(world.0.path().join(OLD_FILE), format!("{old}\n")).unwrap();
        assert_eq!(world.load(false).agent(), old);
        world.moves_to("m2");
        assert_ne!(world.load(false).agent(), old);
    }

    #[test]
    fn an_agent_on_a_copy_of_a_data_directory_owns_none_of_the_firsts_processes() {
        let (first, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let agent = AgentId(Uuid::from_u128(1));
        let owner_of_first = owner(agent, first.path());
        assert_ne!(owner_of_first, owner(agent, copy.path()));
        assert_eq!(
            owner_of_first,
            owner(agent, &first.path().join(".")),
            "the next process of it is the same"
        );
    }

    #[test]
    fn a_damaged_file_is_named() {
        let world = World::new("m1");
        fs::write(world.0.path().join(FILE), "{").unwrap();
        let error = Identity::load(world.0.path(), &world.machine_id(), false).unwrap_err();
        assert!(format!("{error:#}").contains("identity.json is damaged"), "{error:#}");
    }
}
