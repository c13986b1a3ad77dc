//! Addresses of servers as people write them, and whether a connection there is encrypted.

use tonic::transport::Uri;
use trainyard_access::{AddressError, encrypted_url};
use trainyard_proto::route::parse_list;

use super::DEFAULT_SERVER;
use crate::failure::Failure;

/// What decides about an address without a scheme.
#[derive(Debug, Default)]
pub struct Habit {
    /// The servers of `cli.toml`, as they are written there.
    pub stored: Vec<String>,
    /// Whether an encrypted server could be checked: by a token, or by a file of authorities.
    pub can_check: bool,
}

impl Habit {
    /// `https` where that was stored for this address. On loopback it is `http` otherwise: that is where open schedulers
    /// are. Elsewhere it is `https` for those who have logged in somewhere.
    fn scheme(&self, address: &str) -> &'static str {
        let is_https = |stored: &&String| stored.starts_with("https://");
        let is_this = |stored: &String| stored["https://".len()..].trim_end_matches('/') == address;
        if self.stored.iter().filter(is_https).any(is_this) {
            "https"
        } else if is_loopback(address) {
            "http"
        } else if self.can_check || self.stored.iter().any(|stored| is_https(&stored)) {
            "https"
        } else {
            "http"
        }
    }
}

/// Whether `host:port` is this machine itself.
fn is_loopback(address: &str) -> bool {
    let parsed = format!("http://{address}").parse::<Uri>().ok();
    let Some(host) = parsed.as_ref().and_then(Uri::host) else { return false };
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// The URL of a server; `host:7433` gets the scheme that `habit` says.
///
/// # Errors
/// The text is no address.
pub fn server_url(text: &str, habit: &Habit) -> Result<String, Failure> {
    let text = text.trim().trim_end_matches('/');
    let url = if text.contains("://") { text.to_owned() } else { format!("{}://{text}", habit.scheme(text)) };
    let parsed = url.parse::<Uri>().ok();
    let usable = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|host| !host.as_str().ends_with(':'))
    };
    if !parsed.as_ref().is_some_and(usable) {
        return Err(no_address(text));
    }
    Ok(url)
}

fn no_address(text: &str) -> Failure {
    Failure::usage(format!("server `{text}` is not an address"))
        .hint(format!("write host and port, such as {DEFAULT_SERVER}"))
}

/// The URLs to log in to: encrypted ones. A name alone gets the usual port.
///
/// # Errors
/// An address that is none, or one that is not encrypted.
pub fn login_urls(text: &str) -> Result<Vec<String>, Failure> {
    let url = |text: &str| {
        encrypted_url(text).map_err(|error| match error {
            AddressError::Plaintext { text, authority } => Failure::usage(format!(
                "`{text}` is not encrypted, and no token is sent in plaintext"
            ))
            .hint(format!(
                "`yard login {authority}` logs in to a server with encryption; one without needs no login: \
                     `--server {text}`"
            )),
            AddressError::NotAnAddress(text) => no_address(&text),
        })
    };
    let urls: Vec<String> = parse_list(text).map(url).collect::<Result<_, _>>()?;
    if urls.is_empty() { Err(no_address("")) } else { Ok(urls) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_wrong_usage() {
        for wrong in ["", "ftp://x", "http://", "https://", "a b"] {
            assert_eq!(server_url(wrong, &Habit::default()).unwrap_err().exit.code(), 2, "{wrong}");
        }
        let url = |text| server_url(text, &Habit::default()).unwrap();
        assert_eq!(url("localhost:7433/"), "http://localhost:7433");
        assert_eq!(url("lab:7433"), "http://lab:7433");
        assert_eq!(url("https://lab:1"), "https://lab:1");
    }

    #[test]
    fn a_login_is_encrypted_and_finds_the_usual_port() {
        let urls = login_urls("lab, 10.0.0.1:1,https://x,[::1]").unwrap();
        assert_eq!(urls, ["https://lab:7433", "https://10.0.0.1:1", "https://x", "https://[::1]:7433"]);
        let failure = login_urls("http://lab:7433").unwrap_err();
        assert!(
            failure.message.contains("not encrypted")
                && failure.hint.unwrap().contains("`yard login lab:7433`")
        );
        assert_eq!(login_urls(" ").unwrap_err().exit.code(), 2);
    }
}
