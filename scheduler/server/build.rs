//! Makes of the page's files what the program carries: all of them, without comments and compressed.

mod build {
    pub mod comments;
}

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use brotli::enc::BrotliEncoderParams;
use brotli::enc::backward_references::BrotliEncoderMode;

use build::comments::{Language, without_comments};

fn main() -> Result<(), Box<dyn Error>> {
    let web = Path::new("web");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=web");
    println!("cargo:rerun-if-changed=build");
    let mut paths = vec![STYLE.to_owned()];
    find(web, web, &mut paths)?;
    paths.sort();
    let mut list = String::from("&[\n");
    for path in &paths {
        let plain = if path == STYLE {
            whole_style(web)?
        } else {
            shipped(path, fs::read_to_string(web.join(path))?)
        };
        let file = out.join("web").join(path);
        fs::create_dir_all(file.parent().unwrap_or(&out))?;
        fs::write(&file, &plain)?;
        fs::write(out.join("web").join(format!("{path}.br")), compressed(plain.as_bytes())?)?;
        let plain = format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/web/{path}\"))");
        let brotli = format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/web/{path}.br\"))");
        writeln!(list, "File {{ path: {path:?}, plain: {plain}, brotli: {brotli} }},")?;
    }
    list.push(']');
    fs::write(out.join("web.rs"), list)?;
    Ok(())
}

/// Names the other style sheets.
const STYLE: &str = "style.css";

/// All style sheets as one.
fn whole_style(web: &Path) -> Result<String, Box<dyn Error>> {
    let names = fs::read_to_string(web.join(STYLE))?;
    let names = names.lines().filter_map(|line| line.strip_prefix("@import \"")?.strip_suffix("\";"));
    let each = names.map(|name| Ok(shipped(name, fs::read_to_string(web.join(name))?)));
    each.collect::<Result<Vec<_>, Box<dyn Error>>>().map(|all| all.join("\n"))
}

/// The files that browsers load; the others are for people and tools, or are in [`STYLE`].
fn find(web: &Path, folder: &Path, found: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(web, &path, found)?;
            continue;
        }
        let name = path.strip_prefix(web)?.to_str().ok_or("a name that is no text")?.to_owned();
        let is_for_browsers = [".js", ".html", ".svg"].iter().any(|end| name.ends_with(end));
        found.extend(is_for_browsers.then_some(name));
    }
    Ok(())
}

/// What others wrote comes as it is.
fn shipped(path: &str, text: String) -> String {
    match path.rsplit('.').next() {
        _ if path.starts_with("vendor/") => text,
        Some("js") => without_comments(&text, Language::JavaScript),
        Some("css") => without_comments(&text, Language::Css),
        _ => text,
    }
}

fn compressed(plain: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mode = BrotliEncoderMode::BROTLI_MODE_TEXT;
    let params = BrotliEncoderParams { mode, quality: 11, size_hint: plain.len(), ..Default::default() };
    let mut packed = Vec::new();
    brotli::BrotliCompress(&mut &plain[..], &mut packed, &params)?;
    Ok(packed)
}
