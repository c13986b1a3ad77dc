//! The agent's process against a scheduler that a test controls, with shell scripts for trainers.

use std::fs;
use std::path::PathBuf;

use trainyard_proto::pb;
use trainyard_proto::pb::scheduler_message::Message as FromScheduler;
use trainyard_types::trainer::TrainerEvent;
use trainyard_types::{Checkpoint, EndReason, GpuUuid, ReportBody, Slot, UnfitKind};

use crate::stub::{Stub, World, attempt};

const CPU: Slot = Slot::Cpu(0);

#[tokio::test]
async fn an_attempt_is_told_from_its_start_to_its_artifacts_without_gaps() {
    let world = World::new("log \"on $device with $batch\"\ncheckpoint 1\nfinish\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    let hello = stub.hello().await;
    assert_eq!((hello.name.as_str(), hello.inventory.cpu_slots, hello.attempts), ("lab-1", 1, vec![]));
    // The artifacts' first upload meets a scheduler that is going away.
    stub.refuse_uploads(1);
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let (reports, ended) = stub.reports_to_the_end(1).await;
    assert!(reports.iter().any(|report| matches!(
        &report.body,
        ReportBody::Trainer(TrainerEvent::Log(log)) if log.message == "on cpu with 16"
    )));
    assert_eq!(ended.reason, EndReason::Completed, "{}", world.log());
    let [best] = &ended.artifacts[..] else { panic!("{ended:?}") };
    assert_eq!(best.name, "weights/best.safetensors");
    assert_eq!(stub.blob(&best.sha256).unwrap(), b"the best weights");
}

#[tokio::test]
async fn pictures_of_a_running_trainer_are_stored_once_and_again_when_they_change() {
    let epochs = "\
        epoch() { tell '\"type\":\"epoch\",\"epoch\":'\"$1\"',\"epochs\":9,\"seconds\":1,\
\"images_per_second\":1,\"loader_wait_ratio\":0,\"best\":true,\"metrics\":{}'; }\n\
        printf first > \"$run/train_batch0.jpg\"; printf labels > \"$run/labels.png\"\n\
        ln -s \"$spec\" \"$run/link.png\"\n\
        epoch 1; wait_for_test; epoch 2; wait_for_test\n\
        printf second > \"$run/train_batch0.jpg\"; epoch 3; hold\n";
    let world = World::new(epochs);
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let first = pictures(&mut stub).await;
    assert_eq!(
        first,
        [("labels.png".into(), b"labels".to_vec()), ("train_batch0.jpg".into(), b"first".to_vec())]
    );
    fs::write(world.path("hold"), "\n").unwrap();
    let is_of_epoch = |report: &ReportBody, number| matches!(report, ReportBody::Trainer(TrainerEvent::Epoch(epoch)) if epoch.epoch == number);
    while !is_of_epoch(&stub.report().await.body, 2) {}
    fs::write(world.path("hold"), "\n").unwrap();
    // Nothing is told of the second epoch, which has drawn nothing new.
    assert!(is_of_epoch(&stub.report().await.body, 3));
    let second = pictures(&mut stub).await;
    assert_eq!(
        second,
        [("labels.png".into(), b"labels".to_vec()), ("train_batch0.jpg".into(), b"second".to_vec())]
    );
}

/// What is told of pictures next, with what is stored of them.
async fn pictures(stub: &mut Stub) -> Vec<(String, Vec<u8>)> {
    loop {
        if let ReportBody::PicturesStored(pictures) = stub.report().await.body {
            let stored = pictures.into_iter().map(|one| (stub.blob(&one.sha256).unwrap(), one.name));
            return stored.map(|(content, name)| (name, content)).collect();
        }
    }
}

#[tokio::test]
async fn a_gpu_job_sees_its_gpu_gets_the_tables_batch_and_the_promised_lines() {
    let world = World::new("log \"$CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER $device $batch\"\nfinish\n");
    let gpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fake-nvml/gpus.json");
    fs::copy(gpus, world.path("gpus.json")).unwrap();
    let library = std::env::current_exe().unwrap().with_file_name("libfake_nvml.so");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &["--nvml-library", library.to_str().unwrap()]);
    let hello = stub.hello().await;
    assert_eq!(hello.inventory.gpus.len(), 3);
    assert_eq!(hello.inventory.gpus[1].compute_capability, Some((12, 0)));
    assert_eq!(stub.heartbeat().await.gpus[1].utilization_ratio, Some(0.0));

    let uuid = hello.inventory.gpus[1].uuid.clone();
    stub.assign(attempt(1), &world.data(), Slot::Gpu(uuid.clone()), None).await;
    assert_eq!(stub.log_line("Auto batch size: ").await, "24 (based on 12.0GB VRAM)");
    assert_eq!(stub.log_line(&uuid.0).await, " PCI_BUS_ID cuda:0 24");
    let log = world.log();
    for line in ["] GPU: NVIDIA GeForce RTX 5070\n", "] GPU Memory: 12.0 GB\n", "]   - Workers: 8\n"] {
        assert!(log.contains(line), "{line} in {log}");
    }
    // What the GPUs do now is read anew.
    let busier = fs::read_to_string(gpus)
        .unwrap()
        .replace("\"memory_used_mib\": 227", "\"memory_used_mib\": 8227, \"utilization_percent\": 93");
    fs::write(world.path("gpus.new"), busier).unwrap();
    fs::rename(world.path("gpus.new"), world.path("gpus.json")).unwrap();
    while stub.heartbeat().await.gpus[1].utilization_ratio != Some(0.93) {}
    assert_eq!(stub.heartbeat().await.gpus[1].memory_free_mib, Some(4000));
}

#[tokio::test]
async fn after_a_cut_what_was_not_acknowledged_is_sent_again_in_order() {
    let world = World::new("log one\nlog two\nhold\n");
    let mut stub = Stub::start().await;
    stub.acknowledge(false);
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let mut first = Vec::new();
    while !format!("{first:?}").contains("two") {
        first.push(stub.report().await);
    }
    let ack = pb::Ack { attempt: attempt(1).to_string(), sequence: 2 };
    stub.tell(FromScheduler::Ack(ack)).await;
    stub.hang_up().await;
    assert_eq!(stub.hello().await.attempts, [attempt(1)]);
    for report in &first[2..] {
        assert_eq!(stub.report().await, *report);
    }
    stub.acknowledge(true);
    stub.stop(attempt(1), EndReason::Cancelled).await;
    let (_, ended) = stub.reports_to_the_end(first.len() as u64 + 1).await;
    assert_eq!(ended.reason, EndReason::Cancelled);
}

#[tokio::test]
async fn a_cancelled_trainer_writes_a_checkpoint_and_stops() {
    let world = World::new("trap 'checkpoint 2; exit 75' TERM\nlog ready\nhold\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    stub.log_line("ready").await;
    stub.stop(attempt(1), EndReason::Cancelled).await;
    loop {
        if let ReportBody::Ended(ended) = stub.report().await.body {
            assert_eq!(
                (ended.reason, ended.message.as_str()),
                (EndReason::Cancelled, "stopped with a checkpoint")
            );
            break;
        }
    }
    assert!(
        world
            .path("agent/jobs")
            .join(attempt(1).job.to_string())
            .join("run/checkpoints/step-00000002")
            .is_dir()
    );
}

#[tokio::test]
async fn a_trainer_that_ignores_sigterm_is_killed_with_its_children() {
    let alive = "exec 9> \"$run/../../../../alive\"\ntrap '' TERM\ntail -f /dev/null &\nlog ready\nhold\n";
    let world = World::new(alive);
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &["--stop-grace", "100ms"]);
    let gone = until_nobody_holds(world.path("alive"));
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    stub.log_line("ready").await;
    stub.stop(attempt(1), EndReason::Preempted).await;
    let ended = loop {
        if let ReportBody::Ended(ended) = stub.report().await.body {
            break ended;
        }
    };
    assert_eq!(ended.reason, EndReason::Preempted);
    assert!(ended.message.contains("did not stop within the grace period"), "{}", ended.message);
    gone.await.unwrap();
}

/// Ends when every process that has the fifo open for writing is gone.
fn until_nobody_holds(fifo: PathBuf) -> tokio::task::JoinHandle<()> {
    tokio::task::spawn_blocking(move || {
        fs::read(fifo).unwrap();
    })
}

#[tokio::test]
async fn a_killed_agent_leaves_no_trainer_and_its_successor_tells_the_end() {
    let world = World::new("exec 9> \"$run/../../../../alive\"\ncheckpoint 1\nlog ready\nhold\n");
    let mut stub = Stub::start().await;
    stub.acknowledge(false);
    let mut agent = world.agent(&stub, &[]);
    let gone = until_nobody_holds(world.path("alive"));
    let first = stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    stub.log_line("ready").await;
    agent.kill();
    gone.await.unwrap();

    stub.acknowledge(true);
    let agent = world.agent(&stub, &[]);
    let second = stub.hello().await;
    assert_eq!((second.agent, second.attempts), (first.agent, vec![attempt(1)]));
    let (_, ended) = stub.reports_to_the_end(1).await;
    assert_eq!((ended.reason, ended.message.as_str()), (EndReason::AgentLost, "the agent was restarted"));
    // The next attempt of the job finds the checkpoint that is here.
    let gone = until_nobody_holds(world.path("alive"));
    stub.assign(attempt(2), &world.data(), CPU, None).await;
    assert_eq!(stub.log_line("ready").await, "");
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(agent.exit_code().await, Some(0));
    gone.await.unwrap();
}

#[tokio::test]
async fn a_terminated_agent_stores_its_checkpoints_hands_its_jobs_back_and_exits_with_0() {
    let world = World::new("trap 'checkpoint 2; exit 75' TERM\ncheckpoint 1\nlog ready\nhold\n");
    let mut stub = Stub::start().await;
    let agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    stub.log_line("ready").await;
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    let mut stored = Vec::new();
    let ended = loop {
        match stub.report().await.body {
            ReportBody::Ended(ended) => break ended,
            ReportBody::CheckpointStored(checkpoint) => stored.push(checkpoint),
            ReportBody::Trainer(_)
            | ReportBody::PicturesStored(_)
            | ReportBody::BatchChosen(_)
            | ReportBody::Fetching(_)
            | ReportBody::SlotReleased(_) => {}
        }
    };
    assert_eq!(ended.reason, EndReason::Drained);
    let newest = stored.last().expect("no checkpoint was stored");
    assert_eq!((newest.step, newest.files[0].name.as_str()), (2, "model.safetensors"));
    assert_eq!(stub.blob(&newest.files[0].sha256).unwrap(), b"weights of step 2");
    assert_eq!(agent.exit_code().await, Some(0));
    assert!(!world.log().contains("ERROR"), "{}", world.log());
}

#[tokio::test]
async fn a_newer_checkpoint_is_fetched_before_the_trainer_starts() {
    let world =
        World::new("log \"found $(cat $run/checkpoints/step-00000009/deep/model.safetensors)\"\nhold\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    let files = vec![stub.store("deep/model.safetensors", b"nine"), stub.store("manifest.json", b"{}")];
    let resume = Checkpoint { step: 9, epoch: 1, files };
    stub.assign(attempt(3), &world.data(), CPU, Some(resume)).await;
    assert_eq!(stub.log_line("found ").await, "nine");
}

#[tokio::test]
async fn a_missing_trainer_is_named_with_the_key_that_sets_it() {
    let world = World::new("");
    fs::remove_file(world.path("trainer")).unwrap();
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let (_, ended) = stub.reports_to_the_end(1).await;
    assert_eq!(ended.reason, EndReason::AgentUnfit);
    assert_eq!(ended.unfit.unwrap().kind, UnfitKind::TrainerMissing);
    let path = world.path("trainer").display().to_string();
    assert!(ended.message.contains(&path) && ended.message.contains("key `trainer`"), "{}", ended.message);
    assert!(world.log().contains("there is no trainer at `trainer`"));
    let heartbeat = stub.heartbeat_with(|heartbeat| !heartbeat.unavailable.is_empty()).await;
    assert!(heartbeat.unavailable.contains(&path), "{}", heartbeat.unavailable);
}

#[tokio::test]
async fn bad_lines_cost_nothing_but_themselves() {
    let world =
        World::new("echo garbage > /proc/self/fd/$fd\nlog between\ntell '\"type\":\"song\"'\nfinish\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let (reports, ended) = stub.reports_to_the_end(1).await;
    assert_eq!(ended.reason, EndReason::Completed);
    let text = format!("{reports:?}");
    assert!(
        text.contains("between") && text.contains("2 lines of the trainer were not understood"),
        "{text}"
    );
}

#[tokio::test]
async fn a_crash_is_told_with_what_standard_error_said_last() {
    let world = World::new("echo 'thread main panicked at 7' >&2\nexit 101\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let (_, ended) = stub.reports_to_the_end(1).await;
    assert_eq!(ended.reason, EndReason::TrainerCrash);
    assert!(ended.message.contains("panicked at 7") && ended.message.contains("101"), "{}", ended.message);
}

#[tokio::test]
async fn data_outside_of_the_roots_and_unknown_gpus_are_refused() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.assign(attempt(1), "/etc/hostname".as_ref(), CPU, None).await;
    let (_, ended) = stub.reports_to_the_end(1).await;
    assert_eq!(ended.reason, EndReason::AgentUnfit);
    let unfit = ended.unfit.unwrap();
    assert_eq!((unfit.kind, unfit.path.as_str()), (UnfitKind::OutsideDataRoots, "/etc/hostname"));
    assert!(ended.message.contains("outside of this agent's `data_roots`"), "{}", ended.message);
    stub.assign(attempt(2), &world.data(), Slot::Gpu(GpuUuid("GPU-none".into())), None).await;
    let (_, ended) = stub.reports_to_the_end(1).await;
    assert_eq!(ended.reason, EndReason::GpuFault);
}

#[tokio::test]
async fn a_revoked_attempt_is_killed_and_forgotten() {
    let world = World::new("exec 9> \"$run/../../../../alive\"\ntrap '' TERM\nlog ready\nhold\n");
    let mut stub = Stub::start().await;
    stub.acknowledge(false);
    let _agent = world.agent(&stub, &[]);
    let gone = until_nobody_holds(world.path("alive"));
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    stub.log_line("ready").await;
    stub.tell(FromScheduler::Revoke(pb::Revoke { attempt: attempt(1).to_string() })).await;
    gone.await.unwrap();
    stub.hang_up().await;
    assert_eq!(stub.hello().await.attempts, []);
}

#[tokio::test]
async fn a_scheduler_with_a_lower_leader_epoch_is_refused() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    stub.set_leader_epoch(5);
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.set_leader_epoch(4);
    stub.hang_up().await;
    stub.hello().await; // Refused: it hangs up and tries again.
    stub.set_leader_epoch(6);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    assert_eq!(stub.reports_to_the_end(1).await.1.reason, EndReason::Completed);
}

#[tokio::test]
async fn a_second_agent_on_the_same_data_directory_is_turned_away() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    assert_eq!(world.agent(&stub, &[]).exit_code().await, Some(2));
    assert!(world.log().contains("another agent uses"), "{}", world.log());
}
