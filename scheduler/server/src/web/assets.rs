//! The page: its files are part of the program, compressed once, and kept by browsers until another version comes.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

/// The page itself, which names the other files by [`VERSION`].
const INDEX: &str = "index.html";
/// Where the version stands in the page.
const VERSION: &str = "{version}";

/// What a page may load, and who may show it in a frame: this scheduler, and nobody.
const POLICY: &str =
    "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'";

/// A file as `build.rs` has made it of one in `web/`.
pub struct File {
    path: &'static str,
    plain: &'static [u8],
    brotli: &'static [u8],
}

/// Every file of the page.
pub const FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/web.rs"));

static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets::new(FILES));

struct Assets {
    /// Changes with any file.
    version: String,
    files: BTreeMap<&'static str, Asset>,
}

struct Asset {
    content: &'static str,
    /// Of the plain form; the compressed ones have others.
    tag: String,
    plain: Bytes,
    gzip: Bytes,
    /// Browsers take it by encrypted connections, and from their own machine. Empty where there is none.
    brotli: Bytes,
}

impl Assets {
    fn new(files: &[File]) -> Self {
        let mut all = Sha256::new();
        for file in files {
            all.update(file.path.as_bytes());
            all.update(file.plain);
        }
        let version = short(&all.finalize());
        let asset = |file: &File| {
            let made = if file.path == INDEX {
                let page = String::from_utf8_lossy(file.plain).replace(VERSION, &version);
                Asset::new(file.path, Bytes::from(page), Bytes::new())
            } else {
                Asset::new(file.path, Bytes::from_static(file.plain), Bytes::from_static(file.brotli))
            };
            (file.path, made)
        };
        let files = files.iter().map(asset).collect();
        Self { version, files }
    }
}

impl Asset {
    fn new(path: &str, plain: Bytes, brotli: Bytes) -> Self {
        Self {
            content: content_type(path),
            tag: short(&Sha256::digest(&plain)),
            gzip: compressed(&plain),
            plain,
            brotli,
        }
    }

    /// The smallest form that is accepted, and how it is compressed.
    fn form(&self, asked: &HeaderMap) -> (&Bytes, Option<&'static str>) {
        if !self.brotli.is_empty() && accepts(asked, "br") {
            (&self.brotli, Some("br"))
        } else if accepts(asked, "gzip") {
            (&self.gzip, Some("gzip"))
        } else {
            (&self.plain, None)
        }
    }

    fn answer(&self, asked: &HeaderMap, caching: &'static str) -> Response {
        let (body, encoding) = self.form(asked);
        let tag =
            encoding.map_or_else(|| format!("\"{}\"", self.tag), |name| format!("\"{}-{name}\"", self.tag));
        let has = asked.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok()).unwrap_or_default();
        let is_known = has.split(',').any(|known| known.trim().trim_start_matches("W/") == tag);
        let mut answer =
            if is_known { StatusCode::NOT_MODIFIED.into_response() } else { body.clone().into_response() };
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content));
        if let Some(name) = encoding.filter(|_| !is_known) {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
        }
        headers.extend(HeaderValue::from_str(&tag).ok().map(|tag| (header::ETAG, tag)));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
        headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        answer
    }
}

/// Whether `Accept-Encoding` names an encoding, and not as one that is unwanted.
fn accepts(asked: &HeaderMap, encoding: &str) -> bool {
    let header = asked.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    header.split(',').any(|one| {
        let (name, weight) = one.split_once(';').unwrap_or((one, ""));
        let is_unwanted = weight.trim().strip_prefix("q=").is_some_and(|weight| weight.parse() == Ok(0.0));
        name.trim().eq_ignore_ascii_case(encoding) && !is_unwanted
    })
}

/// The page, whatever it is to show.
pub fn page(asked: &HeaderMap) -> Response {
    answer(INDEX, asked, "no-cache")
}

/// A file of the page. What an older page asks for is answered with what there is now.
pub async fn file(Path((version, path)): Path<(String, String)>, asked: HeaderMap) -> Response {
    let is_current = version == ASSETS.version && from_disk(&path).is_none();
    answer(&path, &asked, if is_current { "public, max-age=31536000, immutable" } else { "no-cache" })
}

fn answer(path: &str, asked: &HeaderMap, caching: &'static str) -> Response {
    if let Some(asset) = from_disk(path) {
        return asset.answer(asked, caching);
    }
    match ASSETS.files.get(path) {
        Some(asset) => asset.answer(asked, caching),
        None => (StatusCode::NOT_FOUND, format!("the page has no file `{path}`\n")).into_response(),
    }
}

/// For those who change the page: programs of the tests' profile read its files from the folder that a variable names.
#[cfg(debug_assertions)]
fn from_disk(path: &str) -> Option<Asset> {
    let folder = std::env::var_os("TRAINYARD_WEB_DIR")?;
    let known = FILES.iter().find(|known| known.path == path)?;
    let read = |path: &str| std::fs::read_to_string(std::path::Path::new(&folder).join(path)).ok();
    // The style sheet names the others, which `build.rs` puts into it.
    let named = |line: &str| line.strip_prefix("@import \"")?.strip_suffix("\";").and_then(read);
    let text = read(known.path)?.replace(VERSION, "disk");
    let lines: Vec<String> =
        text.lines().map(|line| named(line).unwrap_or_else(|| line.to_owned())).collect();
    Some(Asset::new(path, Bytes::from(lines.join("\n")), Bytes::new()))
}

#[cfg(not(debug_assertions))]
fn from_disk(_path: &str) -> Option<Asset> {
    None
}

/// Whether somebody wants a page to look at, rather than text.
pub fn wants_page(asked: &HeaderMap) -> bool {
    let accepts = asked.get(header::ACCEPT).map_or(&b""[..], HeaderValue::as_bytes);
    accepts.windows(9).any(|word| word == b"text/html")
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

fn short(hash: &[u8]) -> String {
    hex::encode(&hash[..8])
}

fn compressed(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing into memory does not fail.
    let _ = encoder.write_all(plain);
    encoder.finish().map(Bytes::from).unwrap_or_default()
}

/// Of `build.rs`: its tests run with these.
#[cfg(test)]
#[path = "../../build/comments.rs"]
mod comments;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/web");

    /// A file as it was written.
    fn text(path: &str) -> String {
        fs::read_to_string(Path::new(FOLDER).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The files that a file names behind `word`, such as `from "`.
    fn named(path: &str, word: &str) -> Vec<String> {
        let folder = path.rsplit_once('/').map(|(folder, _)| folder);
        let text = text(path);
        let names = text.split(word).skip(1).filter_map(|rest| rest.split('"').next());
        let resolve = |name: &str| match (name.strip_prefix("../"), name.strip_prefix("./")) {
            (Some(above), _) => above.to_owned(),
            (_, Some(beside)) => folder.map_or(beside.to_owned(), |folder| format!("{folder}/{beside}")),
            _ => panic!("{path} names {name}"),
        };
        names.map(resolve).collect()
    }

    /// A file with all that it cannot do without.
    fn load(path: &str, loaded: &mut BTreeSet<String>) {
        if !loaded.insert(path.to_owned()) {
            return;
        }
        let imported = if path.ends_with(".js") && !path.starts_with("vendor/") {
            named(path, " from \"")
        } else {
            Vec::new()
        };
        imported.iter().for_each(|file| load(file, loaded));
        // It fetches the library for its curves itself.
        if path == "views/chart.js" {
            loaded.insert("vendor/uplot.js".to_owned());
        }
    }

    #[test]
    fn whoever_opens_a_view_loads_little() {
        let views = named("app.js", "import(\"");
        assert!(views.len() > 5, "{views:?}");
        for view in views {
            let mut loaded = BTreeSet::from([INDEX.to_owned(), "icon.svg".to_owned()]);
            let index = text(INDEX);
            let links = index.split('"').filter_map(|part| part.strip_prefix("/assets/{version}/"));
            links.for_each(|file| load(file, &mut loaded));
            load(&view, &mut loaded);
            let bytes: usize = loaded.iter().map(|file| ASSETS.files[file.as_str()].gzip.len()).sum();
            println!("{view}: {} files, {bytes} bytes compressed", loaded.len());
            assert!(bytes <= 70_000, "{view} needs {bytes} bytes compressed: {loaded:?}");
        }
    }

    #[test]
    fn the_whole_page_is_small() {
        let size =
            |asset: &Asset| if asset.brotli.is_empty() { asset.gzip.len() } else { asset.brotli.len() };
        for (path, asset) in &ASSETS.files {
            println!("{:6} {:6} {:6} {path}", asset.plain.len(), asset.gzip.len(), size(asset));
        }
        let bytes: usize = ASSETS.files.values().map(size).sum();
        println!("{bytes} bytes in all");
        assert!(bytes <= 86_000, "the page is {bytes} bytes compressed");
    }

    #[test]
    fn a_file_comes_in_the_smallest_form_that_is_accepted() {
        let asset = &ASSETS.files["app.js"];
        let table = [
            ("gzip, deflate, br, zstd", Some("br"), &asset.brotli),
            ("gzip, deflate", Some("gzip"), &asset.gzip),
            ("br;q=0, gzip;q=0.5", Some("gzip"), &asset.gzip),
            ("brotli, xgzip", None, &asset.plain),
            ("", None, &asset.plain),
        ];
        for (accepted, encoding, body) in table {
            let asked = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted))]);
            assert_eq!(asset.form(&asked), (body, encoding), "{accepted}");
        }
    }

    #[test]
    fn what_others_wrote_is_what_the_list_says() {
        let list = fs::read_to_string(Path::new(FOLDER).join("vendor/README.md")).unwrap();
        for entry in fs::read_dir(Path::new(FOLDER).join("vendor")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let bytes = fs::read(&path).unwrap();
            if ![".js", ".css"].iter().any(|end| name.ends_with(end)) {
                continue;
            }
            let line = list.lines().find(|line| line.contains(&format!("`{name}`")));
            let line = line.unwrap_or_else(|| panic!("{name} is not in the list"));
            assert!(line.contains(&hex::encode(Sha256::digest(bytes))), "{name} is another file than {line}");
        }
    }

    #[test]
    fn the_page_names_its_files_by_their_version() {
        let page = String::from_utf8(ASSETS.files[INDEX].plain.to_vec()).unwrap();
        assert!(
            page.contains(&format!("/assets/{}/app.js", ASSETS.version)) && !page.contains(VERSION),
            "{page}"
        );
    }
}
