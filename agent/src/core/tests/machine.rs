//! Attempts that fail because of the machine, that stall, and that hand in what they have trained.

use trainyard_types::trainer::{Activity, Beat, Step};
use trainyard_types::{Ended, Unfit, UnfitKind};

use super::*;
use crate::message::{GpuOrder, PathUse};

fn end(out: &[Command]) -> Option<Ended> {
    out.iter().find_map(|command| match command {
        Command::Report(_, _, ReportBody::Ended(ended)) => Some(ended.clone()),
        _ => None,
    })
}

fn unfit(kind: UnfitKind, path: &str) -> Unfit {
    Unfit { kind, path: path.into(), message: "is not there".into() }
}

impl Running {
    fn lacks(&mut self, unfit: Unfit) {
        let message = unfit.message.clone();
        self.line(1, TrainerEvent::Failed(Failed { message, violations: Vec::new(), unfit: Some(unfit) }));
    }

    /// As time passes, second by second.
    fn until(&mut self, second: u64) -> Vec<Command> {
        let from = self.core.last_event.map_or(0, |last| last.0 / 1000);
        (from..=second).flat_map(|now| self.core.handle(Time(now * 1000), Event::Tick)).collect()
    }

    fn beat(&mut self, second: u64, activity: Activity, done: u64) {
        let beat = TrainerEvent::Beat(Beat { activity, done });
        let out = self.core.handle(Time(second * 1000), Event::Line(self.a, Time(0), beat));
        assert_eq!(out, [], "a beat is for the agent alone");
    }
}

#[test]
fn a_path_that_the_trainer_misses_is_told_as_the_job_names_it_and_noted() {
    let mut world = Running::new();
    world.lacks(unfit(UnfitKind::PathMissing, "/mnt/d/images/train"));
    let out = world.exited(2, ExitKind::Code(64));
    let noted = Command::NoteMissingPath {
        path_use: PathUse::Data,
        named: "/d/data.yaml".into(),
        below: Some("/mnt/d/images/train".into()),
    };
    assert_eq!(out[0], noted);
    let ended = end(&out).unwrap();
    assert_eq!(ended.reason, EndReason::AgentUnfit);
    let told = ended.unfit.unwrap();
    assert_eq!((told.kind, told.path.as_str()), (UnfitKind::PathMissing, "/d/data.yaml"));
}

#[test]
fn what_a_machine_lacks_is_tested_before_the_end_is_told() {
    let mut world = Running::new();
    let lack = unfit(UnfitKind::DriverUnusable, "");
    world.lacks(lack.clone());
    let out = world.exited(2, ExitKind::Code(70));
    assert_eq!(out, [Command::TestDevice(world.a, gpu("GPU-1"), lack)]);
    let out = world.core.handle(Time(3), Event::DeviceTested(world.a));
    assert_eq!(end(&out).unwrap().reason, EndReason::AgentUnfit);
    assert_eq!(world.core.handle(Time(4), Event::DeviceTested(world.a)), []);
}

#[test]
fn how_a_silent_trainer_ends_tells_what_the_machine_lacks() {
    let table = [
        (
            ExitKind::Code(127),
            "trainer: error while loading shared libraries: libtorch.so",
            Some(UnfitKind::LibtorchUnusable),
        ),
        (ExitKind::Code(127), "", Some(UnfitKind::LibtorchUnusable)),
        (ExitKind::Code(126), "", Some(UnfitKind::TrainerMissing)),
        (ExitKind::Signal(4), "", Some(UnfitKind::LibtorchUnusable)),
        (ExitKind::Code(101), "failed to spawn thread: Os { code: 11 }", Some(UnfitKind::OutOfResources)),
        (ExitKind::Code(101), "panicked at 7", None),
        (ExitKind::Signal(11), "", None),
        (ExitKind::Code(64), "too many open files", None),
    ];
    for (kind, stderr, wanted) in table {
        let mut world = Running::new();
        let exit = Exit { stderr_tail: stderr.into(), ..exit(kind) };
        let out = world.core.handle(Time(1), Event::Exited(world.a, exit));
        let found = out.iter().find_map(|command| match command {
            Command::TestDevice(_, _, lack) => Some(lack.kind),
            _ => None,
        });
        assert_eq!(found, wanted, "{kind:?} {stderr}");
    }
    // What has trained does not lack libtorch.
    let mut world = Running::new();
    world.line(1, TrainerEvent::Step(Step::default()));
    assert_eq!(end(&world.exited(2, ExitKind::Code(127))).unwrap().reason, EndReason::TrainerCrash);
}

const BROKEN: &str = "CUDA error: an illegal memory access was encountered";

#[test]
fn a_gpu_that_failed_under_its_trainer_is_tested_and_the_job_moves_for_free() {
    // Whether the trainer could tell, or its death told; out of memory is not why, whatever else was said.
    for (kind, told, stderr) in [
        (ExitKind::Code(70), "libtorch failed: CUDA error: an illegal memory access was encountered", ""),
        (ExitKind::Signal(6), "", "terminate called: CUDA error: unspecified launch failure"),
        (ExitKind::Signal(6), "", "CUDA out of memory. | CUDA error: device-side assert triggered"),
    ] {
        let mut world = Running::new();
        if !told.is_empty() {
            world.fail(told);
        }
        let exit = Exit { stderr_tail: stderr.into(), gpu_was_full: true, ..exit(kind) };
        let out = world.core.handle(Time(2), Event::Exited(world.a, exit));
        let [Command::TestDevice(_, slot, lack)] = &out[..] else { panic!("{kind:?}: {out:?}") };
        assert_eq!((slot, lack.kind), (&gpu("GPU-1"), UnfitKind::SelfTest));
        let out = world.core.handle(Time(3), Event::DeviceTested(world.a));
        let ended = end(&out).unwrap();
        assert_eq!((ended.reason, ended.unfit), (EndReason::GpuFault, None));
        assert!(ended.message.starts_with("the GPU failed under the trainer: a kernel"), "{}", ended.message);
    }
}

#[test]
fn whether_the_driver_or_the_trainer_tells_of_a_failed_gpu_first_makes_no_difference() {
    let reason_after = |xid: Option<EndReason>, kind| {
        let mut world = Running::new();
        if let Some(reason) = xid {
            let (gpu, message) = (GpuUuid("GPU-1".into()), "XID 31".into());
            let order = GpuOrder::Fail { gpu, reason, message, at_once: false };
            world.core.handle(Time(1), Event::Gpu(order));
        }
        world.fail(BROKEN);
        let mut out = world.exited(2, kind);
        out.extend(world.core.handle(Time(3), Event::DeviceTested(world.a)));
        end(&out).unwrap().reason
    };
    let crashed = ExitKind::Code(70);
    assert_eq!(reason_after(None, crashed), EndReason::GpuFault);
    assert_eq!(reason_after(Some(EndReason::TrainerCrash), crashed), EndReason::GpuFault);
    assert_eq!(reason_after(Some(EndReason::GpuFault), crashed), EndReason::GpuFault);
    // Killed as it did not end: the driver's word alone counts.
    assert_eq!(reason_after(Some(EndReason::TrainerCrash), ExitKind::Signal(9)), EndReason::TrainerCrash);
}

#[test]
fn a_spec_that_is_too_new_for_this_agent_is_not_the_jobs_fault() {
    let mut core = Core::new(LIMITS);
    let out = core.handle(Time(0), Event::AssignmentUnsupported(id(1, 1), "a model of the future".into()));
    assert_eq!(end(&out).unwrap().reason, EndReason::AgentUnfit);
}

#[test]
fn a_trainer_that_beats_without_progress_is_diagnosed_asked_and_killed() {
    let mut world = Running::new();
    world.beat(0, Activity::Train, 7);
    for second in 1..300 {
        world.beat(second, Activity::Train, 7);
    }
    assert_eq!(world.until(300), [Command::DiagnoseStall(world.a)]);
    let out = world.core.handle(Time(301_000), Event::StallDiagnosed(world.a, "1 thread hangs".into()));
    let Command::Report(_, _, ReportBody::Trainer(TrainerEvent::Log(log))) = &out[0] else {
        panic!("{out:?}")
    };
    assert!(log.level == LogLevel::Warning && log.message.contains("1 thread hangs"), "{}", log.message);
    assert_eq!(out[1..], [Command::Terminate(world.a)]);
    assert_eq!(world.until(332), [Command::Kill(world.a)]);
    let out = world.exited(333_000, ExitKind::Signal(9));
    let (reason, message) = ended(&out).unwrap();
    assert_eq!(reason, EndReason::Stalled);
    assert!(message.starts_with("no progress for 301 s while it trains; 1 thread"), "{message}");
}

#[test]
fn one_that_makes_progress_without_beats_has_not_stalled_and_neither_has_one_that_goes_on_meanwhile() {
    let mut world = Running::new();
    for second in (0..3000).step_by(200) {
        let step = Event::Line(world.a, Time(0), TrainerEvent::Step(Step::default()));
        world.core.handle(Time(second * 1000), step);
        assert_eq!(world.until(second + 199), []);
    }
    let mut world = Running::new();
    world.beat(0, Activity::Train, 1);
    assert_eq!(world.until(300), [Command::DiagnoseStall(world.a)]);
    world.beat(301, Activity::Train, 2);
    assert_eq!(world.core.handle(Time(302_000), Event::StallDiagnosed(world.a, String::new())), []);
    assert_eq!(world.until(600), []);
}

#[test]
fn the_allowed_pause_is_longer_at_the_start_and_follows_what_the_job_has_shown() {
    let mut world = Running::new();
    world.beat(0, Activity::Scan, 1);
    assert_eq!(world.until(899), []);
    assert_eq!(world.until(900), [Command::DiagnoseStall(world.a)]);
    let mut world = Running::new();
    world.beat(0, Activity::Train, 1);
    world.until(99);
    world.beat(100, Activity::Train, 2);
    assert_eq!(world.until(100 + 1999), [], "twenty times 100 s");
    assert_eq!(world.until(100 + 2000), [Command::DiagnoseStall(world.a)]);
}

#[test]
fn a_clock_that_is_set_or_a_machine_that_sleeps_makes_no_stall() {
    let mut world = Running::new();
    world.beat(0, Activity::Train, 1);
    assert_eq!(world.core.handle(Time(90_000_000), Event::Tick), []);
}

#[test]
fn what_handing_in_waits_for_is_told_when_it_changes() {
    let mut world = Running::new();
    world.finish();
    world.exited(2, ExitKind::Code(0));
    let waits =
        |core: &mut Core, now, text: &str| core.handle(Time(now), Event::HandingIn(id(1, 1), text.into()));
    let room = "room on the scheduler's disk";
    assert_eq!(waits(&mut world.core, 3, room), [released(world.a, 3, room, true)]);
    assert_eq!(waits(&mut world.core, 4, room), []);
    assert_eq!(waits(&mut world.core, 5, ""), [released(world.a, 5, "", true)]);
    // The slot is free meanwhile.
    let next = assignment(id(2, 1), gpu("GPU-1"), None);
    assert_eq!(world.core.handle(Time(6), Event::Assigned(next.clone())), [Command::Prepare(next)]);
    // The job's directory is not.
    let again = assignment(id(1, 2), gpu("GPU-2"), None);
    assert_eq!(world.core.handle(Time(6), Event::Assigned(again)), []);
    let cancel = Event::Stop { attempt: world.a, reason: EndReason::Cancelled, grace: None };
    let out = world.core.handle(Time(7), cancel);
    assert_eq!(end(&out).unwrap().reason, EndReason::Cancelled);
}

#[test]
fn the_next_process_goes_on_handing_in() {
    let mut world = Running::new();
    world.finish();
    let out = world.exited(2, ExitKind::Code(0));
    let Command::SaveHandIn(_, hand_in) = out[0].clone() else { panic!("{out:?}") };
    world.core.handle(Time(3), Event::HandingIn(world.a, "room".into()));
    world.core.handle(Time(4), Event::Shutdown);
    // It is not waited for as long as for a trainer, and not ended.
    let out = world.core.handle(Time(5004), Event::Tick);
    assert_eq!(out, [Command::Exit]);
    let mut core = Core::new(LIMITS);
    let recovered = Event::Recovered { attempt: world.a, ended: false, hand_in: Some(hand_in.clone()) };
    assert_eq!(core.handle(Time(0), recovered), [Command::UploadArtifacts(world.a, hand_in.artifacts)]);
    assert_eq!(core.held(), [world.a]);
    let out = core.handle(Time(1), Event::ArtifactsUploaded(world.a, Ok(Vec::new())));
    let ended = end(&out).unwrap();
    assert_eq!(ended.reason, EndReason::Completed);
    assert!(ended.message.contains("epoch 7"), "{}", ended.message);
}
