//! The drill of docs/how-to/back-up-and-restore.md: a head node loses its disk, and jobs, tokens and machines do not.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use trainyard_tests::cluster::{Cluster, PATIENCE, run};
use trainyard_tests::process::{Process, binary};

/// The last word of the line that has a text.
fn token(login: &str, text: &str) -> String {
    let line = login.lines().find(|line| line.contains(text)).unwrap();
    line.rsplit(' ').next().unwrap().to_owned()
}

async fn yard(cluster: &Cluster, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(binary("yard").unwrap());
    command.args(arguments).env("XDG_CONFIG_HOME", cluster.path("person")).env_remove("YARD_SERVER");
    run(&mut command).await.unwrap()
}

/// Repeats a command until it succeeds and prints `text`.
async fn until(cluster: &Cluster, arguments: &[&str], text: &str) -> String {
    let mut poll = tokio::time::interval(Duration::from_millis(200));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (code, said, error) = yard(cluster, arguments).await;
        if code == 0 && said.contains(text) {
            return said;
        }
        assert!(Instant::now() < deadline, "{arguments:?} does not say `{text}`:\n{said}{error}");
        poll.tick().await;
    }
}

fn agent(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("trainyard-agent").unwrap());
    command
        .args(arguments)
        .env("TRAINYARD_AGENT__NAME", "lab-1")
        .env("TRAINYARD_AGENT__DATA_DIR", cluster.path("lab-1"))
        .env("TRAINYARD_AGENT__TRAINER", binary("trainyard-trainer").unwrap())
        .env("TRAINYARD_AGENT__CPU_SLOTS", "1")
        .env("TRAINYARD_AGENT__DATA_ROOTS", cluster.data_root())
        .env("TRAINYARD_AGENT__METRICS_LISTEN", "");
    command
}

/// `cp -a`, as the page says.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

#[tokio::test]
async fn a_head_node_that_lost_its_disk_comes_back_with_jobs_tokens_and_machines() {
    let mut cluster = Cluster::start_patient().await.unwrap();
    cluster.scheduler.take().unwrap().terminate().unwrap();
    let login = cluster.start_secure_scheduler().await.unwrap();
    let address = cluster.address();
    let (code, _, error) = yard(&cluster, &["login", &address, &token(&login, "yard login")]).await;
    assert_eq!(code, 0, "{error}");
    let mut join = agent(&cluster, &["join", &address, &token(&login, "agent join")]);
    let (code, _, error) = run(&mut join).await.unwrap();
    assert_eq!(code, 0, "{error}");
    let machine = Process::spawn(&mut agent(&cluster, &[]), &cluster.path("lab-1.log")).unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap().display().to_string();
    let train = [
        "train", &data, "--model", "yolov8n", "--imgsz", "64", "--batch", "4", "--device", "cpu", "--epochs",
        "1",
    ];
    let (code, first, error) = yard(&cluster, &train).await;
    assert_eq!(code, 0, "{error}");
    until(&cluster, &["job", first.trim(), "-o", "json"], "\"SUCCEEDED\"").await;
    machine.terminate().unwrap();
    let (code, second, error) = yard(&cluster, &train).await;
    assert_eq!(code, 0, "{error}");

    // The backup: stopped, copied. Then the disk is lost, and another one has the copy.
    cluster.scheduler.take().unwrap().terminate().unwrap();
    let places =
        ["scheduler", "blobs"].map(|name| cluster.path(name)).into_iter().filter(|place| place.exists());
    let places: Vec<_> = places.collect();
    let backup = cluster.path("backup");
    fs::create_dir(&backup).unwrap();
    for place in &places {
        copy(place, &backup);
        fs::remove_dir_all(place).unwrap();
        copy(&backup.join(place.file_name().unwrap()), place.parent().unwrap());
    }
    cluster.start_secure_scheduler().await.unwrap();

    until(&cluster, &["jobs"], &second.trim()[..8]).await;
    let fetched = cluster.path("fetched").display().to_string();
    let (code, _, error) = yard(&cluster, &["artifacts", first.trim(), "get", "-d", &fetched]).await;
    assert_eq!(code, 0, "{error}");
    assert!(cluster.path("fetched/weights/best.safetensors").is_file());
    let _machine = Process::spawn(&mut agent(&cluster, &[]), &cluster.path("lab-1.log")).unwrap();
    until(&cluster, &["job", second.trim(), "-o", "json"], "\"SUCCEEDED\"").await;
}
