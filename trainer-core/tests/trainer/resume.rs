//! Runs that are cut off in the middle: by SIGKILL, by a full disk. The real binary on one core, whose sums
//! come in one order, so that results can be compared bit by bit.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use trainyard_trainer::checkpoint::{self, Loaded};
use trainyard_trainer::weights;
use trainyard_types::trainer::{TrainerEvent, exit_code};
use trainyard_types::{Optimizer, TrainSpec};

use crate::runs::checkpoints::newest;
use crate::runs::events::{checkpoints, logs, started};
use crate::runs::process::{self, alone, event};

/// A core that this process may use.
fn core() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().split([',', '-']).next().unwrap().to_owned()
}

/// The words of a training's command line, on one core.
fn words(spec: &TrainSpec, run_dir: &Path, extra: &[&str]) -> Vec<String> {
    ["taskset", "-c", &core(), env!("CARGO_BIN_EXE_trainyard-trainer")]
        .map(str::to_owned)
        .into_iter()
        .chain(process::train_arguments(spec, run_dir))
        .chain(extra.iter().map(|&word| word.to_owned()))
        .collect()
}

fn command(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Runs to the end; returns the exit code and the events.
fn finish(words: &[String]) -> (i32, Vec<TrainerEvent>) {
    process::finish(command(words).spawn().unwrap())
}

/// Asserts that two runs have ended with the same bits.
fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (newest(a), newest(b));
    let rows =
        |loaded: &Loaded| loaded.progress.rows.iter().map(|row| row.metrics.clone()).collect::<Vec<_>>();
    assert_eq!(rows(&a), rows(&b));
    assert_eq!((a.progress.batches, &a.progress.best), (b.progress.batches, &b.progress.best));
    assert_eq!(a.files.len(), b.files.len());
    for (name, bytes) in &a.files {
        let (ours, theirs) =
            (weights::parse(bytes).unwrap().tensors, weights::parse(&b.files[name]).unwrap().tensors);
        assert_eq!(ours.len(), theirs.len());
        for (tensor, value) in &ours {
            assert!(value.equal(&theirs[tensor]), "{name}: {tensor} differs");
        }
    }
}

/// Numbers that look random, from one (SplitMix64, public domain).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// Trains until at least so many checkpoints are complete and the newest is one from inside of an epoch, and
/// kills the trainer without a word. Whether it was still training.
fn train_and_kill(words: &[String], checkpoints: u64) -> bool {
    let mut child = command(words).spawn().unwrap();
    let (mut seen, mut epochs_done) = (0, 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        match event(&line.unwrap()) {
            TrainerEvent::Started(started) => epochs_done = started.first_epoch - 1,
            TrainerEvent::Checkpoint(saved) => {
                seen += 1;
                if seen >= checkpoints && saved.epoch == epochs_done {
                    break;
                }
                epochs_done = saved.epoch;
            }
            _ => {}
        }
    }
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

/// Kills a run of `spec` at random moments, and compares its end with that of one that was left in peace.
fn survives_kills(spec: &TrainSpec, folder: &Path, batch_sizes: &[&str]) {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = Random(seed);
    let (whole, parts) = (folder.join("whole"), folder.join("parts"));
    // A run that is left in peace needs no checkpoints inside of its epochs.
    let peaceful = TrainSpec { checkpoint_minutes: 0.0, ..spec.clone() };
    let (code, events) = finish(&words(&peaceful, &whole, &[]));
    assert_eq!(code, exit_code::DONE, "{events:?}");

    let (mut inside, mut kills, mut most) = (0, 0, 4);
    while inside < 2 {
        assert!(kills < 50, "of {kills} kills only {inside} were inside of an epoch");
        let size = batch_sizes[kills % batch_sizes.len()];
        let words = words(spec, &parts, &["--resume", "--batch-size", size]);
        kills += 1;
        if !train_and_kill(&words, 1 + random.below(most)) {
            // How often a disk takes a checkpoint decides how far a run gets; this one got to its end. On a disk so
            // slow that a run sees few of them the first one must do: it always is from inside of an epoch.
            println!("ended before it was killed; from the start again");
            most = 1;
            std::fs::remove_dir_all(&parts).unwrap();
            inside = 0;
            continue;
        }
        let progress = newest(&parts).progress;
        println!("killed; {} batches and {} epochs are saved", progress.batches, progress.epoch);
        inside += u64::from(progress.images_done > 0);
    }
    let size = batch_sizes[kills % batch_sizes.len()];
    let (code, _) = finish(&words(&peaceful, &parts, &["--resume", "--batch-size", size]));
    assert_eq!(code, exit_code::DONE);
    assert_same(&whole, &parts);
}

/// Checkpoints as often as the disk takes them.
const ALWAYS: f64 = 1e-6;

#[test]
fn a_run_that_is_killed_at_random_steps_ends_with_the_same_bits() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 22);
    let spec = TrainSpec {
        checkpoint_minutes: ALWAYS,
        // A step is of 16 images: gradients wait, also over the end of an epoch.
        nbs: 16,
        mosaic: 0.5,
        close_mosaic: 2,
        warmup_epochs: 1.0,
        // So early that `best` and its epoch decide on the end.
        patience: 2,
        ..crate::shapes::spec(&data, 8)
    };
    survives_kills(&spec, folder.path(), &["4"]);
}

#[test]
fn with_bn_group_a_run_that_is_killed_goes_on_on_any_gpu_with_the_same_bits() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 22);
    let spec =
        TrainSpec { checkpoint_minutes: ALWAYS, nbs: 16, bn_group: 4, ..crate::shapes::spec(&data, 4) };
    survives_kills(&spec, folder.path(), &["7", "4", "16", "24"]);
}

#[test]
fn adamw_and_repeatable_algorithms_go_on_after_a_kill_with_the_same_bits() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 22);
    let spec = TrainSpec {
        checkpoint_minutes: ALWAYS,
        optimizer: Optimizer::AdamW,
        lr0: 0.001,
        deterministic: true,
        nbs: 16,
        ..crate::shapes::spec(&data, 4)
    };
    survives_kills(&spec, folder.path(), &["4"]);
}

/// Checkpoints on the disk, by name.
fn names(run_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(run_dir.join("checkpoints")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn after_damage_a_run_begins_anew_and_what_it_learns_then_survives_a_kill() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 8);
    let run_dir = folder.path().join("run");
    let spec = TrainSpec { nbs: 4, warmup_epochs: 0.0, ..crate::shapes::spec(&data, 6) };
    let resume = |spec: &TrainSpec| words(spec, &run_dir, &["--resume"]);
    assert_eq!(finish(&resume(&spec)).0, exit_code::DONE);
    // Of checkpoints that come while a slow disk writes one, only the newest is written: only the end's is sure.
    let torn = names(&run_dir);
    assert_eq!(torn.last().unwrap(), "step-00000012", "{torn:?}");
    for name in &torn {
        std::fs::write(run_dir.join("checkpoints").join(name).join("model.safetensors"), "torn").unwrap();
    }

    let mut child = command(&resume(&spec)).spawn().unwrap();
    let mut events = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| event(&line.unwrap()));
    let saved = |event: &TrainerEvent| matches!(event, TrainerEvent::Checkpoint(_));
    assert!(events.any(|event| saved(&event)));
    child.kill().unwrap();
    drop(events);
    child.wait().unwrap();
    let kept = newest(&run_dir).progress;
    assert!((2..=12).contains(&kept.batches) && kept.batches.is_multiple_of(2), "{}", kept.batches);

    let (code, events) = finish(&resume(&spec));
    assert_eq!(code, exit_code::DONE);
    assert_eq!(started(&events).first_epoch, (kept.epoch + 1).min(6));
    let (set_aside, made): (Vec<String>, Vec<String>) =
        names(&run_dir).into_iter().partition(|name| name.starts_with("damaged-"));
    let damaged: Vec<String> = torn.iter().map(|name| format!("damaged-{name}")).collect();
    assert_eq!(set_aside, damaged);
    assert_eq!(made.last().unwrap(), "step-00000012", "{made:?}");

    // Another version's are no damage: nothing is begun anew, nothing is touched.
    for name in &made {
        let file = run_dir.join("checkpoints").join(name).join("manifest.json");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replacen("\"version\": 2", "\"version\": 9", 1)).unwrap();
    }
    let before = names(&run_dir);
    let (code, events) = finish(&resume(&spec));
    assert_eq!(code, exit_code::BAD_SPEC);
    let Some(TrainerEvent::Failed(failed)) = events.last() else { panic!("{events:?}") };
    assert!(failed.message.contains("it has version 9, this trainer reads 2"), "{}", failed.message);
    assert_eq!(names(&run_dir), before);
}

/// A disk of so many MiB for one command, which sees it at `place`. A mount namespace of its own needs root.
fn on_a_disk_of(mib: u32, place: &Path, words: &[String], keep: &Path) -> Vec<String> {
    std::fs::create_dir_all(place).unwrap();
    let script = r#"
        mount -t tmpfs -o "size=$1m" tmpfs "$2" || exit 99
        disk=$2; keep=$3; shift 3
        "$@"; code=$?
        cp -r "$disk" "$keep" || exit 98
        exit $code"#;
    let (place, keep) = (place.to_str().unwrap(), keep.to_str().unwrap());
    ["unshare", "-m", "sh", "-c", script, "sh", &mib.to_string(), place, keep]
        .into_iter()
        .map(str::to_owned)
        .chain(words.iter().cloned())
        .collect()
}

#[test]
fn on_a_full_disk_training_goes_on_and_the_older_checkpoint_stays() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 4);
    let (disk, keep) = (folder.path().join("disk"), folder.path().join("keep"));
    // Yolov8n has 12 MiB. A run has them twice as weights, a checkpoint four times: there is room for the
    // first one, and not for the second beside it.
    let spec = TrainSpec { nbs: 4, warmup_epochs: 0.0, ..crate::shapes::spec(&data, 3) };
    let training = words(&spec, &disk.join("run"), &[]);
    // The spec's file lies where the disk is mounted over; it is given from elsewhere.
    let moved = folder.path().join("run.json");
    std::fs::rename(disk.join("run.json"), &moved).unwrap();
    let file = disk.join("run.json");
    let training: Vec<String> = training
        .into_iter()
        .map(|word| if word == file.to_str().unwrap() { moved.to_str().unwrap().to_owned() } else { word })
        .collect();
    let (code, events) = finish(&on_a_disk_of(100, &disk, &training, &keep));
    assert_ne!(code, 99, "a disk of its own needs root: run this test as root, as CI does");
    assert_eq!(code, exit_code::DONE, "{events:?}");

    let warned = |text: &&str| text.contains("No space left") && text.contains("training goes on");
    assert!(logs(&events).iter().any(warned), "{events:?}");
    assert_eq!(checkpoints(&events), [1], "only the first checkpoint has room");
    assert!(matches!(events.last(), Some(TrainerEvent::Finished(_))), "{events:?}");

    let run = keep.join("run");
    let found = checkpoint::newest(&run.join("checkpoints")).unwrap();
    assert!(found.skipped.is_empty(), "{:?}", found.skipped);
    assert_eq!(found.checkpoint.unwrap().progress.epoch, 1);
    assert_eq!(std::fs::read_dir(run.join("checkpoints")).unwrap().count(), 1, "drafts are gone");
    assert_eq!(std::fs::read_to_string(run.join("results.csv")).unwrap().lines().count(), 4);
    assert_eq!(weights::read(&run.join("weights/last.safetensors")).unwrap().metadata["epoch"], "3");
}
