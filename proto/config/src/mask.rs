//! Hides what is secret in values and texts that people see: passwords in URLs, and values of keys that are called like
//! secrets. Rather too much is hidden than too little.

/// What stands for a secret.
pub const MASK: &str = "********";

/// Parts of the names of keys whose values are secrets: `secret_access_key=…`, `?password=…`, `sas_token=…`.
const SECRETS: [&str; 10] =
    ["pass", "pwd", "secret", "token", "key", "credential", "sas", "auth", "signature", "sig"];

/// A value with what is secret in it hidden: of a URL the password, of `KEY=VALUE` the value if the key is called like a
/// secret.
pub fn masked(value: &str) -> String {
    if let Some((scheme, rest)) = value.split_once("://")
        && !scheme.contains('=')
    {
        return format!("{scheme}://{}", masked_address(scheme, rest));
    }
    match value.split_once('=') {
        Some((key, rest)) if is_secret(key) && !rest.is_empty() => format!("{key}={MASK}"),
        Some((key, rest)) => format!("{key}={}", masked(rest)),
        None => value.to_owned(),
    }
}

/// A text of several values, such as a line of a file in an error, with what is secret in each of them hidden.
pub fn masked_text(text: &str) -> String {
    let is_between = |character: char| character.is_whitespace() || "\"'`".contains(character);
    // The pieces keep what is between them.
    let mut masks = String::with_capacity(text.len());
    for piece in text.split_inclusive(is_between) {
        let end = piece.char_indices().next_back().filter(|(_, last)| is_between(*last));
        let (word, between) = piece.split_at(end.map_or(piece.len(), |(at, _)| at));
        masks.push_str(&masked(word));
        masks.push_str(between);
    }
    masks
}

/// What follows `://`: `user:password@host/path?key=value`.
fn masked_address(scheme: &str, rest: &str) -> String {
    let (place, query) = rest.find('?').map_or((rest, ""), |at| rest.split_at(at));
    // A password may have slashes, which it should not.
    let place = match place.rsplit_once('@') {
        Some((login, host)) => {
            let user = match login.split_once(':') {
                Some((user, _)) => format!("{user}:"),
                // Redis takes it for a password.
                None if scheme.starts_with("redis") => String::new(),
                None => return format!("{place}{}", masked_query(query)),
            };
            format!("{user}{MASK}@{host}")
        }
        None => place.to_owned(),
    };
    place + &masked_query(query)
}

/// `?a=b&password=c`, or nothing.
fn masked_query(query: &str) -> String {
    let Some(pairs) = query.strip_prefix('?') else { return String::new() };
    // A password that has a question mark has become a query.
    if pairs.contains('@') {
        return format!("?{MASK}");
    }
    let pairs: Vec<String> = pairs.split('&').map(masked).collect();
    format!("?{}", pairs.join("&"))
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRETS.iter().any(|secret| key.contains(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_urls_and_values_of_secret_keys_are_hidden_and_nothing_else() {
        for (value, shown) in [
            ("http://me:hunter2@host:1/x", "http://me:********@host:1/x"),
            ("redis://:hunter2@host/0", "redis://:********@host/0"),
            ("redis+sentinel://hunter2@a,b/m", "redis+sentinel://********@a,b/m"),
            ("redis://:hun/ter2@host/0", "redis://:********@host/0"),
            ("redis://:hun?ter2@host/0", "redis://:hun?********"),
            (
                "redis://host/0?password=hunter2&protocol=resp3",
                "redis://host/0?password=********&protocol=resp3",
            ),
            ("unix:///run/redis.sock?pass=hunter2", "unix:///run/redis.sock?pass=********"),
            ("az://box/a?sig=hunter2", "az://box/a?sig=********"),
            ("secret_access_key=hunter2=", "secret_access_key=********"),
            ("AWS_SESSION_TOKEN=hunter2", "AWS_SESSION_TOKEN=********"),
            ("endpoint=http://me:hunter2@minio:9000", "endpoint=http://me:********@minio:9000"),
            ("sas_token=?sv=1&sig=hunter2", "sas_token=********"),
        ] {
            assert_eq!(masked(value), shown);
        }
        for plain in [
            "endpoint=http://minio:9000",
            "region=eu-west-1",
            "allow_http=true",
            "http://me@host/x",
            "redis://host:6379/0",
            "/etc/redis_password",
            "ada weight=2 running_gpus=4",
            "secret=",
            "",
        ] {
            assert_eq!(masked(plain), plain);
        }
    }

    #[test]
    fn a_text_keeps_its_words_and_loses_its_secrets() {
        let text = "2 | redis_url = \"redis://:hunter2@host\n  | blob_options = [\"access_key=hunter2\", 'region=x']\n";
        let shown = "2 | redis_url = \"redis://:********@host\n  | blob_options = [\"access_key=********\", 'region=x']\n";
        assert_eq!(masked_text(text), shown);
    }
}
