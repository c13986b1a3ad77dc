//! How the agent is known to a scheduler that asks: the machine joins once with a token, and from then on shows a
//! certificate, which is renewed in time.
//!
//! Must not know: what is said over a connection afterwards.

mod calls;
mod files;
mod join;
mod renewal;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tracing::{error, info, warn};
use trainyard_access::{Connector, Token, Trust};
use trainyard_types::AgentId;

use crate::backoff::Backoff;
use crate::identity::Identity;
pub use files::{Joined, joined_scheduler, record_path};
pub use join::{JoinError, JoinRequest, addresses, join};
pub use renewal::Renewal;

/// How often a machine that has not joined looks whether somebody had it join.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The connector and the agent that its certificate names.
#[derive(Clone)]
pub struct Credentials {
    /// Opens connections to `http://` and `https://` URLs.
    pub connector: Connector,
    /// Whose certificate is shown; `None` where none is.
    pub agent: Option<AgentId>,
    /// The schedulers that were joined, instead of those of the configuration; empty where those count.
    pub schedulers: Vec<String>,
}

/// What the configuration says of joining.
#[derive(Debug, Clone)]
pub struct EnrolmentSettings {
    /// The schedulers' URLs.
    pub schedulers: Vec<String>,
    /// Whether the schedulers are whichever the machine has joined.
    pub follows_join: bool,
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

/// What connections are made with from the start, and the task that keeps the certificate fresh, if one may be there. A
/// machine that has not joined does so now, if a file with a token is configured, or waits until somebody has it join.
/// `tell_problem` hears why it takes long.
///
/// # Errors
/// The certificate cannot be used.
pub async fn prepare(
    settings: EnrolmentSettings,
    identity: &Identity,
    tell_problem: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<(watch::Receiver<Credentials>, Option<Renewal>)> {
    let encrypted = settings.schedulers.iter().find(|url| url.starts_with("https://"));
    let joined = match encrypted {
        Some(scheduler) => Some(certificate(&settings, scheduler, identity.agent(), tell_problem).await?),
        None => None,
    };
    let credentials = match &joined {
        Some(joined) => settings.credentials_of(joined)?,
        None => {
            let connector = Trust::none().connector().context("cannot prepare connections")?;
            Credentials { connector, agent: None, schedulers: Vec::new() }
        }
    };
    let (sender, receiver) = watch::channel(credentials);
    let may_join = joined.is_some() || settings.follows_join;
    Ok((receiver, may_join.then(|| Renewal::new(settings, joined, sender))))
}

impl EnrolmentSettings {
    /// What connections are made with by a machine that has joined.
    fn credentials_of(&self, joined: &Joined) -> anyhow::Result<Credentials> {
        let mut credentials = joined.credentials(self.ca.as_deref())?;
        if !self.follows_join {
            credentials.schedulers.clear();
        }
        Ok(credentials)
    }
}

/// The certificate of this agent, however long it takes until there is one: a program that ends is started again, and
/// says no more.
async fn certificate(
    settings: &EnrolmentSettings,
    scheduler: &str,
    agent: AgentId,
    tell_problem: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<Joined> {
    let way_out = how_to_join(scheduler);
    let mut told = String::new();
    loop {
        let problem = match (Joined::load(&settings.data_dir), &settings.join_token_file) {
            (Ok(Some(joined)), _) if joined.record.agent == agent && !joined.is_over() => return Ok(joined),
            (Ok(Some(joined)), None) if joined.record.agent == agent => {
                error!("this machine's certificate ended at {}: {way_out}", joined.record.expire_time);
                return Ok(joined);
            }
            (Ok(_), Some(file)) => return join_until_taken(settings, file, agent, tell_problem).await,
            (Ok(Some(joined)), None) => format!(
                "the certificate in {} is of the agent {}, and this agent is {agent}: its data directory comes from \
                 another machine; {way_out}",
                files::folder(&settings.data_dir).display(),
                joined.record.agent,
            ),
            (Ok(None), None) => {
                format!(
                    "`scheduler` is `{scheduler}`, and this machine has not joined its cluster: {way_out}"
                )
            }
            (Err(error), _) => format!("{error:#}"),
        };
        if problem != told {
            error!("{problem}; the agent waits for it");
            tell_problem(&problem);
            told = problem;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Joins with the token of a file, however long the scheduler is away, or refuses.
async fn join_until_taken(
    settings: &EnrolmentSettings,
    file: &Path,
    agent: AgentId,
    tell_problem: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<Joined> {
    let mut backoff = Backoff::default();
    let mut told = String::new();
    loop {
        let problem = match try_to_join(settings, file, agent).await {
            Ok(joined) => {
                info!(scheduler = joined.record.scheduler, "this machine has joined");
                return Ok(joined);
            }
            Err(error) => format!("{error:#}"),
        };
        tell_problem(&problem);
        if problem != told {
            warn!("{problem}; will try again");
            told = problem;
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

async fn try_to_join(settings: &EnrolmentSettings, file: &Path, agent: AgentId) -> anyhow::Result<Joined> {
    let request = JoinRequest {
        schedulers: settings.schedulers.clone(),
        // Read anew: who mounts it may replace it.
        token: read_token(file).context("join_token_file")?,
        agent,
        name: settings.name.clone(),
        data_dir: settings.data_dir.clone(),
        ca: settings.ca.clone(),
    };
    let (joined, _) = join(&request).await.context("cannot join with the token of `join_token_file`")?;
    Ok(joined)
}
