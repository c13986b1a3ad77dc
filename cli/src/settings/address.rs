//! Addresses of servers as people write them, and whether a connection there is encrypted.

use tonic::transport::Uri;
use trainyard_access::{AddressError, check_address, encrypted_url, with_port};
use trainyard_proto::route::parse_list;

use super::DEFAULT_SERVER;
use crate::failure::Failure;

/// What decides about an address without a scheme.
#[derive(Debug, Default)]
pub struct Habit {
    /// The servers of `cli.toml`, as they are written there.
    pub stored: Vec<String>,
    /// Whether an encrypted server is meant: there is a token to be sent, or a file of authorities to check it by.
    pub encrypts: bool,
}

impl Habit {
    /// `https` where that was stored for this address. On loopback it is `http` otherwise: that is where open schedulers
    /// are. Elsewhere it is `https` for those who have a token, or have logged in somewhere.
    fn scheme(&self, address: &str) -> &'static str {
        let is_https = |stored: &&String| stored.starts_with("https://");
        let is_this = |stored: &String| stored["https://".len()..].trim_end_matches('/') == address;
        if self.stored.iter().filter(is_https).any(is_this) {
            "https"
        } else if is_loopback(address) {
            "http"
        } else if self.encrypts || self.stored.iter().any(|stored| is_https(&stored)) {
            "https"
        } else {
            "http"
        }
    }
}

/// Whether a URL is of this machine itself.
pub fn is_here(url: &str) -> bool {
    url.split_once("://").is_some_and(|(_, address)| is_loopback(address))
}

/// Whether `host:port` is this machine itself.
fn is_loopback(address: &str) -> bool {
    let parsed = format!("http://{address}").parse::<Uri>().ok();
    let Some(host) = parsed.as_ref().and_then(Uri::host) else { return false };
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// The URL of a server; `host:7433` gets the scheme that `habit` says, and a name alone the usual port.
///
/// # Errors
/// The text is no address.
pub fn server_url(text: &str, habit: &Habit) -> Result<String, Failure> {
    let text = text.trim().trim_end_matches('/');
    check_address(text).map_err(|error| Failure::usage(format!("server: {error}")))?;
    let url = if text.contains("://") {
        text.to_owned()
    } else {
        let address = with_port(text);
        format!("{}://{address}", habit.scheme(&address))
    };
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
        encrypted_url(text).map_err(|error| match error.clone() {
            AddressError::Plaintext { text, authority } => Failure::usage(format!(
                "`{text}` is not encrypted, and no token is sent in plaintext"
            ))
            .hint(format!(
                "`yard login {authority}` logs in to a server with encryption; one without needs no login: \
                     `--server {text}`"
            )),
            AddressError::NotAnAddress(text) => no_address(&text),
            AddressError::NoBrackets(_) | AddressError::Token => Failure::usage(format!("server: {error}")),
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
        assert_eq!([url("lab-head"), url("localhost")], ["http://lab-head:7433", "http://localhost:7433"]);
        assert_eq!(url("https://lab-head"), "https://lab-head");
    }

    #[test]
    fn an_address_of_ipv6_is_shown_with_brackets_and_a_token_is_no_address() {
        let token = format!("ty1.{}.ab.cd", "00".repeat(16));
        let both =
            |text: &str| [server_url(text, &Habit::default()).unwrap_err(), login_urls(text).unwrap_err()];
        for failure in both("fd09::1") {
            assert!(failure.message.contains("[fd09::1]:7433"), "{failure:?}");
        }
        for failure in both(&token) {
            assert!(failure.message.contains("a token stands where"), "{failure:?}");
            assert!(!format!("{failure:?}").contains("0000"), "{failure:?}");
        }
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
