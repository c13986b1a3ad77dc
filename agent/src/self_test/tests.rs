//! Self-tests with shell scripts for trainers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use trainyard_types::{Inventory, UnavailableCause};

use super::*;
use crate::message::SelfTestRequests;

struct World {
    folder: tempfile::TempDir,
    status: watch::Receiver<AgentStatus>,
    closed_devices: ClosedDevices,
    tester: SelfTester,
    requests: SelfTestRequests,
    identity: Identity,
    _channels: (watch::Sender<Readings>, watch::Sender<u64>, mpsc::Receiver<Input>),
}

impl World {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (status_sender, status) = watch::channel(AgentStatus::default());
        let closed_devices = ClosedDevices::new(status_sender.clone());
        let config = Config {
            data_dir: folder.path().join("data"),
            trainer: Some(folder.path().join("trainer")),
            self_test_limit: Duration::from_secs(30),
            // The scripts start other programs.
            confine_trainers: false,
            ..Config::default()
        };
        let identity = Identity::load(folder.path(), Path::new("/etc/machine-id"), false).unwrap();
        let inventory = Inventory { cpu_slots: 1, ..Inventory::default() };
        let (readings_sender, readings) = watch::channel(Readings { inventory, ..Readings::default() });
        let (heartbeats_sender, heartbeats_sent) = watch::channel(0);
        let (inbox, received) = mpsc::channel(64);
        put(folder.path(), script);
        let (requests, received_requests) = SelfTestRequests::channel();
        let context = SelfTestContext {
            config: Arc::new(config),
            identity: identity.clone(),
            trainers: RunningTrainers::default(),
            readings,
            closed_devices: closed_devices.clone(),
            status: status_sender,
            heartbeats_sent,
            inbox,
        };
        let tester = SelfTester::new(context, received_requests);
        let _channels = (readings_sender, heartbeats_sender, received);
        Self { folder, status, closed_devices, tester, requests, identity, _channels }
    }

    fn closed(&self) -> Option<String> {
        self.closed_devices.get(&Device::Cpu).map(|closed| {
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
    let fitness = world.status.borrow().fitness.clone();
    assert_eq!((fitness.trainer_version.as_str(), fitness.libtorch_version.as_str()), ("0.1", "2.13.0"));
}

#[tokio::test]
async fn a_device_that_fails_is_closed_until_a_better_trainer_comes() {
    let mut world = World::new("echo 'trainer: symbol lookup error: undefined symbol' >&2; exit 127\n");
    world.tester.begin().await;
    assert!(world.closed().unwrap().contains("libtorch is another version"), "{:?}", world.closed());
    assert!(world.status.borrow().no_trainer.is_empty());
    put(world.folder.path(), PASS);
    world.tester.check_trainer().await;
    world.tester.begin().await;
    assert_eq!(world.closed(), None);
}

#[tokio::test]
async fn a_test_belongs_to_the_agents_new_identity() {
    let mut world = World::new(&format!("echo \"$TRAINYARD_TRAINER_OF\" > \"$0.of\"\n{PASS}"));
    world.identity.renew().unwrap();
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
    world.tester.on_request(SelfTestRequest::JobArrived(Device::Cpu)).await;
    assert!(world.tester.running.join_next().await.unwrap().unwrap_err().is_cancelled());
    while fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z")) {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.closed(), None);
    assert!(world.tester.tests[&Device::Cpu].due.unwrap() > Instant::now() + REPEAT_AFTER / 2);
    // The test that somebody waits for goes on, and so does the one that is to open the device again.
    hangs(&mut world).await;
    world.tester.tests.get_mut(&Device::Cpu).unwrap().waiting.push(oneshot::channel().0);
    world.tester.on_request(SelfTestRequest::JobArrived(Device::Cpu)).await;
    assert!(world.tester.tests[&Device::Cpu].running.is_some());
    world.tester.tests.get_mut(&Device::Cpu).unwrap().waiting.clear();
    world.closed_devices.set_untested(&Device::Cpu, Some("it failed".into()));
    world.tester.on_request(SelfTestRequest::JobArrived(Device::Cpu)).await;
    assert!(world.tester.tests[&Device::Cpu].running.is_some());
}

#[tokio::test]
async fn without_a_trainer_the_whole_agent_takes_no_jobs() {
    let mut world = World::new(PASS);
    fs::remove_file(world.folder.path().join("trainer")).unwrap();
    world.tester.begin().await;
    assert!(world.closed().is_some());
    let text = world.status.borrow().unavailable();
    assert!(text.contains("cannot start its trainer") && text.contains("`trainer`"), "{text}");
    put(world.folder.path(), PASS);
    world.tester.check_trainer().await;
    world.tester.begin().await;
    assert_eq!(world.status.borrow().unavailable(), "");
}

#[tokio::test]
async fn after_a_failed_start_the_device_is_tested_before_the_answer() {
    let mut world = World::new(PASS);
    world.tester.begin().await;
    put(world.folder.path(), "exit 70\n");
    let lack = Unfit { kind: UnfitKind::OutOfResources, path: String::new(), message: "no threads".into() };
    let end = CancellationToken::new();
    let (closed_devices, requests) = (world.closed_devices.clone(), world.requests.clone());
    let keeps = tokio::spawn(world.tester.run(end.clone()));
    requests.test_after_failure(Device::Cpu, lack).await;
    assert!(closed_devices.get(&Device::Cpu).is_some());
    end.cancel();
    keeps.await.unwrap();
}

#[test]
fn devices_that_look_at_one_folder_at_once_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap().path().join("jobs");
    let found: Vec<Option<Unfit>> = std::thread::scope(|scope| {
        let looks: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..500).find_map(|_| folder_unfit(&folder)))).collect();
        looks.into_iter().map(|look| look.join().unwrap()).collect()
    });
    assert!(found.iter().all(Option::is_none), "{found:?}");
}
