//! Data sets and weights: pushed, pulled, named by jobs, against a store that follows the protocol or breaks it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};
use trainyard_proto::pb;

use crate::fake::{ID, Script, Server, code, command, job, stderr, stdout, write};

/// A data set in a folder `cells`.
struct Cells {
    dir: TempDir,
}

impl Cells {
    /// Of so many images in each split, with a label each.
    fn new(images: usize) -> Self {
        let cells = Self { dir: tempfile::tempdir().unwrap() };
        for (split, number) in [("train", 0), ("val", 40)] {
            for folder in ["images", "labels"] {
                fs::create_dir_all(cells.path(&format!("{folder}/{split}"))).unwrap();
            }
            for at in 0..images {
                cells.image(&format!("images/{split}/{at:02}.png"), number + at);
                let label = format!("{} .5 .5 .{} .3\n", at % 2, number + at + 12);
                cells.write(&format!("labels/{split}/{at:02}.txt"), &label);
            }
        }
        cells.write("data.yaml", "train: images/train\nval: images/val\nnames: [square, disc]\n");
        cells
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("cells").join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().trim_end_matches('/').to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn image(&self, name: &str, number: usize) {
        let side = u32::try_from(20 + number).unwrap();
        image::RgbImage::from_fn(side, 24, |x, y| image::Rgb([x as u8, y as u8, number as u8]))
            .save(self.path(name))
            .unwrap();
    }
}

fn push(server: &Server, cells: &Cells) -> (i32, String, String) {
    let output = server.yard(&["data", "push", &cells.text("")]);
    (code(&output), stdout(&output), stderr(&output))
}

/// All files of a folder but hidden ones, with their contents.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut found, mut waiting) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(inner) = waiting.pop() {
        for entry in fs::read_dir(inner).unwrap().map(|entry| entry.unwrap()) {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else if !entry.file_name().to_str().unwrap().starts_with('.') {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_push_sends_what_is_missing_and_names_the_version() {
    let (server, cells) = (Server::start(Script::default()), Cells::new(3));
    cells.write("notes.txt", "kept here");
    let (code, out, err) = push(&server, &cells);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("cells@") && out.len() == "cells@".len() + 13, "{out}");
    for told in [
        "not sent: 1 file that the data set does not name (9 B), largest: notes.txt",
        "15 files, ",
        ": the cluster has none of them",
        "stored; `yard train cells` trains on it",
    ] {
        assert!(err.contains(told), "{told}: {err}");
    }
    let before = {
        let script = server.script.lock().unwrap();
        assert_eq!(script.store.versions[0].0.description, "6 images, 2 classes");
        script.store.received_bytes
    };
    // Nothing has changed: the server asks for nothing.
    let (code, again, err) = push(&server, &cells);
    assert_eq!((code, &again), (0, &out), "{err}");
    assert!(err.contains("everything is stored already"), "{err}");
    assert_eq!(server.script.lock().unwrap().store.received_bytes, before);
    // One label is another one: that alone is sent.
    cells.write("labels/train/01.txt", "1 .5 .5 .9 .9\n");
    let (code, other, err) = push(&server, &cells);
    assert!(code == 0 && other != out && err.contains("the cluster lacks 1 of them, 14 B"), "{err}");
    assert_eq!(server.script.lock().unwrap().store.received_bytes, before + 14);
}

#[test]
fn a_push_that_breaks_off_goes_on_where_it_was() {
    let (server, cells) = (Server::start(Script::default()), Cells::new(3));
    // Larger than a message, so that some of it is stored before.
    let big = image::RgbImage::from_fn(1200, 1200, |x, y| {
        image::Rgb([(x * y % 251) as u8, (x ^ y) as u8, (x * 7 + y * y) as u8])
    });
    big.save(cells.path("images/val/90.png")).unwrap();
    big.save(cells.path("images/val/91.bmp")).unwrap();
    server.script.lock().unwrap().store.break_push_after = Some(1);
    let (code, out, err) = push(&server, &cells);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("the connection is lost; trying again") && out.starts_with("cells@"), "{err}");
    let script = server.script.lock().unwrap();
    assert_eq!((script.store.pushes, script.store.versions.len()), (2, 1));
    let (_, files) = &script.store.versions[0];
    assert!(files.iter().all(|file| script.store.contents[&file.sha256].len() as u64 == file.size_bytes));
}

#[test]
fn a_push_waits_for_its_turn_and_begins_anew_when_it_was_too_slow() {
    let (server, cells) = (Server::start(Script::default()), Cells::new(1));
    let details = ErrorDetails::with_error_info("TOO_MANY_PUSHES", "trainyard", HashMap::new());
    let full = Status::with_error_details(tonic::Code::Unavailable, "too many pushes are under way", details);
    let silent = Status::deadline_exceeded("nothing came for 30 s; push again");
    // With pauses that double from 0.2 s on, six take longer than a server is waited for that never answers.
    server.script.lock().unwrap().store.come_again = [vec![full; 5], vec![silent]].concat();
    let (code, out, err) = push(&server, &cells);
    assert!(code == 0 && out.starts_with("cells@"), "{err}");
    assert!(
        err.contains("the server ended the push, since nothing had come for a while; trying again"),
        "{err}"
    );
    assert!(!err.contains("the connection is lost"), "{err}");
    assert!(server.script.lock().unwrap().store.come_again.is_empty());
    let other = Cells::new(2);
    let details = ErrorDetails::with_error_info("TOO_MANY_PUSHES", "trainyard", HashMap::new());
    let full = Status::with_error_details(tonic::Code::Unavailable, "too many pushes are under way", details);
    server.script.lock().unwrap().store.come_again = vec![full];
    let (code, _, err) = push(&server, &other);
    assert!(code == 0 && err.contains("too many pushes are under way; waiting for one to end"), "{err}");
}

#[test]
fn a_refused_push_names_every_field() {
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("header.name", "is taken");
    details.add_bad_request_violation("files", "are too many");
    let refuse = Status::with_error_details(tonic::Code::InvalidArgument, "2 fields are wrong", details);
    let (server, cells) = (Server::start(Script::default()), Cells::new(1));
    server.script.lock().unwrap().store.refuse = Some(refuse);
    let (code, out, err) = push(&server, &cells);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("\n  header.name: is taken\n  files: are too many"), "{err}");
    let full = Status::resource_exhausted("ada has 99.0 GiB of 100.0 GiB: cells 60.0 GiB, others 39.0 GiB");
    server.script.lock().unwrap().store.refuse = Some(full);
    let (code, _, err) = push(&server, &cells);
    assert!(code == 4 && err.contains("error: ada has 99.0 GiB of 100.0 GiB"), "{err}");
}

#[test]
fn what_cannot_be_trained_on_is_not_sent() {
    let (server, cells) = (Server::start(Script::default()), Cells::new(30));
    for at in 0..25 {
        cells.write(&format!("labels/train/{at:02}.txt"), "7 .5 .5 .1 .1\n");
    }
    cells.write("images/val/29.png", "<html>404</html>");
    let (code, out, err) = push(&server, &cells);
    assert_eq!((code, out.as_str()), (2, ""));
    for told in [
        "data.yaml: 25 errors; nothing was sent\n",
        "labels/train/00.txt:1: class 7 is out of range",
        "labels/train/19.txt:1: class 7",
        "\n  … and 5 more\n",
        "warning: val: ",
        "images/val/29.png: is no readable image",
    ] {
        assert!(err.contains(told), "{told}: {err}");
    }
    assert!(!err.contains("labels/train/20.txt"), "{err}");
    assert_eq!(server.script.lock().unwrap().store.pushes, 0);
    for (name, text, told) in [
        (
            "data.yaml",
            "train: images/none\nval: images/val\nnames: [a, b]\n",
            "data.yaml:1: `train: images/none` was not found",
        ),
        ("data.yaml", "train: empty\nval: images/val\nnames: [a, b]\n", "`train: empty` has no usable image"),
    ] {
        fs::create_dir_all(cells.path("empty")).unwrap();
        cells.write(name, text);
        let (code, _, err) = push(&server, &cells);
        assert!(code == 2 && err.contains(told), "{told}: {err}");
    }
    let (empty, _) = (tempfile::tempdir().unwrap(), ());
    let output = server.yard(&["data", "push", empty.path().to_str().unwrap()]);
    assert!(
        code == 2 && stderr(&output).contains("is a folder without a data.yaml: it is empty"),
        "{output:?}"
    );
    let output = server.yard(&["data", "push", "/nowhere/data.yaml"]);
    assert!(stderr(&output).contains("cannot read `/nowhere/data.yaml`"), "{output:?}");
}

#[test]
fn names_that_are_one_elsewhere_are_refused_by_name() {
    let (server, cells) = (Server::start(Script::default()), Cells::new(2));
    cells.image("images/train/A.png", 1);
    cells.image("images/train/a.png", 2);
    cells.image("images/val/e\u{301}.png", 1);
    cells.image("images/val/é.png", 2);
    cells.image("images/val/line\nend\u{1b}[31m.png", 2);
    let (code, _, err) = push(&server, &cells);
    assert_eq!(code, 2, "{err}");
    for (name, other) in
        [("images/train/a.png", "images/train/A.png"), ("images/val/é.png", "images/val/e\u{301}.png")]
    {
        let told = format!("{}` is the same as `{}` where", cells.text(name), cells.text(other));
        assert!(err.contains(&told), "{told}: {err}");
    }
    assert!(err.contains("/line end\u{FFFD}[31m.png` has a control character; rename the file"), "{err}");
    assert_eq!(server.script.lock().unwrap().store.pushes, 0);
}

#[test]
fn a_dry_run_says_the_version_and_sends_nothing() {
    let (server, cells) = (Server::start(Script::default()), Cells::new(2));
    let output = server.yard(&[
        "data",
        "push",
        &cells.text("data.yaml"),
        "--name",
        "other",
        "--dry-run",
        "-o",
        "json",
    ]);
    assert_eq!(code(&output), 0, "{output:?}");
    let document: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(server.script.lock().unwrap().store.pushes, 0);
    let (_, out, _) = push(&server, &cells);
    let version = document["version"].as_str().unwrap();
    assert_eq!((document["name"].as_str(), out), (Some("other"), format!("cells@{}\n", &version[..12])));
}

#[test]
fn a_file_that_changes_while_it_is_sent_stops_the_push_by_name() {
    let (server, cells) = (Server::start(Script::default()), Cells::new(2));
    let changed = cells.path("labels/val/01.txt");
    server.script.lock().unwrap().store.rewrite = Some((changed, b"1 .5 .5 .1 .1\n".to_vec()));
    let (code, out, err) = push(&server, &cells);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("labels/val/01.txt` changed while it was pushed"), "{err}");
    assert!(err.contains("hint: run the same command again"), "{err}");
    assert!(server.script.lock().unwrap().store.versions.is_empty());
    assert_eq!(push(&server, &cells).0, 0);
}

#[test]
fn ctrl_c_says_that_a_second_call_goes_on() {
    let (server, cells) = (Server::start(Script::default()), Cells::new(1));
    server.script.lock().unwrap().store.hang = true;
    let child = command(server.address, &["data", "push", &cells.text("")]).spawn().unwrap();
    while server.script.lock().unwrap().store.pushes == 0 {
        std::thread::yield_now();
    }
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 130);
    assert!(stderr(&output).contains("the same command goes on where this one was"), "{output:?}");
}

#[test]
fn hashes_are_kept_and_a_changed_file_is_hashed_again() {
    let (server, cells) = (Server::start(Script::default()), Cells::new(2));
    let cache = tempfile::tempdir().unwrap();
    let push = || {
        let mut command = command(server.address, &["data", "push", &cells.text("")]);
        let output = command.env("XDG_CACHE_HOME", cache.path()).output().unwrap();
        assert_eq!(code(&output), 0, "{output:?}");
        stdout(&output)
    };
    let first = push();
    assert_eq!(push(), first);
    let kept: Vec<_> = fs::read_dir(cache.path().join("trainyard/hashes")).unwrap().collect();
    assert_eq!(kept.len(), 1);
    cells.write("labels/train/01.txt", "1 .5 .5 .9 .9\n");
    assert_ne!(push(), first);
}

#[test]
fn a_pull_is_verified_resumed_and_replaces_nothing() {
    let (server, cells) = (Server::start(Script::default()), Cells::new(3));
    let (_, version, _) = push(&server, &cells);
    let version = version.trim();
    let root = tempfile::tempdir().unwrap();
    let into = root.path().join("there").to_str().unwrap().to_owned();
    server.script.lock().unwrap().store.break_read_after = Some(250);
    let output = server.yard(&["data", "pull", version, "-d", &into]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(stderr(&output).contains("fetched 15 files"), "{output:?}");
    let offsets: Vec<u64> =
        server.script.lock().unwrap().store.reads.iter().map(|read| read.offset).collect();
    assert_eq!(offsets, [0, 250]);
    // It is the tree that was pushed, and trains as the folder does.
    let pulled = files(Path::new(&into));
    assert_eq!(pulled.len(), 15);
    assert!(pulled.iter().any(|(name, bytes)| name == "labels/val/02.txt" && bytes == b"0 .5 .5 .54 .3\n"));
    let again = server.yard(&["data", "push", &into, "--name", "cells"]);
    assert_eq!(stdout(&again), format!("{version}\n"), "{again:?}");
    // What is there is not fetched again, what is gone is.
    fs::remove_file(Path::new(&into).join("images/val/01.png")).unwrap();
    let output = server.yard(&["data", "pull", "cells", "-d", &into, "-o", "json"]);
    let document: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((document["files"].as_u64(), document["fetched"].as_u64()), (Some(15), Some(1)), "{output:?}");
    assert_eq!(files(Path::new(&into)), pulled);
    // Nothing of another content is replaced.
    fs::write(Path::new(&into).join("data.yaml"), "mine").unwrap();
    let output = server.yard(&["data", "pull", "cells", "-d", &into]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("`data.yaml` has other content"), "{output:?}");
    assert_eq!(fs::read(Path::new(&into).join("data.yaml")).unwrap(), b"mine");
    let output = server.yard(&["data", "pull", "cells", "-d", &cells.text("")]);
    assert!(code(&output) == 1 && stderr(&output).contains("cells is not empty"), "{output:?}");
}

#[test]
fn a_store_that_sends_something_else_is_refused() {
    let (server, cells) = (Server::start(Script::default()), Cells::new(1));
    push(&server, &cells);
    let root = tempfile::tempdir().unwrap();
    let into = root.path().join("there");
    let pull = || server.yard(&["data", "pull", "cells", "-d", into.to_str().unwrap()]);
    let flipped = {
        let mut script = server.script.lock().unwrap();
        let file = script.store.versions[0]
            .1
            .iter()
            .find(|file| file.path == "images/train/00.png")
            .unwrap()
            .clone();
        script.store.contents.get_mut(&file.sha256).unwrap()[5] ^= 1;
        file
    };
    let output = pull();
    assert_eq!(code(&output), 4, "{output:?}");
    assert!(
        stderr(&output).contains("`images/train/00.png`: what came does not have the SHA-256"),
        "{output:?}"
    );
    assert!(!into.join("images/train/00.png").exists());
    server.script.lock().unwrap().store.contents.get_mut(&flipped.sha256).unwrap()[5] ^= 1;
    assert_eq!(code(&pull()), 0);
    // A list that leads out of the folder, and one that is another version's.
    for path in ["../evil", "/tmp/trainyard-evil", ".trainyard-pull", "zz"] {
        server.script.lock().unwrap().store.versions[0].1.last_mut().unwrap().path = path.into();
        let output = pull();
        assert_eq!(code(&output), 4, "{output:?}");
        assert!(stderr(&output).contains("the server's list of files: "), "{output:?}");
    }
    assert!(!root.path().join("evil").exists());
}

#[test]
fn versions_are_listed_shown_and_removed() {
    let (server, cells) = (Server::start(Script::default()), Cells::new(1));
    let output = server.yard(&["data", "list"]);
    assert!(code(&output) == 0 && stderr(&output).contains("no data sets; `yard data push DIR` stores some"));
    let (_, first, _) = push(&server, &cells);
    cells.write("labels/train/00.txt", "1 .5 .5 .9 .9\n");
    let (_, second, _) = push(&server, &cells);
    let table = stdout(&server.yard(&["data", "list"]));
    assert!(table.lines().count() == 2 && table.contains(&second.trim()["cells@".len()..]), "{table}");
    assert!(table.contains("2 images, 2 classes"), "{table}");
    let table = stdout(&server.yard(&["data", "list", "cells"]));
    assert!(table.lines().count() == 3 && table.contains(&first.trim()["cells@".len()..]), "{table}");
    let json = stdout(&server.yard(&["data", "list", "-o", "json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["datasets"].as_array().unwrap().len(), 2);
    let shown = stdout(&server.yard(&["data", "show", first.trim(), "--files"]));
    assert!(
        shown.starts_with("Name      cells\nVersion   ") && shown.contains("  images/train/00.png\n"),
        "{shown}"
    );
    let output = server.yard(&["data", "rm", first.trim()]);
    assert_eq!(stdout(&output), format!("removed {first}"), "{output:?}");
    for order in ["show", "list"] {
        let output = server.yard(&["data", order, "others"]);
        assert_eq!(code(&output), 4, "{output:?}");
        assert!(
            stderr(&output).contains("hint: `yard data list` lists the data sets that there are"),
            "{output:?}"
        );
    }
    let output = server.yard(&["weights", "list", "a b"]);
    assert!(
        code(&output) == 4 && stderr(&output).contains("there are no weights called `a b`"),
        "{output:?}"
    );
    assert_eq!(code(&server.yard(&["data", "show", "cells/data.yaml"])), 2);
}

#[test]
fn weights_are_pushed_and_pulled_by_the_same_commands() {
    let server = Server::start(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let page = write(dir.path(), "page.pt", "<html>404</html>");
    let output = server.yard(&["weights", "push", &page]);
    assert!(code(&output) == 2 && stderr(&output).contains("page.pt` holds no weights"), "{output:?}");
    let cut = write(dir.path(), "cut.pt", "PK\u{3}\u{4} and so on");
    let output = server.yard(&["weights", "push", &cut]);
    assert!(code(&output) == 2 && stderr(&output).contains("cut.pt` is not whole: the list"), "{output:?}");
    assert!(stderr(&output).contains("hint: fetch or copy the file again"), "{output:?}");
    let tensors = "\u{40}\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\"";
    let cut = write(dir.path(), "cut.safetensors", tensors);
    let output = server.yard(&["weights", "push", &cut, "--dry-run"]);
    assert!(code(&output) == 2 && stderr(&output).contains("its header ends at byte 72"), "{output:?}");
    let file = write(dir.path(), "yolov8n.pt", "PK\u{3}\u{4} and so on PK\u{5}\u{6}");
    let output = server.yard(&["weights", "push", &file]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(stdout(&output).starts_with("yolov8n@"));
    assert!(stderr(&output).contains("`yard train DATA --pretrained yolov8n` begins with it"), "{output:?}");
    assert!(stdout(&server.yard(&["weights", "list"])).contains("yolov8n"));
    assert!(stderr(&server.yard(&["data", "list"])).contains("no data sets"));
    let into = dir.path().join("into");
    fs::create_dir(&into).unwrap();
    write(&into, "beside", "x");
    let pull = || server.yard(&["weights", "pull", "yolov8n", "-d", into.to_str().unwrap()]);
    assert_eq!(code(&pull()), 0);
    assert_eq!(fs::read(into.join("yolov8n.pt")).unwrap(), fs::read(&file).unwrap());
    write(&into, "yolov8n.pt", "another");
    assert_eq!(code(&pull()), 1);
    assert_eq!(code(&server.yard(&["weights", "rm", "yolov8n"])), 0);
}

#[test]
fn a_training_takes_names_and_pushes_what_it_is_told_to() {
    let jobs = vec![job(ID, pb::JobState::Succeeded)];
    let (server, cells) = (Server::start(Script { jobs, ..Default::default() }), Cells::new(1));
    let output = server.yard(&["train", &cells.text("data.yaml"), "--push", "--pretrained", "job:019ab3c4"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let output = server.yard(&["train", "cells", "--pretrained", "yolov8n", "--sweep", "lr0=0.1,0.2"]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(!stderr(&output).contains("warning"), "{output:?}");
    let file = write(
        cells.dir.path(),
        "job.yaml",
        "train: {model: yolov8n, data: cells@3f9a, pretrained: yolov8n}\n",
    );
    let output = server.yard(&["submit", "-f", &file]);
    assert_eq!(code(&output), 0, "{output:?}");
    let script = server.script.lock().unwrap();
    let version = &script.store.versions[0].0.version;
    let queued = script.submitted.iter().filter(|one| !one.validate_only);
    let trains: Vec<_> = queued.map(|one| one.spec.clone().unwrap().train.unwrap()).collect();
    assert_eq!(trains[0].data, format!("cells@{version}"));
    assert_eq!(trains[0].pretrained, Some(format!("job:{ID}")));
    let swept = script.sweeps[0].spec.clone().unwrap().train.unwrap();
    assert_eq!((swept.data.as_str(), swept.pretrained.as_deref()), ("cells", Some("yolov8n")));
    assert_eq!((trains[1].data.as_str(), trains[1].pretrained.as_deref()), ("cells@3f9a", Some("yolov8n")));
    drop(script);
    let mut here = command(server.address, &["train", "cells", "--dry-run"]);
    let output = here.current_dir(cells.dir.path()).output().unwrap();
    assert!(
        stderr(&output)
            .contains("`cells` is taken for the pushed data set of that name; the folder here is `./cells`"),
        "{output:?}"
    );
    let output = server.yard(&["train", "cells", "--push"]);
    assert!(
        code(&output) == 2 && stderr(&output).contains("--push: `cells` is not on this machine"),
        "{output:?}"
    );
    let output = server.yard(&["train", &cells.text(""), "--push", "--dry-run"]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(server.script.lock().unwrap().submitted.last().unwrap().validate_only);
}

#[test]
fn a_job_that_is_wrong_is_refused_before_its_data_set_is_sent() {
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("spec.train.epochs", "is 0; use 1 or more");
    let wrong =
        |details| Status::with_error_details(tonic::Code::InvalidArgument, "a field is wrong", details);
    let script = Script { refuse: Some(("cells".into(), wrong(details))), ..Default::default() };
    let (server, cells) = (Server::start(script), Cells::new(1));
    let output = server.yard(&["train", &cells.text(""), "--push", "--epochs", "0"]);
    assert_eq!(code(&output), 2, "{output:?}");
    for told in ["spec.train.epochs: is 0", "nothing was pushed"] {
        assert!(stderr(&output).contains(told), "{output:?}");
    }
    let output = server.yard(&["train", &cells.text(""), "--push", "--dry-run"]);
    assert!(code(&output) == 2 && stderr(&output).contains("spec.train.epochs: is 0"), "{output:?}");
    {
        let mut script = server.script.lock().unwrap();
        assert!(script.store.versions.is_empty() && script.submitted.iter().all(|one| one.validate_only));
        // The data set is not there yet, which is no fault of the job's.
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("spec.train.data", "cannot be read: Not a directory");
        script.refuse = Some(("cells".into(), wrong(details)));
    }
    let output = server.yard(&["train", &cells.text(""), "--push"]);
    assert_eq!(code(&output), 2, "{output:?}");
    assert!(stderr(&output).contains("stored as cells@"), "{output:?}");
    assert_eq!(server.script.lock().unwrap().store.versions.len(), 1);
    server.script.lock().unwrap().refuse = None;
    let swept = ["train", &cells.text(""), "--push", "--sweep", "lr0=0.1,0.2"];
    assert_eq!(code(&server.yard(&swept)), 0);
    let script = server.script.lock().unwrap();
    assert_eq!(script.sweeps.iter().map(|one| one.validate_only).collect::<Vec<_>>(), [true, false]);
    assert!(script.sweeps[1].spec.clone().unwrap().train.unwrap().data.starts_with("cells@"));
}
