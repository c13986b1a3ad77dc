//! Addresses of schedulers with encryption, as people write them.

use http::Uri;

use crate::token::has_token_in_address;

/// Where a scheduler listens unless it was told otherwise.
const DEFAULT_PORT: u16 = 7433;

/// Why a text is no address of a scheduler with encryption.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It has no host, or a scheme that nobody knows.
    #[error("`{0}` is not an address; write host and port, such as lab-head:7433")]
    NotAnAddress(String),
    /// It is one of IPv6, which has colons of its own.
    #[error("`{0}` is an address of IPv6; write it in brackets: [{0}]:{DEFAULT_PORT}")]
    NoBrackets(String),
    /// It is or holds a token, which must not become the name that is looked up. It is not repeated.
    #[error("a token stands where the address belongs; write host and port, such as lab-head:7433")]
    Token,
    /// It is one of plaintext.
    #[error("`{text}` is not encrypted, and no token is sent in plaintext; write `{authority}`")]
    Plaintext {
        text: String,
        /// Its host and port.
        authority: String,
    },
}

/// Refuses what people write for addresses and is none, for a reason that can be told.
///
/// # Errors
/// It is one of IPv6 without brackets, or holds a token.
pub fn check_address(text: &str) -> Result<(), AddressError> {
    if has_token_in_address(text) {
        return Err(AddressError::Token);
    }
    let host = text.split_once("://").map_or(text, |(_, host)| host);
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(ip) => Err(AddressError::NoBrackets(ip.to_string())),
        Err(_) => Ok(()),
    }
}

/// An address without a scheme, with the usual port where it has none.
pub fn with_port(address: &str) -> String {
    let authority = address.parse::<http::uri::Authority>().ok();
    let is_name_alone = authority.is_some_and(|host| host.port().is_none() && !host.as_str().ends_with(':'));
    if is_name_alone { format!("{address}:{DEFAULT_PORT}") } else { address.to_owned() }
}

/// The URL of a scheduler: a name alone gets the usual port.
///
/// # Errors
/// The text is no address, or one that is not encrypted.
pub fn encrypted_url(text: &str) -> Result<String, AddressError> {
    let text = text.trim().trim_end_matches('/');
    check_address(text)?;
    let url = if text.contains("://") { text.to_owned() } else { format!("https://{}", with_port(text)) };
    let parsed = url.parse::<Uri>().ok();
    let authority = parsed.as_ref().and_then(Uri::authority).filter(|host| !host.as_str().ends_with(':'));
    let Some(authority) = authority else { return Err(AddressError::NotAnAddress(text.to_owned())) };
    match parsed.as_ref().and_then(Uri::scheme_str) {
        Some("https") => Ok(url),
        Some("http") => {
            Err(AddressError::Plaintext { text: text.to_owned(), authority: authority.to_string() })
        }
        _ => Err(AddressError::NotAnAddress(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_gets_the_usual_port_and_plaintext_is_refused() {
        let table = [
            ("lab", "https://lab:7433"),
            (" 10.0.0.1:1 ", "https://10.0.0.1:1"),
            ("https://x/", "https://x"),
            ("[::1]", "https://[::1]:7433"),
            ("party1.lab", "https://party1.lab:7433"),
        ];
        for (text, url) in table {
            assert_eq!(encrypted_url(text).as_deref(), Ok(url), "{text}");
        }
        for wrong in ["", "https://", "a b", "lab:", "ftp://lab"] {
            assert!(matches!(encrypted_url(wrong), Err(AddressError::NotAnAddress(_))), "{wrong}");
        }
        let bare = encrypted_url("fd09::1").unwrap_err();
        assert_eq!(bare.to_string(), "`fd09::1` is an address of IPv6; write it in brackets: [fd09::1]:7433");
        let token = format!("ty1.{}.ab.cd", "00".repeat(16));
        assert_eq!(encrypted_url(&token), Err(AddressError::Token));
        let (text, authority) = ("http://lab:7433".to_owned(), "lab:7433".to_owned());
        assert_eq!(encrypted_url("http://lab:7433/"), Err(AddressError::Plaintext { text, authority }));
    }
}
