//! What an agent asks of a training that runs: lines of JSON on a descriptor, read by a thread of their own.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use trainyard_data::Crew;
use trainyard_types::trainer::{LogLevel, TrainerControl, TrainerEvent, WorkersChanged};

use crate::events::Events;

/// Answers that may wait to be told; more are left out.
const WAITING: usize = 64;
/// Characters of a line that a warning shows.
const SHOWN: usize = 200;

/// What came of a line.
#[derive(Debug)]
enum Note {
    Workers(WorkersChanged),
    Unread(String),
}

/// Where the answers come from.
#[derive(Debug)]
pub struct Control {
    notes: Option<Receiver<Note>>,
}

impl Control {
    /// Follows the lines of `file`, if there is one, until it ends; `crew` gets as many workers as they ask
    /// for, up to `most`.
    pub fn listen(file: Option<Arc<File>>, crew: &Crew, most: usize) -> Self {
        let Some(file) = file else { return Self { notes: None } };
        let (put, notes) = bounded(WAITING);
        let crew = crew.clone();
        // It waits for lines as long as the process lives, and is never joined.
        std::thread::spawn(move || {
            crate::libtorch::anywhere();
            read(&file, &crew, most, &put);
        });
        Self { notes: Some(notes) }
    }

    /// Tells what was asked since the last call. Whether there are fewer workers now.
    pub fn answer(&self, events: &mut Events) -> bool {
        let mut fewer = false;
        for note in self.notes.iter().flat_map(Receiver::try_iter) {
            match note {
                Note::Workers(change) => {
                    fewer |= change.to < change.from;
                    let WorkersChanged { from, to } = change;
                    events.print(&format!("{to} threads load images from now on (before: {from})"));
                    events.emit(TrainerEvent::Workers(change));
                }
                Note::Unread(message) => events.log(LogLevel::Warning, message),
            }
        }
        fewer
    }
}

fn read(file: &File, crew: &Crew, most: usize, put: &Sender<Note>) {
    for line in BufReader::new(file).lines() {
        let note = match line {
            Ok(line) if line.trim().is_empty() => continue,
            Ok(line) => obey(&line, crew, most),
            Err(error) if error.kind() == ErrorKind::InvalidData => unread("it is not text", ""),
            Err(_) => return,
        };
        // Who floods the descriptor is not answered in full.
        let _ = put.try_send(note);
    }
}

fn obey(line: &str, crew: &Crew, most: usize) -> Note {
    match serde_json::from_str(line) {
        Ok(TrainerControl::Workers { workers }) => {
            let to = usize::try_from(workers).unwrap_or(usize::MAX).clamp(1, most.max(1));
            let number = |workers: usize| u32::try_from(workers).unwrap_or(u32::MAX);
            Note::Workers(WorkersChanged { from: number(crew.ask(to)), to: number(to) })
        }
        Err(error) => unread(&error.to_string(), line),
    }
}

fn unread(reason: &str, line: &str) -> Note {
    let shown: String = line.chars().take(SHOWN).collect();
    Note::Unread(format!("a line on the control descriptor is left out: {reason}: `{shown}`"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn workers_are_as_many_as_asked_for_and_a_line_that_is_none_is_a_warning() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let crew = Crew::new(2);
        let file = Arc::new(File::from(std::os::fd::OwnedFd::from(reader)));
        let control = Control::listen(Some(file), &crew, 4);
        for line in [r#"{"type":"workers","workers":3}"#, "what", "", r#"{"type":"workers","workers":900}"#] {
            writeln!(writer, "{line}").unwrap();
        }
        writer.write_all(b"\xff\n{\"type\":\"workers\",\"workers\":0}\n").unwrap();
        drop(writer);
        // The thread's end of the channel is gone when all is read.
        let notes: Vec<Note> = control.notes.as_ref().unwrap().iter().collect();
        let workers = |note: &Note| match note {
            Note::Workers(WorkersChanged { from, to }) => Some((*from, *to)),
            Note::Unread(_) => None,
        };
        let found: Vec<_> = notes.iter().map(workers).collect();
        assert_eq!(found, [Some((2, 3)), None, Some((3, 4)), None, Some((4, 1))]);
        assert_eq!(crew.wanted(), 1);
        let Note::Unread(text) = &notes[1] else { unreachable!() };
        assert!(text.contains("`what`"), "{text}");
    }

    #[test]
    fn without_a_descriptor_there_is_nothing_to_answer() {
        let mut events = Events::recording();
        assert!(!Control::listen(None, &Crew::new(2), 4).answer(&mut events));
        assert!(events.recorded().is_empty());
    }
}
