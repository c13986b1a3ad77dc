//! How the documents are written: short lines, short sentences, and names of files that are there.

use std::fs;
use std::path::Path;

use super::markdown::{self, Document, ROOT};

const COLUMNS: usize = 100;
/// The house rule is 16; this is where the test objects.
const WORDS: f64 = 18.0;
/// Built, installed, or not ours.
const NO_SOURCES: [&str; 4] = ["target", "demo", ".libtorch", ".tools"];

#[test]
fn lines_of_prose_end_by_column_100() {
    for document in Document::all().iter().filter(|document| !document.is_generated()) {
        for (number, line) in markdown::prose_lines(&document.text) {
            let fits = line.chars().count() <= COLUMNS || line.contains("](");
            assert!(fits, "{}:{number} is longer than {COLUMNS} columns", document.path);
        }
    }
}

#[test]
fn sentences_are_short() {
    for document in Document::all().iter().filter(|document| !document.is_generated()) {
        let sentences = markdown::sentences(&document.text);
        let words: usize = sentences.iter().map(|sentence| sentence.split_whitespace().count()).sum();
        let mean = words as f64 / sentences.len().max(1) as f64;
        let longest = sentences.iter().max_by_key(|sentence| sentence.split_whitespace().count());
        assert!(mean <= WORDS, "{}: {mean:.1} words a sentence; the longest is: {longest:?}", document.path);
    }
}

#[test]
fn links_lead_somewhere() {
    let documents = Document::all();
    for document in &documents {
        let folder = Path::new(&document.path).parent().unwrap();
        for link in markdown::links(&document.text) {
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let path = if file.is_empty() { document.path.clone().into() } else { folder.join(file) };
            let target = Path::new(ROOT).join(&path);
            assert!(target.exists(), "{}: nothing is at {link}", document.path);
            let text = if anchor.is_empty() { String::new() } else { fs::read_to_string(target).unwrap() };
            let is_there = anchor.is_empty() || markdown::anchors(&text).iter().any(|known| known == anchor);
            assert!(is_there, "{}: {link} names no heading", document.path);
        }
    }
}

/// Every file and folder of the repository, below it.
fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned();
        if NO_SOURCES.contains(&name.as_str()) || name == ".git" {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        }
        found.push(name);
    }
}

#[test]
fn files_that_are_named_are_there() {
    let mut all = Vec::new();
    sources(Path::new(ROOT), &mut all);
    let is_top =
        |name: &str| name.split_once('/').is_some_and(|(top, _)| all.iter().any(|known| known == top));
    let mut faults = Vec::new();
    for document in Document::all().iter().filter(|document| !document.is_generated()) {
        for span in markdown::spans(&document.text) {
            // `optim/amp.rs: update` is a function in a file.
            let (name, items) = span.split_once(": ").unwrap_or((&span, ""));
            let name = name.trim_end_matches('/');
            let is_name = !name.contains([' ', '*', '{', '<', '…']);
            if !is_name || !(is_top(name) || name.ends_with(".rs")) || NO_SOURCES.contains(&first(name)) {
                continue;
            }
            let end = format!("/{name}");
            let Some(file) = all.iter().find(|known| *known == name || known.ends_with(&end)) else {
                faults.push(format!("{}: there is no `{name}`", document.path));
                continue;
            };
            let path = Path::new(ROOT).join(file);
            let text =
                if path.is_file() { fs::read_to_string(path).unwrap_or_default() } else { String::new() };
            let items = items.split(", ").filter_map(|item| item.rsplit("::").next());
            let missing = items.filter(|item| !text.contains(item));
            faults.extend(missing.map(|item| format!("{}: `{name}` has no `{item}`", document.path)));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

fn first(name: &str) -> &str {
    name.split('/').next().unwrap_or_default()
}
