//! Memory that runs out: a GPU's, the machine's, a disk's.

use trainyard_types::trainer::{BatchSizeChanged, MemoryMeasured, Phase, Step, TrainerControl};

use super::*;
use crate::host::loader_workers::HostOomRecord;

#[test]
fn what_tells_of_memory_is_learned_from() {
    let mut world = Running::new();
    let changed = BatchSizeChanged { from: 32, to: 24, message: String::new(), phase: Phase::Forward };
    for event in [TrainerEvent::BatchSize(changed), TrainerEvent::Memory(MemoryMeasured::default())] {
        assert_eq!(world.line(1, event.clone()), [Command::UpdateFitRecords(world.a, event)]);
    }
}

#[test]
fn a_process_that_the_gpus_memory_ended_is_followed_by_one_with_a_smaller_batch() {
    let cases = [
        (ExitKind::Code(76), "", ""),
        (ExitKind::Code(70), "libtorch failed: CUDA out of memory. Tried to allocate 2.00 GiB", ""),
        (ExitKind::Signal(6), "", "terminate called: CUDNN_STATUS_ALLOC_FAILED"),
    ];
    for (kind, told, stderr) in cases {
        let mut world = Running::new();
        world.line(
            1,
            TrainerEvent::BatchSize(BatchSizeChanged {
                from: 16,
                to: 12,
                message: String::new(),
                phase: Phase::Forward,
            }),
        );
        if !told.is_empty() {
            world.fail(told);
        }
        let exit = Exit { stderr_tail: stderr.into(), ..exit(kind) };
        let out = world.core.handle(Time(2), Event::Exited(world.a, exit));
        let [Command::Report(_, _, told), Command::UpdateFitRecords(..), Command::Spawn(_, again)] = &out[..]
        else {
            panic!("{kind:?}: {out:?}")
        };
        let ReportBody::Trainer(TrainerEvent::BatchSize(changed)) = told else { panic!("{told:?}") };
        assert_eq!((changed.from, changed.to, again.chosen.batch_size), (12, 8, 8));
        // What comes next is judged by itself.
        assert_eq!(ended(&world.exited(3, ExitKind::Code(70))).unwrap().0, EndReason::TrainerCrash);
    }
}

/// The end of a trainer that died without a word to the agent.
fn died(stderr: &str, gpu_was_full: bool) -> Exit {
    Exit { stderr_tail: stderr.into(), gpu_was_full, ..exit(ExitKind::Signal(6)) }
}

const AMBIGUOUS: &str = "terminate called: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED";

#[test]
fn what_is_also_said_for_want_of_memory_counts_as_that_where_the_gpu_was_full() {
    let mut world = Running::new();
    let out = world.core.handle(Time(2), Event::Exited(world.a, died(AMBIGUOUS, true)));
    let Some(Command::Spawn(_, again)) = out.last() else { panic!("{out:?}") };
    assert_eq!(again.chosen.batch_size, 12);
    let mut world = Running::new();
    let out = world.core.handle(Time(2), Event::Exited(world.a, died(AMBIGUOUS, false)));
    assert_eq!(ended(&out).unwrap().0, EndReason::TrainerCrash, "there was room");
    // A trainer that tells has asked its allocator.
    let mut world = Running::new();
    world.fail("libtorch failed: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED");
    let exit = Exit { gpu_was_full: true, ..exit(ExitKind::Code(70)) };
    let out = world.core.handle(Time(2), Event::Exited(world.a, exit));
    assert_eq!(ended(&out).unwrap().0, EndReason::TrainerCrash);
}

#[test]
fn a_broken_gpu_that_is_full_does_not_lead_a_job_down_to_one_image() {
    let mut world = Running::new();
    for batch_size in [12, 8, 6] {
        let out = world.core.handle(Time(2), Event::Exited(world.a, died(AMBIGUOUS, true)));
        let Some(Command::Spawn(_, again)) = out.last() else { panic!("{out:?}") };
        assert_eq!(again.chosen.batch_size, batch_size);
    }
    let out = world.core.handle(Time(2), Event::Exited(world.a, died(AMBIGUOUS, true)));
    assert_eq!(ended(&out).unwrap().0, EndReason::TrainerCrash);
    // A guess never says that the GPU is too small.
    let mut world = Running::new();
    world.line(1, smaller(16, 1));
    let out = world.core.handle(Time(2), Event::Exited(world.a, died(AMBIGUOUS, true)));
    assert_eq!(ended(&out).unwrap().0, EndReason::TrainerCrash);
}

#[test]
fn at_batch_1_the_gpu_is_too_small_and_the_user_is_told_what_would_fit() {
    let mut world = Running::new();
    for to in [12, 8, 6, 4, 3, 2, 1] {
        let out = world.exited(1, ExitKind::Code(76));
        let Some(Command::Spawn(_, prepared)) = out.last() else { panic!("{out:?}") };
        assert_eq!(prepared.chosen.batch_size, to);
    }
    let wanted = "the GPU's memory is too small even for batch 1: what should fit: yolov8n";
    assert_eq!(ended(&world.exited(1, ExitKind::Code(76))), Some((EndReason::GpuOom, wanted.into())));
    // A trainer that gives advice itself is not contradicted.
    let mut world = Running::new();
    world.line(1, smaller(2, 1));
    world.fail("too small even for batch 1; what would fit: `imgsz` 320");
    let wanted = "too small even for batch 1; what would fit: `imgsz` 320";
    assert_eq!(ended(&world.exited(1, ExitKind::Code(76))), Some((EndReason::GpuOom, wanted.into())));
}

fn smaller(from: u32, to: u32) -> TrainerEvent {
    TrainerEvent::BatchSize(BatchSizeChanged { from, to, message: String::new(), phase: Phase::Backward })
}

#[test]
fn a_trainer_that_asks_for_a_new_process_gets_one_with_the_batch_that_it_told() {
    // With `bn_group` batches stay as they are.
    for to in [12, 16] {
        let mut world = Running::new();
        world.line(1, smaller(16, to));
        world.fail("ran out again");
        let out = world.exited(2, ExitKind::Code(77));
        let [Command::Spawn(_, again)] = &out[..] else { panic!("the user was told already: {out:?}") };
        assert_eq!(again.chosen.batch_size, to);
    }
}

#[test]
fn new_processes_end_when_no_epoch_comes_of_them_and_what_trained_is_not_called_too_large() {
    let mut world = Running::new();
    let again = |world: &mut Running| {
        let out = world.exited(2, ExitKind::Code(77));
        assert!(matches!(&out[..], [Command::Spawn(..)]), "{out:?}");
    };
    (0..3).for_each(|_| again(&mut world));
    world.line(3, TrainerEvent::Epoch(Epoch::default()));
    (0..3).for_each(|_| again(&mut world));
    assert_eq!(ended(&world.exited(4, ExitKind::Code(77))).unwrap().0, EndReason::TrainerCrash);
    let mut world = Running::new();
    world.line(1, TrainerEvent::Step(Step::default()));
    world.line(1, smaller(16, 1));
    assert_eq!(ended(&world.exited(2, ExitKind::Code(76))).unwrap().0, EndReason::TrainerCrash);
}

#[test]
fn where_others_have_taken_the_gpu_an_attempt_without_memory_moves_for_free() {
    for code in [76, 77] {
        let mut world = Running::new();
        world.line(1, smaller(16, 1));
        let gpu_taken = Some("others hold 9100 MiB on this GPU".into());
        let exit = Exit { gpu_taken, ..exit(ExitKind::Code(code)) };
        let out = world.core.handle(Time(2), Event::Exited(world.a, exit));
        let (reason, message) = ended(&out).unwrap();
        assert!(reason == EndReason::Preempted && message.contains("9100 MiB"), "{message}");
    }
}

#[test]
fn a_full_disk_is_no_crash_of_the_trainer() {
    let ends = |disk_is_short, said: &str| {
        let mut world = Running::new();
        world.fail(&format!("/d/results.csv: {said}"));
        let exit = Exit { disk_is_short, ..exit(ExitKind::Code(70)) };
        let mut out = world.core.handle(Time(2), Event::Exited(world.a, exit));
        out.extend(world.core.handle(Time(3), Event::DeviceTested(world.a)));
        ended(&out).unwrap()
    };
    let full = "No space left on device (os error 28)";
    assert_eq!(ends(true, full).0, EndReason::Preempted);
    assert_eq!(ends(false, full).0, EndReason::AgentUnfit, "what was half-written has gone with the trainer");
    assert_eq!(ends(false, "Disk quota exceeded (os error 122)").0, EndReason::AgentUnfit);
}

#[test]
fn neither_a_stop_nor_a_spec_that_cannot_be_met_is_answered_by_a_smaller_batch() {
    let mut world = Running::new();
    world.stop(EndReason::Preempted);
    let out = world.exited(1, ExitKind::Code(76));
    assert_eq!(ended(&out).unwrap().0, EndReason::Preempted);
    let mut world = Running::new();
    let violations = vec![trainyard_types::Violation::new("bn_group", "is 32")];
    world.line(1, TrainerEvent::Failed(Failed { message: "is 32".into(), violations, unfit: None }));
    assert_eq!(ended(&world.exited(1, ExitKind::Code(76))), Some((EndReason::GpuOom, "is 32".into())));
}

#[test]
fn main_memory_that_a_library_ran_out_of_is_told_from_a_crash() {
    let mut world = Running::new();
    world.fail("libtorch failed: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried");
    assert_eq!(ended(&world.exited(1, ExitKind::Code(70))).unwrap().0, EndReason::HostOom);
    let mut world = Running::new();
    let exit =
        Exit { stderr_tail: "memory allocation of 4096 bytes failed".into(), ..exit(ExitKind::Signal(6)) };
    let out = world.core.handle(Time(1), Event::Exited(world.a, exit));
    assert_eq!(ended(&out).unwrap().0, EndReason::HostOom);
}

fn reading(available_mib: u64) -> HostReading {
    HostReading { total_mib: 16_000, available_mib, stalled_ratio: 0.0, idle_ratio: 0.9 }
}

#[test]
fn when_main_memory_runs_out_a_running_trainer_is_asked_for_half_its_workers_before_the_kernel_acts() {
    let mut world = Running::new();
    let mut host = |second: u64, mib| world.core.handle(Time(second * 1000), Event::Host(reading(mib)));
    assert_eq!(host(1, 8000), []);
    assert_eq!(host(2, 300), []);
    let out = host(3, 300);
    let [Command::Report(_, _, told), control] = &out[..] else { panic!("{out:?}") };
    assert!(format!("{told:?}").contains("main memory runs out: 8 -> 4 loader workers"), "{told:?}");
    assert_eq!(*control, Command::Control(world.a, TrainerControl::Workers { workers: 4 }));
}

#[test]
fn while_the_device_waits_for_images_and_processors_are_idle_workers_are_added() {
    let mut world = Running::new();
    world.core.handle(Time(0), Event::Host(reading(8000)));
    let step = Step { loader_wait_ratio: 0.4, ..Step::default() };
    let asked = (1..60).find_map(|second| {
        let out = world.line(second * 1000, TrainerEvent::Step(step.clone()));
        (!out.is_empty()).then_some(out)
    });
    let out = asked.unwrap();
    assert_eq!(out[1], Command::Control(world.a, TrainerControl::Workers { workers: 12 }));
}

#[test]
fn a_trainer_that_the_kernel_killed_leaves_word_for_the_next() {
    let mut world = Running::new();
    let exit = Exit { out_of_memory_kill: true, ..exit(ExitKind::Signal(9)) };
    let out = world.core.handle(Time(1), Event::Exited(world.a, exit));
    assert_eq!(out[0], Command::SaveHostOom(world.a, HostOomRecord { workers: 8, batch_size: 16 }));
}
