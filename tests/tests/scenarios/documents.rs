//! The documents are right: their commands are run, their words mean something, their links lead somewhere, and
//! the reference names every configuration key and every metric that the programs have.

mod arguments;
mod markdown;
mod style;
mod world;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use trainyard_tests::cluster::{Cluster, run};
use trainyard_tests::process::binary;

use self::arguments::{Known, is_shell};
use self::markdown::{Document, Mark, blocks, commands};
use self::world::{AGENT, World};

/// Pages that begin with a clone: they start their own cluster, and say themselves where the programs are.
const FROM_A_CLONE: [&str; 2] = ["README.md", "docs/tutorial/first-evening.md"];
/// What others use comes first: the page whose run leaves weights.
const FIRST: &str = "docs/how-to/train-without-a-cluster.md";

fn reference(name: &str) -> String {
    fs::read_to_string(format!("{}/../docs/reference/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn every_block_that_a_reader_types_is_run_or_says_why_not() {
    let known = Known::new();
    let mut faults = Vec::new();
    for document in Document::all() {
        for block in blocks(&document) {
            if block.is_typed() && block.mark().is_none() {
                faults.push(format!("{}: a mark is missing, or `{}` is none", block.place, block.mark));
            }
            if block.language != "sh" {
                continue;
            }
            if !is_shell(&block.text) {
                faults.push(format!("{}: a shell cannot read it", block.place));
            }
            let wrong = commands(&block.text).into_iter().flat_map(|command| known.faults(&command));
            faults.extend(wrong.map(|fault| format!("{}: {fault}", block.place)));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn commands_and_variables_in_sentences_and_tables_are_there() {
    let known = Known::new();
    let mut faults = Vec::new();
    for document in Document::all() {
        let wrong = markdown::spans(&document.text).into_iter().flat_map(|span| known.faults(&span));
        let words = document.text.split(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_');
        // `TRAINYARD_AGENT__` itself is a prefix.
        let variables = words.filter(|word| !word.ends_with('_'));
        let unknown = variables.filter_map(|word| known.fault_of_variable(word));
        faults.extend(wrong.chain(unknown).map(|fault| format!("{}: {fault}", document.path)));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

fn starts_something(document: &Document) -> bool {
    blocks(document).iter().any(|block| matches!(block.mark(), Some(Mark::Start { .. })))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn the_commands_of_the_documents_do_what_the_documents_say() {
    let programs = world::programs();
    tokio::join!(on_clusters_of_their_own(programs.path()), on_one_cluster(programs.path()));
}

/// Pages that start clusters, each from nothing.
async fn on_clusters_of_their_own(programs: &Path) {
    for document in Document::all().into_iter().filter(starts_something) {
        // Enough for a job that is interrupted after its first epoch.
        let mut world = World::new(programs, free_port()).with("TRAINYARD_TEST_EPOCHS", "3");
        if !FROM_A_CLONE.contains(&document.path.as_str()) {
            world = world.with_programs_on_the_path();
        }
        world.make_data();
        world.follow(&document).await;
        world.leave(&document).await;
    }
}

/// All other pages: a machine with three GPUs that are simulated, and a slot on its CPU.
async fn on_one_cluster(programs: &Path) {
    let cluster = Cluster::start_patient().await.unwrap();
    let trainer = programs.join("target/release/trainyard-trainer").display().to_string();
    let gpus = include_str!("../../fake-nvml/gpus.json");
    cluster.show_gpus(AGENT, &serde_json::from_str(gpus).unwrap()).unwrap();
    let variables =
        [("TRAINYARD_AGENT__TRAINER", trainer.as_str()), ("TRAINYARD_AGENT__CONFINE_TRAINERS", "false")];
    let _agent = cluster.start_agent_with_gpus(AGENT, 1, &variables).await.unwrap();
    let port = cluster.address().rsplit(':').next().unwrap().parse().unwrap();
    let world = World::new(programs, port).with_data(cluster.data_root());
    let mut world = world.with_programs_on_the_path();
    world.make_data();
    let mut pages: Vec<Document> = Document::all();
    pages.retain(|page| !starts_something(page));
    pages.sort_by_key(|page| page.path != FIRST);
    for page in &pages {
        world.follow(page).await;
        world.leave(page).await;
    }
}

#[tokio::test]
async fn the_reference_names_every_configuration_key_of_the_program_that_has_it() {
    let page = reference("configuration.md");
    for (program, title) in [("trainyard-scheduler", "\n## Scheduler\n"), ("trainyard-agent", "\n## Agent\n")]
    {
        let (_, rest) = page.split_once(title).unwrap();
        let section = rest.split("\n## ").next().unwrap();
        let (code, printed, error) = run(Command::new(binary(program).unwrap()).arg("config")).await.unwrap();
        assert_eq!(code, 0, "{error}");
        let keys: Vec<&str> = printed
            .lines()
            .filter_map(|line| line.trim_start_matches("# ").split_whitespace().next())
            .collect();
        for key in &keys {
            assert!(
                section.contains(&format!("| `{key}` |")),
                "{program}'s key `{key}` is not in the reference"
            );
        }
        for row in section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()) {
            assert!(keys.contains(&row), "{program} has no key `{row}`, which is in the reference");
        }
    }
}

/// The names of all families on a page for Prometheus.
fn families(address: &str) -> Vec<String> {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let named = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    named.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

#[tokio::test]
async fn the_reference_names_every_metric() {
    let page = reference("metrics.md");
    let cluster = Cluster::start().await.unwrap();
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let gpus = include_str!("../../fake-nvml/gpus.json");
    cluster.show_gpus("gpus", &serde_json::from_str(gpus).unwrap()).unwrap();
    let variables = [("TRAINYARD_AGENT__METRICS_LISTEN", listen.as_str())];
    let _agent = cluster.start_agent_with_gpus("gpus", 1, &variables).await.unwrap();
    for address in [cluster.address(), listen.clone()] {
        let families = families(&address);
        assert!(families.len() > 5, "{families:?}");
        for family in families {
            assert!(page.contains(&format!("`{family}")), "the metric `{family}` is not in the reference");
        }
    }
}
