//! An open cluster becomes one that asks who calls, without losing its job.

use std::process::Command;
use std::time::Duration;

use trainyard_tests::cluster::{Cluster, run};
use trainyard_tests::jobs::{epoch_end, tiny};
use trainyard_tests::process::{Process, binary};

/// The last word of the line that has a text.
fn token(login: &str, text: &str) -> String {
    let line = login.lines().find(|line| line.contains(text)).unwrap();
    line.rsplit(' ').next().unwrap().to_owned()
}

/// What `yard` prints for a person who has a configuration of their own.
async fn yard(cluster: &Cluster, person: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(binary("yard").unwrap());
    command.args(arguments).env("XDG_CONFIG_HOME", cluster.path(person)).env_remove("YARD_SERVER");
    run(&mut command).await.unwrap()
}

fn agent(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("trainyard-agent").unwrap());
    command
        .args(arguments)
        .env("TRAINYARD_AGENT__NAME", "bench")
        .env("TRAINYARD_AGENT__DATA_DIR", cluster.path("bench"))
        .env("TRAINYARD_AGENT__TRAINER", binary("trainyard-trainer").unwrap())
        .env("TRAINYARD_AGENT__CPU_SLOTS", "1")
        .env("TRAINYARD_AGENT__DATA_ROOTS", cluster.data_root())
        .env("TRAINYARD_AGENT__METRICS_LISTEN", "");
    command
}

/// Waits until a process has said something.
async fn says(process: &Process, text: &str) {
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    let deadline = std::time::Instant::now() + trainyard_tests::cluster::PATIENCE;
    while !process.output().contains(text) {
        assert!(std::time::Instant::now() < deadline, "it does not say `{text}`:\n{}", process.output());
        poll.tick().await;
    }
}

#[tokio::test]
async fn an_open_cluster_becomes_a_secure_one_and_its_job_goes_on() {
    let mut cluster = Cluster::start_patient().await.unwrap();
    let open = cluster.start_agent("bench", 1).await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    let id = cluster.submit(tiny(&data, 6)).await.unwrap();
    cluster.watch_until(&id, |event| epoch_end(event) == Some(1)).await.unwrap();
    cluster.scheduler.take().unwrap().terminate().unwrap();
    let login = cluster.start_secure_scheduler().await.unwrap();
    // The agent of before is named, and keeps what it has.
    says(cluster.scheduler.as_ref().unwrap(), "an agent speaks plaintext and is refused").await;
    assert!(cluster.scheduler.as_ref().unwrap().output().contains("name=\"bench\""));
    open.kill().unwrap();
    let address = cluster.address();
    let (code, _, error) =
        run(agent(&cluster, &["join", &address]).arg(token(&login, "agent join"))).await.unwrap();
    assert_eq!(code, 0, "{error}");
    let joined = Process::spawn(&mut agent(&cluster, &[]), &cluster.path("bench.log")).unwrap();
    // People: nobody, then an admin, then ada.
    let (code, _, error) = yard(&cluster, "nobody", &["--server", &cluster.url(), "jobs"]).await;
    assert_ne!(code, 0);
    assert!(error.contains("yard login"), "{error}");
    let admins = token(&login, "yard login");
    let (code, _, error) = yard(&cluster, "root", &["login", &address, &admins]).await;
    assert_eq!(code, 0, "{error}");
    let (code, made, error) = yard(&cluster, "root", &["token", "create", "--user", "ada"]).await;
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = yard(&cluster, "ada", &["login", &address, made.trim()]).await;
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = yard(&cluster, "ada", &["cancel", &id]).await;
    assert_ne!(code, 0);
    assert!(error.contains("belongs to"), "{error}");
    let (code, out, error) = yard(&cluster, "ada", &["watch", &id]).await;
    assert_eq!(code, 0, "{out}{error}\n{}", joined.output());
    let out_dir = cluster.path("fetched").display().to_string();
    let (code, _, error) = yard(&cluster, "ada", &["artifacts", &id, "get", "--dir", &out_dir]).await;
    assert_eq!(code, 0, "{error}");
    let weights = walk(&cluster.path("fetched"));
    assert!(weights.iter().any(|name| name.ends_with("best.safetensors")), "{weights:?}");
    // A machine that is forgotten is out, and says what to do.
    let (code, _, error) = yard(&cluster, "ada", &["agents", "forget", "bench"]).await;
    assert_ne!(code, 0, "{error}");
    let (code, _, error) = yard(&cluster, "root", &["agents", "forget", "bench"]).await;
    assert_eq!(code, 0, "{error}");
    says(&joined, "trainyard-agent join").await;
    let (code, audit, error) = yard(&cluster, "root", &["audit"]).await;
    assert_eq!(code, 0, "{error}");
    for told in
        ["AccessService/EnrolAgent", "AccessService/CreateToken", "JobService/CancelJob", "PERMISSION_DENIED"]
    {
        assert!(audit.contains(told), "{told} is not in\n{audit}");
    }
}

/// The names of all files below a folder.
fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}
