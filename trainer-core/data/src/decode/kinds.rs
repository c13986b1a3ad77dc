//! What a file is by its first bytes, whatever its name says.

use image::ImageFormat;

/// Bytes that tell a kind.
pub(super) const TELLING: usize = 64;

/// What a file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A format that is read.
    Read(ImageFormat),
    /// Something else that is known, and what it is called.
    Foreign(&'static str),
    /// Text, as of an error page.
    Text,
    /// A file without bytes.
    Empty,
    /// Bytes of no known meaning.
    Unknown,
}

/// Formats that begin with these bytes.
const BEGINNINGS: [(&[u8], Kind); 36] = [
    (b"\xFF\xD8\xFF", Kind::Read(ImageFormat::Jpeg)),
    (b"\x89PNG\r\n\x1a\n", Kind::Read(ImageFormat::Png)),
    (b"BM", Kind::Read(ImageFormat::Bmp)),
    (b"II*\0", Kind::Read(ImageFormat::Tiff)),
    (b"MM\0*", Kind::Read(ImageFormat::Tiff)),
    // With 64-bit offsets.
    (b"II+\0", Kind::Read(ImageFormat::Tiff)),
    (b"MM\0+", Kind::Read(ImageFormat::Tiff)),
    (b"GIF8", Kind::Foreign("GIF")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", Kind::Foreign("JPEG 2000")),
    (b"\xFF\x4F\xFF\x51", Kind::Foreign("JPEG 2000")),
    (b"\0\0\0\x0cJXL \r\n\x87\n", Kind::Foreign("JPEG XL")),
    (b"\xFF\x0A", Kind::Foreign("JPEG XL")),
    (b"II\xBC\x01", Kind::Foreign("JPEG XR")),
    (b"8BPS", Kind::Foreign("Photoshop (PSD)")),
    (b"%PDF", Kind::Foreign("PDF")),
    (b"PF\n", Kind::Foreign("PFM")),
    (b"Pf\n", Kind::Foreign("PFM")),
    (b"P1\n", Kind::Foreign("PBM")),
    (b"P2\n", Kind::Foreign("PGM")),
    (b"P3\n", Kind::Foreign("PPM")),
    (b"P4\n", Kind::Foreign("PBM")),
    (b"P5\n", Kind::Foreign("PGM")),
    (b"P6\n", Kind::Foreign("PPM")),
    (b"P7\n", Kind::Foreign("PAM")),
    (b"v/1\x01", Kind::Foreign("OpenEXR")),
    (b"#?RADIANCE", Kind::Foreign("Radiance HDR")),
    (b"DDS ", Kind::Foreign("DDS")),
    (b"qoif", Kind::Foreign("QOI")),
    (b"\0\0\x01\0", Kind::Foreign("an icon (ICO)")),
    (b"\x93NUMPY", Kind::Foreign("a NumPy array")),
    (b"\x89HDF\r\n\x1a\n", Kind::Foreign("HDF5")),
    (b"\x1A\x45\xDF\xA3", Kind::Foreign("a video (Matroska)")),
    (b"PK\x03\x04", Kind::Foreign("a ZIP archive")),
    (b"\x1F\x8B", Kind::Foreign("a gzip archive")),
    (b"Rar!", Kind::Foreign("a RAR archive")),
    (b"7z\xBC\xAF\x27\x1C", Kind::Foreign("a 7-Zip archive")),
];

/// What begins so; more than [`TELLING`] bytes tell no more.
pub(super) fn kind(head: &[u8]) -> Kind {
    if head.is_empty() {
        return Kind::Empty;
    }
    let known = BEGINNINGS.iter().find(|(bytes, _)| head.starts_with(bytes));
    if let Some((_, kind)) = known {
        return *kind;
    }
    match (head.get(..4), head.get(4..8), head.get(8..12)) {
        (Some(b"RIFF"), _, Some(b"WEBP")) => Kind::Read(ImageFormat::WebP),
        (Some(b"RIFF"), _, Some(b"AVI ")) => Kind::Foreign("a video (AVI)"),
        (_, Some(b"ftyp"), Some(brand)) => Kind::Foreign(of_brand(brand, head)),
        _ if words(head).is_some() => Kind::Text,
        _ => Kind::Unknown,
    }
}

/// Files of ISO's media format: still images, and videos.
fn of_brand(brand: &[u8], head: &[u8]) -> &'static str {
    let compatible = head.get(16..).unwrap_or_default();
    match brand {
        b"avif" | b"avis" => "AVIF",
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" => "HEIC",
        b"mif1" | b"msf1" if compatible.chunks_exact(4).any(|brand| brand == b"avif") => "AVIF",
        b"mif1" | b"msf1" => "HEIF",
        b"jxl " => "JPEG XL",
        b"jp2 " => "JPEG 2000",
        b"crx " => "a camera's raw file (CR3)",
        _ => "a video",
    }
}

/// The first line of a file, if its beginning is text.
pub(super) fn words(head: &[u8]) -> Option<String> {
    let head = &head[..head.len().min(TELLING)];
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // A letter may be cut at the end.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let is_text = |letter: char| !letter.is_control() || matches!(letter, '\n' | '\r' | '\t');
    (!text.is_empty() && text.chars().all(is_text))
        .then(|| text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_content() {
        for (head, kind_of) in [
            (&b""[..], Kind::Empty),
            (b"\xFF\xD8\xFF\xE0", Kind::Read(ImageFormat::Jpeg)),
            (b"RIFF\x10\0\0\0WEBPVP8 ", Kind::Read(ImageFormat::WebP)),
            (b"II+\0\x08\0\0\0", Kind::Read(ImageFormat::Tiff)),
            (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", Kind::Foreign("HEIC")),
            (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", Kind::Foreign("AVIF")),
            (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", Kind::Foreign("HEIF")),
            (b"\0\0\0\x1cftypisom\0\0\0\0isommp42", Kind::Foreign("a video")),
            (b"GIF89a", Kind::Foreign("GIF")),
            (b"<html>not found</html>", Kind::Text),
            (b"version https://git-lfs.github.com/spec/v1\noid", Kind::Text),
            (b"\0\0\0\0", Kind::Unknown),
            (b"\xF0\x28\x8C\xBC", Kind::Unknown),
        ] {
            assert_eq!(kind(head), kind_of, "{}", head.escape_ascii());
        }
        assert_eq!(words(b"a\xC3"), Some("a".to_owned()));
        assert_eq!(words(b"version 1\noid"), Some("version 1".to_owned()));
    }
}
