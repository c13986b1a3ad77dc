//! What a file is by its first bytes (its signature, or magic number), whatever its name says.

use image::ImageFormat;

/// Bytes of a file that tell what it is.
pub(super) const SIGNATURE_BYTES: usize = 64;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    /// An image of a format that is read.
    Read(ImageFormat),
    /// Another known format, by its name.
    Foreign(&'static str),
    /// Text, such as an error page.
    Text,
    /// A file without bytes.
    Empty,
    /// Bytes of no known format.
    Unknown,
}

/// Signatures and what they belong to.
const SIGNATURES: [(&[u8], FileKind); 36] = [
    (b"\xFF\xD8\xFF", FileKind::Read(ImageFormat::Jpeg)),
    (b"\x89PNG\r\n\x1a\n", FileKind::Read(ImageFormat::Png)),
    (b"BM", FileKind::Read(ImageFormat::Bmp)),
    (b"II*\0", FileKind::Read(ImageFormat::Tiff)),
    (b"MM\0*", FileKind::Read(ImageFormat::Tiff)),
    // BigTIFF, with offsets of 64 bits.
    (b"II+\0", FileKind::Read(ImageFormat::Tiff)),
    (b"MM\0+", FileKind::Read(ImageFormat::Tiff)),
    (b"GIF8", FileKind::Foreign("GIF")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", FileKind::Foreign("JPEG 2000")),
    (b"\xFF\x4F\xFF\x51", FileKind::Foreign("JPEG 2000")),
    (b"\0\0\0\x0cJXL \r\n\x87\n", FileKind::Foreign("JPEG XL")),
    (b"\xFF\x0A", FileKind::Foreign("JPEG XL")),
    (b"II\xBC\x01", FileKind::Foreign("JPEG XR")),
    (b"8BPS", FileKind::Foreign("Photoshop (PSD)")),
    (b"%PDF", FileKind::Foreign("PDF")),
    (b"PF\n", FileKind::Foreign("PFM")),
    (b"Pf\n", FileKind::Foreign("PFM")),
    (b"P1\n", FileKind::Foreign("PBM")),
    (b"P2\n", FileKind::Foreign("PGM")),
    (b"P3\n", FileKind::Foreign("PPM")),
    (b"P4\n", FileKind::Foreign("PBM")),
    (b"P5\n", FileKind::Foreign("PGM")),
    (b"P6\n", FileKind::Foreign("PPM")),
    (b"P7\n", FileKind::Foreign("PAM")),
    (b"v/1\x01", FileKind::Foreign("OpenEXR")),
    (b"#?RADIANCE", FileKind::Foreign("Radiance HDR")),
    (b"DDS ", FileKind::Foreign("DDS")),
    (b"qoif", FileKind::Foreign("QOI")),
    (b"\0\0\x01\0", FileKind::Foreign("an icon (ICO)")),
    (b"\x93NUMPY", FileKind::Foreign("a NumPy array")),
    (b"\x89HDF\r\n\x1a\n", FileKind::Foreign("HDF5")),
    (b"\x1A\x45\xDF\xA3", FileKind::Foreign("a video (Matroska)")),
    (b"PK\x03\x04", FileKind::Foreign("a ZIP archive")),
    (b"\x1F\x8B", FileKind::Foreign("a gzip archive")),
    (b"Rar!", FileKind::Foreign("a RAR archive")),
    (b"7z\xBC\xAF\x27\x1C", FileKind::Foreign("a 7-Zip archive")),
];

/// What a file is that begins with `head`. More than [`SIGNATURE_BYTES`] bytes tell no more.
pub(super) fn detect(head: &[u8]) -> FileKind {
    if head.is_empty() {
        return FileKind::Empty;
    }
    let known = SIGNATURES.iter().find(|(bytes, _)| head.starts_with(bytes));
    if let Some((_, kind)) = known {
        return *kind;
    }
    match (head.get(..4), head.get(4..8), head.get(8..12)) {
        (Some(b"RIFF"), _, Some(b"WEBP")) => FileKind::Read(ImageFormat::WebP),
        (Some(b"RIFF"), _, Some(b"AVI ")) => FileKind::Foreign("a video (AVI)"),
        (_, Some(b"ftyp"), Some(brand)) => FileKind::Foreign(iso_media_format(brand, head)),
        _ if first_line(head).is_some() => FileKind::Text,
        _ => FileKind::Unknown,
    }
}

/// The format of a file of ISO's base media format: still images, and videos. `brand` is its major brand.
fn iso_media_format(brand: &[u8], head: &[u8]) -> &'static str {
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
pub(super) fn first_line(head: &[u8]) -> Option<String> {
    let head = &head[..head.len().min(SIGNATURE_BYTES)];
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
        for (head, expected) in [
            (&b""[..], FileKind::Empty),
            (b"\xFF\xD8\xFF\xE0", FileKind::Read(ImageFormat::Jpeg)),
            (b"RIFF\x10\0\0\0WEBPVP8 ", FileKind::Read(ImageFormat::WebP)),
            (b"II+\0\x08\0\0\0", FileKind::Read(ImageFormat::Tiff)),
            (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", FileKind::Foreign("HEIC")),
            (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", FileKind::Foreign("AVIF")),
            (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", FileKind::Foreign("HEIF")),
            (b"\0\0\0\x1cftypisom\0\0\0\0isommp42", FileKind::Foreign("a video")),
            (b"GIF89a", FileKind::Foreign("GIF")),
            (b"<html>not found</html>", FileKind::Text),
            (b"version https://git-lfs.github.com/spec/v1\noid", FileKind::Text),
            (b"\0\0\0\0", FileKind::Unknown),
            (b"\xF0\x28\x8C\xBC", FileKind::Unknown),
        ] {
            assert_eq!(detect(head), expected, "{}", head.escape_ascii());
        }
        assert_eq!(first_line(b"a\xC3"), Some("a".to_owned()));
        assert_eq!(first_line(b"version 1\noid"), Some("version 1".to_owned()));
    }
}
