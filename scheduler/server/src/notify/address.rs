//! Which addresses a webhook may have, what its kind is by its URL, and how that is shown.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use crate::notice_records::WebhookKind;

/// Longest URL, in bytes.
const MOST_BYTES: usize = 2048;
/// Where clouds tell a machine its secrets, beyond what is link-local.
const METADATA_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// Characters of a URL's end that are shown.
const SHOWN: usize = 4;

/// Whether a webhook may have this URL, as far as the URL tells.
///
/// # Errors
/// What is wrong with it, for a sentence that begins with the field.
pub fn is_acceptable(text: &str, allows_local: bool) -> Result<Url, String> {
    if text.is_empty() || text.len() > MOST_BYTES {
        return Err(format!("has {} bytes; use 1 to {MOST_BYTES}", text.len()));
    }
    let url =
        Url::parse(text).map_err(|_| "is no URL; write one such as `https://ntfy.sh/TOPIC`".to_owned())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("is `{}:…`; use `https:` or `http:`", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user or password before the host; leave them out".to_owned());
    }
    let address = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain("localhost")) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Some(Host::Domain(_)) => None,
        None => return Err("names no host".to_owned()),
    };
    if let Some(address) = address.filter(|address| !allows_local && is_local(*address)) {
        return Err(format!("leads to {address}, {WAY_OUT}"));
    }
    Ok(url)
}

/// Why an address is refused, and what to do.
pub const WAY_OUT: &str = "which is the scheduler's own machine or its link: use another address, or have an admin set \
                           `webhook_local_addresses`";

/// Whether an address is this machine's alone, its link's, or one where a cloud tells secrets.
pub fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.octets()[0] == 0
                || v4 == METADATA_V4
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6 == METADATA_V6
                || embedded(v6).is_some_and(|v4| is_local(IpAddr::V4(v4)))
        }
    }
}

/// The address of version 4 that one of NAT64 or 6to4 leads to.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d] = match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            [a, b, c, d]
        }
        _ => return None,
    };
    Some(Ipv4Addr::new(a, b, c, d))
}

/// The kind of a webhook, as its URL tells.
pub fn guessed_kind(url: &Url) -> WebhookKind {
    let host = url.host_str().unwrap_or_default();
    let is_of = |domain: &str| host == domain || host.ends_with(&format!(".{domain}"));
    let path = url.path();
    if is_of("slack.com") {
        WebhookKind::Slack
    } else if (is_of("discord.com") || is_of("discordapp.com")) && path.starts_with("/api/webhooks/") {
        WebhookKind::Discord
    } else if is_of("ntfy.sh") || host.starts_with("ntfy.") {
        WebhookKind::Ntfy
    } else if path.contains("/hooks/") && (host.contains("mattermost") || host.starts_with("chat.")) {
        WebhookKind::Mattermost
    } else {
        WebhookKind::Json
    }
}

/// A URL without what lets others post there: `https://hooks.slack.com/…Xy2z`.
pub fn shortened(text: &str) -> String {
    let Ok(url) = Url::parse(text) else { return "…".to_owned() };
    let origin = url.origin().ascii_serialization();
    let path: Vec<char> = url.path().trim_start_matches('/').chars().collect();
    // Of a short one even the end tells too much.
    match path.len() {
        0 => format!("{origin}/"),
        1..=11 => format!("{origin}/…"),
        length => format!("{origin}/…{}", path[length - SHOWN..].iter().collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_no_webhook_has_are_refused_with_what_would_be_right() {
        let table = [
            ("", "has 0 bytes"),
            ("slack", "is no URL"),
            ("file:///etc/passwd", "is `file:…`; use `https:`"),
            ("redis://10.0.0.1/", "is `redis:…`"),
            ("https://ada:pw@lab/hook", "has a user or password"),
            ("http://127.0.0.1:6379/", "leads to 127.0.0.1"),
            ("http://localhost/", "leads to 127.0.0.1"),
            ("http://2130706433/", "leads to 127.0.0.1"),
            ("http://0x7f.1/", "leads to 127.0.0.1"),
            ("http://169.254.169.254/latest", "leads to 169.254.169.254"),
            ("http://[::1]/", "leads to ::1"),
            ("http://[::ffff:127.0.0.1]/", "leads to ::ffff:127.0.0.1"),
            ("http://[fe80::1]/", "leads to fe80::1"),
            ("http://[64:ff9b::7f00:1]/", "leads to 64:ff9b::7f00:1"),
        ];
        for (text, expected) in table {
            let said = is_acceptable(text, false).unwrap_err();
            assert!(said.starts_with(expected), "{text}: {said}");
        }
        assert!(is_acceptable(&format!("https://x/{}", "a".repeat(MOST_BYTES)), false).is_err());
        for fine in ["https://ntfy.sh/cells", "http://10.0.0.9:8065/hooks/x", "http://192.168.1.2/"] {
            assert!(is_acceptable(fine, false).is_ok(), "{fine}");
        }
        assert!(is_acceptable("http://localhost:9/", true).is_ok());
    }

    #[test]
    fn the_kind_is_guessed_from_the_url() {
        let table = [
            ("https://hooks.slack.com/services/T0/B0/x", WebhookKind::Slack),
            ("https://discord.com/api/webhooks/1/x", WebhookKind::Discord),
            ("https://ntfy.sh/cells", WebhookKind::Ntfy),
            ("https://ntfy.lab.example/cells", WebhookKind::Ntfy),
            ("https://mattermost.lab.example/hooks/x", WebhookKind::Mattermost),
            ("https://notslack.com/services", WebhookKind::Json),
            ("http://10.0.0.9:8000/hooks/x", WebhookKind::Json),
        ];
        for (url, kind) in table {
            assert_eq!(guessed_kind(&Url::parse(url).unwrap()), kind, "{url}");
        }
    }

    #[test]
    fn a_url_is_shown_without_what_lets_others_post() {
        let table = [
            ("https://hooks.slack.com/services/T0/B0/secretXy2z", "https://hooks.slack.com/…Xy2z"),
            ("https://ntfy.sh/cells", "https://ntfy.sh/…"),
            ("http://10.0.0.9:8000/?key=secret", "http://10.0.0.9:8000/"),
        ];
        for (url, shown) in table {
            assert_eq!(shortened(url), shown);
        }
    }
}
