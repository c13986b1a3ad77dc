//! Which job goes where, and first.

use trainyard_types::{EndReason, Gpu, JobSpec, JobState, Resources};

use crate::world::{World, attempt, commands, cpu_spec, ended, gpu, hello, rtx_4090, rtx_5070, spec};

fn wants(gpu_models: &[&str], min_vram_mib: u64) -> JobSpec {
    let gpu_models = gpu_models.iter().map(|&model| model.to_owned()).collect();
    JobSpec { resources: Resources { gpu_models, min_vram_mib, ..Resources::default() }, ..spec() }
}

fn lab(gpus: Vec<Gpu>) -> World {
    let mut world = World::new();
    world.connect(hello(1, gpus, 1, vec![]));
    world
}

/// Where the first attempt went; `None` while the job waits.
fn device(world: &World, number: u128) -> Option<&str> {
    world.record(number).attempts.first().map(|attempt| attempt.device.as_str())
}

#[test]
fn the_smallest_gpu_that_fits_is_used() {
    let gpus = || vec![rtx_4090("a"), rtx_5070("b"), gpu("c", 2, "NVIDIA GeForce RTX 4060", 8188)];
    let cases = [
        (0, "NVIDIA GeForce RTX 4060"),
        (8192, "NVIDIA GeForce RTX 4060"),
        (8193, "NVIDIA GeForce RTX 5070"),
        (12288, "NVIDIA GeForce RTX 5070"),
        (20480, "NVIDIA GeForce RTX 4090"),
        (24576, "NVIDIA GeForce RTX 4090"),
    ];
    for (min_vram_mib, gpu) in cases {
        let mut world = lab(gpus());
        world.submit(1, wants(&[], min_vram_mib));
        assert_eq!(device(&world, 1), Some(gpu), "{min_vram_mib}");
    }
    let mut world = lab(gpus());
    world.submit(1, wants(&[], 24577));
    assert_eq!(device(&world, 1), None);
}

#[test]
fn a_model_is_matched_by_its_words() {
    let mut world = lab(vec![rtx_4090("a"), rtx_5070("b")]);
    world.submit(1, wants(&["4090 Ti"], 0));
    world.submit(2, wants(&["3090", "rtx 4090"], 0));
    assert_eq!((device(&world, 1), device(&world, 2)), (None, Some("NVIDIA GeForce RTX 4090")));
}

#[test]
fn cpu_jobs_use_cpu_slots_and_gpu_jobs_never_do() {
    let mut world = lab(vec![]);
    world.submit(1, spec());
    world.submit(2, cpu_spec());
    assert_eq!((device(&world, 1), device(&world, 2)), (None, Some("CPU")));
}

#[test]
fn equal_gpus_go_by_agent_name_and_then_by_index() {
    let mut world = World::new();
    world.connect(hello(2, vec![gpu("c", 0, "A", 8192), gpu("b", 1, "A", 8192)], 0, vec![]));
    world.connect(hello(1, vec![gpu("z", 3, "B", 8192)], 0, vec![]));
    for number in 1..=3 {
        world.submit(number, spec());
    }
    let places: Vec<(&str, String)> = (1..=3)
        .map(|number| &world.record(number).attempts[0])
        .map(|attempt| (attempt.agent_name.as_str(), format!("{:?}", attempt.slot)))
        .collect();
    assert_eq!(
        places,
        [
            ("lab-1", "Gpu(GpuUuid(\"GPU-z\"))".to_owned()),
            ("lab-2", "Gpu(GpuUuid(\"GPU-c\"))".to_owned()),
            ("lab-2", "Gpu(GpuUuid(\"GPU-b\"))".to_owned())
        ]
    );
}

#[test]
fn higher_priority_goes_first_and_then_the_earlier_submission() {
    let mut world = World::new();
    for (number, priority) in [(1, 0), (2, 0), (3, 5), (4, -1), (5, 5)] {
        world.submit(number, JobSpec { priority, ..cpu_spec() });
    }
    let output = world.connect(hello(1, vec![], 4, vec![]));
    assert_eq!(
        commands(&output),
        ["assign 3/1 to 1", "assign 5/1 to 1", "assign 1/1 to 1", "assign 2/1 to 1"]
    );
}

#[test]
fn a_job_that_nothing_fits_does_not_hold_up_those_behind_it() {
    let mut world = lab(vec![rtx_5070("a")]);
    world.submit(1, JobSpec { priority: 100, ..wants(&["H100"], 0) });
    world.submit(2, JobSpec { priority: 50, ..wants(&[], 20480) });
    world.submit(3, spec());
    assert_eq!((device(&world, 1), device(&world, 2)), (None, None));
    assert_eq!(device(&world, 3), Some("NVIDIA GeForce RTX 5070"));
}

#[test]
fn a_requeued_job_keeps_its_place_before_later_ones() {
    let mut world = lab(vec![]);
    for number in 1..=3 {
        world.submit(number, cpu_spec());
    }
    let output = world.report(attempt(1, 1), ended(EndReason::Preempted));
    assert_eq!(commands(&output), ["ack 1/1 #1 to 1", "assign 1/2 to 1"]);
    assert_eq!(world.record(2).state, JobState::Queued);
}

#[test]
fn gpus_are_shared_out_among_different_requests_in_the_order_of_the_queue() {
    let mut world = World::new();
    world.submit(1, wants(&[], 20480));
    world.submit(2, spec());
    world.submit(3, wants(&["4090"], 0));
    world.submit(4, spec());
    let output = world.connect(hello(1, vec![rtx_4090("a"), rtx_4090("b"), rtx_5070("c")], 0, vec![]));
    assert_eq!(commands(&output), ["assign 1/1 to 1", "assign 2/1 to 1", "assign 3/1 to 1"]);
    assert_eq!(device(&world, 2), Some("NVIDIA GeForce RTX 5070"));
}
