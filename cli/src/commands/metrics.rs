//! `yard metrics`: a job's figures by epoch.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;
use trainyard_proto::pb;
use trainyard_proto::pb::job_event::Event;

use crate::commands::Context;
use crate::failure::Failure;
use crate::follow::{EventStream, Mode};
use crate::proto_json::to_json;
use crate::{render, terminal};

/// Print a job's figures, epoch by epoch.
#[derive(Debug, Args)]
pub struct ShowMetrics {
    /// The job's id, or the beginning of it
    id: String,
}

impl ShowMetrics {
    /// Reads the job's past and prints its finished epochs.
    ///
    /// # Errors
    /// There is no such job, or the scheduler cannot be reached.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let id = context.client.job_id(&self.id).await?;
        let mut events = EventStream::new(&context.client, &id, 0, Mode::History);
        // An attempt that resumed repeats epochs; the later figures are of the weights that went on.
        let mut epochs: BTreeMap<u32, pb::Metrics> = BTreeMap::new();
        while let Some(event) = events.next().await? {
            match event.event {
                Some(Event::Metrics(metrics)) if metrics.epoch_end => {
                    epochs.insert(metrics.epoch, metrics);
                }
                _ => {}
            }
        }
        if !context.output.for_people() {
            let metrics: Vec<_> = epochs.values().map(|metrics| to_json("Metrics", metrics)).collect();
            return context.output.list(&json!({ "metrics": metrics }), "metrics");
        }
        if epochs.is_empty() {
            terminal::message("no epoch is finished yet");
            return Ok(());
        }
        context.output.line(&render::training::epochs(context.output, epochs.values()))
    }
}
