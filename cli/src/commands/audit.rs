//! `yard audit`: who did what.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use trainyard_proto::pb;

use crate::args::Format;
use crate::commands::Context;
use crate::failure::Failure;
use crate::output::Output;
use crate::proto_json::to_json;
use crate::{render, terminal};

/// How often new events are asked for.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How many events one call asks for.
const PAGE: i32 = 1000;

/// Show who did what, and who was refused; admins only
#[derive(Debug, Args)]
pub struct Audit {
    /// How many of the newest events
    #[arg(short = 'n', long, default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=1000))]
    limit: i32,
    /// Stay, and print events as they come
    #[arg(short, long)]
    follow: bool,
    /// One JSON object a line, as `-o jsonl`
    #[arg(long)]
    json: bool,
}

impl Audit {
    /// Prints events, oldest first.
    ///
    /// # Errors
    /// The scheduler refuses, or cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let output =
            if self.json { Output { format: Format::Jsonl, ..context.output } } else { context.output };
        let events = fetch(context, String::new(), self.limit).await?;
        if !self.follow {
            if output.for_people() && events.is_empty() {
                terminal::message("nothing has been done yet");
                return Ok(());
            }
            return show(output, &events);
        }
        // A document has an end, and this has none.
        let output = if output.for_people() { output } else { Output { format: Format::Jsonl, ..output } };
        match terminal::stdout_closed() {
            Some(closed) => tokio::select! {
                result = follow(context, output, events) => result,
                _ = closed => Ok(()),
            },
            None => follow(context, output, events).await,
        }
    }
}

async fn follow(context: &Context, output: Output, mut events: Vec<pb::AuditEvent>) -> Result<(), Failure> {
    let mut cursor = String::new();
    loop {
        if let Some(last) = events.last() {
            cursor.clone_from(&last.cursor);
            show(output, &events)?;
        }
        if i32::try_from(events.len()).is_ok_and(|count| count < PAGE) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        events = fetch(context, cursor.clone(), PAGE).await?;
    }
}

/// Events after `after`; the newest ones when that is empty.
async fn fetch(context: &Context, after: String, page_size: i32) -> Result<Vec<pb::AuditEvent>, Failure> {
    let request = pb::ListAuditEventsRequest { after, page_size };
    let call = || async { context.client.access().list_audit_events(request.clone()).await };
    Ok(context.client.retrying(call).await?.events)
}

fn show(output: Output, events: &[pb::AuditEvent]) -> Result<(), Failure> {
    if !output.for_people() {
        let events: Vec<_> = events.iter().map(|event| to_json("AuditEvent", event)).collect();
        return output.list(&json!({ "events": events }), "events");
    }
    events.iter().try_for_each(|event| output.line(&render::access::audit_line(event)))
}
