//! Follows a trainer from its first line to its exit.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use trainyard_types::AttemptId;

use super::child::TrainerExit;
use super::event_parser::EventParser;
use crate::message::{Event, ExitKind, Input};

/// How long the event stream may stay open after the trainer is gone, in case something that it started
/// has left its process group and still holds it.
const STREAM_PATIENCE: Duration = Duration::from_secs(5);

/// A trainer that is followed.
#[derive(Debug)]
pub struct WatchedTrainer {
    /// The attempt that is watched.
    pub attempt: AttemptId,
    /// The trainer's event stream.
    pub events: pipe::Receiver,
    /// How it ended, once it has.
    pub exit: oneshot::Receiver<TrainerExit>,
    /// Where its lines go.
    pub inbox: mpsc::Sender<Input>,
}

/// Hands every event to the driver. Then returns how the trainer ended, and how many lines were not understood.
pub async fn watch(mut trainer: WatchedTrainer) -> (TrainerExit, u64) {
    let mut parser = EventParser::default();
    let mut exit = trainer.exit;
    let early = tokio::select! {
        () = read(&mut trainer.events, &mut parser, trainer.attempt, &trainer.inbox) => None,
        kind = &mut exit => {
            let rest = read(&mut trainer.events, &mut parser, trainer.attempt, &trainer.inbox);
            let _held_open = timeout(STREAM_PATIENCE, rest).await;
            Some(kind)
        }
    };
    let kind = match early {
        Some(kind) => kind,
        None => exit.await,
    };
    // The waiting thread always answers; were it gone, nobody could tell how the trainer ended.
    let unknown = TrainerExit { kind: ExitKind::Signal(0), out_of_memory_kill: None };
    (kind.unwrap_or(unknown), parser.finish())
}

/// Reads until the end of the stream. Dropping it between reads loses nothing.
async fn read(
    events: &mut pipe::Receiver,
    parser: &mut EventParser,
    attempt: AttemptId,
    inbox: &mpsc::Sender<Input>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = events.read(&mut buffer).await
        && count > 0
    {
        for (time, event) in parser.push(&buffer[..count]) {
            if inbox.send(Input::Core(Event::Line(attempt, time, event))).await.is_err() {
                return;
            }
        }
    }
}
