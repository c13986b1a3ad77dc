//! `tls` in the data directory: the key, which never leaves the machine, the certificate, and what was joined.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use trainyard_access::{Identity, Pin, Trust};
use trainyard_files::{check_private, write_private};
use trainyard_proto::route::parse_list;
use trainyard_types::AgentId;

use super::Credentials;

const FOLDER: &str = "tls";
const KEY: &str = "key.pem";
const CERTIFICATE: &str = "cert.pem";
const RECORD: &str = "joined.json";

/// What was joined, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// URL of the scheduler, or of several with commas between.
    pub scheduler: String,
    /// The agent that the certificate names.
    pub agent: AgentId,
    /// Pin of the cluster's authority, in hexadecimal.
    pub pin: String,
    /// When to ask for the next certificate.
    pub renew_time: Timestamp,
    /// When the certificate ends.
    pub expire_time: Timestamp,
}

/// A machine that has joined. `Debug` is left out: it would print the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Joined {
    /// The cluster that was joined.
    pub record: Record,
    /// The private key, PKCS #8 in PEM.
    pub key_pem: String,
    /// The agent's certificate and its authority's, PEM.
    pub chain_pem: String,
}

/// The folder of key, certificate and record.
pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join(FOLDER)
}

/// The file of the record.
pub fn record_path(data_dir: &Path) -> PathBuf {
    folder(data_dir).join(RECORD)
}

/// The scheduler that was joined, if any was.
pub fn joined_scheduler(data_dir: &Path) -> Option<String> {
    let text = fs::read_to_string(record_path(data_dir)).ok()?;
    Some(serde_json::from_str::<Record>(&text).ok()?.scheduler)
}

/// Changes whenever another process has written a certificate.
pub fn revision(data_dir: &Path) -> Option<(u64, i64, i64)> {
    let known = fs::metadata(record_path(data_dir)).ok()?;
    Some((known.ino(), known.mtime(), known.mtime_nsec()))
}

impl Joined {
    /// What is kept in `data_dir`; `None` before the machine has joined.
    ///
    /// # Errors
    /// Others may read the key, a file is damaged, or the certificate is of another key.
    pub fn load(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = record_path(data_dir);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let record: Record = serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged; remove it and run `trainyard-agent join` again", path.display())
        })?;
        let key = folder(data_dir).join(KEY);
        check_private(&key)?;
        let chain = folder(data_dir).join(CERTIFICATE);
        let read =
            |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let joined = Self { key_pem: read(&key)?, chain_pem: read(&chain)?, record };
        let again = || {
            let scheduler = &joined.record.scheduler;
            format!("{} is damaged; run `trainyard-agent join {scheduler}` again", folder(data_dir).display())
        };
        let identity = Identity::parse(&joined.chain_pem, &joined.key_pem).with_context(again)?;
        identity.check().with_context(again)?;
        Ok(Some(joined))
    }

    /// Keeps all of it. The record comes last: with it the machine has joined.
    ///
    /// # Errors
    /// The disk refuses a file.
    pub fn save(&self, data_dir: &Path) -> anyhow::Result<()> {
        let owner = fs::metadata(data_dir).ok().map(|known| (known.uid(), known.gid()));
        let folder = folder(data_dir);
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot make {}", folder.display()));
            }
            _ => give(&folder, owner),
        }
        let record = serde_json::to_string_pretty(&self.record)? + "\n";
        for (name, text) in [(KEY, &self.key_pem), (CERTIFICATE, &self.chain_pem), (RECORD, &record)] {
            let path = folder.join(name);
            // A renewal keeps the key, so it never stands beside another certificate. The record is always written: by it
            // an agent that runs sees that there is something new.
            if name == KEY && fs::read_to_string(&path).is_ok_and(|kept| kept == *text) {
                continue;
            }
            write_private(&path, text.as_bytes(), |unfinished| give(unfinished, owner))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Whether the certificate is over.
    pub fn is_over(&self) -> bool {
        self.record.expire_time <= Timestamp::now()
    }

    /// What connections are made with. `ca` is of an authority that certifies the scheduler, where it is not the
    /// cluster's own.
    ///
    /// # Errors
    /// A file is damaged.
    pub fn credentials(&self, ca: Option<&Path>) -> anyhow::Result<Credentials> {
        let trust = match ca {
            Some(file) => Trust::none().authorities(file).context("ca")?,
            None => Trust::none()
                .pin(self.record.pin.parse::<Pin>().context("the pin of the cluster is damaged")?),
        };
        let identity =
            Identity::parse(&self.chain_pem, &self.key_pem).context("the certificate is damaged")?;
        let connector = trust.identity(identity).connector()?;
        let schedulers = parse_list(&self.record.scheduler).map(str::to_owned).collect();
        Ok(Credentials { connector, agent: Some(self.record.agent), schedulers })
    }
}

/// Root, who runs `join`, makes files for the one whose data directory it is. Others cannot, and need not.
fn give(path: &Path, owner: Option<(u32, u32)>) {
    if let Some((user, group)) = owner.filter(|_| nix::unistd::Uid::effective().is_root()) {
        let _ = chown(path, Some(user), Some(group));
    }
}

/// Gives files that were made for the agent to the one whose data directory it is.
pub fn give_to_owner(data_dir: &Path, names: &[&str]) {
    let owner = fs::metadata(data_dir).ok().map(|known| (known.uid(), known.gid()));
    for name in names {
        give(&data_dir.join(name), owner);
    }
}
