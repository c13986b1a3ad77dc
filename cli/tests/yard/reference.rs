//! `docs/reference/yard.md` is written from the programs' own help: it says what `yard --help` says.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use trainyard_cli::args::Cli;

const HEAD: &str = "# `yard`: commands and options

Written from the help of `yard`; a test of `trainyard-cli` holds the two together. The [command
line](command-line.md) is the map, with exit codes.
";

fn section(out: &mut String, name: &str, command: &mut Command) {
    let help = command.clone().bin_name(name).term_width(98).render_help();
    let lines: Vec<String> = help.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    write!(out, "\n## `{name}`\n\n```text\n{}\n```\n", lines.join("\n").trim()).unwrap();
    for inner in
        command.get_subcommands_mut().filter(|inner| inner.get_name() != "help" && !inner.is_hide_set())
    {
        let name = format!("{name} {}", inner.get_name());
        section(out, &name, inner);
    }
}

/// `TRAINYARD_BLESS=1 cargo test` writes the page.
#[test]
fn the_page_says_what_the_help_says() {
    let mut page = HEAD.to_owned();
    let mut yard = Cli::command();
    // Options of every command are told once, at the top.
    section(&mut page, "yard", &mut yard);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/yard.md");
    if std::env::var_os("TRAINYARD_BLESS").is_some() {
        std::fs::write(&path, page).unwrap();
        return;
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/reference/yard.md is not current: write it with TRAINYARD_BLESS=1");
}
