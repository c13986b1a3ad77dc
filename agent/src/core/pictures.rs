//! Pictures of a running trainer: when they are looked for, and what is told of them.
//!
//! Nothing waits for them, and checkpoints go first.

use trainyard_types::{AttemptId, ReportBody, Time};

use super::attempt::{Attempt, State};
use super::{Command, Core};
use crate::message::Picture;

/// What an epoch draws at its beginning is there when this many reports of its steps have come.
const STEPS: u32 = 2;

/// An attempt's pictures: those that are stored, and when others are looked for.
#[derive(Debug, Clone)]
pub struct Pictures {
    /// Those that are stored, as they were told last.
    stored: Vec<Picture>,
    /// The epoch in which they were looked for last; 0 before the first time.
    looked: u32,
    /// The epoch of the newest step, and how many reports of its steps have come.
    steps: (u32, u32),
    /// Whether they are to be looked for as soon as nothing more important is on its way.
    is_due: bool,
    /// Whether pictures are being uploaded.
    uploading: bool,
}

impl Pictures {
    pub const fn new() -> Self {
        Self { stored: Vec::new(), looked: 0, steps: (0, 0), is_due: false, uploading: false }
    }

    /// A step of an epoch was told.
    pub fn on_step(&mut self, epoch: u32) {
        if self.steps.0 != epoch {
            self.steps = (epoch, 0);
        }
        self.steps.1 = self.steps.1.saturating_add(1);
        if self.steps.1 >= STEPS {
            self.on_epoch(epoch);
        }
    }

    /// It is time to look for what an epoch has drawn, unless that was done.
    pub fn on_epoch(&mut self, epoch: u32) {
        if self.looked != epoch {
            self.looked = epoch;
            self.is_due = true;
        }
    }
}

impl Attempt {
    /// Uploads what is new, if it is time and nothing more important is on its way.
    pub(super) fn try_pictures(&mut self, id: AttemptId, out: &mut Vec<Command>) {
        let may = matches!(self.state, State::Running) && self.uploading.is_none();
        if may && self.pictures.is_due && !self.pictures.uploading {
            self.pictures.is_due = false;
            self.pictures.uploading = true;
            out.push(Command::UploadPictures(id, self.pictures.stored.clone()));
        }
    }

    /// Has the rest wait, if some are on their way.
    pub(super) fn pause_pictures(&mut self, id: AttemptId, out: &mut Vec<Command>) {
        if self.pictures.uploading {
            self.pictures.is_due = true;
            out.push(Command::PausePictures(id));
        }
    }
}

impl Core {
    /// Tells of the pictures that are stored, if they are others than before.
    pub(super) fn on_pictures_uploaded(
        &mut self,
        now: Time,
        id: AttemptId,
        pictures: Vec<Picture>,
        out: &mut Vec<Command>,
    ) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        attempt.pictures.uploading = false;
        if matches!(attempt.state, State::Ended { .. } | State::Revoked { .. }) {
            return; // Its last report is written.
        }
        let artifacts = |pictures: &[Picture]| {
            pictures.iter().map(|picture| picture.artifact.clone()).collect::<Vec<_>>()
        };
        let (before, stored) = (artifacts(&attempt.pictures.stored), artifacts(&pictures));
        attempt.pictures.stored = pictures;
        if before != stored {
            out.push(Command::Report(id, now, ReportBody::PicturesStored(stored)));
        }
        attempt.try_pictures(id, out);
    }
}
