//! What the agent makes of cards whose state changes: their owners, strangers on them, their failures. The cards
//! are those of the stand-in for NVML; a test changes them by renaming another file over theirs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod stub;

use std::fs;

use serde_json::{Value, json};
use stub::{Agent, Stub, World, attempt};
use trainyard_proto::pb;
use trainyard_proto::pb::scheduler_message::Message as Told;
use trainyard_proto::pb::unavailable::Cause;
use trainyard_types::{EndReason, GpuUuid, Slot};

/// A machine with the three cards of `cards.json`, and a scheduler.
struct Lab {
    world: World,
    stub: Stub,
    cards: Value,
    library: String,
}

impl Lab {
    async fn new(trainer: &str) -> Self {
        let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fake-nvml/cards.json"));
        let library = std::env::current_exe().unwrap().with_file_name("libfake_nvml.so");
        let lab = Self {
            world: World::new(trainer),
            stub: Stub::start().await,
            cards: serde_json::from_str(&text.unwrap()).unwrap(),
            library: library.to_str().unwrap().into(),
        };
        lab.write();
        lab
    }

    fn write(&self) {
        fs::write(self.world.path("cards.new"), self.cards.to_string()).unwrap();
        fs::rename(self.world.path("cards.new"), self.world.path("cards.json")).unwrap();
    }

    /// Changes keys of one card.
    fn change(&mut self, card: usize, keys: &Value) {
        let target = self.cards["cards"][card].as_object_mut().unwrap();
        target.extend(keys.as_object().unwrap().clone());
        self.write();
    }

    fn agent(&self, more: &[&str], variables: &[(&str, &str)]) -> Agent {
        let arguments = [&["--nvml-library", self.library.as_str()], more].concat();
        self.world.agent_with(&self.stub, &arguments, variables)
    }

    fn slot(&self, card: usize) -> Slot {
        Slot::Gpu(GpuUuid(self.cards["cards"][card]["uuid"].as_str().unwrap().into()))
    }

    async fn assign(&self, number: u32, card: usize) {
        self.stub.assign(attempt(number), &self.world.data(), self.slot(card), None).await;
    }

    /// Waits until a heartbeat says of each card why it takes no job, or that it does; returns it.
    async fn until(&mut self, causes: [Option<Cause>; 3]) -> pb::Heartbeat {
        self.stub.heartbeat_with(|heartbeat| said(heartbeat) == causes).await
    }
}

fn said(heartbeat: &pb::Heartbeat) -> Vec<Option<Cause>> {
    heartbeat.gpus.iter().map(|gpu| gpu.unavailable.as_ref().map(pb::Unavailable::cause)).collect()
}

fn message(heartbeat: &pb::Heartbeat, card: usize) -> String {
    heartbeat.gpus[card].unavailable.clone().unwrap().message
}

/// A process that is not the agent's: the test itself.
fn stranger(memory_mib: u64) -> Value {
    json!({"memory_used_mib": memory_mib + 100, "processes": [{"pid": std::process::id(), "memory_mib": memory_mib}]})
}

const SAVES: &str = "trap 'checkpoint 2; exit 75' TERM\nlog \"pid $$\"\nhold\n";
const STUBBORN: &str = "trap '' TERM\nlog \"pid $$\"\nhold\n";
const GUEST: (&str, &str) = ("TRAINYARD_AGENT__GUEST__ENABLED", "true");

#[tokio::test]
async fn a_card_on_which_a_strangers_memory_grows_takes_no_new_job_until_it_shrinks() {
    let mut lab = Lab::new("finish\n").await;
    let _agent = lab.agent(&[], &[]);
    lab.stub.hello().await;
    for memory_mib in [300, 600, 900] {
        lab.change(1, &stranger(memory_mib));
        lab.stub
            .heartbeat_with(|heartbeat| heartbeat.gpus[1].memory_foreign_mib == Some(memory_mib + 100))
            .await;
    }
    lab.until([None; 3]).await;
    lab.change(1, &stranger(5000));
    let heartbeat = lab.until([None, Some(Cause::ForeignUse), None]).await;
    let why = message(&heartbeat, 1);
    assert!(why.contains(&format!("(pid {})", std::process::id())) && why.contains("5100 MiB"), "{why}");
    // An attempt that crossed with the news goes back for free.
    lab.assign(1, 1).await;
    assert_eq!(lab.stub.end().await.reason, EndReason::Preempted);
    lab.change(1, &stranger(300));
    lab.until([None; 3]).await;
    lab.assign(2, 1).await;
    assert_eq!(lab.stub.end().await.reason, EndReason::Completed);
}

#[tokio::test]
async fn an_owner_who_comes_back_is_told_of_first_and_the_job_leaves_with_a_checkpoint() {
    let mut lab = Lab::new(SAVES).await;
    let _agent = lab.agent(&[], &[GUEST, ("TRAINYARD_AGENT__GUEST__IDLE", "1s")]);
    lab.stub.hello().await;
    lab.assign(1, 0).await;
    let trainer: u32 = lab.stub.log_line("pid ").await.parse().unwrap();
    // The trainer's own memory is no sign of an owner.
    lab.change(0, &json!({"memory_used_mib": 9000, "processes": [{"pid": trainer, "memory_mib": 8900}]}));
    lab.stub.heartbeat_with(|heartbeat| heartbeat.gpus[0].memory_free_mib == Some(24564 - 9000)).await;
    lab.until([None; 3]).await;
    let both = json!([{"pid": trainer, "memory_mib": 8900}, {"pid": std::process::id(), "memory_mib": 4000}]);
    lab.change(0, &json!({"memory_used_mib": 13000, "processes": both}));
    // Were the end told before the heartbeat, it would be skipped here and missed below.
    let heartbeat = lab.until([Some(Cause::Owner), None, None]).await;
    assert!(message(&heartbeat, 0).contains("4000 MiB"), "{}", message(&heartbeat, 0));
    let ended = lab.stub.end().await;
    assert_eq!(ended.reason, EndReason::Preempted);
    assert!(
        ended.message.contains("its owner uses it") && ended.message.ends_with("stopped with a checkpoint")
    );
    lab.change(0, &json!({"memory_used_mib": 300, "processes": []}));
    lab.until([None; 3]).await;
}

#[tokio::test]
async fn a_trainer_that_ignores_its_owners_return_is_killed_when_the_time_is_over() {
    let mut lab = Lab::new(STUBBORN).await;
    let leave = ("TRAINYARD_AGENT__GUEST__LEAVE_WITHIN", "200ms");
    let _agent = lab.agent(&["--stop-grace", "10m"], &[GUEST, leave]);
    lab.stub.hello().await;
    lab.assign(1, 0).await;
    lab.stub.log_line("pid ").await;
    let pid = std::process::id();
    let work = json!({"process_utilization": [{"pid": pid, "percent": 95}]});
    lab.change(0, &stranger(500));
    lab.change(0, &work);
    let ended = lab.stub.end().await;
    assert_eq!(ended.reason, EndReason::Preempted);
    assert!(ended.message.contains("95 % busy") && ended.message.contains("was killed"), "{}", ended.message);
}

#[tokio::test]
async fn a_stop_is_held_to_the_grace_that_it_names() {
    let mut lab = Lab::new(STUBBORN).await;
    let _agent = lab.agent(&["--stop-grace", "10m"], &[]);
    lab.stub.hello().await;
    lab.assign(1, 2).await;
    lab.stub.log_line("pid ").await;
    lab.stub.stop_within(attempt(1), EndReason::Preempted, 200).await;
    let ended = lab.stub.end().await;
    assert!(ended.message.contains("was killed"), "{}", ended.message);
}

#[tokio::test]
async fn xid_79_takes_one_card_until_it_is_cleared_and_a_restart_does_not_forget_it() {
    let mut lab = Lab::new(STUBBORN).await;
    let mut agent = lab.agent(&["--stop-grace", "10m"], &[]);
    lab.stub.hello().await;
    lab.assign(1, 1).await;
    lab.stub.log_line("pid ").await;
    lab.change(1, &json!({"xids": [79], "lost": true}));
    let quarantined = [None, Some(Cause::Quarantined), None];
    let told = |heartbeat: &pb::Heartbeat| {
        said(heartbeat) == quarantined && message(heartbeat, 1).contains("XID 79")
    };
    lab.stub.heartbeat_with(told).await;
    assert_eq!(lab.stub.end().await.reason, EndReason::GpuFault);
    // The other cards go on.
    lab.assign(2, 2).await;
    lab.stub.log_line("pid ").await;
    agent.kill();

    lab.change(1, &json!({"xids": []}));
    let _agent = lab.agent(&[], &[]);
    let hello = lab.stub.hello().await;
    assert_eq!(hello.inventory.gpus.len(), 3);
    let why = hello.telemetry[1].unavailable.clone().unwrap().message;
    assert!(why.contains("XID 79") && why.contains("restart of this machine"), "{why}");
    lab.change(1, &json!({"lost": false}));
    lab.stub.heartbeat_with(|heartbeat| heartbeat.gpus[1].temperature_celsius == Some(40)).await;
    lab.until(quarantined).await;
    let Slot::Gpu(gpu) = lab.slot(1) else { unreachable!() };
    lab.stub.tell(Told::ClearGpu(pb::ClearGpu { gpu: gpu.0 })).await;
    lab.until([None; 3]).await;
}

#[tokio::test]
async fn a_card_that_vanishes_fails_its_attempt_without_blame() {
    let mut lab = Lab::new(STUBBORN).await;
    let _agent = lab.agent(&["--stop-grace", "10m"], &[]);
    lab.stub.hello().await;
    lab.assign(1, 0).await;
    lab.stub.log_line("pid ").await;
    lab.change(0, &json!({"lost": true}));
    lab.until([Some(Cause::Quarantined), None, None]).await;
    let ended = lab.stub.end().await;
    assert_eq!(ended.reason, EndReason::GpuFault);
    assert!(ended.message.contains("vanished"), "{}", ended.message);
}

#[tokio::test]
async fn a_page_fault_ends_the_attempt_with_the_drivers_word_and_keeps_the_card() {
    let mut lab = Lab::new("log \"pid $$\"\nhold\n").await;
    let _agent = lab.agent(&[], &[]);
    lab.stub.hello().await;
    lab.assign(1, 0).await;
    lab.stub.log_line("pid ").await;
    lab.change(0, &json!({"xids": [31]}));
    let ended = lab.stub.end().await;
    assert_eq!(
        (ended.reason, ended.message.as_str()),
        (EndReason::TrainerCrash, "XID 31 (memory page fault)")
    );
    lab.until([None; 3]).await;
}

#[tokio::test]
async fn nvmls_unknown_error_is_named_and_goes_with_its_cause() {
    let mut lab = Lab::new("finish\n").await;
    let _agent = lab.agent(&[], &[]);
    lab.stub.hello().await;
    lab.cards["unknown_error"] = true.into();
    lab.write();
    let heartbeat = lab.until([Some(Cause::Unsupported); 3]).await;
    let why = message(&heartbeat, 0);
    assert!(why.contains("Unknown Error") && why.contains("daemon-reload"), "{why}");
    lab.cards["unknown_error"] = false.into();
    lab.write();
    lab.until([None; 3]).await;
    lab.assign(1, 0).await;
    assert_eq!(lab.stub.end().await.reason, EndReason::Completed);
    // Errors are waited for again, too.
    lab.change(2, &json!({"xids": [48]}));
    lab.until([None, None, Some(Cause::Quarantined)]).await;
}

#[tokio::test]
async fn samples_of_every_card_come_once_a_second_in_batches() {
    let mut lab = Lab::new("finish\n").await;
    lab.change(1, &json!({"power_milliwatts": 215_000, "energy_millijoules": 5000, "throttle_reasons": 4}));
    let _agent = lab.agent(&[], &[]);
    lab.stub.hello().await;
    let telemetry = lab.stub.telemetry().await;
    assert_eq!(telemetry.samples.len(), 15);
    let sample = &telemetry.samples[4];
    assert_eq!((sample.power_watts, sample.energy_joules), (Some(215.0), Some(5.0)));
    assert_eq!(
        (sample.memory_used_mib, &sample.throttle_reasons[..]),
        (Some(227), &["power".to_owned()][..])
    );
    let Slot::Gpu(gpu) = lab.slot(1) else { unreachable!() };
    assert_eq!(sample.gpu, gpu.0);
}
