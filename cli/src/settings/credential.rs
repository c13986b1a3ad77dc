//! What a user proves to be known by.

use std::path::Path;

use trainyard_access::{Token, has_token};
use trainyard_files::open_to_others;

use super::address::is_here;
use crate::failure::Failure;

/// A token of Trainyard's, or another secret. `Debug` is left out: it would print the secret.
#[derive(Clone)]
pub enum Credential {
    /// Names the cluster that it is for. Never sent unencrypted.
    Token(Token),
    /// Whatever a proxy in front of the scheduler asks for; sent as it is, in plaintext on this machine alone.
    Opaque(String),
}

impl Credential {
    /// Reads `text`, which comes from `source`, as configuration names it.
    ///
    /// # Errors
    /// It holds the beginning of a token, and is none.
    pub fn parse(text: &str, source: &str) -> Result<Self, Failure> {
        if !has_token(text) {
            return Ok(Self::Opaque(text.to_owned()));
        }
        text.parse().map(Self::Token).map_err(|error| {
            let place = if source == "flag --token" { "`--token` or YARD_TOKEN" } else { source };
            Failure::usage(format!("the token from {place} cannot be used: {error}"))
        })
    }

    /// Refuses a token in a file that others can read.
    ///
    /// # Errors
    /// Other users of this machine can read the file.
    pub fn check_kept_secret(&self, file: &Path) -> Result<(), Failure> {
        if matches!(self, Self::Opaque(_)) || open_to_others(file).is_none() {
            return Ok(());
        }
        let text = format!("{} holds a token, and others on this machine may read it", file.display());
        Err(Failure::usage(text).hint(format!("`chmod 600 {}`", file.display())))
    }

    /// What is sent to `server`; `None` where it must not be.
    pub fn reveal_to(&self, server: &str) -> Option<String> {
        match self {
            Self::Token(token) => server.starts_with("https://").then(|| token.reveal()),
            Self::Opaque(text) => (server.starts_with("https://") || is_here(server)).then(|| text.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_travels_in_plaintext() {
        let token = Token::make("00112233445566778899aabbccddeeff".parse().unwrap()).unwrap();
        let credential = Credential::parse(&token.reveal(), "").unwrap();
        assert_eq!(credential.reveal_to("http://127.0.0.1:7433"), None);
        assert_eq!(credential.reveal_to("https://lab:7433"), Some(token.reveal()));
        let other = Credential::parse("a", "").unwrap();
        assert_eq!(other.reveal_to("http://x"), None);
        assert_eq!(other.reveal_to("http://localhost:1").as_deref(), Some("a"));
        assert_eq!(other.reveal_to("https://x").as_deref(), Some("a"));
    }

    #[test]
    fn a_token_with_a_slip_is_refused_wherever_it_comes_from_and_not_shown() {
        let whole = Token::make("00112233445566778899aabbccddeeff".parse().unwrap()).unwrap().reveal();
        for text in [format!("\"{whole}\""), format!("Bearer {whole}"), whole.to_uppercase()] {
            for source in ["flag --token", "environment YARD_TOKEN", "file cli.toml"] {
                let failure = Credential::parse(&text, source).err().unwrap();
                assert!(failure.message.contains("more in it than a token"), "{failure:?}");
                assert!(!format!("{failure:?}").to_lowercase().contains(&whole[60..]), "{failure:?}");
            }
        }
    }
}
