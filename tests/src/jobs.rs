//! Submitting jobs and watching what becomes of them.

use std::path::Path;

use anyhow::{Context, Result, bail};
use tonic::transport::Channel;
use trainyard_proto::pb;
use trainyard_proto::pb::artifact_service_client::ArtifactServiceClient;
use trainyard_proto::pb::job_event::Event;
use trainyard_proto::pb::job_service_client::JobServiceClient;

use crate::cluster::{Cluster, PATIENCE};

/// A training so small that an epoch takes a fraction of a second on one core.
pub fn tiny(data: &Path, epochs: u32) -> pb::JobSpec {
    let train = pb::TrainSpec {
        model: "yolov8n".into(),
        data: data.display().to_string(),
        epochs: Some(epochs),
        imgsz: Some(64),
        batch: Some(8.0),
        workers: Some(1),
        mosaic: Some(0.0),
        ..Default::default()
    };
    let resources = pb::Resources { device: Some("cpu".into()), ..Default::default() };
    pb::JobSpec { name: "tiny".into(), train: Some(train), resources: Some(resources), ..Default::default() }
}

impl Cluster {
    /// The jobs' side of things.
    pub async fn jobs(&self) -> Result<JobServiceClient<Channel>> {
        Ok(JobServiceClient::new(self.channel().await?))
    }

    /// Submits a job and returns its id.
    pub async fn submit(&self, spec: pb::JobSpec) -> Result<String> {
        let request = pb::SubmitJobRequest { spec: Some(spec), ..Default::default() };
        Ok(self.jobs().await?.submit_job(request).await?.into_inner().job_id)
    }

    /// What a job has left behind until now.
    pub async fn artifacts(&self, id: &str) -> Result<Vec<pb::Artifact>> {
        let request = pb::ListArtifactsRequest { job_id: id.to_owned(), ..Default::default() };
        let mut client = ArtifactServiceClient::new(self.channel().await?);
        Ok(client.list_artifacts(request).await?.into_inner().artifacts)
    }

    /// A job as it stands.
    pub async fn job(&self, id: &str) -> Result<pb::Job> {
        let request = pb::GetJobRequest { job_id: id.to_owned() };
        Ok(self.jobs().await?.get_job(request).await?.into_inner())
    }

    /// Follows a job from its first event until `wanted` says so, reconnecting as a client does; returns all
    /// events up to there.
    ///
    /// # Errors
    /// When the job ends, or patience does, before that.
    pub async fn watch_until(
        &self,
        id: &str,
        wanted: impl FnMut(&pb::JobEvent) -> bool,
    ) -> Result<Vec<pb::JobEvent>> {
        let mut seen = Vec::new();
        let watching = self.watch(id, &mut seen, wanted);
        match tokio::time::timeout(PATIENCE, watching).await {
            Ok(Ok(())) => Ok(seen),
            Ok(Err(error)) => Err(error.context(summary(&seen))),
            Err(_) => bail!("out of patience; {}", summary(&seen)),
        }
    }

    async fn watch(
        &self,
        id: &str,
        seen: &mut Vec<pb::JobEvent>,
        mut wanted: impl FnMut(&pb::JobEvent) -> bool,
    ) -> Result<()> {
        let mut retry = tokio::time::interval(std::time::Duration::from_millis(100));
        loop {
            retry.tick().await;
            let cursor = seen.last().map_or(0, |event| event.cursor);
            let request = pb::WatchJobRequest { job_id: id.to_owned(), cursor, history_only: false };
            let Ok(mut client) = self.jobs().await else { continue };
            let Ok(stream) = client.watch_job(request).await else { continue };
            let mut stream = stream.into_inner();
            loop {
                match stream.message().await {
                    Ok(Some(event)) => {
                        let done = wanted(&event);
                        seen.push(event);
                        if done {
                            return Ok(());
                        }
                    }
                    Ok(None) if ended(seen) => bail!("the job ended first"),
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }

    /// Follows a job to its end; returns its state and all its events.
    pub async fn watch_to_end(&self, id: &str) -> Result<(pb::JobState, Vec<pb::JobEvent>)> {
        let seen = self.watch_until(id, |event| final_state(event).is_some()).await?;
        let state = seen.last().and_then(final_state).context("the last event is the end")?;
        Ok((state, seen))
    }
}

fn ended(seen: &[pb::JobEvent]) -> bool {
    seen.last().and_then(final_state).is_some()
}

fn summary(seen: &[pb::JobEvent]) -> String {
    let last: Vec<String> =
        seen.iter().rev().take(8).rev().map(|event| format!("{:?}", event.event)).collect();
    format!("{} events, the last ones:\n{}", seen.len(), last.join("\n"))
}

/// The state that an event announces, if it is a final one.
pub fn final_state(event: &pb::JobEvent) -> Option<pb::JobState> {
    use pb::JobState::{Cancelled, Failed, Succeeded};
    let Some(Event::StateChange(change)) = &event.event else { return None };
    [Succeeded, Failed, Cancelled].into_iter().find(|state| *state == change.state())
}

/// Whether an event says that the trainer runs.
pub fn is_running(event: &pb::JobEvent) -> bool {
    matches!(&event.event, Some(Event::StateChange(change)) if change.state() == pb::JobState::Running)
}

/// The epoch that an event finished.
pub fn epoch_end(event: &pb::JobEvent) -> Option<u32> {
    match &event.event {
        Some(Event::Metrics(metrics)) if metrics.epoch_end => Some(metrics.epoch),
        _ => None,
    }
}

/// Asserts that no event is missing, doubled or out of order.
pub fn assert_gapless(events: &[pb::JobEvent]) {
    let cursors: Vec<u64> = events.iter().map(|event| event.cursor).collect();
    let expected: Vec<u64> = (1..=events.len() as u64).collect();
    assert_eq!(cursors, expected, "a watcher misses nothing and sees nothing twice");
}
