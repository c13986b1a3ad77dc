//! Why a job waits, in words.

use std::time::Duration;

use trainyard_types::{EndReason, JobSpec, Resources};

use crate::world::{World, attempt, cpu_spec, ended, hello, job, rtx_4090, rtx_5070, spec};

fn wants(gpu_models: &[&str], min_vram_mib: u64) -> JobSpec {
    let gpu_models = gpu_models.iter().map(|&model| model.to_owned()).collect();
    JobSpec { resources: Resources { gpu_models, min_vram_mib, ..Resources::default() }, ..spec() }
}

fn reason(world: &World, number: u128) -> String {
    world.core.waiting(world.now, job(number)).unwrap().reason
}

#[test]
fn a_job_waits_for_the_first_agent() {
    let mut world = World::new();
    world.submit(1, spec());
    assert_eq!(reason(&world, 1), "no agent is connected");
}

#[test]
fn a_job_that_no_gpu_can_ever_run_says_what_there_is() {
    let mut world = World::new();
    world.connect(hello(1, vec![rtx_5070("a")], 0, vec![]));
    world.submit(1, wants(&[], 20480));
    let largest = "no agent has one (the largest is NVIDIA GeForce RTX 5070 with 12 GB)";
    assert_eq!(reason(&world, 1), format!("needs a GPU with at least 20 GB; {largest}"));
    world.submit(2, wants(&["4090", "H100"], 8000));
    assert_eq!(
        reason(&world, 2),
        format!("needs a GPU with model 4090 or h100 and at least 8 GB; {largest}")
    );
    world.submit(3, cpu_spec());
    assert_eq!(reason(&world, 3), "needs a CPU slot; no agent offers one (set `cpu_slots` of an agent)");
}

#[test]
fn a_job_for_a_gpu_says_when_there_is_none_at_all() {
    let mut world = World::with_cpu_agent();
    world.submit(1, spec());
    assert_eq!(reason(&world, 1), "needs a GPU; no agent has a GPU");
}

#[test]
fn a_job_waits_for_busy_gpus_and_for_those_ahead() {
    let mut world = World::new();
    world.connect(hello(1, vec![rtx_4090("a")], 0, vec![]));
    for number in 1..=4 {
        world.submit(number, spec());
    }
    assert_eq!(reason(&world, 2), "waits for the only GPU that fits; it is busy");
    assert_eq!(reason(&world, 3), "waits for the only GPU that fits; it is busy; 1 job is ahead");
    assert_eq!(reason(&world, 4), "waits for the only GPU that fits; it is busy; 2 jobs are ahead");
    assert_eq!(world.core.waiting(world.now, job(4)).unwrap().position, 3);
    world.connect(hello(2, vec![rtx_4090("b")], 0, vec![]));
    assert_eq!(reason(&world, 3), "waits for one of 2 GPUs that fit; both are busy");
    world.connect(hello(3, vec![rtx_4090("c")], 0, vec![]));
    assert_eq!(reason(&world, 4), "waits for one of 3 GPUs that fit; all are busy");
}

#[test]
fn a_job_whose_gpu_is_away_says_whose() {
    let mut world = World::with_cpu_agent();
    world.connect(hello(2, vec![rtx_4090("a")], 0, vec![]));
    world.disconnect(2);
    world.submit(1, wants(&["4090"], 0));
    assert_eq!(reason(&world, 1), "needs a GPU with model 4090; agent `lab-2` has one, but is not connected");
}

#[test]
fn a_job_whose_gpu_failed_says_so() {
    let mut world = World::new();
    world.connect(hello(1, vec![rtx_4090("a")], 0, vec![]));
    world.submit(1, spec());
    world.report(attempt(1, 1), ended(EndReason::GpuFault));
    assert_eq!(
        reason(&world, 1),
        "the only GPU that would do is in cooldown after a fault: GPU 0 of `lab-1`, until 00:21:40 UTC"
    );
}

#[test]
fn a_job_that_crashed_says_when_it_is_tried_again() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    world.report(attempt(1, 1), ended(EndReason::TrainerCrash));
    world.now = world.now + Duration::from_millis(1500);
    // The test's time begins at 00:16:40.
    assert_eq!(reason(&world, 1), "retries at 00:16:50 UTC, in 9 s");
}

#[test]
fn only_queued_jobs_wait() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    assert_eq!(world.core.waiting(world.now, job(1)), None);
    assert_eq!(world.core.waiting(world.now, job(2)), None);
}
