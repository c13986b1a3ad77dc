use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use trainyard_types::{Inventory, UnavailableCause};

use super::*;

struct World {
    folder: tempfile::TempDir,
    advert: watch::Receiver<Advert>,
    closings: Closings,
    tester: Tester,
    tests: Tests,
    identity: Identity,
    _ends: (watch::Sender<Readings>, watch::Sender<u64>, mpsc::Receiver<Input>),
}

impl World {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (advert_sender, advert) = watch::channel(Advert::default());
        let closings = Closings::new(advert_sender.clone());
        let config = Config {
            data_dir: folder.path().join("data"),
            trainer: Some(folder.path().join("trainer")),
            self_test_limit: Duration::from_secs(30),
            ..Config::default()
        };
        let identity = Identity::load(folder.path(), Path::new("/etc/machine-id"), false).unwrap();
        let inventory = Inventory { cpu_slots: 1, ..Inventory::default() };
        let (cards_sender, cards) = watch::channel(Readings { inventory, ..Readings::default() });
        let (beats_sender, beats) = watch::channel(0);
        let (inbox, received) = mpsc::channel(64);
        put(folder.path(), script);
        let (tester, tests) = Tester::new(Around {
            config: Arc::new(config),
            identity: identity.clone(),
            crew: Crew::default(),
            cards,
            closings: closings.clone(),
            advert: advert_sender,
            beats,
            inbox,
        });
        let _ends = (cards_sender, beats_sender, received);
        Self { folder, advert, closings, tester, tests, identity, _ends }
    }

    fn closed(&self) -> Option<String> {
        self.closings.get(&Device::Cpu).map(|closed| {
            assert_eq!(closed.cause, UnavailableCause::SelfTest);
            closed.message
        })
    }
}

fn put(folder: &Path, script: &str) {
    fs::write(folder.join("new"), format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions(folder.join("new"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(folder.join("new"), folder.join("trainer")).unwrap();
}

const PASS: &str =
    "[ \"$1 $3\" = 'self-test cpu' ] && echo '{\"trainer\":\"0.1\",\"libtorch\":\"2.13.0\"}'\n";

#[tokio::test]
async fn a_device_that_passes_takes_jobs_and_the_versions_are_told() {
    let mut world = World::new(PASS);
    world.tester.begin().await;
    assert_eq!(world.closed(), None);
    let fitness = world.advert.borrow().fitness.clone();
    assert_eq!((fitness.trainer_version.as_str(), fitness.libtorch_version.as_str()), ("0.1", "2.13.0"));
}

#[tokio::test]
async fn a_device_that_fails_is_closed_until_a_better_trainer_comes() {
    let mut world = World::new("echo 'trainer: symbol lookup error: undefined symbol' >&2; exit 127\n");
    world.tester.begin().await;
    assert!(world.closed().unwrap().contains("libtorch is another version"), "{:?}", world.closed());
    assert!(world.advert.borrow().no_trainer.is_empty());
    put(world.folder.path(), PASS);
    world.tester.look_at_trainer().await;
    world.tester.begin().await;
    assert_eq!(world.closed(), None);
}

#[tokio::test]
async fn a_test_belongs_to_whom_the_agent_has_become() {
    let mut world = World::new(&format!("echo \"$TRAINYARD_TRAINER_OF\" > \"$0.of\"\n{PASS}"));
    world.identity.redraw().unwrap();
    world.tester.begin().await;
    let of = fs::read_to_string(world.folder.path().join("trainer.of")).unwrap();
    assert_eq!(of.trim(), format!("{}/self-test", world.identity.owner()));
}

#[tokio::test]
async fn a_job_that_comes_ends_a_test_that_is_only_due_and_no_other() {
    let mut world = World::new(PASS);
    world.tester.begin().await;
    // It tells that it runs, and hangs.
    let pipe = world.folder.path().join("trainer.ready");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    put(world.folder.path(), "echo $$ > \"$0.ready\"\nexec tail -f /dev/null\n");
    let hangs = async |world: &mut World| {
        world.tester.start(Device::Cpu);
        let ready = pipe.clone();
        let pid = spawn_blocking(move || fs::read_to_string(ready).unwrap()).await.unwrap();
        PathBuf::from(format!("/proc/{}", pid.trim()))
    };
    let process = hangs(&mut world).await;
    world.tester.on_request(Request::Occupied(Device::Cpu)).await;
    assert!(world.tester.running.join_next().await.unwrap().unwrap_err().is_cancelled());
    while fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z")) {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.closed(), None);
    assert!(world.tester.proofs[&Device::Cpu].due.unwrap() > Instant::now() + AGAIN_AFTER / 2);
    // The test that somebody waits for goes on, and so does the one that is to open the device again.
    hangs(&mut world).await;
    world.tester.proofs.get_mut(&Device::Cpu).unwrap().waiting.push(oneshot::channel().0);
    world.tester.on_request(Request::Occupied(Device::Cpu)).await;
    assert!(world.tester.proofs[&Device::Cpu].running.is_some());
    world.tester.proofs.get_mut(&Device::Cpu).unwrap().waiting.clear();
    world.closings.set_untested(&Device::Cpu, Some("it failed".into()));
    world.tester.on_request(Request::Occupied(Device::Cpu)).await;
    assert!(world.tester.proofs[&Device::Cpu].running.is_some());
}

#[tokio::test]
async fn without_a_trainer_the_whole_agent_takes_no_jobs() {
    let mut world = World::new(PASS);
    fs::remove_file(world.folder.path().join("trainer")).unwrap();
    world.tester.begin().await;
    assert!(world.closed().is_some());
    let text = world.advert.borrow().unavailable();
    assert!(text.contains("cannot start its trainer") && text.contains("`trainer`"), "{text}");
    put(world.folder.path(), PASS);
    world.tester.look_at_trainer().await;
    world.tester.begin().await;
    assert_eq!(world.advert.borrow().unavailable(), "");
}

#[tokio::test]
async fn after_a_failed_start_the_device_is_tested_before_the_answer() {
    let mut world = World::new(PASS);
    world.tester.begin().await;
    put(world.folder.path(), "exit 70\n");
    let lack = Unfit { kind: UnfitKind::OutOfResources, path: String::new(), message: "no threads".into() };
    let end = CancellationToken::new();
    let (closings, tests) = (world.closings.clone(), world.tests.clone());
    let keeps = tokio::spawn(world.tester.keep(end.clone()));
    tests.prove(Device::Cpu, lack).await;
    assert!(closings.get(&Device::Cpu).is_some());
    end.cancel();
    keeps.await.unwrap();
}

#[test]
fn devices_that_look_at_one_folder_at_once_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap().path().join("jobs");
    let found: Vec<Option<Unfit>> = std::thread::scope(|scope| {
        let looks: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..500).find_map(|_| unwritable(&folder)))).collect();
        looks.into_iter().map(|look| look.join().unwrap()).collect()
    });
    assert!(found.iter().all(Option::is_none), "{found:?}");
}
