//! What agents report of attempts.
//!
//! A report has a number that its attempt's next one waits for, so one that cannot be read is not refused, which
//! would have the agent send it again for ever: it is taken in as a warning under its number.

use trainyard_types::trainer::{Log, LogLevel, TrainerEvent, TrainerLine, VERSION};
use trainyard_types::{
    BatchChosen, BatchLayer, Checkpoint, EndReason, Ended, Fetching, Report, ReportBody, SlotReleased, Time,
    Unfit,
};

use super::{InvalidMessage, end_reason, parse_artifacts, parse_attempt, parse_end_reason};
use crate::convert::job::{parse_timestamp, timestamp};
use crate::pb;

/// Bytes of a trainer's line; one that lists many classes is long.
const LINE_BYTES: usize = 1 << 20;
/// Bytes of a message for a person; the rest is cut off.
const MESSAGE_BYTES: usize = 16 << 10;
/// Layers of an auto batch.
const LAYERS: usize = 64;
/// Pictures of a running job, and bytes of a picture's name; others are left out.
const PICTURES: usize = 32;
const PICTURE_NAME_BYTES: usize = 255;

impl From<&Ended> for pb::Ended {
    fn from(ended: &Ended) -> Self {
        Self {
            reason: end_reason(ended.reason),
            message: ended.message.clone(),
            artifacts: ended.artifacts.iter().map(Into::into).collect(),
            unfit: ended.unfit.as_ref().map(Into::into),
        }
    }
}

impl From<pb::Ended> for Ended {
    /// Whatever else it says, the attempt is over. What this build cannot read of it counts as a crash, which is
    /// tried again a few times, and not for ever.
    fn from(ended: pb::Ended) -> Self {
        let message = clipped(ended.message);
        let unreadable = |cause: String| Self {
            reason: EndReason::TrainerCrash,
            message: format!("its end cannot be read here ({cause}): {message}"),
            artifacts: Vec::new(),
            unfit: None,
        };
        let unfit = ended.unfit.map(|unfit| {
            let unfit = Unfit::from(unfit);
            Unfit { path: clipped(unfit.path), message: clipped(unfit.message), ..unfit }
        });
        match (parse_end_reason(ended.reason), parse_artifacts("artifacts", ended.artifacts)) {
            (Err(cause), _) | (_, Err(cause)) => unreadable(clipped(cause.to_string())),
            (Ok(reason), Ok(artifacts)) => Self { reason, message, artifacts, unfit },
        }
    }
}

impl From<&BatchChosen> for pb::BatchChosen {
    fn from(chosen: &BatchChosen) -> Self {
        let layer = |layer: &BatchLayer| pb::BatchLayer {
            name: layer.name.clone(),
            batch_size: layer.batch_size,
            reason: layer.reason.clone(),
        };
        Self { batch_size: chosen.batch_size, layers: chosen.layers.iter().map(layer).collect() }
    }
}

impl From<pb::BatchChosen> for BatchChosen {
    fn from(chosen: pb::BatchChosen) -> Self {
        let layer = |layer: pb::BatchLayer| BatchLayer {
            name: clipped(layer.name),
            batch_size: layer.batch_size,
            reason: clipped(layer.reason),
        };
        let layers = chosen.layers.into_iter().take(LAYERS).map(layer).collect();
        Self { batch_size: chosen.batch_size, layers }
    }
}

impl From<&Fetching> for pb::Fetching {
    fn from(fetching: &Fetching) -> Self {
        let Fetching { what, done_bytes, total_bytes, bytes_per_second } = fetching.clone();
        Self { what, done_bytes, total_bytes, bytes_per_second }
    }
}

impl From<pb::Fetching> for Fetching {
    fn from(fetching: pb::Fetching) -> Self {
        let pb::Fetching { what, done_bytes, total_bytes, bytes_per_second } = fetching;
        // Only a finite speed can be stored.
        let bytes_per_second = if bytes_per_second.is_finite() { bytes_per_second.max(0.0) } else { 0.0 };
        Self { what: clipped(what), done_bytes, total_bytes, bytes_per_second }
    }
}

impl From<&Report> for pb::Report {
    fn from(report: &Report) -> Self {
        let body = match &report.body {
            ReportBody::Trainer(event) => {
                let line = TrainerLine { v: VERSION, time: report.time, event: event.clone() };
                // Only a map with keys that are no strings fails, and no event has one.
                pb::report::Report::TrainerEvent(serde_json::to_string(&line).unwrap_or_default())
            }
            ReportBody::Ended(ended) => pb::report::Report::Ended(ended.into()),
            ReportBody::CheckpointStored(checkpoint) => {
                pb::report::Report::CheckpointStored(pb::CheckpointStored {
                    checkpoint: Some(checkpoint.into()),
                })
            }
            ReportBody::PicturesStored(pictures) => {
                let pictures = pictures.iter().map(Into::into).collect();
                pb::report::Report::PicturesStored(pb::PicturesStored { pictures })
            }
            ReportBody::BatchChosen(chosen) => pb::report::Report::BatchChosen(chosen.into()),
            ReportBody::Fetching(fetching) => pb::report::Report::Fetching(fetching.into()),
            ReportBody::SlotReleased(released) => pb::report::Report::SlotReleased(pb::SlotReleased {
                waits_for: released.waits_for.clone(),
                is_trained: released.is_trained,
            }),
        };
        Self {
            attempt: report.attempt.to_string(),
            sequence: report.sequence,
            time: Some(timestamp(report.time)),
            report: Some(body),
        }
    }
}

impl TryFrom<pb::Report> for Report {
    type Error = InvalidMessage;

    /// Fails only where it cannot be acknowledged: without an attempt and a number.
    fn try_from(report: pb::Report) -> Result<Self, InvalidMessage> {
        let under = |error: InvalidMessage| error.under("report");
        let attempt = parse_attempt(&report.attempt).map_err(under)?;
        if report.sequence == 0 {
            return Err(under(InvalidMessage::new("sequence", "is 0; reports count from 1")));
        }
        // The core knows when its attempt was placed; nothing happens before that.
        let time = report.time.map_or(Time(0), parse_timestamp);
        let body = parse_body(report.report).unwrap_or_else(|cause| {
            let text =
                format!("a report of the agent cannot be read here: {cause}; agent and scheduler differ");
            let log = Log { level: LogLevel::Warning, message: clipped(text) };
            ReportBody::Trainer(TrainerEvent::Log(log))
        });
        Ok(Self { attempt, sequence: report.sequence, time, body })
    }
}

fn parse_body(body: Option<pb::report::Report>) -> Result<ReportBody, InvalidMessage> {
    use pb::report::Report as Body;
    match body {
        Some(Body::TrainerEvent(line)) => parse_line(&line).map(ReportBody::Trainer),
        Some(Body::Ended(ended)) => Ok(ReportBody::Ended(ended.into())),
        Some(Body::CheckpointStored(stored)) => {
            let checkpoint = stored.checkpoint.ok_or(InvalidMessage::new("checkpoint", "is missing"));
            let checkpoint = checkpoint.and_then(Checkpoint::try_from);
            Ok(ReportBody::CheckpointStored(checkpoint.map_err(|error| error.under("checkpoint_stored"))?))
        }
        Some(Body::PicturesStored(stored)) => {
            let mut pictures = parse_artifacts("pictures_stored.pictures", stored.pictures)?;
            pictures.retain(|picture| picture.name.len() <= PICTURE_NAME_BYTES);
            pictures.truncate(PICTURES);
            Ok(ReportBody::PicturesStored(pictures))
        }
        Some(Body::BatchChosen(chosen)) => Ok(ReportBody::BatchChosen(chosen.into())),
        Some(Body::Fetching(fetching)) => Ok(ReportBody::Fetching(fetching.into())),
        Some(Body::SlotReleased(released)) => Ok(ReportBody::SlotReleased(SlotReleased {
            waits_for: clipped(released.waits_for),
            is_trained: released.is_trained,
        })),
        None => Err(InvalidMessage::new("report", "is of a kind that is not known")),
    }
}

fn parse_line(line: &str) -> Result<TrainerEvent, InvalidMessage> {
    super::no_longer("trainer_event", line, LINE_BYTES)?;
    let line: TrainerLine = serde_json::from_str(line)
        .map_err(|error| InvalidMessage::new("trainer_event", error.to_string()))?;
    if line.v != VERSION {
        let text = format!("has version {}; this build reads {VERSION}", line.v);
        return Err(InvalidMessage::new("trainer_event", text));
    }
    Ok(match line.event {
        TrainerEvent::Log(log) => TrainerEvent::Log(Log { message: clipped(log.message), ..log }),
        event => event,
    })
}

/// The start of a text, if it is very long.
fn clipped(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES {
        let end = (0..=MESSAGE_BYTES).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}
