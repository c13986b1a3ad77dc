//! Pages of lists: a token names the last entry of the page before, so that it stays good while others
//! come and go, and carries a hash of the filters, which must not change in between.

use sha2::{Digest as _, Sha256};
use trainyard_types::Violation;

const DEFAULT_SIZE: i32 = 50;
const MAX_SIZE: i32 = 1000;
/// What is wrong with a token that leads nowhere.
pub const NO_TOKEN: &str = "is no token of this server; start without one";
/// Bytes of the filters' hash.
const HASH: usize = 8;

/// Which page of a list is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Entries of the page, at most.
    pub size: usize,
    /// The key of the last entry before this page.
    pub after: Option<Vec<u8>>,
    filters: [u8; HASH],
}

impl Page {
    /// `filters` is anything that tells one list from another: the method and its other fields.
    ///
    /// # Errors
    /// A negative size; a token that is none, or of other filters.
    pub fn parse(size: i32, token: &str, filters: &str) -> Result<Self, Vec<Violation>> {
        let mut found = Vec::new();
        if size < 0 {
            let text = format!("is {size}; use 1 to {MAX_SIZE}, or 0 for the default ({DEFAULT_SIZE})");
            found.push(Violation::new("page_size", text));
        }
        let digest = Sha256::digest(filters.as_bytes());
        let mut hash = [0; HASH];
        hash.copy_from_slice(&digest[..HASH]);
        let after = parse_token(token, hash).unwrap_or_else(|text| {
            found.push(Violation::new("page_token", text));
            None
        });
        let size = if size == 0 { DEFAULT_SIZE } else { size.clamp(1, MAX_SIZE) };
        let size = usize::try_from(size).unwrap_or(1);
        if found.is_empty() { Ok(Self { size, after, filters: hash }) } else { Err(found) }
    }

    /// The token of the page that follows an entry.
    pub fn token(&self, last: &[u8]) -> String {
        hex::encode([&self.filters[..], last].concat())
    }
}

fn parse_token(token: &str, filters: [u8; HASH]) -> Result<Option<Vec<u8>>, &'static str> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = hex::decode(token).unwrap_or_default();
    let (hash, key) = bytes.split_at_checked(HASH).ok_or(NO_TOKEN)?;
    if hash == filters {
        Ok(Some(key.to_vec()))
    } else {
        Err("belongs to a list with other filters; keep them, or start without a token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_to_what_follows_its_entry() {
        let page = Page::parse(0, "", "jobs").unwrap();
        assert_eq!((page.size, page.after.clone()), (50, None));
        let next = Page::parse(5000, &page.token(b"key"), "jobs").unwrap();
        assert_eq!((next.size, next.after), (1000, Some(b"key".to_vec())));
    }

    #[test]
    fn a_bad_size_and_a_token_of_other_filters_are_both_named() {
        let token = Page::parse(0, "", "jobs of ada").unwrap().token(b"key");
        let found = Page::parse(-1, &token, "jobs of bob").unwrap_err();
        let fields: Vec<&str> = found.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["page_size", "page_token"]);
        assert!(Page::parse(0, "rubbish", "jobs").is_err());
    }
}
