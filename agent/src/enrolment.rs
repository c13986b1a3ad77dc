//! How the agent is known to a scheduler that asks: the machine joins once with a token, and from then on shows a
//! certificate, which is renewed in time.
//!
//! Must not know: what is said over a connection afterwards.

mod calls;
mod files;
mod join;
mod renewal;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::sync::watch;
use tracing::{error, info, warn};
use trainyard_access::{Connector, Token, Trust};
use trainyard_types::AgentId;

use crate::backoff::Backoff;
use crate::identity::Identity;
pub use files::{Joined, joined_scheduler, record_path};
pub use join::{JoinError, JoinRequest, addresses, join};
pub use renewal::Renewal;

/// The connector and the agent that its certificate names.
#[derive(Clone)]
pub struct Credentials {
    /// Opens connections to `http://` and `https://` URLs.
    pub connector: Connector,
    /// Whose certificate is shown; `None` where none is.
    pub agent: Option<AgentId>,
}

/// What the configuration says of joining.
#[derive(Debug, Clone)]
pub struct EnrolmentSettings {
    /// The schedulers' URLs.
    pub schedulers: Vec<String>,
    /// The agent's name for people.
    pub name: String,
    /// Where the certificate is kept, in `tls`.
    pub data_dir: PathBuf,
    /// Authorities that certify the scheduler, where it is not the cluster's own.
    pub ca: Option<PathBuf>,
    /// A file with a token to join with, as soon as there is no certificate.
    pub join_token_file: Option<PathBuf>,
}

/// Gives the identity, which root has made who runs `join`, to the one whose data directory it is.
pub fn give_identity_to_owner(data_dir: &Path) {
    files::give_to_owner(data_dir, &["identity.json", "agent-id"]);
}

/// Reads a token of a file.
///
/// # Errors
/// The file cannot be read, or has no token. What is in it is not repeated.
pub fn read_token(file: &Path) -> anyhow::Result<Token> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the token in {}", file.display()))?;
    text.parse::<Token>().with_context(|| format!("the token in {} cannot be used", file.display()))
}

/// What a person types on a machine that is to join, a sentence's end. `scheduler` is its URL.
pub fn how_to_join(scheduler: &str) -> String {
    let address = scheduler.split_once("://").map_or(scheduler, |(_, address)| address);
    format!("run `trainyard-agent join {address}` with a token of `yard token create --agents`")
}

/// What connections are made with from the start, and the task that renews the certificate, if there is one. A machine
/// that has not joined does so now, if a file with a token is configured; `tell_problem` hears why it takes long.
///
/// # Errors
/// A scheduler is encrypted and there is no certificate for this agent that could be shown.
pub async fn prepare(
    settings: EnrolmentSettings,
    identity: &Identity,
    tell_problem: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<(watch::Receiver<Credentials>, Option<Renewal>)> {
    let Some(scheduler) = settings.schedulers.iter().find(|url| url.starts_with("https://")) else {
        let connector = Trust::none().connector().context("cannot prepare connections")?;
        let (_never_changes, credentials) = watch::channel(Credentials { connector, agent: None });
        return Ok((credentials, None));
    };
    let agent = identity.agent();
    let found = Joined::load(&settings.data_dir)?;
    let way_out = how_to_join(scheduler);
    let joined = match (found, &settings.join_token_file) {
        (Some(joined), _) if joined.record.agent == agent && !joined.is_over() => joined,
        (Some(joined), None) if joined.record.agent == agent => {
            error!("this machine's certificate ended at {}: {way_out}", joined.record.expire_time);
            joined
        }
        (Some(joined), None) => bail!(
            "the certificate in {} is of the agent {}, and this agent is {agent}: its data directory comes from another \
             machine; {way_out}",
            files::folder(&settings.data_dir).display(),
            joined.record.agent,
        ),
        (None, None) => {
            bail!("`scheduler` is `{scheduler}`, and this machine has not joined its cluster: {way_out}")
        }
        (_, Some(file)) => join_until_taken(&settings, file, agent, tell_problem).await?,
    };
    let credentials = joined.credentials(settings.ca.as_deref())?;
    let (sender, receiver) = watch::channel(credentials);
    Ok((receiver, Some(Renewal::new(settings, joined, sender))))
}

/// Joins with the token of a file, however long the scheduler is away.
async fn join_until_taken(
    settings: &EnrolmentSettings,
    file: &Path,
    agent: AgentId,
    tell_problem: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<Joined> {
    let mut backoff = Backoff::default();
    loop {
        let request = JoinRequest {
            schedulers: settings.schedulers.clone(),
            // Read anew: who mounts it may replace it.
            token: read_token(file).context("join_token_file")?,
            agent,
            name: settings.name.clone(),
            data_dir: settings.data_dir.clone(),
            ca: settings.ca.clone(),
        };
        match join(&request).await {
            Ok((joined, _)) => {
                info!(scheduler = joined.record.scheduler, "this machine has joined");
                return Ok(joined);
            }
            Err(error) if error.may_pass => {
                tell_problem(&error.to_string());
                if backoff.failures() == 0 {
                    warn!("{error}; will try again");
                }
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Err(error) => return Err(error).context("cannot join with the token of `join_token_file`"),
        }
    }
}
