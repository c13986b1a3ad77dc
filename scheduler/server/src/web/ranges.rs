//! The part of a file that a request asks for by the header `range`.

use axum::http::{HeaderMap, HeaderValue, header};

/// What a request wants of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All of it; also where the header cannot be taken as it stands: several ranges, other units, a condition on a version
    /// that is nowhere told.
    Whole,
    /// From a byte on, to another one or to the end.
    From { first: u64, last: Option<u64> },
    /// So many bytes of its end.
    Last(u64),
}

/// A part that a file of a certain size has: its first byte and its last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub first: u64,
    pub last: u64,
}

impl Wanted {
    pub fn by(headers: &HeaderMap) -> Self {
        let range = headers.get(header::RANGE).filter(|_| !headers.contains_key(header::IF_RANGE));
        range.and_then(|range| Self::parse(range.to_str().ok()?)).unwrap_or(Self::Whole)
    }

    fn parse(text: &str) -> Option<Self> {
        let (unit, range) = text.split_once('=')?;
        let (first, last) = range.trim().split_once('-')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        match (first, last) {
            ("", last) => Some(Self::Last(number(last)?)),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    /// The part of a file of this size; the whole of it is none.
    ///
    /// # Errors
    /// It has no such bytes.
    pub fn of(self, size_bytes: u64) -> Result<Option<Part>, Unsatisfiable> {
        let last_byte = size_bytes.checked_sub(1);
        let part = match (self, last_byte) {
            (Self::Whole, _) => return Ok(None),
            (Self::From { first, last }, Some(end)) if first <= end => {
                Part { first, last: last.unwrap_or(end).min(end) }
            }
            (Self::Last(count @ 1..), Some(end)) => {
                Part { first: size_bytes.saturating_sub(count), last: end }
            }
            (Self::From { .. } | Self::Last(_), _) => return Err(Unsatisfiable { size_bytes }),
        };
        Ok(Some(part))
    }
}

/// A whole number, without a sign.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

impl Part {
    pub const fn len(self) -> u64 {
        self.last - self.first + 1
    }

    /// As the header `content-range` has it.
    pub fn header(self, size_bytes: u64) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("bytes {}-{}/{size_bytes}", self.first, self.last)).ok()
    }
}

/// A file has no such part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsatisfiable {
    pub size_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_taken_and_what_is_none_means_the_whole() {
        let from = |first, last| Wanted::From { first, last };
        for (text, wanted) in [
            ("bytes=0-99", from(0, Some(99))),
            ("bytes=7-", from(7, None)),
            ("Bytes = 7-7", from(7, Some(7))),
            ("bytes=-5", Wanted::Last(5)),
            ("bytes=5-2", Wanted::Whole),
            ("bytes=+5-", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("bytes", Wanted::Whole),
            ("bytes=99999999999999999999-", Wanted::Whole),
        ] {
            let mut headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(text))]);
            assert_eq!(Wanted::by(&headers), wanted, "{text}");
            headers.insert(header::IF_RANGE, HeaderValue::from_static("\"v1\""));
            assert_eq!(Wanted::by(&headers), Wanted::Whole);
        }
    }

    #[test]
    fn a_part_lies_within_the_file_or_there_is_none() {
        let part = |first, last| Ok(Some(Part { first, last }));
        let none = |size_bytes| Err(Unsatisfiable { size_bytes });
        for (wanted, size_bytes, expected) in [
            (Wanted::Whole, 0, Ok(None)),
            (Wanted::From { first: 0, last: Some(99) }, 10, part(0, 9)),
            (Wanted::From { first: 9, last: None }, 10, part(9, 9)),
            (Wanted::From { first: 10, last: None }, 10, none(10)),
            (Wanted::From { first: 0, last: None }, 0, none(0)),
            (Wanted::Last(3), 10, part(7, 9)),
            (Wanted::Last(30), 10, part(0, 9)),
            (Wanted::Last(0), 10, none(10)),
            (Wanted::Last(3), 0, none(0)),
        ] {
            assert_eq!(wanted.of(size_bytes), expected, "{wanted:?} of {size_bytes}");
        }
        assert_eq!(Part { first: 7, last: 9 }.len(), 3);
        assert_eq!(Part { first: 7, last: 9 }.header(10).unwrap(), "bytes 7-9/10");
    }
}
