//! What becomes of a trainer's processes, and what the next trainer is told of the last one's end: the agent's
//! process against a scheduler that a test controls, with shell scripts for trainers.

use std::fs;
use std::path::PathBuf;

use trainyard_agent::host::cgroup;
use trainyard_types::{AttemptId, EndReason, JobId, ReportBody, Slot};
use uuid::Uuid;

use crate::stub::{Stub, World, attempt};

const CPU: Slot = Slot::Cpu(0);

/// The fifo, once a process has it open for writing.
fn held(fifo: PathBuf) -> tokio::task::JoinHandle<fs::File> {
    tokio::task::spawn_blocking(move || fs::File::open(fifo).unwrap())
}

/// Ends when every process that has the fifo open for writing is gone.
async fn until_nobody_holds(mut fifo: fs::File) {
    let read = move || std::io::Read::read_to_end(&mut fifo, &mut Vec::new()).unwrap();
    tokio::task::spawn_blocking(read).await.unwrap();
}

#[tokio::test]
async fn what_a_trainer_started_ends_with_it_even_outside_of_its_process_group() {
    let world = World::new(
        "setsid sh -c 'exec 9> \"$0/../../../../alive\"; tail -f /dev/null' \"$run\" &\nlog started\nread -r line < \"$run/../../../../hold\"\nfinish\n",
    );
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    let alive = held(world.path("alive"));
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    stub.log_line("started").await;
    let alive = alive.await.unwrap();
    let hold = world.path("hold");
    tokio::task::spawn_blocking(move || fs::write(hold, "on\n").unwrap()).await.unwrap();
    loop {
        if let ReportBody::Ended(ended) = stub.report().await.body {
            assert_eq!(ended.reason, EndReason::Completed, "{}", world.log());
            break;
        }
    }
    until_nobody_holds(alive).await;
}

/// What an agent's configuration says of scripts that are to be confined.
const CONFINED: [(&str, &str); 1] = [("TRAINYARD_AGENT__CONFINE_TRAINERS", "true")];

#[tokio::test]
async fn a_confined_trainer_starts_no_process_that_could_outlive_it() {
    let world = World::new("(setsid tail -f /dev/null; true) &\nlog survived\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent_with(&stub, &[], &CONFINED);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let ended = stub.end().await;
    assert_eq!(ended.reason, EndReason::TrainerCrash, "{}", world.log());
    assert!(ended.message.contains("fork"), "{}", ended.message);
}

#[tokio::test]
async fn a_confined_trainer_reaches_neither_the_agent_nor_another_job() {
    let world = World::new(
        "peek() { read -r line < \"$1\"; }\nspoil() { echo mine > \"$1\"; }\n\
         peek \"$run/../../../identity.json\" && log out\n\
         peek \"$run/../../../../secret\" && log out\n\
         peek \"$run/../../other/spec.json\" && log out\n\
         spoil \"$run/../../other/spec.json\" && log out\n\
         spoil \"$run/../attempt-1.spool\" && log out\n\
         spoil \"$run/../../../../data/data.yaml\" && log out\n\
         kill -9 $PPID && log out\n\
         peek \"$spec\" && spoil \"$run/own\" && peek \"$run/../../../../data/data.yaml\" && log inside\n\
         log end\nexit 64\n",
    );
    fs::create_dir_all(world.path("agent/jobs/other")).unwrap();
    for name in ["agent/jobs/other/spec.json", "secret"] {
        fs::write(world.path(name), "of others\n").unwrap();
    }
    let mut stub = Stub::start().await;
    let _agent = world.agent_with(&stub, &[], &CONFINED);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let mut told = Vec::new();
    while told.last().is_none_or(|last| last != "end") {
        told.push(stub.log_line("").await);
    }
    let told: Vec<&str> =
        told.iter().map(String::as_str).filter(|line| ["out", "inside", "end"].contains(line)).collect();
    assert_eq!(told, ["inside", "end"], "{}", world.log());
    assert_eq!(fs::read_to_string(world.path("agent/jobs/other/spec.json")).unwrap(), "of others\n");
}

#[tokio::test]
async fn after_a_kill_the_agents_successor_ends_what_its_trainers_left_running() {
    // The grandchild has left the group, and no parent's death reaches it.
    let world = World::new(
        "setsid sh -c 'exec 9> \"$0/../../../../alive\"; tail -f /dev/null' \"$run\" &\n\
         while [ ! -e \"$run/../../../../seen\" ]; do read -r line < \"$run/../../../../hold\"; done\nlog up\nhold\n",
    );
    let mut stub = Stub::start().await;
    let mut agent = world.agent(&stub, &[]);
    let alive = held(world.path("alive"));
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let alive = alive.await.unwrap();
    let draft = world.path("agent/jobs").join(attempt(1).job.to_string()).join("run/checkpoints/.step-2.tmp");
    fs::create_dir_all(&draft).unwrap();
    agent.kill();
    let agent = world.agent(&stub, &[]);
    stub.hello().await;
    until_nobody_holds(alive).await;
    assert!(world.log().contains("left processes behind: they were killed"), "{}", world.log());
    assert!(!draft.exists(), "drafts are removed");
    drop(agent);
}

#[tokio::test]
async fn a_control_group_holds_all_that_a_trainer_starts() {
    let Some(root) = cgroup::own_and_above().pop() else {
        eprintln!("NOT TESTED: this machine has no control groups of version 2");
        return;
    };
    let name = format!("trainyard-test-{}", std::process::id());
    let group = match root.create(&name) {
        Ok(group) => group,
        Err(error) => {
            eprintln!("NOT TESTED: no control group can be made here: {error}");
            return;
        }
    };
    // Neither its session nor its environment tells whose it is.
    let world = World::new(
        "log \"in $(grep ^0:: /proc/self/cgroup)\"\n\
         setsid env -i sh -c 'exec 9> \"$0/../../../../alive\"; tail -f /dev/null' \"$run\" &\n\
         read -r line < \"$run/../../../../hold\"\nfinish\n",
    );
    let mut stub = Stub::start().await;
    let agent = world.agent(&stub, &["--cgroup", group.folder().to_str().unwrap()]);
    let alive = held(world.path("alive"));
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let place = stub.log_line("in ").await;
    assert!(place.ends_with(&format!("{name}/trainer-{}-1", attempt(1).job)), "{place}");
    let alive = alive.await.unwrap();
    let hold = world.path("hold");
    tokio::task::spawn_blocking(move || fs::write(hold, "on\n").unwrap()).await.unwrap();
    loop {
        if let ReportBody::Ended(ended) = stub.report().await.body {
            assert_eq!(ended.reason, EndReason::Completed, "{}", world.log());
            break;
        }
    }
    until_nobody_holds(alive).await;
    assert_eq!(group.children(), [], "the group is removed");
    drop(agent);
    group.remove().unwrap();
}

#[tokio::test]
async fn a_trainer_gets_the_environment_that_it_needs_and_not_the_agents() {
    let world = World::new("log \"has $(env | cut -d= -f1 | sort | tr '\\n' ' ')\"\nhold\n");
    let mut stub = Stub::start().await;
    let variables =
        [("LC_ALL", "xx_XX.UTF-8"), ("LANG", "xx_XX"), ("YARD_TOKEN", "secret"), ("OMP_NUM_THREADS", "3")];
    let _agent = world.agent_with(&stub, &[], &variables);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let line = stub.log_line("has ").await;
    let names: Vec<&str> = line.split(' ').collect();
    for needed in ["PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "OMP_WAIT_POLICY"] {
        assert!(names.contains(&needed), "{needed} is not in {line}");
    }
    for other in ["LC_ALL", "LANG", "YARD_TOKEN", "FAKE_NVML_STATE", "TRAINYARD_AGENT__METRICS_LISTEN"] {
        assert!(!names.contains(&other), "{other} is in {line}");
    }
}

#[tokio::test]
async fn two_gpus_train_two_jobs_at_once_each_seeing_only_its_own() {
    let world = World::new("log \"sees $CUDA_VISIBLE_DEVICES by $CUDA_DEVICE_ORDER\"\nhold\n");
    let gpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fake-nvml/gpus.json");
    fs::copy(gpus, world.path("gpus.json")).unwrap();
    let library = std::env::current_exe().unwrap().with_file_name("libfake_nvml.so");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &["--nvml-library", library.to_str().unwrap()]);
    let gpus = stub.hello().await.inventory.gpus;
    for (number, gpu) in gpus.iter().take(2).enumerate() {
        let job = JobId(Uuid::from_u128(100 + number as u128));
        let slot = Slot::Gpu(gpu.uuid.clone());
        stub.assign(AttemptId { job, number: 1 }, &world.data(), slot, None).await;
    }
    // Neither ends, so both lines mean that both live.
    let mut seen = vec![stub.log_line("sees ").await, stub.log_line("sees ").await];
    seen.sort();
    let mut wanted: Vec<String> =
        gpus.iter().take(2).map(|gpu| format!("{} by PCI_BUS_ID", gpu.uuid)).collect();
    wanted.sort();
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn after_main_memory_ran_out_a_job_comes_back_with_half_its_workers() {
    let world = World::new(
        "if [ -e \"$run/../killed.json\" ]; then log \"again with $(tr -d ' \\n\"' < \"$spec\")\"; finish; exit 0; fi\n\
         echo 'memory allocation of 4096 bytes failed' >&2\nexit 134\n",
    );
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let (reports, ended) = stub.reports_to_the_end(1).await;
    assert_eq!(ended.reason, EndReason::HostOom, "{ended:?}");
    let chosen = |reports: &[trainyard_types::Report]| {
        reports.iter().find_map(|report| match &report.body {
            ReportBody::BatchChosen(chosen) => Some(chosen.batch_size),
            _ => None,
        })
    };
    assert_eq!(chosen(&reports), Some(16));
    stub.assign(attempt(2), &world.data(), CPU, None).await;
    let (reports, ended) = stub.reports_to_the_end(1).await;
    assert_eq!(ended.reason, EndReason::Completed, "{}", world.log());
    let text = format!("{reports:?}");
    assert!(text.contains("because the kernel killed this job's trainer for want of memory with "), "{text}");
    assert!(text.contains("workers:4,") || text.contains("workers:1,"), "{text}");
    assert_eq!(chosen(&reports), Some(12), "on a CPU the batch lies in main memory, too");
}
