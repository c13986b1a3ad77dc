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

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/web/", $path)))),*]
    };
}

/// Every file of the page.
pub const FILES: &[(&str, &[u8])] = files![
    "api.js",
    "app.js",
    "icon.svg",
    "index.html",
    "later.js",
    "layout.js",
    "live.js",
    "login.js",
    "router.js",
    "style.css",
    "theme.js",
    "units.js",
    "vendor/preact.js",
    "vendor/uplot.css",
    "vendor/uplot.js",
    "views/artifacts.js",
    "views/chart.css",
    "views/chart.js",
    "views/cluster.js",
    "views/compare.css",
    "views/compare.js",
    "views/confirm.js",
    "views/curves.js",
    "views/data.css",
    "views/data.js",
    "views/gpu.js",
    "views/job.css",
    "views/job.js",
    "views/job_curves.js",
    "views/job_events.js",
    "views/job_fields.js",
    "views/job_lists.js",
    "views/job_parts.js",
    "views/job_rows.js",
    "views/job_tables.js",
    "views/log.js",
    "views/look.js",
    "views/new_job.css",
    "views/new_job.js",
    "views/parallel.js",
    "views/picker.js",
    "views/plan.js",
    "views/queue.css",
    "views/queue.js",
    "views/samples.js",
    "views/sort_table.js",
    "views/spec.js",
    "views/version.js",
];

static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets::new(FILES));

struct Assets {
    /// Changes with any file.
    version: String,
    files: BTreeMap<&'static str, Asset>,
}

struct Asset {
    content: &'static str,
    /// Of the plain form; the compressed one has another.
    tag: String,
    plain: Bytes,
    gzip: Bytes,
}

impl Assets {
    fn new(files: &[(&'static str, &'static [u8])]) -> Self {
        let mut all = Sha256::new();
        for (path, bytes) in files {
            all.update(path.as_bytes());
            all.update(bytes);
        }
        let version = short(&all.finalize());
        let asset = |(path, bytes): &(&'static str, &'static [u8])| {
            let page = (*path == INDEX).then(|| String::from_utf8_lossy(bytes).replace(VERSION, &version));
            let plain = page.map_or(Bytes::from_static(bytes), Bytes::from);
            (*path, Asset::new(path, plain))
        };
        let files = files.iter().map(asset).collect();
        Self { version, files }
    }
}

impl Asset {
    fn new(path: &str, plain: Bytes) -> Self {
        Self {
            content: content_type(path),
            tag: short(&Sha256::digest(&plain)),
            gzip: compressed(&plain),
            plain,
        }
    }

    fn answer(&self, asked: &HeaderMap, caching: &'static str) -> Response {
        let accepts = asked.get(header::ACCEPT_ENCODING).map_or(&b""[..], HeaderValue::as_bytes);
        let is_gzip = accepts.windows(4).any(|word| word == b"gzip");
        let (body, tag) = if is_gzip {
            (self.gzip.clone(), format!("\"{}-gzip\"", self.tag))
        } else {
            (self.plain.clone(), format!("\"{}\"", self.tag))
        };
        let has = asked.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok()).unwrap_or_default();
        let is_known = has.split(',').any(|known| known.trim().trim_start_matches("W/") == tag);
        let mut answer =
            if is_known { StatusCode::NOT_MODIFIED.into_response() } else { body.into_response() };
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content));
        if is_gzip && !is_known {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
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
    let (known, _) = FILES.iter().find(|(known, _)| *known == path)?;
    let text = std::fs::read(std::path::Path::new(&folder).join(known)).ok()?;
    let text = if *known == INDEX {
        String::from_utf8(text).ok()?.replace(VERSION, "disk").into_bytes()
    } else {
        text
    };
    Some(Asset::new(known, Bytes::from(text)))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/web");

    fn on_disk(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                on_disk(&path, found);
            } else {
                found.insert(path.strip_prefix(FOLDER).unwrap().display().to_string());
            }
        }
    }

    #[test]
    fn every_file_of_the_page_is_in_the_program() {
        let mut found = BTreeSet::new();
        on_disk(Path::new(FOLDER), &mut found);
        // What is there for people and tools.
        found.retain(|path| {
            !path.ends_with(".md")
                && !path.ends_with(".json")
                && !path.ends_with("LICENSE")
                && !path.ends_with(".d.ts")
        });
        let embedded: BTreeSet<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(found, embedded);
    }

    fn text(path: &str) -> &'static str {
        let (_, bytes) =
            FILES.iter().find(|(known, _)| *known == path).unwrap_or_else(|| panic!("no file {path}"));
        std::str::from_utf8(bytes).unwrap()
    }

    /// The files that a file names behind `word`, such as `from "`.
    fn named(path: &str, word: &str) -> Vec<String> {
        let folder = path.rsplit_once('/').map(|(folder, _)| folder);
        let names = text(path).split(word).skip(1).filter_map(|rest| rest.split('"').next());
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
        let imported = if path.ends_with(".js") { named(path, " from \"") } else { Vec::new() };
        imported.iter().for_each(|file| load(file, loaded));
        // It fetches the library for its curves itself.
        if path == "views/chart.js" {
            loaded.extend(["vendor/uplot.js", "vendor/uplot.css"].map(str::to_owned));
        }
    }

    #[test]
    fn whoever_opens_a_view_loads_little() {
        let views = named("app.js", "import(\"");
        assert!(views.len() > 5, "{views:?}");
        for view in views {
            let mut loaded = BTreeSet::from([INDEX.to_owned(), "icon.svg".to_owned()]);
            let links = text(INDEX).split('"').filter_map(|part| part.strip_prefix("/assets/{version}/"));
            links.for_each(|file| load(file, &mut loaded));
            load(&view, &mut loaded);
            let bytes: usize = loaded.iter().map(|file| ASSETS.files[file.as_str()].gzip.len()).sum();
            println!("{view}: {} files, {bytes} bytes compressed", loaded.len());
            assert!(bytes <= 80_000, "{view} needs {bytes} bytes compressed: {loaded:?}");
        }
    }

    #[test]
    fn what_others_wrote_is_what_the_list_says() {
        let list = fs::read_to_string(Path::new(FOLDER).join("vendor/README.md")).unwrap();
        for (path, bytes) in FILES.iter().filter(|(path, _)| path.starts_with("vendor/")) {
            let name = path.trim_start_matches("vendor/");
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
