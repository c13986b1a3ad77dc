//! Data sets and weights of the cluster's store on their way to an agent: its process against a scheduler that a test
//! controls, with shell scripts for trainers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use nix::sys::signal::Signal;
use trainyard_types::{
    AttemptId, EndReason, Fetching, JobId, ModelScale, ReportBody, Slot, TrainSpec, UnfitKind,
};
use uuid::Uuid;

use crate::stub::{Agent, Stub, World, attempt};

const CPU: Slot = Slot::Cpu(0);

/// The disk of a test is anybody's.
const NO_FLOOR: [&str; 2] = ["--cache-floor-gib", "0"];

fn other(job: u128) -> AttemptId {
    AttemptId { job: JobId(Uuid::from_u128(job)), number: 1 }
}

/// Some files whose bytes differ by `seed`.
fn files(count: usize, bytes: usize, seed: u8) -> Vec<(String, Vec<u8>)> {
    let content = |at: usize| (0..bytes).map(|byte| ((at * 31 + byte * 7) as u8) ^ seed).collect();
    (0..count).map(|at| (format!("images/{:03}/{at:05}.jpg", at / 100), content(at))).collect()
}

fn agent(world: &World, stub: &Stub) -> Agent {
    world.agent(stub, &NO_FLOOR)
}

fn fetching(stub: &Stub) -> Vec<Fetching> {
    let of = |body: &ReportBody| match body {
        ReportBody::Fetching(fetching) => Some(fetching.clone()),
        _ => None,
    };
    stub.reports.iter().filter_map(|report| of(&report.body)).collect()
}

/// The data.yaml that the trainer of a job was given.
fn given(world: &World, id: AttemptId) -> PathBuf {
    let spec = world.path("agent/jobs").join(id.job.to_string()).join("spec.json");
    let spec: TrainSpec = serde_json::from_slice(&fs::read(spec).unwrap()).unwrap();
    spec.data
}

fn tree(world: &World, called: &Path) -> PathBuf {
    let id = called.to_str().unwrap().split_once('@').unwrap().1;
    world.path("agent/cache/versions").join(id)
}

/// Every file of a tree, with its bytes.
fn contents(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

fn assert_has(root: &Path, files: &[(String, Vec<u8>)]) {
    let found = contents(root);
    assert_eq!(found.len(), files.len() + 1);
    for (path, content) in files {
        assert!(found[path] == *content, "{path}");
    }
}

fn blobs(world: &World) -> Vec<PathBuf> {
    let folders = fs::read_dir(world.path("agent/cache/content")).unwrap().map(|entry| entry.unwrap().path());
    let of = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let hashed = folders.filter(|folder| folder.file_name().unwrap().len() == 2);
    hashed.flat_map(of).collect()
}

#[tokio::test]
async fn a_pushed_data_set_and_weights_are_fetched_once_and_held() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = agent(&world, &stub);
    assert_eq!(stub.hello().await.fitness.held_versions, Some(vec![]));
    let mut files = files(250, 3000, 0);
    // Equal files come once, and empty ones without a byte.
    files.extend((0..20).map(|at| (format!("labels/{at}.txt"), Vec::new())));
    files.push(("images/copy.jpg".into(), files[7].1.clone()));
    let cells = stub.push("cells", &files);
    let weights = stub.push_weights("start", "yolov8n.pt", b"weights");
    let spec = || TrainSpec { pretrained: weights.clone(), ..TrainSpec::new(ModelScale::N, &cells) };
    stub.assign_spec(attempt(1), spec(), CPU, None).await;
    let ended = stub.end().await;
    assert_eq!(ended.reason, EndReason::Completed, "{ended:?}\n{}", world.log());

    let root = tree(&world, &cells);
    assert_eq!(given(&world, attempt(1)), root.join("data.yaml"));
    assert_has(&root, &files);
    let told = fetching(&stub);
    let of = |what: &Path| -> Vec<&Fetching> {
        told.iter().filter(|told| Path::new(&told.what) == what).collect()
    };
    let (first, last) = (of(&cells)[0], *of(&cells).last().unwrap());
    assert_eq!((first.done_bytes, first.total_bytes), (0, last.total_bytes));
    assert!(last.is_whole() && last.bytes_per_second > 0.0 && of(&weights).last().unwrap().is_whole());
    let asked = stub.datasets().asked_files.load(Ordering::SeqCst);
    assert_eq!(asked, 250 + 1 + 1 + 1, "each content once: images, the data.yaml, the empty one, weights");
    for path in [root.join(&files[0].0), root.join("data.yaml")] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o222, 0);
    }
    assert_eq!(fs::metadata(root.join("images")).unwrap().permissions().mode() & 0o777, 0o555);
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(root.join(&files[7].0)), inode(root.join("images/copy.jpg")));

    // The next attempt fetches nothing, and says so by saying nothing.
    stub.assign_spec(other(8), spec(), CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed);
    assert_eq!(stub.datasets().asked_files.load(Ordering::SeqCst), asked);
    assert_eq!(fetching(&stub).len(), told.len());
    let newest_first = [&weights, &cells].map(|called| called.to_str().unwrap().split_once('@').unwrap().1);
    let held = |heartbeat: &trainyard_proto::pb::Heartbeat| {
        heartbeat.fitness.as_ref().unwrap().held_versions.clone().unwrap().versions
    };
    stub.heartbeat_with(|heartbeat| held(heartbeat) == newest_first).await;
}
