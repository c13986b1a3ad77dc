//! Data sets and weights for people.

use trainyard_content::Entry;
use trainyard_proto::pb;
use trainyard_types::size::bytes;

use super::{TextTable, cell, name_cell, short, time};
use crate::output::Output;
use crate::terminal::clean;

/// Digits of a version that are shown: those that name it everywhere else.
const VERSION_DIGITS: usize = 12;

/// The newest version of each name, and how many versions it has.
pub fn names(output: Output, versions: &[pb::Dataset]) -> String {
    let heads = ["NAME", "VERSION", "VERSIONS", "FILES", "SIZE", "PUSHED BY", "PUSHED AT", "DESCRIPTION"];
    let mut table = TextTable::new(output, &heads, 7).right(2..5);
    for same in versions.chunk_by(|one, other| one.name == other.name) {
        let newest = same.iter().find(|one| one.newest).unwrap_or(&same[0]);
        table.row(vec![
            name_cell(output, &newest.name),
            cell(short(&newest.version, VERSION_DIGITS)),
            cell(same.len().to_string()),
            cell(newest.files.to_string()),
            cell(bytes(newest.size_bytes)),
            name_cell(output, &newest.user),
            cell(time(newest.create_time.as_ref())),
            cell(&newest.description),
        ]);
    }
    table.text()
}

/// All versions of a name.
pub fn versions(output: Output, versions: &[pb::Dataset]) -> String {
    let heads = ["NAME", "VERSION", "FILES", "SIZE", "PUSHED BY", "PUSHED AT", "DESCRIPTION"];
    let mut table = TextTable::new(output, &heads, 6).right(2..4);
    for one in versions {
        table.row(vec![
            name_cell(output, &one.name),
            cell(short(&one.version, VERSION_DIGITS)),
            cell(one.files.to_string()),
            cell(bytes(one.size_bytes)),
            name_cell(output, &one.user),
            cell(time(one.create_time.as_ref())),
            cell(&one.description),
        ]);
    }
    table.text()
}

/// All that is known of one version.
pub fn version(one: &pb::Dataset) -> String {
    let newest = if one.newest { ", the newest" } else { "" };
    let lines = [
        ("Name", clean(&one.name)),
        ("Version", format!("{}{newest}", clean(&one.version))),
        ("Holds", clean(&one.description)),
        ("Files", format!("{}, {}", one.files, bytes(one.size_bytes))),
        ("Pushed", format!("by {} at {}", clean(&one.user), time(one.create_time.as_ref()))),
    ];
    lines.map(|(head, text)| format!("{head:<10}{text}").trim_end().to_owned()).join("\n")
}

/// One file of a version: hash, size, path.
pub fn file(file: Entry<'_>) -> String {
    format!(
        "{}  {:>12}  {}",
        short(&file.digest.to_string(), VERSION_DIGITS),
        file.size_bytes,
        clean(file.path)
    )
}
