//! The agent's pages for Prometheus, as a scraper sees them.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use trainyard_types::{GpuUuid, Slot};

use crate::stub::{Stub, World, attempt};

const GPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fake-nvml/gpus.json");
const STEP: &str = r#""type":"step","epoch":1,"batch":3,"batches":10,"images_per_second":5.0,"loader_wait_ratio":0.5,"metrics":{},"phases":{"wait":0.5,"copy":0.0,"forward":0.25,"loss":0.0,"backward":0.25,"optimizer":0.0}"#;
const STARTED: &str = r#""type":"started","parameters":1,"train_images":80,"val_images":1,"classes":["a"],"epochs":2,"batch_size":8,"first_epoch":1,"device":"cpu""#;

/// The body of a page.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Where the agent's log says that its pages are.
fn address(world: &World) -> String {
    let log = world.log();
    let (_, rest) = log.split_once("metrics are on http://").expect("the log names the page");
    rest.split_once('/').unwrap().0.to_owned()
}

/// Scrapes until the page has a line that is as `wanted`, which a failing test waits for in vain.
async fn until(address: &str, path: &str, wanted: impl Fn(&str) -> bool) -> String {
    let patience = Instant::now() + Duration::from_secs(90);
    let mut poll = tokio::time::interval(Duration::from_millis(100));
    loop {
        poll.tick().await;
        let page = get(address, path);
        if page.lines().any(&wanted) {
            return page;
        }
        assert!(Instant::now() < patience, "no such line in\n{page}");
    }
}

#[tokio::test]
async fn heat_other_processes_xids_and_a_trainers_work_show_on_the_page() {
    let world = World::new(&format!("tell '{STARTED}'\ntell '{STEP}'\nlog ready\nhold\n"));
    let hot = fs::read_to_string(GPUS).unwrap().replacen(
        "\"memory_used_mib\": 364",
        "\"memory_used_mib\": 900, \"throttle_reasons\": 32, \"xids\": [45], \"pcie_link_width\": 8",
        1,
    );
    fs::write(world.path("gpus.json"), hot).unwrap();
    let library = std::env::current_exe().unwrap().with_file_name("libfake_nvml.so");
    let mut stub = Stub::start().await;
    let arguments = ["--nvml-library", library.to_str().unwrap(), "--metrics-listen", "127.0.0.1:0"];
    let _agent = world.agent(&stub, &arguments);
    let hello = stub.hello().await;
    let uuid = hello.inventory.gpus[0].uuid.0.clone();
    stub.assign(attempt(1), &world.data(), Slot::Gpu(GpuUuid(uuid.clone())), None).await;
    stub.log_line("ready").await;

    let address = address(&world);
    let throttled = |line: &str| {
        line.starts_with("trainyard_gpu_throttle_seconds_total{gpu=\"0\",")
            && line.contains("reason=\"thermal\"")
            && line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() > 0.0
    };
    until(&address, "/metrics", throttled).await;
    let page = until(&address, "/metrics", |line| line.starts_with("trainyard_gpu_xid_errors_total")).await;
    let has = |start: &str, end: &str| {
        assert!(
            page.lines().any(|line| line.starts_with(start) && line.ends_with(end)),
            "{start} … {end} is not in\n{page}"
        );
    };
    has("trainyard_gpu_xid_errors_total{gpu=\"0\",", "xid=\"45\"} 1");
    has("trainyard_gpu_memory_foreign_bytes{gpu=\"0\",", &format!(" {}", 900 << 20));
    has("trainyard_gpu_pcie_link_width{gpu=\"0\",", " 8");
    has("trainyard_train_images_total{gpu=\"0\",", " 24");
    has("trainyard_train_step_seconds{gpu=\"0\",", "phase=\"forward\"} 0.25");
    has("trainyard_loader_wait_ratio{gpu=\"0\",", " 0.5");
    has("trainyard_spool_gaps_total", " 0");
    let name =
        format!("gpu=\"0\",UUID=\"{uuid}\",pci_bus_id=\"00000000:01:00.0\",device=\"nvidia0\",modelName=");
    has(&format!("trainyard_gpu_temperature_celsius{{{name}"), " 40");
    let alias = get(&address, "/metrics/dcgm");
    let line = alias.lines().find(|line| line.starts_with("DCGM_FI_DEV_XID_ERRORS{gpu=\"0\"")).unwrap();
    assert!(line.ends_with(" 45"), "{line}");
}

#[tokio::test]
async fn a_port_that_is_taken_costs_the_page_and_nothing_else() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &["--metrics-listen", &taken.local_addr().unwrap().to_string()]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), Slot::Cpu(0), None).await;
    stub.reports_to_the_end(1).await;
    assert!(world.log().contains("no metrics page"), "{}", world.log());
}
