//! How programs of a cluster know each other: tokens that name the cluster's authority, and the encrypted
//! connections that check it.
//!
//! Must not know: gRPC's methods, Redis, configuration. It speaks for no one: who may do what is decided by
//! the scheduler.

mod address;
mod identity;
mod pin;
mod problem;
mod secret;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
mod trust;
mod verifier;

pub use address::{AddressError, check_address, encrypted_url, with_port};
pub use identity::{Identity, IdentityError, KeyRequest};
pub use pin::Pin;
pub use problem::ConnectionProblem;
pub use secret::secret_line;
pub use token::{Digest, Secret, TOKEN_START, Token, TokenError, TokenId, has_token};
pub use trust::{Connector, SeenAuthority, Trust, TrustError};

/// Makes this process encrypt by one implementation, whatever libraries it has. Repeating is harmless.
pub fn install_crypto() {
    // The only error is that it was done before.
    let _done = rustls::crypto::ring::default_provider().install_default();
}

/// Bytes that nobody can guess.
///
/// # Errors
/// The system has no randomness to give.
pub fn random<const N: usize>() -> Result<[u8; N], rustls::crypto::GetRandomFailed> {
    let mut bytes = [0; N];
    rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes)?;
    Ok(bytes)
}
