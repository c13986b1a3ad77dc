//! Follows a trainer from its first line to its exit.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use trainyard_types::AttemptId;

use super::child::Gone;
use super::progress::Progress;
use crate::core::{Event, ExitKind};
use crate::driver::Input;

/// How long the event stream may stay open after the trainer is gone, in case something that it started
/// has left its process group and still holds it.
const STREAM_PATIENCE: Duration = Duration::from_secs(5);

/// A trainer to follow.
#[derive(Debug)]
pub struct Watch {
    /// The attempt that is watched.
    pub attempt: AttemptId,
    /// Its event stream.
    pub events: pipe::Receiver,
    /// How it ended, once it has.
    pub exit: oneshot::Receiver<Gone>,
    /// Where its lines go.
    pub inbox: mpsc::Sender<Input>,
}

/// Hands over every event, then returns how the trainer ended and how many lines were left out.
pub async fn watch(mut watch: Watch) -> (Gone, u64) {
    let mut progress = Progress::default();
    let mut exit = watch.exit;
    let early = tokio::select! {
        () = read(&mut watch.events, &mut progress, watch.attempt, &watch.inbox) => None,
        kind = &mut exit => {
            let rest = read(&mut watch.events, &mut progress, watch.attempt, &watch.inbox);
            let _held_open = timeout(STREAM_PATIENCE, rest).await;
            Some(kind)
        }
    };
    let kind = match early {
        Some(kind) => kind,
        None => exit.await,
    };
    // The waiting thread always answers; were it gone, nobody could tell how the trainer ended.
    let unknown = Gone { kind: ExitKind::Signal(0), out_of_memory_kill: None };
    (kind.unwrap_or(unknown), progress.finish())
}

/// Reads until the end of the stream. Dropping it between reads loses nothing.
async fn read(
    events: &mut pipe::Receiver,
    progress: &mut Progress,
    attempt: AttemptId,
    inbox: &mpsc::Sender<Input>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = events.read(&mut buffer).await
        && count > 0
    {
        for (time, event) in progress.push(&buffer[..count]) {
            if inbox.send(Input::Core(Event::Line(attempt, time, event))).await.is_err() {
                return;
            }
        }
    }
}
