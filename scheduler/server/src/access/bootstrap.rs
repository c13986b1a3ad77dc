//! The first tokens of a cluster: an admin's and one that agents join with.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use tracing::info;
use trainyard_access::{Pin, Token};
use trainyard_types::Time;

use super::registry::Registry;
use crate::access_records::{AccessRole, AuditRecord, TokenRecord};
use crate::store::{AccessStore, StoreError};

/// Who the first admin is.
const ADMIN: &str = "admin";
/// Who makes tokens beside the scheduler.
const COMMAND_LINE: &str = "command line of the scheduler";
/// How many agents may join with the first token, and how long.
const FIRST_USES: u32 = 50;
const FIRST_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why there are no first tokens.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the system has no randomness to give")]
    Random,
    #[error("cannot write the first login: {0}")]
    File(#[from] std::io::Error),
}

/// Makes the first tokens of a cluster and writes how to use them into `file`, for its owner's eyes; `None` where the
/// cluster has had tokens.
///
/// # Errors
/// The store is away, or the file cannot be written.
pub async fn first_login(
    store: &dyn AccessStore,
    registry: &Registry,
    pin: Pin,
    address: &str,
    file: &Path,
    now: Time,
) -> Result<Option<String>, BootstrapError> {
    if store.access_revision().await? > 0 {
        return Ok(None);
    }
    let joining = HeldBy::Machines { uses: FIRST_USES, expires: now + FIRST_LIFE };
    let (admin, admins_record) = HeldBy::Admin.token(pin, now, "first start")?;
    let (joining, joining_record) = joining.token(pin, now, "first start")?;
    let tokens = [admins_record, joining_record];
    let text = format!(
        "An admin's login:\n  yard login {address} {}\nOnce per machine with GPUs, up to {FIRST_USES}, for a week:\n  \
         trainyard-agent join {address} {}\nThen remove this file.\n",
        admin.reveal(),
        joining.reveal()
    );
    // Written before it counts: a token that nobody was told of would be of no use.
    let draft = file.with_extension("draft");
    let mut written = File::options().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
    written.write_all(text.as_bytes())?;
    written.sync_all()?;
    if !store.put_first_tokens(&tokens).await? {
        // Another scheduler was first, and has told its own.
        std::fs::remove_file(&draft)?;
        return Ok(None);
    }
    // Whoever reads of a token can use it.
    registry.refresh().await?;
    std::fs::rename(&draft, file)?;
    info!(file = %file.display(), "first start: the file says how to log in, and how machines join");
    Ok(Some(text))
}

/// Whom a token is made for that nobody asked for over the network.
#[derive(Debug, Clone, Copy)]
pub enum HeldBy {
    Admin,
    /// Machines that join with it, so many, until then.
    Machines {
        uses: u32,
        expires: Time,
    },
}

impl HeldBy {
    fn token(self, pin: Pin, now: Time, by: &str) -> Result<(Token, TokenRecord), BootstrapError> {
        let token = Token::make(pin).map_err(|_| BootstrapError::Random)?;
        let (user, role, expires, uses_left) = match self {
            Self::Admin => (ADMIN, AccessRole::Admin, None, 0),
            Self::Machines { uses, expires } => ("", AccessRole::Agent, Some(expires), uses),
        };
        let record = TokenRecord {
            id: token.id,
            user: user.to_owned(),
            role,
            digest: token.secret.digest(),
            pin,
            parent: None,
            created: now,
            expires,
            uses_left,
            created_by: by.to_owned(),
        };
        Ok((token, record))
    }
}

/// Makes a token for whoever has the scheduler's own files, and tells the audit.
///
/// # Errors
/// The store is away.
pub async fn make_token(
    store: &dyn AccessStore,
    pin: Pin,
    held_by: HeldBy,
    now: Time,
) -> Result<Token, BootstrapError> {
    let (token, record) = held_by.token(pin, now, COMMAND_LINE)?;
    store.put_token(&record).await?;
    let told = AuditRecord {
        time: now,
        caller: COMMAND_LINE.to_owned(),
        role: None,
        address: String::new(),
        action: "AccessService/CreateToken".to_owned(),
        target: record.described(),
        outcome: "OK".to_owned(),
    };
    store.append_audit(&[told]).await?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn a_cluster_has_a_first_login_once_and_for_its_owners_eyes() {
        let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::default()));
        let pin = "00112233445566778899aabbccddeeff".parse().unwrap();
        let registry = Registry::new(store.clone(), pin);
        let file = dir.path().join("first-login.txt");
        let text =
            first_login(&*store, &registry, pin, "lab-head:7433", &file, Time(0)).await.unwrap().unwrap();
        let line = text.lines().find(|line| line.contains("yard login lab-head:7433")).unwrap();
        let token: Token = line.rsplit(' ').next().unwrap().parse().unwrap();
        let records = store.access().await.unwrap().tokens;
        let admin = records.iter().find(|record| record.role == AccessRole::Admin).unwrap();
        assert!(admin.digest.is_of(&token.secret) && admin.id == token.id && token.pin == pin);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            first_login(&*store, &registry, pin, "lab-head:7433", &file, Time(0)).await.unwrap(),
            None
        );
    }
}
