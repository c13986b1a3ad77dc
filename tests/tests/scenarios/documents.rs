//! The reference is current: it names every configuration key and every metric that the programs have.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use trainyard_tests::cluster::{Cluster, run};
use trainyard_tests::process::binary;

fn reference(name: &str) -> String {
    fs::read_to_string(format!("{}/../docs/reference/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
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
        let keys = printed.lines().filter_map(|line| line.trim_start_matches("# ").split_whitespace().next());
        for key in keys {
            assert!(
                section.contains(&format!("| `{key}` |")),
                "{program}'s key `{key}` is not in the reference"
            );
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
    let cards = include_str!("../../fake-nvml/cards.json");
    cluster.show_cards("cards", &serde_json::from_str(cards).unwrap()).unwrap();
    let variables = [("TRAINYARD_AGENT__METRICS_LISTEN", listen.as_str())];
    let _agent = cluster.start_agent_with_cards("cards", 1, &variables).await.unwrap();
    for address in [cluster.address(), listen.clone()] {
        let families = families(&address);
        assert!(families.len() > 5, "{families:?}");
        for family in families {
            assert!(page.contains(&format!("`{family}")), "the metric `{family}` is not in the reference");
        }
    }
}
