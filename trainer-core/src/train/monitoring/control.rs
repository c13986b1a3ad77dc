//! What an agent asks of a training that runs: lines of JSON on a descriptor, read by a thread of their own.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use trainyard_data::WorkerCount;
use trainyard_types::trainer::{LogLevel, TrainerControl, TrainerEvent, WorkersChanged};

use crate::events::Events;

/// Replies that may wait to be told; more are left out.
const MAX_REPLIES: usize = 64;
/// Characters of a line that a warning shows.
const SHOWN: usize = 200;

/// What became of a line.
#[derive(Debug)]
enum Reply {
    Workers(WorkersChanged),
    Unread(String),
}

/// The thread that reads the descriptor, by its replies.
#[derive(Debug)]
pub struct Control {
    replies: Option<Receiver<Reply>>,
}

impl Control {
    /// Follows the lines of `file`, if there is one, until it ends; `worker_count` gets as many workers as they ask
    /// for, up to `max_workers`.
    pub fn listen(file: Option<Arc<File>>, worker_count: &WorkerCount, max_workers: usize) -> Self {
        let Some(file) = file else { return Self { replies: None } };
        let (sender, replies) = bounded(MAX_REPLIES);
        let worker_count = worker_count.clone();
        // It waits for lines as long as the process lives, and is never joined.
        std::thread::spawn(move || {
            crate::libtorch::unbind_thread();
            read(&file, &worker_count, max_workers, &sender);
        });
        Self { replies: Some(replies) }
    }

    /// Reports what was asked since the last call. Returns whether there are fewer workers now.
    pub fn report(&self, events: &mut Events) -> bool {
        let mut fewer = false;
        for reply in self.replies.iter().flat_map(Receiver::try_iter) {
            match reply {
                Reply::Workers(change) => {
                    fewer |= change.to < change.from;
                    let WorkersChanged { from, to } = change;
                    events.print(&format!("{to} threads load images from now on (before: {from})"));
                    events.emit(TrainerEvent::Workers(change));
                }
                Reply::Unread(message) => events.log(LogLevel::Warning, message),
            }
        }
        fewer
    }
}

fn read(file: &File, worker_count: &WorkerCount, max_workers: usize, sender: &Sender<Reply>) {
    for line in BufReader::new(file).lines() {
        let reply = match line {
            Ok(line) if line.trim().is_empty() => continue,
            Ok(line) => apply(&line, worker_count, max_workers),
            Err(error) if error.kind() == ErrorKind::InvalidData => unread("it is not text", ""),
            Err(_) => return,
        };
        // Whoever floods the descriptor is not answered in full.
        let _ = sender.try_send(reply);
    }
}

fn apply(line: &str, worker_count: &WorkerCount, max_workers: usize) -> Reply {
    match serde_json::from_str(line) {
        Ok(TrainerControl::Workers { workers }) => {
            let to = usize::try_from(workers).unwrap_or(usize::MAX).clamp(1, max_workers.max(1));
            let number = |workers: usize| u32::try_from(workers).unwrap_or(u32::MAX);
            Reply::Workers(WorkersChanged { from: number(worker_count.request(to)), to: number(to) })
        }
        Err(error) => unread(&error.to_string(), line),
    }
}

fn unread(reason: &str, line: &str) -> Reply {
    let shown: String = line.chars().take(SHOWN).collect();
    Reply::Unread(format!("a line on the control descriptor is left out: {reason}: `{shown}`"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn workers_are_as_many_as_asked_for_and_a_line_that_is_none_is_a_warning() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let worker_count = WorkerCount::new(2);
        let file = Arc::new(File::from(std::os::fd::OwnedFd::from(reader)));
        let control = Control::listen(Some(file), &worker_count, 4);
        for line in [r#"{"type":"workers","workers":3}"#, "what", "", r#"{"type":"workers","workers":900}"#] {
            writeln!(writer, "{line}").unwrap();
        }
        writer.write_all(b"\xff\n{\"type\":\"workers\",\"workers\":0}\n").unwrap();
        drop(writer);
        // The thread's end of the channel is gone when all is read.
        let replies: Vec<Reply> = control.replies.as_ref().unwrap().iter().collect();
        let workers = |reply: &Reply| match reply {
            Reply::Workers(WorkersChanged { from, to }) => Some((*from, *to)),
            Reply::Unread(_) => None,
        };
        let found: Vec<_> = replies.iter().map(workers).collect();
        assert_eq!(found, [Some((2, 3)), None, Some((3, 4)), None, Some((4, 1))]);
        assert_eq!(worker_count.wanted(), 1);
        let Reply::Unread(text) = &replies[1] else { unreachable!() };
        assert!(text.contains("`what`"), "{text}");
    }

    #[test]
    fn without_a_descriptor_there_is_nothing_to_answer() {
        let mut events = Events::recording();
        assert!(!Control::listen(None, &WorkerCount::new(2), 4).report(&mut events));
        assert!(events.recorded().is_empty());
    }
}
