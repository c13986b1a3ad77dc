//! Addresses of schedulers with encryption, as people write them.

use http::Uri;

/// Where a scheduler listens unless it was told otherwise.
const DEFAULT_PORT: u16 = 7433;

/// Why a text is no address of a scheduler with encryption.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It has no host, or a scheme that nobody knows.
    #[error("`{0}` is not an address; write host and port, such as lab-head:7433")]
    NotAnAddress(String),
    /// It is one of plaintext.
    #[error("`{text}` is not encrypted, and no token is sent in plaintext; write `{authority}`")]
    Plaintext {
        text: String,
        /// Its host and port.
        authority: String,
    },
}

/// The URL of a scheduler: a name alone gets the usual port.
///
/// # Errors
/// The text is no address, or one that is not encrypted.
pub fn encrypted_url(text: &str) -> Result<String, AddressError> {
    let text = text.trim().trim_end_matches('/');
    let has_scheme = text.contains("://");
    let url = if has_scheme { text.to_owned() } else { format!("https://{text}") };
    let parsed = url.parse::<Uri>().ok();
    let authority = parsed.as_ref().and_then(Uri::authority).filter(|host| !host.as_str().ends_with(':'));
    let Some(authority) = authority else { return Err(AddressError::NotAnAddress(text.to_owned())) };
    match parsed.as_ref().and_then(Uri::scheme_str) {
        Some("https") if has_scheme || authority.port().is_some() => Ok(url),
        Some("https") => Ok(format!("{url}:{DEFAULT_PORT}")),
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
        ];
        for (text, url) in table {
            assert_eq!(encrypted_url(text).as_deref(), Ok(url), "{text}");
        }
        for wrong in ["", "https://", "a b", "lab:", "ftp://lab"] {
            assert!(matches!(encrypted_url(wrong), Err(AddressError::NotAnAddress(_))), "{wrong}");
        }
        let (text, authority) = ("http://lab:7433".to_owned(), "lab:7433".to_owned());
        assert_eq!(encrypted_url("http://lab:7433/"), Err(AddressError::Plaintext { text, authority }));
    }
}
