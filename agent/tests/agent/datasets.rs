//! Data sets and weights of the cluster's store on their way to an agent: its process against a scheduler that a test
//! controls, with shell scripts for trainers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

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

/// The contents that are whole: those that are being written have another name.
fn blobs(world: &World) -> Vec<PathBuf> {
    let folders = fs::read_dir(world.path("agent/cache/content")).unwrap().map(|entry| entry.unwrap().path());
    let of = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let hashed = folders.filter(|folder| folder.file_name().unwrap().len() == 2);
    hashed.flat_map(of).filter(|path| path.extension().is_none()).collect()
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

#[tokio::test]
async fn a_stream_that_is_cut_goes_on_at_the_byte_where_it_was() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = agent(&world, &stub);
    stub.hello().await;
    // One large file, too: it is cut in its middle.
    let mut files = files(100, 5000, 1);
    files.push(("images/large.png".into(), (0..3_000_000_u32).map(|at| at as u8).collect()));
    let cells = stub.push("cells", &files);
    stub.cut_streams(5, 150_001);
    stub.assign(attempt(1), &cells, CPU, None).await;
    let ended = stub.end().await;
    assert_eq!(ended.reason, EndReason::Completed, "{ended:?}\n{}", world.log());
    assert_has(&tree(&world, &cells), &files);
    let all: usize = contents(&tree(&world, &cells)).values().map(Vec::len).sum();
    assert_eq!(stub.datasets().sent.load(Ordering::SeqCst), all as u64, "no byte came twice");
}

#[tokio::test]
async fn a_content_with_another_hash_is_fetched_again_and_named_in_the_end() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = agent(&world, &stub);
    stub.hello().await;
    let files = files(30, 2000, 2);
    let cells = stub.push("cells", &files);
    stub.damage(&files[11].1, 2);
    stub.assign(attempt(1), &cells, CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed, "{}", world.log());
    assert_has(&tree(&world, &cells), &files);

    let others = stub.push("others", &self::files(30, 2000, 3));
    stub.damage(&self::files(30, 2000, 3)[12].1, u32::MAX);
    stub.assign(other(8), &others, CPU, None).await;
    let ended = stub.end().await;
    assert_eq!(ended.reason, EndReason::AgentUnfit);
    let unfit = ended.unfit.unwrap();
    let named = others.to_str().unwrap();
    assert_eq!((unfit.kind, unfit.path.as_str()), (UnfitKind::PathUnreadable, named));
    assert!(unfit.message.contains("`images/000/00012.jpg` came 3 times"), "{}", unfit.message);
    let missing = |heartbeat: &trainyard_proto::pb::Heartbeat| {
        heartbeat.fitness.as_ref().unwrap().missing_paths.clone()
    };
    stub.heartbeat_with(|heartbeat| missing(heartbeat) == [named]).await;
    // A job that comes all the same, and finds it mended.
    stub.damage(b"", 0);
    stub.assign(other(9), &others, CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed);
    stub.heartbeat_with(|heartbeat| missing(heartbeat).is_empty()).await;
}

#[tokio::test]
async fn a_version_that_is_gone_ends_the_job_unless_it_is_held() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = agent(&world, &stub);
    stub.hello().await;
    let cells = stub.push("cells", &files(3, 100, 4));
    stub.assign(attempt(1), &cells, CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed);
    stub.forget(&cells);
    stub.assign(other(8), &cells, CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed);
    let others = stub.push("others", &files(3, 100, 5));
    stub.forget(&others);
    stub.assign(other(9), &others, CPU, None).await;
    let ended = stub.end().await;
    assert_eq!(ended.reason, EndReason::BadSpec);
    assert!(ended.message.contains("does not exist any more"), "{}", ended.message);
    let short = &others.to_str().unwrap()[..19];
    assert!(ended.message.contains(&format!("`{short}`")), "{}", ended.message);
}

#[tokio::test]
async fn a_cancelled_attempt_stops_fetching_and_the_next_one_fetches_the_rest() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = agent(&world, &stub);
    stub.hello().await;
    let files = files(200, 3000, 6);
    let cells = stub.push("cells", &files);
    stub.hold_up(true);
    stub.assign(attempt(1), &cells, CPU, None).await;
    stub.streams_wait(1).await;
    stub.stop(attempt(1), EndReason::Cancelled).await;
    assert_eq!(stub.end().await.reason, EndReason::Cancelled);
    let mut waiting = stub.datasets().waiting.subscribe();
    waiting.wait_for(|waiting| *waiting == 0).await.unwrap();
    stub.hold_up(false);
    let there = blobs(&world).len() as u64;
    let asked = stub.datasets().asked_files.load(Ordering::SeqCst);
    stub.assign(other(8), &cells, CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed);
    assert_has(&tree(&world, &cells), &files);
    // A thread that was writing when the attempt ended may have stored some more.
    let rest = stub.datasets().asked_files.load(Ordering::SeqCst) - asked;
    assert!(rest <= 201 - there, "{rest} of 201 where {there} were there");
}

#[tokio::test]
async fn an_agent_that_is_killed_while_it_fetches_goes_on_with_the_rest() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let mut first = agent(&world, &stub);
    stub.hello().await;
    let files = files(200, 3000, 7);
    let cells = stub.push("cells", &files);
    stub.hold_up(true);
    stub.assign(attempt(1), &cells, CPU, None).await;
    stub.streams_wait(1).await;
    while fetching(&stub).is_empty() {
        stub.report().await;
    }
    // What came before the streams waited is being stored.
    while blobs(&world).len() < 20 {
        stub.heartbeat().await;
    }
    first.kill();
    stub.hold_up(false);
    let there = blobs(&world).len() as u64;
    let asked = stub.datasets().asked_files.load(Ordering::SeqCst);
    let _second = agent(&world, &stub);
    let hello = stub.hello().await;
    assert_eq!(hello.fitness.held_versions, Some(vec![]));
    // Fetching was told of, so the attempt has a spool, and its end is known.
    assert_eq!(stub.end().await.reason, EndReason::AgentLost);
    stub.assign(attempt(2), &cells, CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed, "{}", world.log());
    assert_has(&tree(&world, &cells), &files);
    assert_eq!(stub.datasets().asked_files.load(Ordering::SeqCst) - asked, 201 - there);
    assert_eq!(fs::read_dir(world.path("agent/cache/content/unfinished")).unwrap().count(), 0);
}

/// What has come of a content that is not whole; its file's length.
pub fn partial(world: &World, content: &[u8]) -> (PathBuf, u64) {
    let name = trainyard_content::Digest::of(content).to_string();
    let path = world.path("agent/cache/content").join(&name[..2]).join(format!("{name}.part"));
    let length = fs::metadata(&path).map_or(0, |known| known.len());
    (path, length)
}

#[tokio::test]
async fn an_agent_that_is_killed_within_a_large_file_goes_on_where_it_was() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let mut first = agent(&world, &stub);
    stub.hello().await;
    let large: Vec<u8> = (0..9_000_001_u32).map(|at| (at / 3) as u8).collect();
    let files = vec![("images/large.png".to_owned(), large.clone())];
    let cells = stub.push("cells", &files);
    stub.hold_up(true);
    stub.assign(attempt(1), &cells, CPU, None).await;
    stub.streams_wait(2).await;
    while partial(&world, &large).1 == 0 || blobs(&world).is_empty() {
        stub.heartbeat().await;
    }
    // The bytes of the file that is not whole count, too.
    while fetching(&stub).last().is_none_or(|told| told.done_bytes < partial(&world, &large).1) {
        stub.report().await;
    }
    first.kill();
    stub.hold_up(false);
    let (path, came) = partial(&world, &large);
    let before = stub.datasets().offsets.lock().unwrap().len();
    let _second = agent(&world, &stub);
    stub.hello().await;
    assert_eq!(stub.end().await.reason, EndReason::AgentLost);
    stub.assign(attempt(2), &cells, CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed, "{}", world.log());
    assert_has(&tree(&world, &cells), &files);
    let asked = stub.datasets().offsets.lock().unwrap()[before..].to_vec();
    assert_eq!(asked, [came], "what had come did not come again");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_part_of_a_large_file_with_other_bytes_is_thrown_away() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let large: Vec<u8> = (0..9_000_001_u32).map(|at| (at / 5) as u8).collect();
    let longer = vec![7; 9_000_002];
    let files = vec![("a.png".to_owned(), large.clone()), ("b.png".to_owned(), longer.clone())];
    // One has wrong bytes, and one too many.
    for (content, left) in [(&large, 100_000), (&longer, longer.len() + 1)] {
        let (path, _) = partial(&world, content);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![1; left]).unwrap();
    }
    let _agent = agent(&world, &stub);
    stub.hello().await;
    let cells = stub.push("cells", &files);
    stub.assign(attempt(1), &cells, CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed, "{}", world.log());
    assert_has(&tree(&world, &cells), &files);
    assert!(!partial(&world, &large).0.exists() && !partial(&world, &longer).0.exists());
    assert!(fetching(&stub).last().unwrap().is_whole());
}

#[tokio::test]
async fn whatever_is_damaged_of_a_version_is_mended_at_once() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = agent(&world, &stub);
    stub.hello().await;
    let files = files(250, 500, 9);
    let cells = stub.push("cells", &files);
    stub.assign(attempt(1), &cells, CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed);
    let root = tree(&world, &cells);
    for (at, (path, content)) in files.iter().enumerate() {
        let damaged = root.join(path);
        let mut bytes = content.clone();
        bytes[at % 500] ^= 1;
        fs::set_permissions(&damaged, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&damaged, bytes).unwrap();
    }
    let asked = stub.datasets().asked_files.load(Ordering::SeqCst);
    stub.assign(other(8), &cells, CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed, "{}", world.log());
    assert_has(&root, &files);
    assert_eq!(stub.datasets().asked_files.load(Ordering::SeqCst) - asked, 250);
}

#[tokio::test]
async fn a_flipped_bit_on_the_disk_is_found_told_and_mended() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = agent(&world, &stub);
    stub.hello().await;
    let files = files(40, 2000, 8);
    let cells = stub.push("cells", &files);
    stub.assign(attempt(1), &cells, CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed);
    let root = tree(&world, &cells);
    let damaged = root.join(&files[5].0);
    let mut bytes = files[5].1.clone();
    bytes[1000] ^= 4;
    fs::set_permissions(&damaged, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&damaged, bytes).unwrap();
    // A link that is gone needs nobody else.
    let folder = root.join("images/000");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(root.join(&files[6].0)).unwrap();
    let asked = stub.datasets().asked_files.load(Ordering::SeqCst);
    stub.assign(other(8), &cells, CPU, None).await;
    let short = cells.to_str().unwrap()[..18].to_owned();
    let told = stub.log_line(&format!("{short}: 1 of 41 files had other bytes")).await;
    assert!(told.ends_with(&files[5].0), "{told}");
    assert_eq!(stub.end().await.reason, EndReason::Completed);
    assert_has(&root, &files);
    assert_eq!(stub.datasets().asked_files.load(Ordering::SeqCst) - asked, 1);
    assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o555);
}

#[tokio::test]
async fn two_attempts_that_want_the_same_version_at_once_fetch_it_once() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[&NO_FLOOR[..], &["--cpu-slots", "2"]].concat());
    stub.hello().await;
    let files = files(100, 3000, 9);
    let cells = stub.push("cells", &files);
    stub.hold_up(true);
    stub.assign(attempt(1), &cells, CPU, None).await;
    stub.streams_wait(1).await;
    stub.assign(other(8), &cells, Slot::Cpu(1), None).await;
    // Both are told of the one fetch.
    let tells = |stub: &Stub, id: AttemptId| {
        let of = |report: &&trainyard_types::Report| report.attempt == id;
        stub.reports.iter().filter(of).any(|report| matches!(report.body, ReportBody::Fetching(_)))
    };
    while !tells(&stub, attempt(1)) || !tells(&stub, other(8)) {
        stub.report().await;
    }
    stub.hold_up(false);
    for _ in 0..2 {
        assert_eq!(stub.end().await.reason, EndReason::Completed, "{}", world.log());
    }
    assert_eq!(stub.datasets().asked_files.load(Ordering::SeqCst), 101);
    for id in [attempt(1), other(8)] {
        let of = stub.reports.iter().rev().filter(|report| report.attempt == id);
        let mut latest = of.filter_map(|report| match &report.body {
            ReportBody::Fetching(fetching) => Some(fetching),
            _ => None,
        });
        assert!(latest.next().unwrap().is_whole());
    }
}

#[tokio::test]
async fn a_confined_trainer_reads_its_version_and_changes_nothing_there() {
    // It starts no program either, and tells what it could do in its run directory. Modes and links: see the tests of
    // the crate that confines.
    let script = r#"
while read -r line; do
  case $line in '"data":'*) data=${line#*: \"}; data=${data%\"*};; esac
done < "$spec"
tree=${data%/*}; cache=$tree/../..
could() { echo "$1" >> "$run/could"; }
if read -r line < "$tree/images/000/00000.jpg" || [ -n "$line" ]; then could read; fi
if echo x > "$tree/images/000/00000.jpg"; then could overwrite; fi
if echo x > "$tree/new.yaml"; then could add; fi
if echo x > "$cache/content/unfinished/x"; then could store; fi
for blob in "$cache"/content/*/*; do
  if read -r line < "$blob"; then could 'read others'; fi
done
if echo x > "$cache/decoded/pixels"; then could decode; fi
could end
exit 64
"#;
    let world = World::new(script);
    let mut stub = Stub::start().await;
    let confined = [("TRAINYARD_AGENT__CONFINE_TRAINERS", "true")];
    let _agent = world.agent_with(&stub, &NO_FLOOR, &confined);
    stub.hello().await;
    if world.log().contains("Landlock") {
        eprintln!("NOT TESTED: this kernel confines nobody");
        return;
    }
    let files = files(3, 1000, 10);
    let cells = stub.push("cells", &files);
    stub.assign(attempt(1), &cells, CPU, None).await;
    let ended = stub.end().await;
    let could = world.path("agent/jobs").join(attempt(1).job.to_string()).join("run/could");
    let could =
        fs::read_to_string(could).unwrap_or_else(|error| panic!("{error}: {ended:?}\n{}", world.log()));
    assert_eq!(could, "read\ndecode\nend\n");
    assert_has(&tree(&world, &cells), &files);
}
