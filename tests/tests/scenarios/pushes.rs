//! Data sets from a laptop into the store of a real scheduler and back.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tokio::time::Instant;
use trainyard_proto::pb;
use trainyard_tests::cluster::{Cluster, PATIENCE, run};
use trainyard_tests::faults::client::Client;
use trainyard_tests::faults::members::Members;
use trainyard_tests::faults::net::Net;
use trainyard_tests::images::bitmap;
use trainyard_tests::jobs::{epoch_end, tiny};
use trainyard_tests::process::binary;

/// Adds images that are large on disk, so that a push takes its time.
fn add_large_images(folder: &Path, count: u8) {
    for number in 0..count {
        let mut state = u32::from(number) + 1;
        // Other bytes each.
        let bytes = bitmap(2048, || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        fs::write(folder.join(format!("large-{number}.bmp")), bytes).unwrap();
    }
}

#[tokio::test]
async fn a_push_goes_on_after_the_scheduler_was_killed_and_the_version_comes_back_whole() {
    let mut cluster = Cluster::start().await.unwrap();
    let data = cluster.demo_data("cells", 12, 6, 64).await.unwrap();
    let folder = data.parent().unwrap();
    add_large_images(&folder.join("images/train"), 6);
    let mut command = Command::new(binary("yard").unwrap());
    command.args(["data", "push"]).arg(folder).env("YARD_SERVER", cluster.url());
    command.env("XDG_CACHE_HOME", cluster.path("cache")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut push = command.spawn().unwrap();
    let mut told = BufReader::new(push.stderr.take().unwrap()).lines();
    let mut said = String::new();
    while !said.contains("the cluster has none of them") {
        said += &told.next().unwrap_or_else(|| panic!("{said}")).unwrap();
    }
    cluster.scheduler.take().unwrap().kill().unwrap();
    cluster.start_scheduler().await.unwrap();
    said.extend(told.map(|line| line.unwrap() + "\n"));
    assert!(push.wait().unwrap().success(), "{said}");
    let mut version = String::new();
    push.stdout.take().unwrap().read_to_string(&mut version).unwrap();
    let version = version.trim();

    // Somewhere else, and back again.
    let there = cluster.path("there").display().to_string();
    let (code, _, error) = cluster.yard(&["data", "pull", version, "-d", &there]).await.unwrap();
    assert_eq!(code, 0, "{error}");
    let (code, again, error) =
        cluster.yard(&["data", "push", &there, "--name", "cells", "--dry-run"]).await.unwrap();
    assert_eq!((code, again.trim()), (0, version), "{error}");
    for number in 0..6 {
        let name = format!("images/train/large-{number}.bmp");
        let same = fs::read(folder.join(&name)).unwrap() == fs::read(Path::new(&there).join(&name)).unwrap();
        assert!(same, "{name}");
    }

    let (_, list, _) = cluster.yard(&["data", "list"]).await.unwrap();
    assert!(list.contains("24 images, 3 classes"), "{list}");
    let (code, gone, error) = cluster.yard(&["data", "rm", version]).await.unwrap();
    assert_eq!((code, gone.trim()), (0, format!("removed {version}").as_str()), "{error}");
    let (code, _, error) = cluster.yard(&["data", "show", "cells"]).await.unwrap();
    assert!(code == 4 && error.contains("there is no data set `cells`"), "{error}");
    let (code, _, error) = cluster.yard(&["train", "cells"]).await.unwrap();
    assert!(code == 2 && error.contains("there is no data set `cells`"), "{error}");
}

#[tokio::test]
async fn two_pushes_of_one_data_set_at_once_make_one_version() {
    let cluster = Cluster::start().await.unwrap();
    let data = cluster.demo_data("cells", 30, 10, 96).await.unwrap();
    let words = ["data", "push", data.to_str().unwrap()];
    let (one, other) = tokio::join!(cluster.yard(&words), cluster.yard(&words));
    let ((code, version, error), (other_code, other, other_error)) = (one.unwrap(), other.unwrap());
    assert_eq!((code, other_code), (0, 0), "{error}{other_error}");
    assert_eq!(version, other);
    let (_, list, _) = cluster.yard(&["data", "list", "-o", "jsonl"]).await.unwrap();
    assert_eq!(list.lines().count(), 1, "{list}");
}

/// What is said while a job trains to its end.
async fn trained(cluster: &Cluster, job: &str) -> (pb::Job, String) {
    let (state, events) = cluster.watch_to_end(job).await.unwrap();
    let done = cluster.job(job).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "{done:?}");
    (done, format!("{events:?}"))
}

#[tokio::test]
async fn machines_without_a_common_disk_train_what_was_pushed_from_elsewhere() {
    let cluster = Cluster::start().await.unwrap();
    let data = cluster.demo_data("cells", 16, 8, 64).await.unwrap();
    let folder = data.parent().unwrap();
    let (code, version, error) = cluster.yard(&["data", "push", folder.to_str().unwrap()]).await.unwrap();
    assert_eq!(code, 0, "{error}");
    let version = version.trim().to_owned();
    // Nothing of it is left but what the scheduler keeps.
    fs::remove_dir_all(folder).unwrap();
    let first = cluster.start_agent("first", 1).await.unwrap();
    let _second = cluster.start_agent("second", 1).await.unwrap();
    let spec = |data: &str, pretrained: &str| {
        let mut spec = tiny(Path::new(data), 1);
        spec.train.as_mut().unwrap().pretrained = Some(pretrained.to_owned());
        spec
    };
    // Each of the two has room for one.
    let jobs =
        [cluster.submit(spec("cells", "")).await.unwrap(), cluster.submit(spec("cells", "")).await.unwrap()];
    let mut agents = Vec::new();
    for job in &jobs {
        let (done, said) = trained(&cluster, job).await;
        assert!(done.spec.unwrap().train.unwrap().data.starts_with(&version), "{version}");
        let attempt = &done.attempts[0];
        let fetched = attempt.fetching.as_ref().expect("it was fetched");
        assert!(fetched.done_bytes == fetched.total_bytes && fetched.total_bytes > 0, "{fetched:?}");
        assert!(said.contains("are there"), "{said}");
        agents.push(attempt.agent_name.clone());
    }
    agents.sort();
    assert_eq!(agents, ["first", "second"]);
    // A bit flips where one of them keeps it; the next job there begins from the best weights of the one before.
    drop(first);
    let content = cluster.path("second").join("cache/content");
    let blob = walk(&content).into_iter().find(|path| fs::metadata(path).unwrap().len() > 1000).unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    bytes[500] ^= 1;
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, &bytes).unwrap();
    let next = cluster.submit(spec(&version, &format!("job:{}", jobs[0]))).await.unwrap();
    let (done, said) = trained(&cluster, &next).await;
    let pretrained = done.spec.unwrap().train.unwrap().pretrained.unwrap();
    assert!(pretrained.starts_with(&format!("job-{}@", jobs[0])), "{pretrained}");
    assert!(said.contains("had other bytes on this agent's disk"), "{said}");
    assert_ne!(fs::read(walk(&content).into_iter().find(|path| *path == blob).unwrap()).unwrap(), bytes);
}

/// Scheduler, two agents and the laptop: each has a network and a disk of its own.
async fn train_without_a_common_disk(net: Net) -> Result<()> {
    let mut members = Members::new(net, 1, 2, 1)?;
    let laptop = members.place()?;
    let homes: Vec<PathBuf> =
        ["scheduler-0", "agent-0", "agent-1", "laptop", "blobs"].map(|name| members.path(name)).into();
    for home in &homes {
        fs::create_dir_all(home)?;
    }
    let others = |own: &[&str]| -> Vec<PathBuf> {
        homes.iter().filter(|home| !own.iter().any(|own| home.ends_with(own))).cloned().collect()
    };
    members.schedulers[0].hide(&others(&["scheduler-0", "blobs"]));
    let (trainer, roots) = (binary("trainyard-trainer")?, members.path("roots"));
    fs::create_dir(&roots)?;
    for (number, agent) in members.agents.iter_mut().enumerate() {
        agent.hide(&others(&[&format!("agent-{number}")]));
        agent.set("TRAINYARD_AGENT__TRAINER", trainer.display().to_string());
        agent.set("TRAINYARD_AGENT__CONFINE_TRAINERS", "true");
        agent.set("TRAINYARD_AGENT__DATA_ROOTS", roots.display().to_string());
    }
    for member in members.all() {
        member.start()?;
    }
    let folder = members.path("laptop/cells").display().to_string();
    let yard = async |words: &[&str]| {
        let mut command = laptop.command(&binary("yard").unwrap());
        command.args(words).env("YARD_SERVER", &members.urls[0]);
        command.env("XDG_CACHE_HOME", members.path("laptop/cache"));
        let (code, said, error) = run(&mut command).await.unwrap();
        assert_eq!(code, 0, "{words:?}: {error}");
        said.trim().to_owned()
    };
    yard(&["demo-data", &folder, "--train", "16", "--val", "8", "--size", "64"]).await;
    yard(&["data", "push", &folder]).await;
    let words = ["train", "cells", "--model", "yolov8n", "--epochs", "1", "--imgsz", "64", "--batch", "8"];
    let words = [&words[..], &["--device", "cpu", "--workers", "1", "--mosaic", "0"]].concat();
    let jobs = [yard(&words).await, yard(&words).await];
    let mut client = Client::new(&members.urls, Instant::now() + PATIENCE);
    let mut agents = Vec::new();
    for id in &jobs {
        yard(&["watch", id]).await;
        let job = client.list().await?.into_iter().find(|job| job.id == *id).context("the job")?;
        ensure!(job.state() == pb::JobState::Succeeded, "{job:#?}");
        agents.push(job.attempts[0].agent_name.clone());
    }
    agents.sort();
    ensure!(agents == ["agent-0", "agent-1"], "{agents:?}");
    Ok(())
}

#[test]
fn machines_in_networks_of_their_own_train_what_a_laptop_has_pushed() {
    let (net, why_not) = Net::new();
    if let Some(cause) = why_not {
        println!("not tried, for want of rights: {cause:#}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(train_without_a_common_disk(net)).map_err(|error| format!("{error:#}")).unwrap();
}

#[tokio::test]
async fn the_data_set_of_the_next_job_comes_while_the_one_before_it_trains() {
    let cluster = Cluster::start().await.unwrap();
    for (name, images) in [("cells", 16), ("others", 20)] {
        let data = cluster.demo_data(name, images, 8, 64).await.unwrap();
        let (code, _, error) = cluster.yard(&["data", "push", data.to_str().unwrap()]).await.unwrap();
        assert_eq!(code, 0, "{error}");
    }
    let _agent = cluster.start_agent("only", 1).await.unwrap();
    let first = cluster.submit(tiny(Path::new("cells"), 300)).await.unwrap();
    cluster.watch_until(&first, |event| epoch_end(event).is_some()).await.unwrap();
    let next = cluster.submit(tiny(Path::new("others"), 1)).await.unwrap();
    let called = cluster.job(&next).await.unwrap().spec.unwrap().train.unwrap().data;
    let whole = cluster.path("only/cache/versions").join(called.split_once('@').unwrap().1);
    // The first one trains on meanwhile, and the other waits.
    cluster.watch_until(&first, |_| whole.is_dir()).await.unwrap();
    let waiting = cluster.job(&next).await.unwrap();
    assert_eq!(waiting.state(), pb::JobState::Queued, "{waiting:?}");
    let (code, _, error) = cluster.yard(&["cancel", &first]).await.unwrap();
    assert_eq!(code, 0, "{error}");
    let (done, _) = trained(&cluster, &next).await;
    assert_eq!(done.attempts[0].fetching, None, "{done:?}");
}

/// All files below a folder.
fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}
