//! The address of a Redis server, with what the configuration keeps in files.

use std::io;
use std::path::{Path, PathBuf};

use trainyard_files::{OpenToOthers, check_private};

use crate::config::Config;
use crate::store::RedisAddress;

/// A file of the configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RedisAddressError {
    #[error("{key}: cannot read `{path}`: {cause}")]
    Unreadable {
        /// The key of the configuration.
        key: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    #[error("redis_password_file: `{0}` is empty; write the password into it, on one line")]
    Empty(PathBuf),
    #[error("redis_password_file: {0}")]
    Open(#[from] OpenToOthers),
}

/// The address that a configuration says.
///
/// # Errors
/// A file cannot be read, or others may read the password.
pub fn redis_address(config: &Config) -> Result<RedisAddress, RedisAddressError> {
    let read = |key, path: &Path| {
        std::fs::read(path).map_err(|cause| RedisAddressError::Unreadable {
            key,
            path: path.to_owned(),
            cause,
        })
    };
    let password = match &config.redis_password_file {
        None => None,
        Some(path) => {
            check_private(path)?;
            let bytes = read("redis_password_file", path)?;
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_end_matches(['\n', '\r']);
            if text.is_empty() {
                return Err(RedisAddressError::Empty(path.clone()));
            }
            Some(text.to_owned())
        }
    };
    let authorities = config.redis_ca.as_deref().map(|path| read("redis_ca", path)).transpose()?;
    Ok(RedisAddress { url: config.redis_url.clone(), password, authorities })
}
