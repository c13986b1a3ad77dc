//! Following a job: its events from a cursor, through restarts of the server, and what is shown of them.

mod event_stream;
pub mod plain_text;
mod progress_bar;

use trainyard_proto::pb;
use trainyard_proto::pb::job_event::Event;

pub use event_stream::{EventStream, Mode};

use crate::args::Format;
use crate::commands::Context;
use crate::failure::{Exit, Failure};
use crate::proto_json::to_json;
use crate::render::{job::is_final, training};
use crate::terminal;

/// What of a job is shown.
#[derive(Debug, Clone, Default)]
pub struct FollowOptions {
    /// Every line of the log, not only warnings and errors.
    pub all_logs: bool,
    /// Events up to this one are known already.
    pub cursor: u64,
}

/// Shows job `id` until it ends.
///
/// # Errors
/// The job does not succeed (its exit code is 1); there is none; the server stays away.
pub async fn run(context: &Context, id: &str, follow: &FollowOptions) -> Result<(), Failure> {
    *context.on_interrupt.borrow_mut() =
        format!("detached; the job goes on, `yard watch {id}` shows it again, `yard cancel {id}` ends it");
    let mut events = EventStream::new(&context.client, id, follow.cursor, Mode::Follow);
    let mut view = View::new(context, follow);
    let mut figures = training::Figures::new();
    while let Some(event) = events.next().await? {
        if let Some(Event::Metrics(metrics)) = &event.event {
            figures.extend(metrics.values.clone());
        }
        view.show(context, &event)?;
    }
    drop(view);
    let job = context.client.job(id).await?;
    if let Some(progress) = &job.progress {
        figures.extend(progress.metrics.clone());
    }
    match context.output.format {
        Format::Table => summary(context, &job, &figures)?,
        // A document of its own: the events were not printed.
        Format::Json | Format::Yaml => context.output.document(&to_json("Job", &job))?,
        Format::Jsonl => {}
    }
    match job.state() {
        pb::JobState::Succeeded => Ok(()),
        _ => Err(Failure::quiet(Exit::Failed)),
    }
}

/// How the job ended, for people.
fn summary(context: &Context, job: &pb::Job, figures: &training::Figures) -> Result<(), Failure> {
    if job.state() == pb::JobState::Succeeded {
        let table = training::per_class_block(context.output, figures);
        if !table.is_empty() {
            context.output.line(table.trim_end())?;
        }
        terminal::message(&format!(
            "\nthe job succeeded; `yard artifacts {} get` fetches the weights",
            job.id
        ));
    } else if is_final(job.state()) {
        let reason = terminal::clean(&job.state_reason);
        let how = if job.state() == pb::JobState::Failed { "failed" } else { "was cancelled" };
        terminal::message(&format!("\nthe job {how}: {reason}\n`yard logs {}` says more", job.id));
    }
    Ok(())
}

/// Where events are shown: a bar and lines on a terminal, lines alone elsewhere, or raw.
enum View {
    Bar(Box<progress_bar::EpochBar>),
    Plain(plain_text::PlainText),
    Raw,
    Nothing,
}

impl View {
    fn new(context: &Context, follow: &FollowOptions) -> Self {
        let output = context.output;
        match output.format {
            Format::Table if output.on_terminal() => {
                Self::Bar(Box::new(progress_bar::EpochBar::new(follow.all_logs, output.colored)))
            }
            Format::Table => Self::Plain(plain_text::PlainText::new(follow.all_logs, output.colored)),
            Format::Jsonl => Self::Raw,
            Format::Json | Format::Yaml => Self::Nothing,
        }
    }

    fn show(&mut self, context: &Context, event: &pb::JobEvent) -> Result<(), Failure> {
        match self {
            Self::Bar(bar) => bar.show(event),
            Self::Plain(plain) => plain.line(event).map_or(Ok(()), |line| context.output.line(&line)),
            Self::Raw => context.output.document(&to_json("JobEvent", event)),
            Self::Nothing => Ok(()),
        }
    }
}
