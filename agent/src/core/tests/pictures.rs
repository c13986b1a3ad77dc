//! Pictures of a running trainer: at most once an epoch, after checkpoints, and told of when they change.

use trainyard_types::trainer::Step;

use super::*;
use crate::message::Picture;

fn picture(name: &str, content: &str) -> Picture {
    let artifact = Artifact { name: name.into(), size_bytes: 1, sha256: content.into() };
    Picture { artifact, modified_ns: 1 }
}

fn epoch(number: u32) -> TrainerEvent {
    TrainerEvent::Epoch(Epoch {
        epoch: number,
        epochs: 9,
        seconds: 1.0,
        images_per_second: 1.0,
        loader_wait_ratio: 0.0,
        best: true,
        metrics: BTreeMap::new(),
        phases: None,
        cached: Vec::new(),
    })
}

fn step(epoch: u32) -> TrainerEvent {
    TrainerEvent::Step(Step {
        epoch,
        batch: 5,
        batches: 10,
        images_per_second: 10.0,
        loader_wait_ratio: 0.0,
        metrics: BTreeMap::new(),
        phases: None,
    })
}

impl Running {
    /// What follows of a line for pictures.
    fn looks(&mut self, event: TrainerEvent) -> Vec<Command> {
        let mut out = self.line(1, event);
        out.retain(|command| !matches!(command, Command::UpdateFitRecords(..)));
        out
    }

    fn stored(&mut self, pictures: &[Picture]) -> Vec<Command> {
        self.core.handle(Time(2), Event::PicturesUploaded(self.a, pictures.to_vec()))
    }
}

fn told(attempt: AttemptId, pictures: &[Picture]) -> Command {
    let artifacts = pictures.iter().map(|picture| picture.artifact.clone()).collect();
    Command::Report(attempt, Time(2), ReportBody::PicturesStored(artifacts))
}

#[test]
fn pictures_are_looked_for_once_an_epoch_and_told_when_they_change() {
    let mut world = Running::new();
    let (a, first) = (world.a, [picture("a.jpg", "1")]);
    assert_eq!(world.looks(step(1)), [], "the first step has drawn nothing yet");
    assert_eq!(world.looks(step(1)), [Command::UploadPictures(a, Vec::new())]);
    assert_eq!(world.stored(&first), [told(a, &first)]);
    assert_eq!(world.looks(step(1)), []);
    assert_eq!(world.looks(epoch(1)), []);
    // An epoch of few steps is looked at when it ends.
    assert_eq!(world.looks(epoch(2)), [Command::UploadPictures(a, first.to_vec())]);
    assert_eq!(world.stored(&first), [], "nothing has changed");
    assert_eq!(world.looks(epoch(3)), [Command::UploadPictures(a, first.to_vec())]);
    let second = [picture("a.jpg", "2")];
    assert_eq!(world.looks(epoch(4)), [], "one upload at a time");
    assert_eq!(world.stored(&second), [told(a, &second), Command::UploadPictures(a, second.to_vec())]);
}

#[test]
fn a_checkpoint_goes_before_pictures() {
    let mut world = Running::new();
    let (a, first) = (world.a, [picture("a.jpg", "1")]);
    assert_eq!(world.looks(epoch(1)), [Command::UploadPictures(a, Vec::new())]);
    let upload = Command::UploadCheckpoint(a, saved(10));
    assert_eq!(world.looks(TrainerEvent::Checkpoint(saved(10))), [Command::PausePictures(a), upload]);
    assert_eq!(world.stored(&first), [told(a, &first)], "what is there is told, and the rest waits");
    assert_eq!(world.looks(epoch(2)), []);
    let out = world.core.handle(Time(3), Event::CheckpointUploaded(a, Ok(checkpoint(10))));
    assert_eq!(out[1..], [Command::UploadPictures(a, first.to_vec())]);
}

#[test]
fn pictures_hold_no_end_up_and_come_after_none() {
    let mut world = Running::new();
    let (a, first) = (world.a, [picture("a.jpg", "1")]);
    world.looks(epoch(1));
    world.finish();
    let out = world.exited(2, ExitKind::Code(0));
    assert_eq!(out[0], Command::PausePictures(a));
    assert!(matches!(out.last(), Some(Command::UploadArtifacts(..))), "{out:?}");
    assert_eq!(world.stored(&first), [told(a, &first)]);
    world.core.handle(Time(3), Event::ArtifactsUploaded(a, Ok(Vec::new())));
    assert_eq!(world.stored(&[picture("a.jpg", "2")]), [], "the end is the last report");
}
