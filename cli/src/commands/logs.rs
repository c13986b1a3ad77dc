//! `yard logs`: a job's log lines.

use std::collections::VecDeque;

use clap::Args;
use trainyard_proto::pb;
use trainyard_proto::pb::job_event::Event;

use crate::commands::Context;
use crate::failure::Failure;
use crate::follow::{EventStream, Mode, plain_text};
use crate::proto_json::to_json;

/// Print a job's log.
#[derive(Debug, Args)]
pub struct Logs {
    /// The job's id, or the beginning of it
    id: String,
    /// Go on with what is logged from now on, until the job ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines of what is there
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<usize>,
}

impl Logs {
    /// Prints lines as they are read, or with `--tail` once the past has been read.
    ///
    /// # Errors
    /// There is no such job, or the scheduler cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let id = context.client.job_id(&self.id).await?;
        let mut events = EventStream::new(&context.client, &id, 0, Mode::History);
        let mut kept = VecDeque::new();
        while let Some(event) = events.next().await? {
            if !matches!(event.event, Some(Event::LogLine(_))) {
                continue;
            }
            match self.tail {
                None => print(context, &event)?,
                Some(lines) => {
                    kept.push_back(event);
                    if kept.len() > lines {
                        kept.pop_front();
                    }
                }
            }
        }
        for event in &kept {
            print(context, event)?;
        }
        if !self.follow {
            return Ok(());
        }
        let mut events = EventStream::new(&context.client, &id, events.cursor(), Mode::Follow);
        while let Some(event) = events.next().await? {
            if matches!(event.event, Some(Event::LogLine(_))) {
                print(context, &event)?;
            }
        }
        Ok(())
    }
}

fn print(context: &Context, event: &pb::JobEvent) -> Result<(), Failure> {
    match &event.event {
        Some(Event::LogLine(line)) if context.output.for_people() => {
            context.output.line(&plain_text::log_line(event, line, context.output.colored))
        }
        // A log may be endless: each line is a document of its own, whatever the format.
        _ => context.output.document(&to_json("JobEvent", event)),
    }
}
