//! Reports: progress, events, acknowledgements, and who may make them.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_scheduler_core::Output;
use trainyard_types::trainer::{
    BatchSizeChanged, CheckpointSaved, Epoch, Failed, Finished, Log, LogLevel, Phase, Step, TrainerEvent,
};
use trainyard_types::{
    Artifact, Checkpoint, EndReason, Ended, JobState, Report, ReportBody, Time, Violation,
};

use trainyard_scheduler_core::Event;

use crate::world::{START, World, agent, attempt, commands, cpu_spec, ended, started};

fn running() -> World {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    world.report(attempt(1, 1), started());
    world
}

fn step(epoch: u32, batch: u32) -> ReportBody {
    ReportBody::Trainer(TrainerEvent::Step(Step {
        epoch,
        batch,
        batches: 10,
        images_per_second: 20.0,
        loader_wait_ratio: 0.25,
        metrics: BTreeMap::from([("train/box_loss".into(), 1.5), ("train/cls_loss".into(), f64::NAN)]),
        phases: None,
    }))
}

fn epoch(epoch: u32, seconds: f64) -> ReportBody {
    ReportBody::Trainer(TrainerEvent::Epoch(Epoch {
        epoch,
        epochs: 50,
        seconds,
        images_per_second: f64::INFINITY,
        loader_wait_ratio: 0.5,
        best: true,
        metrics: BTreeMap::from([("metrics/mAP50(B)".into(), 0.3)]),
        phases: None,
        cached: Vec::new(),
    }))
}

fn checkpoint(step: u64) -> ReportBody {
    ReportBody::CheckpointStored(Checkpoint { step, epoch: 1, files: vec![] })
}

#[test]
fn a_report_is_taken_in_once_and_acknowledged_each_time() {
    let mut world = running();
    let again = world.report_as(agent(1), attempt(1, 1), 1, step(9, 9));
    assert_eq!(commands(&again), ["ack 1/1 #1 to 1"]);
    assert_eq!(again.writes, []);
    world.report(attempt(1, 1), step(1, 1));
    let repeat = world.report_as(agent(1), attempt(1, 1), 1, step(9, 9));
    assert_eq!(commands(&repeat), ["ack 1/1 #2 to 1"]);
    assert_eq!(world.history(1), ["0 QUEUED", "1 STARTING", "1 RUNNING", "1 epoch 1 batch 1"]);
}

#[test]
fn a_report_after_a_gap_waits_for_the_missing_ones() {
    let mut world = running();
    assert_eq!(world.report_as(agent(1), attempt(1, 1), 3, step(1, 2)), Output::default());
    world.report_as(agent(1), attempt(1, 1), 2, step(1, 1));
    assert_eq!(commands(&world.report_as(agent(1), attempt(1, 1), 3, step(1, 2))), ["ack 1/1 #3 to 1"]);
}

#[test]
fn a_report_from_a_former_owner_is_answered_by_a_revocation() {
    let mut world = running();
    world.disconnect(1);
    world.pass(Duration::from_secs(31));
    world.connect(crate::world::hello(2, vec![], 1, vec![]));
    world.connect(crate::world::hello(1, vec![], 0, vec![]));
    let output = world.report_as(agent(1), attempt(1, 1), 2, ended(EndReason::Completed));
    assert_eq!(commands(&output), ["revoke 1/1 at 1"]);
    assert_eq!(world.record(1).state, JobState::Starting);
}

#[test]
fn progress_shows_the_newest_values_and_leaves_out_what_is_no_number() {
    let mut world = running();
    world.now = world.now + Duration::from_secs(30);
    world.report(attempt(1, 1), step(1, 5));
    let progress = world.record(1).progress.clone().unwrap();
    assert_eq!((progress.epoch, progress.epochs, progress.batch, progress.batches), (1, 50, 5, 10));
    assert_eq!((progress.batch_size, progress.images_per_second), (16, 20.0));
    assert_eq!(progress.metrics, BTreeMap::from([("train/box_loss".into(), 1.5)]));
    world.report(attempt(1, 1), epoch(1, 60.0));
    let progress = world.record(1).progress.clone().unwrap();
    assert_eq!(progress.metrics.len(), 2);
    assert_eq!((progress.batch, progress.images_per_second), (10, 0.0));
}

#[test]
fn the_expected_end_follows_from_the_pace_of_the_epochs() {
    let mut world = running();
    let eta = |world: &World| world.record(1).progress.as_ref().unwrap().eta.map(|eta| eta.as_secs());
    assert_eq!(eta(&world), None);
    world.now = world.now + Duration::from_secs(30);
    world.report(attempt(1, 1), step(1, 5)); // Half an epoch in 30 s.
    assert_eq!(eta(&world), Some(49 * 60 + 30));
    world.report(attempt(1, 1), epoch(1, 100.0));
    assert_eq!(eta(&world), Some(49 * 100));
    world.report(attempt(1, 1), step(2, 5));
    assert_eq!(eta(&world), Some(4850));
    world.report(attempt(1, 1), epoch(2, f64::NAN));
    assert_eq!(eta(&world), None);
}

#[test]
fn the_trainers_lines_become_log_events() {
    let mut world = running();
    let message = "out of memory, goes on with 12".to_owned();
    let change = BatchSizeChanged { from: 16, to: 12, message, phase: Phase::Forward };
    let events = [
        TrainerEvent::Log(Log { level: LogLevel::Info, message: "a line".into() }),
        TrainerEvent::BatchSize(change),
        TrainerEvent::Checkpoint(CheckpointSaved { step: 5, epoch: 1, path: "checkpoints/5".into() }),
        TrainerEvent::Finished(Finished { best_epoch: 7, metrics: BTreeMap::new(), artifacts: vec![] }),
        TrainerEvent::Failed(Failed {
            message: "bad data".into(),
            violations: vec![Violation::new("train.data", "is not there")],
            unfit: None,
        }),
    ];
    for event in events {
        world.report(attempt(1, 1), ReportBody::Trainer(event));
    }
    assert_eq!(
        world.history(1)[3..],
        [
            "1 a line",
            "1 out of memory, goes on with 12",
            "1 training is done; the best weights are those of epoch 7",
            "1 bad data; train.data: is not there"
        ]
    );
    assert_eq!(world.record(1).progress.as_ref().unwrap().batch_size, 12);
}

#[test]
fn the_newest_checkpoint_goes_with_the_next_attempt() {
    let mut world = running();
    for step in [10, 30, 20] {
        world.report(attempt(1, 1), checkpoint(step));
    }
    let output = world.report(attempt(1, 1), ended(EndReason::AgentLost));
    let [_, trainyard_scheduler_core::Command::Assign { assignment, .. }] = &output.commands[..] else {
        panic!("{output:?}");
    };
    assert_eq!(assignment.resume.as_ref().unwrap().step, 30);
}

#[test]
fn success_commits_the_artifacts_and_nothing_else_does() {
    let artifacts =
        vec![Artifact { name: "weights/best.safetensors".into(), size_bytes: 5, sha256: "ab".into() }];
    for (reason, state, kept) in
        [(EndReason::Completed, JobState::Succeeded, 1), (EndReason::BadSpec, JobState::Failed, 0)]
    {
        let mut world = running();
        let ended = Ended {
            reason,
            message: "classes: 9 is out of range".into(),
            artifacts: artifacts.clone(),
            unfit: None,
        };
        world.report(attempt(1, 1), ReportBody::Ended(ended));
        assert_eq!((world.record(1).state, world.record(1).artifacts.len()), (state, kept));
    }
}

#[test]
fn a_bad_spec_fails_with_the_message_that_its_user_needs() {
    let mut world = running();
    world.report(attempt(1, 1), ended(EndReason::BadSpec));
    assert_eq!(world.record(1).state_reason, "what the agent says");
}

#[test]
fn an_agents_wrong_clock_cannot_move_events_out_of_their_attempts_time() {
    let mut world = running();
    world.now = START + Duration::from_secs(5);
    for (sequence, time) in [(2, Time(0)), (3, Time(u64::MAX))] {
        let report = Report { attempt: attempt(1, 1), sequence, time, body: step(1, 1) };
        let session = world.session(agent(1));
        world.handle(Event::Report { agent: agent(1), session, report });
    }
    let times: Vec<Time> =
        world.store.events[&crate::world::job(1)][2..].iter().map(|event| event.time).collect();
    assert_eq!(times, [START, START + Duration::from_secs(5)]);
}

#[test]
fn metrics_without_end_are_not_kept() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    world.report(attempt(1, 1), started());
    for batch in 0..20 {
        let metrics = (0..100).map(|number| (format!("{batch}-{number}"), 1.0)).collect();
        let (epoch, batches, images_per_second, loader_wait_ratio) = (1, 100, 1.0, 0.0);
        let step =
            Step { epoch, batch, batches, images_per_second, loader_wait_ratio, metrics, phases: None };
        world.report(attempt(1, 1), ReportBody::Trainer(TrainerEvent::Step(step)));
    }
    let metrics = &world.record(1).progress.as_ref().unwrap().metrics;
    assert_eq!(metrics.len(), 256);
    // Those that are known go on.
    assert!(metrics.contains_key("0-0"));
}

#[test]
fn of_a_job_with_many_classes_the_whole_models_figures_are_kept_and_then_whole_classes() {
    for (classes, kept) in [(500, 500), (2000, 512)] {
        let mut world = running();
        let of_class = |at: usize| {
            let class = format!("class {at:04}");
            [(format!("metrics/mAP50(B)/{class}"), 0.5), (format!("metrics/mAP50-95(B)/{class}"), 0.3)]
        };
        let whole = ["lr/pg0", "metrics/mAP50(B)", "metrics/mAP50-95(B)", "train/box_loss", "val/dfl_loss"];
        let whole = whole.map(|name| (name.to_owned(), 0.1));
        // The classes come last; they must not take the place of what comes after them in any order.
        world.report(attempt(1, 1), step(1, 1));
        let metrics: BTreeMap<String, f64> = (0..classes).flat_map(of_class).chain(whole.clone()).collect();
        let best = Finished { best_epoch: 1, metrics, artifacts: vec![] };
        world.report(attempt(1, 1), ReportBody::Trainer(TrainerEvent::Finished(best)));
        let known = &world.record(1).progress.as_ref().unwrap().metrics;
        for (name, value) in &whole {
            assert_eq!(known.get(name), Some(value), "{name} of {classes} classes");
        }
        for at in [0, 1, kept - 1] {
            for (name, value) in of_class(at) {
                assert_eq!(known.get(&name), Some(&value), "{name}");
            }
        }
        assert_eq!(known.len(), whole.len() + 2 * kept);
    }
}

fn picture(name: &str, content: u8) -> Artifact {
    Artifact { name: name.into(), size_bytes: 1, sha256: format!("{content:064}") }
}

#[test]
fn pictures_are_those_of_the_newest_attempt_until_the_job_succeeds() {
    let mut world = running();
    let first = vec![picture("labels.png", 1), picture("train_batch0.jpg", 2)];
    world.report(attempt(1, 1), ReportBody::PicturesStored(first.clone()));
    assert_eq!(world.record(1).pictures, first);
    let revision = world.record(1).revision;
    world.report(attempt(1, 1), ReportBody::PicturesStored(first.clone()));
    assert_eq!(world.record(1).revision, revision, "what has not changed is not written again");
    world.report(attempt(1, 1), ended(EndReason::TrainerCrash));
    world.now = world.now + Duration::from_secs(10);
    world.handle(Event::Tick);
    assert_eq!(world.record(1).attempts.len(), 2);
    assert_eq!(world.record(1).pictures, first, "until the next attempt has some");
    world.report(attempt(1, 2), started());
    let second = vec![picture("train_batch0.jpg", 3)];
    world.report(attempt(1, 2), ReportBody::PicturesStored(second.clone()));
    assert_eq!(world.record(1).pictures, second);
    let artifacts = vec![picture("weights/best.safetensors", 4), picture("train_batch0.jpg", 3)];
    let end = Ended {
        reason: EndReason::Completed,
        message: "done".into(),
        artifacts: artifacts.clone(),
        unfit: None,
    };
    world.report(attempt(1, 2), ReportBody::Ended(end));
    assert_eq!((&world.record(1).artifacts, world.record(1).pictures.len()), (&artifacts, 0));
}
