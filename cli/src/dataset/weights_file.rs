//! Whether a file is weights, and all of them: a copy that broke off fails when the training begins, hours later.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use serde_json::{Map, Value};

/// The most bytes that the header of a safetensors file may have, as its readers have it.
const MAX_HEADER: u64 = 100_000_000;
/// Where the end of an archive's list of files may lie: 22 bytes and a remark.
const MAX_ARCHIVE_END: u64 = 22 + 65_535;

/// Why a file cannot be begun with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrongFile {
    /// It is something else, such as a page of a web server.
    NoWeights,
    /// It is cut off, or was put together wrongly; how that is known.
    NotWhole(String),
}

/// Looks at the file that is called `name`: its beginning, and what tells its length.
///
/// # Errors
/// It cannot be read. The inner error says that it is no weights, or not whole.
pub fn check(mut file: File, name: &str) -> io::Result<Result<(), WrongFile>> {
    let length = file.metadata()?.len();
    let mut head = Vec::new();
    file.by_ref().take(9).read_to_end(&mut head)?;
    let ending = Path::new(name).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    match (ending.to_ascii_lowercase().as_str(), &head[..]) {
        ("pt" | "pth", [b'P', b'K', 3, 4, ..]) => archive(file, length),
        // A pickle, as old versions wrote it. Nothing in it tells its length.
        ("pt" | "pth", [0x80, ..]) => Ok(Ok(())),
        // Eight bytes of length, then JSON.
        ("safetensors", [.., b'{']) if head.len() == 9 => safetensors(file, length),
        _ => Ok(Err(WrongFile::NoWeights)),
    }
}

/// An archive's list of files comes last.
fn archive(mut file: File, length: u64) -> io::Result<Result<(), WrongFile>> {
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_ARCHIVE_END)))?;
    let mut end = Vec::new();
    file.take(MAX_ARCHIVE_END).read_to_end(&mut end)?;
    if end.windows(4).any(|four| four == b"PK\x05\x06") {
        return Ok(Ok(()));
    }
    let text = format!("the list of contents at its end is missing, after {length} bytes");
    Ok(Err(WrongFile::NotWhole(text)))
}

/// The header tells where each tensor ends.
fn safetensors(mut file: File, length: u64) -> io::Result<Result<(), WrongFile>> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes)?;
    let header = u64::from_le_bytes(bytes);
    if header > MAX_HEADER {
        return Ok(Err(WrongFile::NoWeights));
    }
    let wanted = header + 8;
    if length < wanted {
        return Ok(Err(WrongFile::NotWhole(format!(
            "its header ends at byte {wanted}, and it has {length}"
        ))));
    }
    let mut text = Vec::new();
    file.take(header).read_to_end(&mut text)?;
    let Ok(tensors) = serde_json::from_slice::<Map<String, Value>>(&text) else {
        return Ok(Err(WrongFile::NoWeights));
    };
    let end_of = |tensor: &Value| tensor.get("data_offsets")?.get(1)?.as_u64();
    let ends = tensors.iter().filter(|(name, _)| *name != "__metadata__").map(|(_, tensor)| end_of(tensor));
    let Some(ends) = ends.collect::<Option<Vec<u64>>>() else { return Ok(Err(WrongFile::NoWeights)) };
    let wanted = wanted.saturating_add(ends.into_iter().max().unwrap_or(0));
    if length == wanted {
        return Ok(Ok(()));
    }
    Ok(Err(WrongFile::NotWhole(format!("by its header it has {wanted} bytes, and there are {length}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str, bytes: &[u8]) -> Result<(), WrongFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w");
        std::fs::write(&path, bytes).unwrap();
        check(File::open(&path).unwrap(), name).unwrap()
    }

    fn tensors(header: &str, data: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![1; data]].concat()
    }

    #[test]
    fn a_web_page_is_no_weights() {
        for (name, head) in [
            ("a.pt", &b"<!doctype"[..]),
            ("a.safetensors", b"<!doctype"),
            ("a.safetensors", b"\x02\0\0\0\0\0\0\0{]"),
            ("a.safetensors", b"\xff\xff\xff\xff\xff\0\0\0{}"),
            ("a.safetensors", b""),
            ("a.pt", b""),
            ("a.zip", b"PK\x03\x04"),
        ] {
            assert_eq!(checked(name, head), Err(WrongFile::NoWeights), "{name}");
        }
    }

    #[test]
    fn an_archive_without_its_end_is_not_whole() {
        let whole = [b"PK\x03\x04 tensors PK\x05\x06", &[0; 18][..]].concat();
        assert_eq!(checked("a.PT", &whole), Ok(()));
        let Err(WrongFile::NotWhole(why)) = checked("a.pt", &whole[..13]) else { panic!("it is whole") };
        assert_eq!(why, "the list of contents at its end is missing, after 13 bytes");
        let long = [&whole[..13], &vec![7; 200_000][..], &whole[13..]].concat();
        assert_eq!(checked("a.pth", &long), Ok(()));
        assert_eq!(checked("a.pt", b"\x80\x02 an old pickle"), Ok(()));
    }

    #[test]
    fn tensors_end_where_their_header_says() {
        let header = r#"{"__metadata__":{"model":"yolov8n"},
            "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let whole = tensors(header, 12);
        assert_eq!(checked("a.safetensors", &whole), Ok(()));
        assert_eq!(checked("a.safetensors", &tensors("{}", 0)), Ok(()));
        let length = whole.len();
        for (bytes, wanted) in [
            (
                tensors(header, 11),
                format!("by its header it has {length} bytes, and there are {}", length - 1),
            ),
            (
                tensors(header, 13),
                format!("by its header it has {length} bytes, and there are {}", length + 1),
            ),
            (whole[..20].to_vec(), format!("its header ends at byte {}, and it has 20", header.len() + 8)),
        ] {
            assert_eq!(checked("a.safetensors", &bytes), Err(WrongFile::NotWhole(wanted)));
        }
        assert_eq!(checked("a.safetensors", &tensors(r#"{"a":{}}"#, 0)), Err(WrongFile::NoWeights));
    }
}
