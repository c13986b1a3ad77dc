//! Text that a user wrote: label files, lists, data.yaml, job files, specs, settings. One reader for all of them, so
//! that they differ neither in the line ends and byte order marks that they take, nor in what they say of other encodings.
//!
//! Must not know: files, formats.

use std::borrow::Cow;

/// Why bytes are no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Two or four bytes for each character.
    #[error("is {0} text; save it as UTF-8")]
    Wide(&'static str),
    /// Bytes that UTF-8 does not have.
    #[error(
        "byte {column} of the line, 0x{byte:02X}, is not UTF-8 (probably the text is {guess}); save it as UTF-8"
    )]
    CodePage {
        /// The line that is wrong, from 1.
        line: usize,
        /// Bytes into the line, from 1.
        column: usize,
        /// The first such byte.
        byte: u8,
        /// What the text may be.
        guess: &'static str,
    },
    /// Texts have none; files that a crash cut short do.
    #[error("has a NUL byte; the file is damaged, or is no text")]
    Nul {
        /// The line that is wrong, from 1.
        line: usize,
    },
}

impl TextError {
    /// The line that is wrong, from 1; none where the whole text is.
    pub const fn line(&self) -> Option<usize> {
        match self {
            Self::Wide(_) => None,
            Self::CodePage { line, .. } | Self::Nul { line } => Some(*line),
        }
    }

    /// As a sentence about `file`: `labels/a.txt:3: …`.
    pub fn in_file(&self, file: impl std::fmt::Display) -> String {
        match self.line() {
            Some(line) => format!("{file}:{line}: {self}"),
            None => format!("{file}: {self}"),
        }
    }
}

/// The text that `bytes` are, without a byte order mark. Every line ends in LF or CRLF: a CR alone, as old programs for
/// the Macintosh write it, becomes a LF, so that lines and columns stay where they are.
///
/// Copies only a text that has such a CR.
///
/// # Errors
/// For other encodings than UTF-8, which are named as far as they can be told.
pub fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, TextError> {
    if let Some(wide) = wide(bytes) {
        return Err(TextError::Wide(wide));
    }
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| code_page(bytes, error.valid_up_to()))?;
    // Asked for whether they are there, bytes are looked for many at a time.
    if bytes.contains(&0) {
        let at = bytes.iter().position(|byte| *byte == 0).unwrap_or(0);
        return Err(TextError::Nul { line: place(bytes, at).0 });
    }
    Ok(unix_lines(text))
}

/// The lines of a text that may be in any code page, each without its end: for lists of files, whose names are bytes.
///
/// # Errors
/// For texts of two or four bytes a character.
pub fn byte_lines(bytes: &[u8]) -> Result<impl Iterator<Item = &[u8]>, TextError> {
    if let Some(wide) = wide(bytes) {
        return Err(TextError::Wide(wide));
    }
    let mut rest = Some(bytes.strip_prefix(BOM).unwrap_or(bytes));
    Ok(std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            rest = None;
            return Some(text);
        };
        let width = if text[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = Some(&text[end + width..]);
        Some(&text[..end])
    }))
}

/// Text from a file or a wire, made harmless for a terminal: control characters become `\u{FFFD}`, but for line ends and
/// tabs, which become blanks.
pub fn clean(text: &str) -> String {
    let replace = |character: char| match character {
        '\n' | '\t' | '\r' => ' ',
        // The bidirectional overrides reorder what a person reads.
        '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        other if other.is_control() => char::REPLACEMENT_CHARACTER,
        other => other,
    };
    text.chars().map(replace).collect::<String>().trim_end().to_owned()
}

/// As [`clean`], for messages of several lines.
pub fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Bytes that tell how wide characters are.
const SAMPLE: usize = 1024;

/// The name of an encoding of two or four bytes a character; told by its mark, or by where its zeros are.
fn wide(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => return Some("UTF-32"),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => return Some("UTF-16"),
        _ => {}
    }
    let sample = &bytes[..bytes.len().min(SAMPLE)];
    if !sample.contains(&0) {
        return None;
    }
    let mut zeros = [0; 4];
    for (at, _) in sample.iter().enumerate().filter(|(_, byte)| **byte == 0) {
        zeros[at % 4] += 1;
    }
    // Most of what people write here is ASCII, in any language.
    let mostly = |at: usize| 2 * zeros[at] * 4 > sample.len();
    match [0, 1, 2, 3].map(mostly) {
        [false, true, true, true] | [true, true, true, false] => Some("UTF-32"),
        [false, true, false, true] if zeros[0] + zeros[2] == 0 => Some("UTF-16"),
        [true, false, true, false] if zeros[1] + zeros[3] == 0 => Some("UTF-16"),
        _ => None,
    }
}

fn code_page(bytes: &[u8], at: usize) -> TextError {
    let (line, column) = place(bytes, at);
    // European text has single bytes above ASCII between letters; East Asian text has runs of them.
    let high = bytes.iter().filter(|byte| !byte.is_ascii()).count();
    let runs = bytes.chunk_by(|a, b| a.is_ascii() == b.is_ascii()).filter(|run| !run[0].is_ascii()).count();
    let guess = if high < 2 * runs {
        "Windows-1252"
    } else {
        "in a code page, such as Windows-1252, GBK or Shift JIS"
    };
    TextError::CodePage { line, column, byte: bytes[at], guess }
}

/// Line and column of a byte, from 1; lines end in CR, LF or both.
fn place(bytes: &[u8], at: usize) -> (usize, usize) {
    let (mut line, mut start) = (1, 0);
    for (index, byte) in bytes[..at].iter().enumerate() {
        if *byte == b'\n' || (*byte == b'\r' && bytes.get(index + 1) != Some(&b'\n')) {
            (line, start) = (line + 1, index + 1);
        }
    }
    (line, at - start + 1)
}

/// CR alone becomes LF.
fn unix_lines(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let is_lone = |at: usize| bytes[at] == b'\r' && bytes.get(at + 1) != Some(&b'\n');
    if !bytes.contains(&b'\r') || !(0..bytes.len()).any(is_lone) {
        return Cow::Borrowed(text);
    }
    let made = text.char_indices().map(|(at, character)| if is_lone(at) { '\n' } else { character });
    Cow::Owned(made.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn every_line_end_makes_a_line_and_a_byte_order_mark_none() {
        for (text, copied) in [
            ("\u{feff}a\nb\n\nü", false),
            ("a\r\nb\r\n\r\nü", false),
            ("\u{feff}a\rb\r\rü", true),
            ("a\rb\n\r\nü", true),
        ] {
            let found = decode(text.as_bytes()).unwrap();
            assert_eq!(found.lines().collect::<Vec<_>>(), ["a", "b", "", "ü"], "{text:?}");
            assert_eq!(matches!(found, Cow::Owned(_)), copied, "{text:?}");
            let lines: Vec<_> = byte_lines(text.as_bytes()).unwrap().collect();
            assert_eq!(lines, [b"a".as_slice(), b"b", b"", "ü".as_bytes()], "{text:?}");
        }
        assert_eq!(decode(b"").unwrap(), "");
    }

    #[test]
    fn wide_encodings_are_named_with_and_without_their_marks() {
        for text in ["0 0.5 0.5 0.1 0.1\n", "names: [디스크, square]\r\ntrain: a\r\n", "a"] {
            let wide = |text: &str| {
                [utf16(text, u16::to_le_bytes), utf16(text, u16::to_be_bytes)]
                    .map(|bytes| decode(&bytes).unwrap_err().to_string())
            };
            let marked = wide(&format!("\u{feff}{text}"));
            assert_eq!(marked, ["is UTF-16 text; save it as UTF-8"; 2].map(str::to_owned), "{text}");
            if text.len() > 1 {
                assert_eq!(wide(text), marked, "{text}");
            }
            let widest = |bytes: fn(u32) -> [u8; 4]| {
                text.chars().flat_map(move |c| bytes(c.into())).collect::<Vec<u8>>()
            };
            for bytes in [widest(u32::to_le_bytes), widest(u32::to_be_bytes)] {
                assert_eq!(decode(&bytes), Err(TextError::Wide("UTF-32")), "{text}");
            }
            assert!(byte_lines(&utf16(&format!("\u{feff}{text}"), u16::to_le_bytes)).is_err());
        }
    }

    #[test]
    fn a_byte_of_a_code_page_is_named_by_its_line_and_place() {
        let error = decode(b"# gr\xF6\xDFe\r\npath: .\rnames: [disqu\xE9]").unwrap_err();
        assert_eq!(
            error.in_file("data.yaml"),
            "data.yaml:1: byte 5 of the line, 0xF6, is not UTF-8 (probably the text is Windows-1252); save it as UTF-8"
        );
        let korean = decode(b"names: [\xBC\xBC\xC6\xF7]").unwrap_err().to_string();
        assert!(korean.contains("in a code page, such as Windows-1252, GBK or Shift JIS"), "{korean}");
        let error = decode(b"path: .\rval: a\r\nnames: [disqu\xE9]").unwrap_err();
        assert_eq!(
            error.in_file("data.yaml"),
            "data.yaml:3: byte 14 of the line, 0xE9, is not UTF-8 (probably the text is Windows-1252); save it as UTF-8"
        );
        assert_eq!(decode(b"0 .5\n0\0\0\0").unwrap_err(), TextError::Nul { line: 2 });
        assert_eq!(
            decode(&[0; 40]).unwrap_err().in_file("a.txt"),
            "a.txt:1: has a NUL byte; the file is damaged, or is no text"
        );
    }

    #[test]
    fn a_strangers_text_loses_its_escapes() {
        assert_eq!(clean("a\x1b[31mb\nc\t\u{202e}d\r\n"), "a\u{FFFD}[31mb c \u{FFFD}d");
        assert_eq!(clean_lines("a\x1b\nb"), "a\u{FFFD}\nb");
    }
}
