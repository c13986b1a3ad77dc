//! Parses the trainer's event stream, one JSON object a line. A bad line is counted and skipped, and a line without an end
//! costs no memory.

use trainyard_types::Time;
use trainyard_types::trainer::{TrainerEvent, TrainerLine, VERSION};

/// Longer lines are skipped.
pub const LINE_LIMIT: usize = 256 * 1024;

/// Parses a stream of bytes into events.
#[derive(Debug, Default)]
pub struct EventParser {
    line: Vec<u8>,
    too_long: bool,
    bad_lines: u64,
}

impl EventParser {
    /// Takes bytes; returns the events whose lines they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<(Time, TrainerEvent)> {
        let mut events = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, complete) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            self.too_long |= self.line.len() + text.len() > LINE_LIMIT;
            if self.too_long {
                self.line.clear();
            } else {
                self.line.extend_from_slice(text);
            }
            if complete {
                events.extend(self.take_line());
            }
        }
        events
    }

    /// Ends the stream; returns how many lines were bad. A last line without a line feed is bad: it may be half of one.
    pub fn finish(mut self) -> u64 {
        if self.too_long || !self.line.is_empty() {
            self.bad_lines += 1;
        }
        self.bad_lines
    }

    fn take_line(&mut self) -> Option<(Time, TrainerEvent)> {
        let parsed = serde_json::from_slice(&self.line).ok().filter(|line: &TrainerLine| line.v == VERSION);
        if parsed.is_none() || self.too_long {
            self.bad_lines += 1;
        }
        self.line.clear();
        self.too_long = false;
        parsed.map(|line| (line.time, line.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"v":1,"time":5,"type":"log","level":"info","message":"hello"}"#;

    #[test]
    fn events_come_out_however_the_bytes_arrive() {
        let stream = format!("{GOOD}\n{GOOD}\n");
        for size in [1, 2, 7, 1000] {
            let mut parser = EventParser::default();
            let events: usize = stream.as_bytes().chunks(size).map(|chunk| parser.push(chunk).len()).sum();
            assert_eq!((events, parser.finish()), (2, 0), "chunks of {size}");
        }
    }

    #[test]
    fn bad_lines_are_counted_and_skipped() {
        let mut parser = EventParser::default();
        let future = GOOD.replace("\"v\":1", "\"v\":2");
        let unknown = GOOD.replace("log", "song");
        let stream = format!("not json\n{future}\n{unknown}\n\u{0}\n{GOOD}\n{{\"half");
        assert_eq!(parser.push(stream.as_bytes()).len(), 1);
        assert_eq!(parser.finish(), 5);
    }

    #[test]
    fn an_endless_line_is_skipped_without_being_kept() {
        let mut parser = EventParser::default();
        for _ in 0..10 {
            assert!(parser.push(&[b'x'; LINE_LIMIT]).is_empty());
            assert!(parser.line.len() <= LINE_LIMIT);
        }
        assert_eq!(parser.push(format!("\n{GOOD}\n").as_bytes()).len(), 1);
        assert_eq!(parser.finish(), 1);
    }
}
