//! The life of an attempt on a core that a test feeds with events: from its assignment to its end, and the agent's own end.

use std::path::PathBuf;

use trainyard_types::trainer::{CheckpointSaved, Epoch, Failed, Finished};
use trainyard_types::{
    Artifact, BatchChosen, Checkpoint, GpuUuid, JobId, JobSpec, ModelScale, SlotReleased, TrainSpec,
};
use uuid::Uuid;

use super::*;
use crate::message::ExitKind;

mod fetching;
mod machine;
mod memory;
mod pictures;

const LIMITS: Limits = Limits {
    stop_grace: Duration::from_secs(30),
    shutdown_grace: Duration::from_secs(90),
    checkpoint_upload_every: Duration::from_secs(300),
    stall_after: Duration::from_secs(300),
};

fn id(job: u128, number: u32) -> AttemptId {
    AttemptId { job: JobId(Uuid::from_u128(job)), number }
}

fn assignment(attempt: AttemptId, slot: Slot, resume: Option<u64>) -> Box<Assignment> {
    let spec = JobSpec::new(TrainSpec::new(ModelScale::N, "/d/data.yaml"));
    let resume = resume.map(checkpoint);
    Box::new(Assignment { attempt, spec, slot, resume })
}

fn checkpoint(step: u64) -> Checkpoint {
    Checkpoint { step, epoch: 1, files: Vec::new() }
}

fn saved(step: u64) -> CheckpointSaved {
    CheckpointSaved { step, epoch: 1, path: format!("checkpoints/step-{step:08}").into() }
}

fn gpu(name: &str) -> Slot {
    Slot::Gpu(GpuUuid(name.into()))
}

fn prepared(batch_size: u32) -> Prepared {
    let chosen = BatchChosen { batch_size, layers: Vec::new() };
    Prepared {
        chosen,
        lines: Vec::new(),
        measure_memory: true,
        workers: 8,
        most_workers: 12,
        advice: "what should fit: yolov8n".into(),
    }
}

fn exit(kind: ExitKind) -> Exit {
    Exit {
        kind,
        out_of_memory_kill: false,
        stderr_tail: String::new(),
        bad_lines: 0,
        gpu_was_full: false,
        gpu_taken: None,
        disk_is_short: false,
    }
}

fn ended(out: &[Command]) -> Option<(EndReason, String)> {
    out.iter().find_map(|command| match command {
        Command::Report(_, _, ReportBody::Ended(ended)) => Some((ended.reason, ended.message.clone())),
        _ => None,
    })
}

/// The report that a slot is free.
fn released(attempt: AttemptId, now: u64, waits_for: &str, is_trained: bool) -> Command {
    let released = SlotReleased { waits_for: waits_for.into(), is_trained };
    Command::Report(attempt, Time(now), ReportBody::SlotReleased(released))
}

/// A core whose attempt `a` runs.
struct Running {
    core: Core,
    a: AttemptId,
}

impl Running {
    fn new() -> Self {
        Self::with(Core::new(LIMITS), id(1, 1), gpu("GPU-1"))
    }

    fn with(mut core: Core, a: AttemptId, slot: Slot) -> Self {
        core.handle(Time(0), Event::Connected);
        let assignment = assignment(a, slot, None);
        let out = core.handle(Time(0), Event::Assigned(assignment.clone()));
        assert_eq!(out, [Command::Prepare(assignment.clone())]);
        let prepared = prepared(16);
        let out = core.handle(Time(0), Event::Prepared(a, Ok(prepared.clone())));
        let chosen = ReportBody::BatchChosen(prepared.chosen.clone());
        let wanted = [
            Command::Announce(Vec::new()),
            Command::Report(a, Time(0), chosen),
            Command::Spawn(assignment, prepared),
        ];
        assert_eq!(out, wanted);
        Self { core, a }
    }

    fn line(&mut self, now: u64, event: TrainerEvent) -> Vec<Command> {
        let out = self.core.handle(Time(now), Event::Line(self.a, Time(now), event.clone()));
        assert_eq!(out[0], Command::Report(self.a, Time(now), ReportBody::Trainer(event)));
        out[1..].to_vec()
    }

    fn exited(&mut self, now: u64, kind: ExitKind) -> Vec<Command> {
        self.core.handle(Time(now), Event::Exited(self.a, exit(kind)))
    }

    fn stop(&mut self, reason: EndReason) -> Vec<Command> {
        self.core.handle(Time(0), Event::Stop { attempt: self.a, reason, grace: None })
    }

    fn finish(&mut self) {
        let finished = Finished {
            best_epoch: 7,
            metrics: BTreeMap::new(),
            artifacts: vec!["weights/best.safetensors".into()],
        };
        self.line(1, TrainerEvent::Finished(finished));
    }

    fn fail(&mut self, message: &str) {
        let failed = Failed { message: message.into(), violations: Vec::new(), unfit: None };
        self.line(1, TrainerEvent::Failed(failed));
    }
}

#[test]
fn a_run_to_the_end_publishes_reports_and_is_forgotten_when_all_is_acknowledged() {
    let mut world = Running::new();
    world.finish();
    assert!(world.core.reads_data(world.a));
    let out = world.exited(2, ExitKind::Code(0));
    // The room of its data set may be another's before it is handed in.
    assert!(!world.core.reads_data(world.a) && world.core.held() == [world.a]);
    let artifacts = vec![PathBuf::from("weights/best.safetensors")];
    let hand_in = Finished { best_epoch: 7, metrics: BTreeMap::new(), artifacts: artifacts.clone() };
    let wanted = [
        Command::SaveHandIn(world.a, hand_in),
        released(world.a, 2, "", true),
        Command::UploadArtifacts(world.a, artifacts),
    ];
    assert_eq!(out, wanted);
    let artifact = Artifact { name: "weights/best.safetensors".into(), size_bytes: 1, sha256: "0".into() };
    let out = world.core.handle(Time(3), Event::ArtifactsUploaded(world.a, Ok(vec![artifact.clone()])));
    let Some(Command::Report(_, Time(3), ReportBody::Ended(ended))) = out.first() else { panic!("{out:?}") };
    assert_eq!((ended.reason, &ended.artifacts[..]), (EndReason::Completed, &[artifact][..]));
    assert_eq!(world.core.held(), [world.a]);
    let out = world.core.handle(Time(4), Event::AllAcked(world.a));
    assert_eq!(out, [Command::DropCheckpoints(world.a), Command::DropReports(world.a)]);
    assert_eq!(world.core.held(), []);
}

#[test]
fn every_exit_without_a_stop_has_its_reason() {
    let table = [
        (ExitKind::Code(0), EndReason::TrainerCrash, "never said that it had finished"),
        (ExitKind::Code(64), EndReason::BadSpec, "bad spec or data"),
        (ExitKind::Code(70), EndReason::TrainerCrash, "exit code 70"),
        (ExitKind::Code(75), EndReason::Drained, "stopped from outside"),
        (ExitKind::Code(101), EndReason::TrainerCrash, "exit code 101"),
        (ExitKind::Signal(9), EndReason::TrainerCrash, "SIGKILL ended"),
        (ExitKind::Signal(11), EndReason::TrainerCrash, "SIGSEGV ended"),
    ];
    for (kind, reason, text) in table {
        let (got, message) = ended(&Running::new().exited(1, kind)).unwrap();
        assert!(got == reason && message.contains(text), "{kind:?}: {got} {message}");
    }
}

#[test]
fn what_the_trainer_said_goes_before_what_its_exit_code_says() {
    let mut world = Running::new();
    world.fail("labels/a.txt line 3: class 9 of 3");
    let out = world.exited(1, ExitKind::Code(64));
    assert_eq!(ended(&out), Some((EndReason::BadSpec, "labels/a.txt line 3: class 9 of 3".into())));
}

#[test]
fn a_crash_is_told_with_the_last_words_of_standard_error() {
    let mut world = Running::new();
    let exit = Exit { stderr_tail: "panicked at x".into(), ..exit(ExitKind::Code(101)) };
    let out = world.core.handle(Time(1), Event::Exited(world.a, exit));
    assert!(ended(&out).unwrap().1.contains("panicked at x"));
}

#[test]
fn sigkill_counts_as_host_oom_only_with_evidence() {
    let mut world = Running::new();
    let exit = Exit { out_of_memory_kill: true, ..exit(ExitKind::Signal(9)) };
    let out = world.core.handle(Time(1), Event::Exited(world.a, exit));
    assert_eq!(ended(&out).unwrap().0, EndReason::HostOom);
}

#[test]
fn every_exit_after_a_stop_has_the_stops_reason_but_for_what_no_retry_can_help() {
    for reason in [EndReason::Cancelled, EndReason::Preempted, EndReason::Drained] {
        for kind in [ExitKind::Code(75), ExitKind::Code(70), ExitKind::Signal(15), ExitKind::Signal(9)] {
            let mut world = Running::new();
            assert_eq!(world.stop(reason), [Command::Terminate(world.a)]);
            assert_eq!(ended(&world.exited(1, kind)).unwrap().0, reason, "{kind:?}");
        }
    }
    let mut world = Running::new();
    world.stop(EndReason::Drained);
    assert_eq!(ended(&world.exited(1, ExitKind::Code(64))).unwrap().0, EndReason::BadSpec);
    // It was done before the signal reached it.
    let mut world = Running::new();
    world.finish();
    world.stop(EndReason::Drained);
    assert!(matches!(world.exited(1, ExitKind::Code(0))[..], [.., Command::UploadArtifacts(..)]));
    let mut world = Running::new();
    world.finish();
    world.stop(EndReason::Cancelled);
    assert_eq!(ended(&world.exited(1, ExitKind::Code(0))).unwrap().0, EndReason::Cancelled);
}

#[test]
fn a_trainer_that_ignores_sigterm_is_killed_after_the_grace_period() {
    let mut world = Running::new();
    world
        .core
        .handle(Time(1000), Event::Stop { attempt: world.a, reason: EndReason::Cancelled, grace: None });
    assert_eq!(world.core.next_deadline(), Some(Time(31_000)));
    assert_eq!(world.core.handle(Time(30_999), Event::Tick), []);
    assert_eq!(world.core.handle(Time(31_000), Event::Tick), [Command::Kill(world.a)]);
    assert_eq!(world.core.next_deadline(), Some(Time(61_000)), "when it is given up on");
    let (reason, message) = ended(&world.exited(31_001, ExitKind::Signal(9))).unwrap();
    assert!(reason == EndReason::Cancelled && message.contains("did not stop within"), "{message}");
}

#[test]
fn a_repeated_stop_signals_once_and_a_cancellation_outranks_a_drain() {
    let mut world = Running::new();
    assert_eq!(world.stop(EndReason::Drained), [Command::Terminate(world.a)]);
    assert_eq!(world.stop(EndReason::Drained), []);
    assert_eq!(world.stop(EndReason::Cancelled), []);
    assert_eq!(world.stop(EndReason::Preempted), []);
    assert_eq!(ended(&world.exited(1, ExitKind::Code(75))).unwrap().0, EndReason::Cancelled);
}

#[test]
fn a_stop_before_the_trainer_starts_ends_the_attempt_at_once() {
    let mut core = Core::new(LIMITS);
    core.handle(Time(0), Event::Assigned(assignment(id(1, 1), gpu("GPU-1"), None)));
    let out =
        core.handle(Time(1), Event::Stop { attempt: id(1, 1), reason: EndReason::Cancelled, grace: None });
    assert_eq!(out[0], Command::CancelTransfers(id(1, 1)));
    assert_eq!(ended(&out).unwrap().0, EndReason::Cancelled);
    // What preparation still tells is too late.
    let prepared = prepared(1);
    assert_eq!(core.handle(Time(2), Event::Prepared(id(1, 1), Ok(prepared))), []);
}

#[test]
fn a_refused_preparation_ends_the_attempt_with_its_message() {
    let mut core = Core::new(LIMITS);
    core.handle(Time(0), Event::Assigned(assignment(id(1, 1), gpu("GPU-1"), None)));
    let refusal = Refusal::new(EndReason::BadSpec, "outside");
    let out = core.handle(Time(1), Event::Prepared(id(1, 1), Err(refusal)));
    assert_eq!(ended(&out), Some((EndReason::BadSpec, "outside".into())));
}

#[test]
fn a_missing_trainer_ends_the_attempt_and_frees_the_slot() {
    let mut world = Running::new();
    let refusal = Refusal::new(EndReason::TrainerCrash, "no trainer");
    let out = world.core.handle(Time(1), Event::SpawnFailed(world.a, refusal));
    assert_eq!(ended(&out), Some((EndReason::TrainerCrash, "no trainer".into())));
    Running::with(world.core, id(2, 1), gpu("GPU-1"));
}

#[test]
fn a_revoked_attempt_is_killed_and_nothing_more_is_told_of_it() {
    let mut world = Running::new();
    let out = world.core.handle(Time(1), Event::Revoked(world.a));
    let wanted = [Command::CancelTransfers(world.a), Command::DropReports(world.a), Command::Kill(world.a)];
    assert_eq!(out, wanted);
    assert_eq!(world.core.held(), []);
    let line = Event::Line(world.a, Time(2), TrainerEvent::Checkpoint(saved(5)));
    assert_eq!(world.core.handle(Time(2), line), []);
    assert_eq!(world.exited(3, ExitKind::Signal(9)), []);
}

#[test]
fn the_slot_and_the_job_directory_of_a_dying_trainer_are_waited_for() {
    let mut world = Running::new();
    world.core.handle(Time(1), Event::Revoked(world.a));
    let same_slot = assignment(id(2, 1), gpu("GPU-1"), None);
    let same_job = assignment(id(1, 2), gpu("GPU-2"), None);
    let other = assignment(id(3, 1), gpu("GPU-3"), None);
    assert_eq!(world.core.handle(Time(1), Event::Assigned(same_slot.clone())), []);
    assert_eq!(world.core.handle(Time(1), Event::Assigned(same_job.clone())), []);
    let out = world.core.handle(Time(1), Event::Assigned(other.clone()));
    assert_eq!(out, [Command::Prepare(other)]);
    let out = world.exited(2, ExitKind::Signal(9));
    assert_eq!(out, [Command::Prepare(same_job), Command::Prepare(same_slot)]);
}

#[test]
fn a_repeated_assignment_changes_nothing() {
    let mut world = Running::new();
    let again = assignment(world.a, gpu("GPU-1"), None);
    assert_eq!(world.core.handle(Time(1), Event::Assigned(again)), []);
}

#[test]
fn checkpoints_are_uploaded_one_at_a_time_and_not_too_often() {
    let mut world = Running::new();
    let upload = |step| vec![Command::UploadCheckpoint(id(1, 1), saved(step))];
    let checkpoint_line = |step| TrainerEvent::Checkpoint(saved(step));
    assert_eq!(world.line(0, checkpoint_line(10)), upload(10));
    // Due by the clock, but one is on its way.
    assert_eq!(world.line(300_000, checkpoint_line(20)), []);
    let out = world.core.handle(Time(300_001), Event::CheckpointUploaded(world.a, Ok(checkpoint(10))));
    assert_eq!(out, [Command::Report(world.a, Time(300_001), ReportBody::CheckpointStored(checkpoint(10)))]);
    assert_eq!(world.line(300_002, checkpoint_line(30)), upload(30));
    world.core.handle(Time(300_003), Event::CheckpointUploaded(world.a, Ok(checkpoint(30))));
    assert_eq!(world.line(300_004, checkpoint_line(40)), []);
}

#[test]
fn a_drained_attempt_stores_its_newest_checkpoint_before_its_end_is_told() {
    for reason in [EndReason::Drained, EndReason::Preempted] {
        let mut world = Running::new();
        world.line(0, TrainerEvent::Checkpoint(saved(10)));
        world.stop(reason);
        world.line(1, TrainerEvent::Checkpoint(saved(20)));
        // The upload of step 10 is still under way.
        let out = world.exited(2, ExitKind::Code(75));
        // An agent that leaves has no slot to give.
        let is_told = reason != EndReason::Drained;
        assert_eq!(out, is_told.then(|| released(world.a, 2, "", false)).into_iter().collect::<Vec<_>>());
        let out = world.core.handle(Time(3), Event::CheckpointUploaded(world.a, Ok(checkpoint(10))));
        assert_eq!(out[1..], [Command::UploadCheckpoint(world.a, saved(20))]);
        let out = world.core.handle(Time(4), Event::CheckpointUploaded(world.a, Ok(checkpoint(20))));
        assert!(matches!(out[0], Command::Report(_, _, ReportBody::CheckpointStored(_))), "{out:?}");
        assert_eq!(ended(&out).unwrap().0, reason);
    }
}

#[test]
fn a_checkpoint_that_cannot_be_stored_does_not_hold_the_end_up() {
    let mut world = Running::new();
    world.stop(EndReason::Drained);
    world.line(1, TrainerEvent::Checkpoint(saved(20)));
    world.exited(2, ExitKind::Code(75));
    let out = world.core.handle(Time(3), Event::CheckpointUploaded(world.a, Err("gone".into())));
    assert_eq!(ended(&out).unwrap().0, EndReason::Drained);
}

#[test]
fn a_finished_attempt_gives_its_checkpoints_upload_up() {
    let mut world = Running::new();
    world.line(0, TrainerEvent::Checkpoint(saved(10)));
    world.finish();
    let out = world.exited(2, ExitKind::Code(0));
    assert_eq!(out[0], Command::CancelTransfers(world.a));
    assert!(matches!(out[1..], [.., Command::UploadArtifacts(..)]), "{out:?}");
}

#[test]
fn a_cancelled_attempt_uploads_nothing_more() {
    let mut world = Running::new();
    world.line(0, TrainerEvent::Checkpoint(saved(10)));
    world.stop(EndReason::Cancelled);
    let out = world.exited(2, ExitKind::Code(75));
    assert_eq!(out[0], Command::CancelTransfers(world.a));
    assert_eq!(ended(&out).unwrap().0, EndReason::Cancelled);
}

#[test]
fn a_resumed_attempt_does_not_upload_what_it_came_from() {
    let mut core = Core::new(LIMITS);
    core.handle(Time(0), Event::Assigned(assignment(id(1, 2), gpu("GPU-1"), Some(10))));
    let prepared = Prepared { lines: vec!["GPU: x".into()], ..prepared(1) };
    let out = core.handle(Time(0), Event::Prepared(id(1, 2), Ok(prepared)));
    assert!(
        matches!(
            &out[..],
            [Command::Announce(_), Command::Report(..), Command::Report(..), Command::Spawn(..)]
        ),
        "{out:?}"
    );
    let line = |step| Event::Line(id(1, 2), Time(1), TrainerEvent::Checkpoint(saved(step)));
    assert_eq!(core.handle(Time(1), line(10)).len(), 1);
    assert_eq!(core.handle(Time(1), line(11)).len(), 2);
}

#[test]
fn where_decoded_images_are_is_noted_for_whole_data_sets() {
    let epoch =
        |cached: &[&str]| Epoch { cached: cached.iter().map(Into::into).collect(), ..Epoch::default() };
    let mut world = Running::new();
    let told = TrainerEvent::Epoch(epoch(&[]));
    assert_eq!(world.line(1, told.clone()), [Command::UpdateFitRecords(world.a, told)]);
    let told = TrainerEvent::Epoch(epoch(&["/c/a.tycache", "/c/b.tycache"]));
    let files = vec!["/c/a.tycache".into(), "/c/b.tycache".into()];
    let noted = Command::NoteDecodedData { data: "/d/data.yaml".into(), imgsz: 640, files };
    assert_eq!(world.line(1, told.clone()), [Command::UpdateFitRecords(world.a, told.clone()), noted]);
    let mut part = assignment(id(9, 1), gpu("GPU-9"), None);
    part.spec.train.fraction = 0.5;
    world.core.handle(Time(2), Event::Assigned(part));
    world.core.handle(Time(2), Event::Prepared(id(9, 1), Ok(prepared(8))));
    assert_eq!(world.core.handle(Time(2), Event::Line(id(9, 1), Time(2), told)).len(), 2);
}

#[test]
fn an_end_that_the_disk_has_lost_is_told_as_far_as_it_is_known() {
    let mut core = Core::new(LIMITS);
    core.handle(Time(0), Event::Recovered { attempt: id(1, 1), ended: true, hand_in: None });
    assert_eq!(ended(&core.handle(Time(1), Event::EndLost(id(1, 1)))).unwrap().0, EndReason::AgentLost);
    let mut world = Running::new();
    assert_eq!(world.core.handle(Time(1), Event::EndLost(world.a)), [], "it has not ended");
}

#[test]
fn bad_lines_are_told_with_their_count() {
    let mut world = Running::new();
    let exit = Exit { bad_lines: 3, ..exit(ExitKind::Code(70)) };
    let out = world.core.handle(Time(1), Event::Exited(world.a, exit));
    let Command::Report(_, _, ReportBody::Trainer(TrainerEvent::Log(log))) = &out[0] else {
        panic!("{out:?}")
    };
    assert!(log.level == LogLevel::Warning && log.message.starts_with("3 lines"), "{log:?}");
}

#[test]
fn what_a_former_process_left_is_ended_once_and_told_until_acknowledged() {
    let mut core = Core::new(LIMITS);
    let out = core.handle(Time(0), Event::Recovered { attempt: id(1, 1), ended: false, hand_in: None });
    assert_eq!(ended(&out), Some((EndReason::AgentLost, "the agent was restarted".into())));
    assert_eq!(core.handle(Time(0), Event::Recovered { attempt: id(2, 1), ended: true, hand_in: None }), []);
    assert_eq!(core.held(), [id(1, 1), id(2, 1)]);
    assert_eq!(core.handle(Time(1), Event::AllAcked(id(1, 1))), [Command::DropReports(id(1, 1))]);
}

#[test]
fn a_shutdown_drains_refuses_new_attempts_and_leaves_when_all_is_told() {
    let mut world = Running::new();
    assert_eq!(world.core.handle(Time(1), Event::Shutdown), [Command::Terminate(world.a)]);
    let late = assignment(id(9, 1), gpu("GPU-2"), None);
    let out = world.core.handle(Time(2), Event::Assigned(late));
    assert_eq!(ended(&out).unwrap().0, EndReason::Drained);
    assert_eq!(ended(&world.exited(3, ExitKind::Code(75))).unwrap().0, EndReason::Drained);
    assert_eq!(world.core.handle(Time(4), Event::AllAcked(id(9, 1))), [Command::DropReports(id(9, 1))]);
    let out = world.core.handle(Time(5), Event::AllAcked(world.a));
    assert_eq!(out, [Command::DropReports(world.a), Command::Exit]);
}

#[test]
fn a_shutdown_gives_up_after_its_grace_period_and_leaves_nothing_untold_in_the_spool() {
    let mut world = Running::new();
    world.core.handle(Time(0), Event::Shutdown);
    world.core.handle(Time(30_000), Event::Tick);
    assert_eq!(world.core.next_deadline(), Some(Time(60_000)));
    let out = world.core.handle(Time(60_000), Event::Tick);
    assert_eq!(ended(&out).unwrap().0, EndReason::Drained, "a trainer that does not die is not waited for");
    assert_eq!(world.core.next_deadline(), Some(Time(90_000)));
    assert_eq!(world.core.handle(Time(90_000), Event::Tick), [Command::Exit]);
}

#[test]
fn a_shutdown_does_not_wait_long_for_a_scheduler_that_is_away() {
    let mut world = Running::new();
    world.core.handle(Time(0), Event::Disconnected);
    world.core.handle(Time(0), Event::Shutdown);
    assert_eq!(world.core.next_deadline(), Some(Time(30_000)));
    world.exited(1000, ExitKind::Code(75));
    assert_eq!(world.core.next_deadline(), Some(Time(6000)));
    assert_eq!(world.core.handle(Time(6000), Event::Tick), [Command::Exit]);
}

#[test]
fn an_idle_agent_leaves_at_once() {
    assert_eq!(Core::new(LIMITS).handle(Time(0), Event::Shutdown), [Command::Exit]);
}
