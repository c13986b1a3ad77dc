//! GPUs whose state changes: their owners come, other processes use them, they fail. The GPUs are those of the stand-in
//! for NVML; a test changes them by renaming another file over theirs.

use std::fs;

use serde_json::{Value, json};
use trainyard_proto::pb;
use trainyard_proto::pb::scheduler_message::Message as FromScheduler;
use trainyard_proto::pb::unavailable::Cause;
use trainyard_types::{EndReason, GpuUuid, Slot};

use crate::machine::put;
use crate::stub::{Agent, Stub, World, attempt};

/// A machine with the three GPUs of `gpus.json`, and a scheduler.
struct Lab {
    world: World,
    stub: Stub,
    /// What the stand-in reads.
    state: Value,
    library: String,
}

impl Lab {
    async fn new(trainer: &str) -> Self {
        let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fake-nvml/gpus.json"));
        let library = std::env::current_exe().unwrap().with_file_name("libfake_nvml.so");
        let lab = Self {
            world: World::new(trainer),
            stub: Stub::start().await,
            state: serde_json::from_str(&text.unwrap()).unwrap(),
            library: library.to_str().unwrap().into(),
        };
        lab.write();
        lab
    }

    fn write(&self) {
        fs::write(self.world.path("gpus.new"), self.state.to_string()).unwrap();
        fs::rename(self.world.path("gpus.new"), self.world.path("gpus.json")).unwrap();
    }

    /// Changes keys of one GPU.
    fn change(&mut self, gpu: usize, keys: &Value) {
        let target = self.state["gpus"][gpu].as_object_mut().unwrap();
        target.extend(keys.as_object().unwrap().clone());
        self.write();
    }

    fn agent(&self, more: &[&str], variables: &[(&str, &str)]) -> Agent {
        let arguments = [&["--nvml-library", self.library.as_str()], more].concat();
        self.world.agent_with(&self.stub, &arguments, variables)
    }

    fn slot(&self, gpu: usize) -> Slot {
        Slot::Gpu(GpuUuid(self.state["gpus"][gpu]["uuid"].as_str().unwrap().into()))
    }

    async fn assign(&self, number: u32, gpu: usize) {
        self.stub.assign(attempt(number), &self.world.data(), self.slot(gpu), None).await;
    }

    /// Waits until a heartbeat says of each GPU why it takes no job, or that it does; returns it.
    async fn until(&mut self, causes: [Option<Cause>; 3]) -> pb::Heartbeat {
        self.stub.heartbeat_with(|heartbeat| said(heartbeat) == causes).await
    }
}

fn said(heartbeat: &pb::Heartbeat) -> Vec<Option<Cause>> {
    heartbeat.gpus.iter().map(|gpu| gpu.unavailable.as_ref().map(pb::Unavailable::cause)).collect()
}

fn message(heartbeat: &pb::Heartbeat, gpu: usize) -> String {
    heartbeat.gpus[gpu].unavailable.clone().unwrap().message
}

/// A process that is not the agent's: the test itself.
fn other_process(memory_mib: u64) -> Value {
    json!({"memory_used_mib": memory_mib + 100, "processes": [{"pid": std::process::id(), "memory_mib": memory_mib}]})
}

const SAVES: &str = "trap 'checkpoint 2; exit 75' TERM\nlog \"pid $$\"\nhold\n";
const STUBBORN: &str = "trap '' TERM\nlog \"pid $$\"\nhold\n";
const OWNER_MODE: (&str, &str) = ("TRAINYARD_AGENT__GUEST__ENABLED", "true");

#[tokio::test]
async fn a_gpu_on_which_another_process_memory_grows_takes_no_new_job_until_it_shrinks() {
    let mut lab = Lab::new("finish\n").await;
    let _agent = lab.agent(&[], &[]);
    lab.stub.hello().await;
    for memory_mib in [300, 600, 900] {
        lab.change(1, &other_process(memory_mib));
        lab.stub
            .heartbeat_with(|heartbeat| heartbeat.gpus[1].memory_foreign_mib == Some(memory_mib + 100))
            .await;
    }
    lab.until([None; 3]).await;
    lab.change(1, &other_process(5000));
    let heartbeat = lab.until([None, Some(Cause::ForeignUse), None]).await;
    let why = message(&heartbeat, 1);
    assert!(why.contains(&format!("(pid {})", std::process::id())) && why.contains("5100 MiB"), "{why}");
    // An attempt that crossed with the news goes back for free.
    lab.assign(1, 1).await;
    assert_eq!(lab.stub.end().await.reason, EndReason::Preempted);
    lab.change(1, &other_process(300));
    lab.until([None; 3]).await;
    lab.assign(2, 1).await;
    assert_eq!(lab.stub.end().await.reason, EndReason::Completed);
}

#[tokio::test]
async fn an_owner_who_comes_back_is_told_of_first_and_the_job_leaves_with_a_checkpoint() {
    let mut lab = Lab::new(SAVES).await;
    let _agent = lab.agent(&[], &[OWNER_MODE, ("TRAINYARD_AGENT__GUEST__IDLE", "1s")]);
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
    let _agent = lab.agent(&["--stop-grace", "10m"], &[OWNER_MODE, leave]);
    lab.stub.hello().await;
    lab.assign(1, 0).await;
    lab.stub.log_line("pid ").await;
    let pid = std::process::id();
    let work = json!({"process_utilization": [{"pid": pid, "percent": 95}]});
    lab.change(0, &other_process(500));
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
async fn xid_79_takes_one_gpu_until_it_is_cleared_and_a_restart_does_not_forget_it() {
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
    // The other GPUs go on.
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
    lab.stub.tell(FromScheduler::ClearGpu(pb::ClearGpu { gpu: gpu.0 })).await;
    lab.until([None; 3]).await;
}

#[tokio::test]
async fn a_gpu_that_vanishes_fails_its_attempt_without_blame() {
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
async fn a_page_fault_ends_the_attempt_with_the_drivers_word_and_keeps_the_gpu() {
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
async fn each_error_of_the_driver_ends_its_attempt_as_the_table_says() {
    let mut lab = Lab::new("log \"pid $$\"\nhold\n").await;
    lab.change(1, &json!({"ecc_uncorrected": 7}));
    let _agent = lab.agent(&["--stop-grace", "10m"], &[]);
    lab.stub.hello().await;
    let table = [
        (0, json!({"xids": [13]}), EndReason::TrainerCrash, "XID 13 (graphics engine exception)"),
        (1, json!({"xids": [43]}), EndReason::TrainerCrash, "XID 43 (the GPU stopped processing)"),
        (2, json!({"xids": [94]}), EndReason::GpuFault, "XID 94 (contained memory error)"),
        // From here on the GPU is out of use.
        (0, json!({"xids": [13, 48]}), EndReason::GpuFault, "XID 48 (double-bit memory error)"),
        (1, json!({"ecc_uncorrected": 8}), EndReason::GpuFault, "uncorrected memory errors rose from 7 to 8"),
    ];
    for (number, (gpu, change, reason, message)) in (1..).zip(table) {
        lab.assign(number, gpu).await;
        lab.stub.log_line("pid ").await;
        lab.change(gpu, &change);
        let ended = lab.stub.end().await;
        assert_eq!((ended.reason, ended.message.as_str()), (reason, message));
    }
    let quarantined = Some(Cause::Quarantined);
    let heartbeat = lab.until([quarantined, quarantined, None]).await;
    assert!(message(&heartbeat, 1).contains("rose from 7 to 8"), "{}", message(&heartbeat, 1));
}

#[tokio::test]
async fn an_error_that_comes_when_its_trainer_is_gone_does_not_end_the_next_one() {
    let mut lab = Lab::new("log \"pid $$\"\nwait_for_test\nfinish\n").await;
    let _agent = lab.agent(&[], &[]);
    lab.stub.hello().await;
    for number in [1, 2] {
        lab.assign(number, 0).await;
        lab.stub.log_line("pid ").await;
        if number == 2 {
            lab.change(0, &json!({"xids": [31]}));
            lab.stub.until_logged(&lab.world, "the driver tells an XID").await;
        }
        lab.world.release().await;
        assert_eq!(lab.stub.end().await.reason, EndReason::Completed, "{}", lab.world.log());
    }
}

#[tokio::test]
async fn a_quarantined_gpu_comes_back_by_a_test_when_its_time_is_over() {
    let mut lab = Lab::new("finish\n").await;
    let _agent = lab.agent(&[], &[("TRAINYARD_AGENT__HEALTH__SELF_TEST_AFTER", "1s")]);
    lab.stub.hello().await;
    lab.change(2, &json!({"xids": [48]}));
    let heartbeat = lab.until([None, None, Some(Cause::Quarantined)]).await;
    assert!(message(&heartbeat, 2).contains("it is tested 1 s after that"), "{}", message(&heartbeat, 2));
    lab.until([None; 3]).await;
    assert!(lab.world.log().contains("a quarantined GPU answers without new errors"), "{}", lab.world.log());
    lab.assign(1, 2).await;
    assert_eq!(lab.stub.end().await.reason, EndReason::Completed);
}

#[tokio::test]
async fn in_its_owners_hours_a_gpu_takes_no_job_and_says_until_when() {
    let mut lab = Lab::new("finish\n").await;
    let hours = ("TRAINYARD_AGENT__GUEST__SCHEDULE", "Mon-Sun 00:00-24:00");
    let _agent = lab.agent(&[], &[OWNER_MODE, ("TRAINYARD_AGENT__GUEST__GPUS", "1"), hours]);
    let hello = lab.stub.hello().await;
    let why = hello.telemetry[1].unavailable.clone().unwrap().message;
    assert!(why.contains("its owner's hours (Mon-Sun 00:00-24:00, local time)"), "{why}");
    lab.until([None, Some(Cause::Owner), None]).await;
    lab.assign(1, 1).await;
    let ended = lab.stub.end().await;
    assert!(ended.reason == EndReason::Preempted && ended.message == why, "{ended:?}");
    lab.assign(2, 0).await;
    assert_eq!(lab.stub.end().await.reason, EndReason::Completed);
}

/// The first time its GPU's memory runs out: it steps down, and cannot go on in this process.
const FULL: &str = r#"started
if [ -e "$run/before" ]; then log "with $batch"; finish; exit 0; fi
touch "$run/before"
log "pid $$"
wait_for_test
tell '"type":"batch_size","from":24,"to":16,"message":"24 does not fit in the GPU'"'"'s memory"'
exit 77
"#;

#[tokio::test]
async fn memory_that_runs_out_beside_another_process_moves_the_job_and_is_not_held_against_the_gpu() {
    let mut lab = Lab::new(FULL).await;
    let _agent = lab.agent(&[], &[]);
    lab.stub.hello().await;
    lab.assign(1, 1).await;
    let trainer: u32 = lab.stub.log_line("pid ").await.parse().unwrap();
    let both = json!([{"pid": trainer, "memory_mib": 3000}, {"pid": std::process::id(), "memory_mib": 9000}]);
    lab.change(1, &json!({"memory_used_mib": 12100, "processes": both}));
    // Before anybody has looked at the GPU again.
    lab.world.release().await;
    let ended = lab.stub.end().await;
    assert_eq!(ended.reason, EndReason::Preempted, "{ended:?}");
    assert!(ended.message.contains("others hold 9000 MiB"), "{}", ended.message);
    lab.change(1, &json!({"memory_used_mib": 227, "processes": []}));
    lab.until([None; 3]).await;
    lab.assign(2, 1).await;
    assert_eq!(lab.stub.log_line("with ").await, "24");
    assert!(lab.stub.fit_records.iter().all(|record| record.failed_batch_size.is_none()));
}

#[tokio::test]
async fn memory_that_runs_out_with_the_gpu_to_itself_is_learned_and_a_new_process_takes_what_was_told() {
    let mut lab = Lab::new(FULL).await;
    let _agent = lab.agent(&[], &[]);
    lab.stub.hello().await;
    lab.assign(1, 1).await;
    lab.stub.log_line("pid ").await;
    lab.world.release().await;
    assert_eq!(lab.stub.log_line("with ").await, "16");
    assert_eq!(lab.stub.end().await.reason, EndReason::Completed);
    while lab.stub.fit_records.iter().all(|record| record.failed_batch_size != Some(24)) {
        lab.stub.heartbeat().await;
    }
}

/// Measures, while 980 MiB are in use beside its allocator's memory.
const MEASURES: &str = r#"started
log "pid $$"
wait_for_test
tell '"type":"memory","batch_size":'"$batch"',"fixed_mib":90,"step_peak_mib":250,"densest_objects":3,"validation_peak_mib":120,"beside_mib":980'
hold
"#;

#[tokio::test]
async fn what_cuda_takes_of_a_gpu_is_learned_without_what_others_hold() {
    let mut lab = Lab::new(MEASURES).await;
    let _agent = lab.agent(&[], &[]);
    lab.stub.hello().await;
    lab.assign(1, 1).await;
    let trainer: u32 = lab.stub.log_line("pid ").await.parse().unwrap();
    let both = json!([{"pid": trainer, "memory_mib": 3000}, {"pid": std::process::id(), "memory_mib": 200}]);
    lab.change(1, &json!({"memory_used_mib": 3200, "processes": both}));
    lab.stub.heartbeat_with(|heartbeat| heartbeat.gpus[1].memory_foreign_mib == Some(200)).await;
    lab.world.release().await;
    while lab.stub.fit_records.iter().all(|record| record.batch_size == 0) {
        lab.stub.heartbeat().await;
    }
    let kept = fs::read_to_string(lab.world.path("agent/fit.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(
        kept["cuda_states"],
        json!([{"device": "NVIDIA GeForce RTX 5070", "libtorch": "2.13.0", "mib": 780}])
    );
}

/// Dies of what cuDNN says for want of memory and for other reasons, unless the batch is as small as 16.
const CUDNN: &str = r#"log "pid $$"
wait_for_test
if [ "$batch" -gt 16 ]; then echo 'terminate called: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED' >&2; kill -ABRT $$; fi
finish
"#;

#[tokio::test]
async fn a_trainer_that_died_inside_cudnn_gets_a_smaller_batch_where_its_gpu_was_full_and_none_where_not() {
    let mut lab = Lab::new(CUDNN).await;
    let _agent = lab.agent(&[], &[]);
    lab.stub.hello().await;
    let idle = json!({"memory_used_mib": 227, "processes": []});
    for (number, used, reason) in [(1, 5000, EndReason::TrainerCrash), (2, 12000, EndReason::Completed)] {
        lab.assign(number, 1).await;
        let trainer: u32 = lab.stub.log_line("pid ").await.parse().unwrap();
        let process = json!([{"pid": trainer, "memory_mib": used}]);
        lab.change(1, &json!({"memory_used_mib": used, "processes": process}));
        lab.stub.heartbeat_with(|heartbeat| heartbeat.gpus[1].memory_free_mib == Some(12227 - used)).await;
        lab.world.release().await;
        if reason == EndReason::Completed {
            lab.stub.log_line("pid ").await;
            lab.world.release().await;
        }
        let ended = lab.stub.end().await;
        assert_eq!(ended.reason, reason, "{ended:?} {}", lab.world.log());
        lab.change(1, &idle);
        lab.stub.heartbeat_with(|heartbeat| heartbeat.gpus[1].memory_free_mib == Some(12000)).await;
    }
}

#[tokio::test]
async fn a_gpu_that_failed_under_its_trainer_is_closed_if_it_fails_its_test_too() {
    let mut lab = Lab::new(
        "log 'pid 1'\necho 'terminate called: CUDA error: uncorrectable ECC error encountered' >&2\nkill -ABRT $$\n",
    )
    .await;
    let _agent = lab.agent(&[], &[]);
    lab.stub.hello().await;
    lab.until([None; 3]).await;
    put(
        &lab.world,
        "trainer.self-test",
        "echo 'CUDA error: uncorrectable ECC error encountered' >&2\nexit 134\n",
    );
    lab.assign(1, 0).await;
    let ended = lab.stub.end().await;
    assert_eq!((ended.reason, ended.unfit), (EndReason::GpuFault, None), "{}", ended.message);
    assert!(ended.message.contains("memory has an error that it cannot correct"), "{}", ended.message);
    let heartbeat = lab.until([Some(Cause::SelfTest), None, None]).await;
    assert!(message(&heartbeat, 0).contains("the self-test failed"), "{}", message(&heartbeat, 0));
}

#[tokio::test]
async fn gpus_that_do_not_answer_at_the_start_are_announced_when_they_do() {
    let mut lab = Lab::new("finish\n").await;
    lab.state["unknown_error"] = true.into();
    lab.change(2, &json!({"lost": true}));
    let _agent = lab.agent(&["--cpu-slots", "0"], &[]);
    let hello = lab.stub.hello().await;
    assert_eq!(hello.inventory.gpus, []);
    assert!(hello.unavailable.contains("Unknown Error"), "{}", hello.unavailable);
    lab.state["unknown_error"] = false.into();
    lab.write();
    let hello = lab.stub.hello().await;
    assert_eq!((hello.inventory.gpus.len(), hello.unavailable.as_str()), (2, ""), "{}", lab.world.log());
    assert_eq!(hello.inventory.driver_version, "580.95.05");
    lab.change(2, &json!({"lost": false}));
    assert_eq!(lab.stub.hello().await.inventory.gpus.len(), 3);
    lab.until([None; 3]).await;
    lab.assign(1, 2).await;
    assert_eq!(lab.stub.end().await.reason, EndReason::Completed);
    lab.change(2, &json!({"xids": [48]}));
    lab.until([None, None, Some(Cause::Quarantined)]).await;
}

#[tokio::test]
async fn nvmls_unknown_error_is_named_and_goes_with_its_cause() {
    let mut lab = Lab::new("finish\n").await;
    let _agent = lab.agent(&[], &[]);
    lab.stub.hello().await;
    lab.state["unknown_error"] = true.into();
    lab.write();
    let heartbeat = lab.until([Some(Cause::Unsupported); 3]).await;
    let why = message(&heartbeat, 0);
    assert!(why.contains("Unknown Error") && why.contains("daemon-reload"), "{why}");
    lab.state["unknown_error"] = false.into();
    lab.write();
    lab.until([None; 3]).await;
    lab.assign(1, 0).await;
    assert_eq!(lab.stub.end().await.reason, EndReason::Completed);
    // Errors are waited for again, too.
    lab.change(2, &json!({"xids": [48]}));
    lab.until([None, None, Some(Cause::Quarantined)]).await;
}

#[tokio::test]
async fn samples_of_every_gpu_come_once_a_second_in_batches() {
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
