//! Tokens that are made beside a running scheduler, by whoever has its files.

use std::io;
use std::time::Duration;

use trainyard_access::Token;

use super::redis_address::{RedisAddressError, redis_address};
use crate::access::{BootstrapError, HeldBy, make_token};
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::embedded::EmbeddedRedis;
use crate::store::{RedisOptions, RedisStore, StoreError};
use crate::tls::{Authority, TlsError};

/// The token that is wanted.
#[derive(Debug, Clone, Copy)]
pub enum Issue {
    /// An admin's, where every other is lost.
    Admin,
    /// One that agents join with.
    Join { uses: u32, lifetime: Duration },
}

/// Why no token is made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "security: is off by this configuration, so that nobody needs a token; give this command what the scheduler is \
         run with: its --config, or its --listen and --data-dir"
    )]
    Open,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    RedisAddress(#[from] RedisAddressError),
    #[error("data_dir: {0}")]
    Directory(io::Error),
    #[error("{0}; the scheduler must run, since its Redis has the tokens")]
    Store(#[from] StoreError),
    #[error("{0}; the scheduler must run, since its Redis has the tokens")]
    Make(#[from] BootstrapError),
}

/// Makes a token in the store of a scheduler of this configuration; also says the scheduler's host and port.
///
/// # Errors
/// The scheduler asks nobody who they are, its files cannot be used, or its Redis is not there.
pub async fn issue_token(config: &Config, wanted: Issue) -> Result<(Token, String), IssueError> {
    let address = config.address()?;
    if !config.is_secure(address) {
        return Err(IssueError::Open);
    }
    let authority = Authority::open(&config.tls_dir())?;
    let options = RedisOptions { event_history: config.event_history, replicas: 0 };
    let store = if config.redis_url.is_empty() {
        let dir = std::path::absolute(config.data_dir.join("redis")).map_err(IssueError::Directory)?;
        RedisStore::at_socket(&EmbeddedRedis::socket_in(&dir), options)?
    } else {
        RedisStore::at(&redis_address(config)?, options)?
    };
    let now = Clock::start().now();
    let held_by = match wanted {
        Issue::Admin => HeldBy::Admin,
        Issue::Join { uses, lifetime } => HeldBy::Machines { uses, expires: now + lifetime },
    };
    let token = make_token(&store, authority.pin(), held_by, now).await?;
    let advertised = config.advertised(address);
    Ok((token, advertised.trim_start_matches("https://").to_owned()))
}
