//! Tokens that stand in an address, where proxies and logs would keep them.

use std::borrow::Cow;

use axum::http::Uri;
use percent_encoding::percent_decode;
use trainyard_access::TOKEN_START;

/// How often an address may be encoded: by a client, and by a proxy before it.
const ENCODINGS: usize = 3;

/// Whether a token stands in an address: in its path or in its query, percent-encoded or not.
pub fn is_in(uri: &Uri) -> bool {
    uri.path_and_query().is_some_and(|address| has_token(address.as_str()))
}

/// The part of a path that may be kept: all of it, or what is before a token.
pub fn kept(path: &str) -> &str {
    if !has_token(path) {
        return path;
    }
    // Before the first thing that is encoded, no part of a token is.
    let starts = [find(path.as_bytes()), path.find('%')];
    &path[..starts.into_iter().flatten().min().unwrap_or(0)]
}

fn has_token(text: &str) -> bool {
    let mut bytes = Cow::Borrowed(text.as_bytes());
    for _ in 0..ENCODINGS {
        if find(&bytes).is_some() {
            return true;
        }
        // Most addresses have no such layer, and are not copied.
        if !bytes.contains(&b'%') {
            return false;
        }
        bytes = Cow::Owned(percent_decode(&bytes).collect());
    }
    find(&bytes).is_some()
}

fn find(text: &[u8]) -> Option<usize> {
    let start = TOKEN_START.as_bytes();
    text.windows(start.len()).position(|part| part.eq_ignore_ascii_case(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_seen_in_path_and_query_however_it_is_encoded_and_never_kept() {
        let table = [
            ("/metrics", false, "/metrics"),
            ("/metrics?access_token=ty1.ab.cd.ef", true, "/metrics"),
            ("/metrics?access_token=ty1%2Eab", true, "/metrics"),
            ("/ty1.ab.cd.ef", true, "/"),
            ("/api/TY1.ab.cd.ef/jobs", true, "/api/"),
            ("/api/%74y1%2eab.cd.ef", true, "/api/"),
            ("/api/ty1%252Eab.cd.ef", true, "/api/ty1"),
            ("/trainyard.v1.JobService/ty1.ab.cd.ef", true, "/trainyard.v1.JobService/"),
            ("/50%/%zz/%e2%82", false, "/50%/%zz/%e2%82"),
            ("/%", false, "/%"),
        ];
        for (address, is_seen, expected) in table {
            let uri: Uri = address.parse().unwrap();
            assert_eq!((is_in(&uri), kept(uri.path())), (is_seen, expected), "{address}");
        }
    }
}
