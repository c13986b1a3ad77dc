//! The house rules that a machine can hold.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const MAX_LINES: usize = 600;

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let built = ["target", "demo"].map(|name| Path::new(ROOT).join(name));
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !name.starts_with('.') && !built.contains(&path) {
                rust_files(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    rust_files(Path::new(ROOT), &mut files);
    let root = Path::new(ROOT);
    files.sort();
    files
        .into_iter()
        .map(|path| (path.strip_prefix(root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect()
}

#[test]
fn no_file_holds_two_ideas() {
    let long: Vec<String> = sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(path, lines)| format!("{} has {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "split by idea: {long:#?}");
}

#[test]
fn nothing_is_left_open_or_ignored() {
    // Spelled in two halves, so that this file does not find itself.
    let marks = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
    ];
    for (path, text) in sources() {
        for mark in marks {
            assert!(!text.contains(mark), "{} contains {mark}", path.display());
        }
    }
}

/// Whether a file is part of no program: tests, benchmarks and build scripts.
fn is_test(path: &Path) -> bool {
    let part = |name: &str| path.components().any(|part| part.as_os_str() == name);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap();
    part("tests")
        || part("benches")
        || name == "build.rs"
        || name == "tests.rs"
        || name.ends_with("_tests.rs")
}

#[test]
fn no_program_panics_when_nobody_reads_what_it_prints() {
    let macros = ["println!(", "eprintln!(", "print!(", "eprint!("];
    for (path, text) in sources().into_iter().filter(|(path, _)| !is_test(path)) {
        let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        // The store's random test is a module of its own.
        let program = if path.ends_with("scheduler/server/src/store/random.rs") { "" } else { program };
        for name in macros {
            let bare = |line: &str| !line.trim_start().starts_with("//") && line.contains(name);
            let found = program.lines().find(|line| bare(line));
            assert_eq!(found, None, "{} panics on a closed pipe: use trainyard-console", path.display());
        }
    }
}

#[test]
fn only_the_store_knows_redis() {
    for (path, text) in sources() {
        let store = path.starts_with("scheduler/server/src/store");
        let uses = text.contains("redis::") && path.starts_with("scheduler/server/src");
        assert!(store || !uses, "{} uses the redis crate; only the store may", path.display());
    }
}

/// What the code of a part of the core must not name.
const CORE_EDGES: &[(&str, &[&str])] = &[
    ("state", &["crate::engine", "crate::handlers", "crate::policy", "crate::explain", "impl Core"]),
    ("throughput", &["crate::engine", "crate::handlers", "crate::policy", "crate::explain", "impl Core"]),
    (
        "policy",
        &["crate::engine", "crate::core", "crate::handlers", "crate::explain", "crate::Core", "impl Core"],
    ),
];
/// What only `policy/` may name, where the configuration chooses one of them.
const POLICIES: &[&str] =
    &["policy::fair", "policy::finish_time", "Policy::Fifo", "Policy::Fair", "Policy::FinishTime"];

#[test]
fn state_and_policies_know_nothing_of_the_engine_and_the_engine_names_no_policy() {
    let core = Path::new("scheduler/core/src");
    for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with(core)) {
        let part = CORE_EDGES.iter().find(|(part, _)| path.starts_with(core.join(part)));
        let own = part.map_or(&[][..], |(_, forbidden)| forbidden);
        let others = if path.starts_with(core.join("policy")) { &[][..] } else { POLICIES };
        for line in text.lines().map(str::trim_start).filter(|line| !line.starts_with("//")) {
            let found = own.iter().chain(others).find(|name| line.contains(*name));
            assert_eq!(found, None, "{}: {line}", path.display());
        }
    }
}

/// The rooms of crates whose modules know each other one way only: each room may use those that come after it.
const ROOMS: &[(&str, &[&str])] = &[
    (
        "agent/src",
        &[
            "run",
            "reload",
            "status_line",
            "driver",
            "startup",
            "self_test",
            "data_check",
            "trainer",
            "prepare",
            "metrics",
            "content",
            "report",
            "config",
            "disk",
            "core",
            "host",
            "gpu",
            "connection",
            "enrolment",
            "running_trainers",
            "message",
            "closed_devices",
            "memory",
            "identity",
            "device",
            "backoff",
            "agent_status",
        ],
    ),
    (
        "scheduler/server/src",
        &[
            "server",
            "http",
            "web",
            "grpc",
            "listener",
            "access",
            "data_checks",
            "notify",
            "driver",
            "job_archive",
            "event_history",
            "telemetry",
            "content",
            "store",
            "access_records",
            "content_records",
            "notice_records",
            "tls",
            "refusal",
            "diagnosis",
            "config",
            "sample",
            "mfu",
            "embedded",
            "clock",
            "blobs",
            "objects",
            "stored_text",
            "origin",
        ],
    ),
    (
        "trainer-core/data/src",
        &[
            "loader",
            "augment",
            "packing",
            "check",
            "cache",
            "dataset",
            "resample",
            "decode",
            "labels",
            "image",
            "random",
            "load_error",
            "files",
            "cpu",
            "chunks",
            "activity",
        ],
    ),
];

/// The modules of its own crate that code names.
fn modules_named(code: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
    code.split("crate::").skip(1).flat_map(move |rest| match rest.strip_prefix('{') {
        Some(list) => {
            list.split(['}', ';']).next().unwrap().split(|c: char| !is_word(c)).collect::<Vec<&str>>()
        }
        None => vec![rest.split(|c: char| !is_word(c)).next().unwrap()],
    })
}

#[test]
fn a_room_knows_only_those_below_it() {
    for (path, text) in sources().into_iter().filter(|(path, _)| !is_test(path)) {
        let Some((folder, rooms)) = ROOMS.iter().find(|(folder, _)| path.starts_with(folder)) else {
            continue;
        };
        let inner = path.strip_prefix(folder).unwrap();
        let room = inner.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if ["lib", "main", "test_data"].contains(&room) {
            continue;
        }
        let own = rooms.iter().position(|other| *other == room);
        let own = own.unwrap_or_else(|| panic!("{}: the room `{room}` needs its place", path.display()));
        let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code: String =
            program.lines().map(str::trim_start).filter(|line| !line.starts_with("//")).collect();
        let above = modules_named(&code).find(|name| rooms[..own].contains(name));
        assert_eq!(above, None, "{} is below it", path.display());
    }
}

#[test]
fn no_file_is_named_after_nothing() {
    for (path, _) in sources() {
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(!["utils", "util", "helpers", "common", "misc"].contains(&name), "{}", path.display());
    }
}

/// Which crates of the workspace a crate may depend on, tests included.
const EDGES: &[(&str, &[&str])] = &[
    ("proto/types", &[]),
    ("proto/access", &["trainyard-access"]),
    ("proto/config", &["trainyard-types"]),
    ("proto/console", &[]),
    ("proto/content", &[]),
    ("proto/files", &[]),
    ("proto/service", &[]),
    ("proto/wire", &["trainyard-types"]),
    ("scheduler/core", &["trainyard-types"]),
    ("scheduler/sim", &["trainyard-types", "trainyard-console", "trainyard-scheduler-core"]),
    (
        "scheduler/server",
        &[
            "trainyard-types",
            "trainyard-service",
            "trainyard-config",
            "trainyard-access",
            "trainyard-console",
            "trainyard-content",
            "trainyard-files",
            "trainyard-proto",
            "trainyard-scheduler-core",
        ],
    ),
    ("agent/confinement", &[]),
    (
        "agent",
        &[
            "trainyard-types",
            "trainyard-service",
            "trainyard-access",
            "trainyard-config",
            "trainyard-confinement",
            "trainyard-console",
            "trainyard-content",
            "trainyard-files",
            "trainyard-proto",
        ],
    ),
    ("trainer-core/data", &["trainyard-files", "trainyard-types"]),
    (
        "trainer-core",
        &["trainyard-types", "trainyard-console", "trainyard-data", "trainyard-files", "trainyard-service"],
    ),
    (
        "cli",
        &[
            "trainyard-types",
            "trainyard-service",
            "trainyard-access",
            "trainyard-config",
            "trainyard-console",
            "trainyard-content",
            "trainyard-data",
            "trainyard-files",
            "trainyard-proto",
        ],
    ),
    ("tests", &["trainyard-types", "trainyard-proto"]),
    ("tests/fake-nvml", &[]),
    ("tests/simulated-gpu", &[]),
];

#[test]
fn crates_depend_on_each_other_one_way_only() {
    let root: toml::Table = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap().parse().unwrap();
    let members: BTreeSet<&str> = root["workspace"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member.as_str().unwrap())
        .collect();
    let known: BTreeSet<&str> = EDGES.iter().map(|(member, _)| *member).collect();
    assert_eq!(members, known, "a new crate needs its place in the order");
    for (member, allowed) in EDGES {
        let manifest = fs::read_to_string(Path::new(ROOT).join(member).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            for name in table.keys().filter(|name| name.starts_with("trainyard")) {
                assert!(allowed.contains(&name.as_str()), "{member} may not depend on {name}");
            }
        }
    }
}

#[test]
fn every_test_program_is_named_in_the_makefile() {
    // The second one is what `make test-gpu` runs.
    let read = |name: &str| fs::read_to_string(Path::new(ROOT).join(name)).unwrap();
    let makefile = read("Makefile") + &read("deploy/gpu/bundle.sh");
    for (member, _) in EDGES {
        let Ok(entries) = fs::read_dir(Path::new(ROOT).join(member).join("tests")) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let is_program =
                path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").exists();
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(
                !is_program || makefile.contains(&format!("--test {name}")),
                "{} is not run",
                path.display()
            );
        }
    }
}
