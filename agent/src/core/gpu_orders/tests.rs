//! Attempts whose GPU is taken away, by its owner or by a failure.

use trainyard_types::trainer::exit_code;
use trainyard_types::{Assignment, BatchChosen, JobId, JobSpec, ModelScale, ReportBody, TrainSpec};
use uuid::Uuid;

use super::*;
use crate::core::Limits;
use crate::message::{Event, Exit, ExitKind, Prepared};

fn gpu() -> GpuUuid {
    GpuUuid("GPU-1".into())
}

fn id(job: u128) -> AttemptId {
    AttemptId { job: JobId(Uuid::from_u128(job)), number: 1 }
}

fn assignment(job: u128) -> Box<Assignment> {
    let spec = JobSpec::new(TrainSpec::new(ModelScale::N, "/d/data.yaml"));
    Box::new(Assignment { attempt: id(job), spec, slot: Slot::Gpu(gpu()), resume: None })
}

/// A core whose attempt of job 1 trains on the GPU.
fn running() -> Core {
    let limits = Limits {
        stop_grace: Duration::from_secs(30),
        shutdown_grace: Duration::from_secs(90),
        checkpoint_upload_every: Duration::from_secs(300),
        stall_after: Duration::from_secs(300),
    };
    let mut core = Core::new(limits);
    core.handle(Time(0), Event::Connected);
    core.handle(Time(0), Event::Assigned(assignment(1)));
    core.handle(Time(0), Event::Prepared(id(1), Ok(prepared())));
    core
}

fn prepared() -> Prepared {
    Prepared {
        chosen: BatchChosen { batch_size: 16, layers: Vec::new() },
        lines: Vec::new(),
        measure_memory: false,
        workers: 8,
        most_workers: 8,
        advice: String::new(),
    }
}

fn vacate(within_s: u64) -> Event {
    let within = Duration::from_secs(within_s);
    Event::Gpu(GpuOrder::Vacate { gpu: gpu(), within, message: "its owner uses it".into() })
}

fn fail(reason: EndReason, at_once: bool) -> Event {
    Event::Gpu(GpuOrder::Fail { gpu: gpu(), reason, message: "XID 79".into(), at_once })
}

fn exited(kind: ExitKind) -> Event {
    let exit = Exit {
        kind,
        out_of_memory_kill: false,
        stderr_tail: "CUDA error".into(),
        bad_lines: 0,
        gpu_was_full: false,
        gpu_taken: None,
        disk_is_short: false,
    };
    Event::Exited(id(1), exit)
}

fn ended(out: &[Command]) -> Option<(EndReason, &str)> {
    out.iter().find_map(|command| match command {
        Command::Report(_, _, ReportBody::Ended(ended)) => Some((ended.reason, ended.message.as_str())),
        _ => None,
    })
}

#[test]
fn an_owner_gets_a_checkpoint_written_and_the_gpu_within_the_time() {
    let mut core = running();
    assert_eq!(core.handle(Time(1000), vacate(20)), [Command::Terminate(id(1))]);
    assert_eq!(core.next_deadline(), Some(Time(21_000)));
    let out = core.handle(Time(5000), exited(ExitKind::Code(exit_code::STOPPED)));
    assert_eq!(ended(&out), Some((EndReason::Preempted, "its owner uses it; stopped with a checkpoint")));
}

#[test]
fn a_trainer_that_does_not_leave_in_time_is_killed_and_its_attempt_still_goes_for_free() {
    let mut core = running();
    core.handle(Time(1000), vacate(20));
    assert_eq!(core.handle(Time(21_000), Event::Tick), [Command::Kill(id(1))]);
    let out = core.handle(Time(21_100), exited(ExitKind::Signal(9)));
    assert_eq!(ended(&out).unwrap().0, EndReason::Preempted);
}

#[test]
fn an_owner_shortens_a_stop_that_is_under_way_and_never_lengthens_it() {
    let mut core = running();
    core.handle(Time(0), Event::Stop { attempt: id(1), reason: EndReason::Drained, grace: None });
    core.handle(Time(1000), vacate(60));
    assert_eq!(core.next_deadline(), Some(Time(30_000)));
    core.handle(Time(2000), vacate(5));
    assert_eq!(core.next_deadline(), Some(Time(7000)));
}

#[test]
fn a_stop_with_a_grace_of_its_own_is_held_to_it() {
    let mut core = running();
    let grace = Some(Duration::from_secs(7));
    core.handle(Time(1000), Event::Stop { attempt: id(1), reason: EndReason::Preempted, grace });
    assert_eq!(core.next_deadline(), Some(Time(8000)));
}

#[test]
fn a_closed_gpu_refuses_attempts_that_crossed_with_the_news() {
    let mut core = running();
    let refusal = Refusal::new(EndReason::Preempted, "its owner uses it");
    core.handle(Time(0), Event::GpusClosed([(gpu(), refusal)].into()));
    let out = core.handle(Time(0), Event::Assigned(assignment(2)));
    assert_eq!(ended(&out), Some((EndReason::Preempted, "its owner uses it")));
    core.handle(Time(0), Event::GpusClosed([].into()));
    assert_eq!(core.handle(Time(0), Event::Assigned(assignment(3))), []);
}

#[test]
fn an_attempt_that_waits_or_prepares_leaves_at_once() {
    let mut core = running();
    core.handle(Time(0), Event::Assigned(assignment(2)));
    let out = core.handle(Time(0), vacate(20));
    let ends = |out: &[Command], job| {
        out.iter()
            .any(|command| matches!(command, Command::Report(of, _, ReportBody::Ended(_)) if *of == id(job)))
    };
    assert!(ends(&out, 2) && !ends(&out, 1), "{out:?}");
}

#[test]
fn on_a_gpu_that_failed_the_trainer_is_killed_and_its_words_do_not_count() {
    let mut core = running();
    assert_eq!(core.handle(Time(0), fail(EndReason::GpuFault, true)), [Command::Kill(id(1))]);
    assert_eq!(core.handle(Time(0), fail(EndReason::GpuFault, true)), []);
    let out = core.handle(Time(10), exited(ExitKind::Code(exit_code::INTERNAL)));
    assert_eq!(ended(&out), Some((EndReason::GpuFault, "XID 79")));
}

#[test]
fn a_jobs_own_fault_ends_it_with_the_drivers_word_after_a_try_to_save() {
    let mut core = running();
    assert_eq!(core.handle(Time(0), fail(EndReason::TrainerCrash, false)), [Command::Terminate(id(1))]);
    let out = core.handle(Time(10), exited(ExitKind::Signal(6)));
    assert_eq!(ended(&out), Some((EndReason::TrainerCrash, "XID 79")));
}

#[test]
fn what_the_driver_tells_late_of_a_trainer_that_is_gone_is_not_held_against_the_next_one() {
    let mut core = running();
    core.handle(Time(0), Event::Assigned(assignment(2)));
    let mut ended = core.handle(Time(1000), exited(ExitKind::Code(exit_code::INTERNAL)));
    assert!(matches!(ended.pop(), Some(Command::Prepare(_))), "{ended:?}");
    // Nothing of it runs yet, and then it has just begun.
    assert_eq!(core.handle(Time(2000), fail(EndReason::TrainerCrash, false)), []);
    core.handle(Time(3000), Event::Prepared(id(2), Ok(prepared())));
    assert_eq!(core.handle(Time(10_000), fail(EndReason::TrainerCrash, false)), []);
    assert_eq!(core.handle(Time(11_000), fail(EndReason::TrainerCrash, false)), [Command::Terminate(id(2))]);
}

#[test]
fn a_failed_gpu_ends_what_is_prepared_for_it_whoever_was_there_before() {
    let mut core = running();
    core.handle(Time(0), Event::Assigned(assignment(2)));
    core.handle(Time(1000), exited(ExitKind::Code(exit_code::INTERNAL)));
    let out = core.handle(Time(2000), fail(EndReason::GpuFault, true));
    assert_eq!(ended(&out), Some((EndReason::GpuFault, "XID 79")));
}

#[test]
fn a_disk_that_is_short_refuses_attempts_that_crossed_with_the_news() {
    let mut core = running();
    core.handle(Time(0), Event::DiskShort(Some("the disk has 3 MiB free".into())));
    let out = core.handle(Time(0), Event::Assigned(assignment(2)));
    assert_eq!(ended(&out), Some((EndReason::Preempted, "the disk has 3 MiB free")));
    core.handle(Time(0), Event::DiskShort(None));
    assert_eq!(core.handle(Time(0), Event::Assigned(assignment(3))), []);
}

#[test]
fn a_trainer_that_hangs_in_the_driver_is_given_up_on_and_its_late_death_changes_nothing() {
    let mut core = running();
    core.handle(Time(0), fail(EndReason::GpuFault, true));
    assert_eq!(core.next_deadline(), Some(Time(30_000)));
    let out = core.handle(Time(30_000), Event::Tick);
    let (reason, message) = ended(&out).unwrap();
    assert_eq!(reason, EndReason::GpuFault);
    assert!(message.contains("hangs in the kernel"), "{message}");
    let Some(Command::CloseStuckSlots(stuck)) = out.first() else { panic!("{out:?}") };
    assert!(stuck[0].0 == Slot::Gpu(gpu()) && stuck[0].1.contains("does not end"), "{stuck:?}");
    // Its slot takes nobody until it is gone.
    let out = core.handle(Time(31_000), Event::Assigned(assignment(2)));
    assert_eq!(ended(&out).unwrap().0, EndReason::Preempted);
    assert_eq!(
        core.handle(Time(90_000), exited(ExitKind::Signal(9))),
        [Command::CloseStuckSlots(Vec::new())]
    );
    assert_eq!(core.handle(Time(91_000), Event::Assigned(assignment(3))).len(), 1);
}

#[test]
fn a_training_that_was_done_before_its_gpu_failed_is_done() {
    let mut core = running();
    let finished = trainyard_types::trainer::Finished {
        best_epoch: 1,
        metrics: [].into(),
        artifacts: vec!["weights/best.safetensors".into()],
    };
    let line = trainyard_types::trainer::TrainerEvent::Finished(finished);
    core.handle(Time(0), Event::Line(id(1), Time(0), line));
    core.handle(Time(0), fail(EndReason::TrainerCrash, false));
    let out = core.handle(Time(10), exited(ExitKind::Code(exit_code::DONE)));
    assert!(matches!(out[..], [.., Command::UploadArtifacts(..)]), "{out:?}");
}
