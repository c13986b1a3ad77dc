//! What GPUs did, on its way from the agents into the store: beside the core and its commits.
//!
//! An agent sends a sample a second and GPU, some seconds at a time. Batches of all agents are gathered for
//! a moment and written together. What the store cannot take is dropped and counted: telemetry is worth less
//! than that a scheduler waits for it. Of each minute a mean is written when the minute is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{info, warn};
use trainyard_types::{AgentId, GpuUuid, Time};

use crate::clock::Clock;
use crate::sample::{AgentSamples, Resolution, Sample};
use crate::store::Store;

/// Samples that an agent may send at once.
pub const BATCH_MAX: usize = 1000;
/// Batches that may wait to be written; more are dropped.
const BACKLOG: usize = 8192;
/// How long samples are gathered before they are written.
const GATHER: Duration = Duration::from_millis(500);
/// How far an agent's clock may be from ours before its times are taken for wrong.
const SKEW: Duration = Duration::from_secs(10);
const MINUTE: u64 = 60_000;

/// Counters since the scheduler started.
#[derive(Debug, Default)]
pub struct SampleCounters {
    /// Samples that were stored.
    pub stored: AtomicU64,
    /// Samples that were dropped.
    pub dropped: AtomicU64,
}

/// The way to the store.
#[derive(Debug, Clone)]
pub struct Recorder {
    sender: mpsc::Sender<AgentSamples>,
    clock: Clock,
    counters: Arc<SampleCounters>,
}

impl Recorder {
    /// Starts the task that writes; it ends when every recorder is gone.
    pub fn start(store: Arc<dyn Store>, clock: Clock) -> Self {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let counters = Arc::new(SampleCounters::default());
        tokio::spawn(write_all(store, clock, receiver, Arc::clone(&counters)));
        Self { sender, clock, counters }
    }

    /// Takes what an agent sent. Never waits.
    pub fn take(&self, agent: AgentId, mut samples: Vec<Sample>) {
        let count = samples.len() as u64;
        align(self.clock.now(), &mut samples);
        let batch = AgentSamples { agent, resolution: Resolution::Seconds, samples };
        if count > 0 && self.sender.try_send(batch).is_err() {
            self.counters.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// What has become of samples so far.
    pub fn counters(&self) -> &SampleCounters {
        &self.counters
    }
}

/// Brings samples into order, and those of a clock that is far from ours to our time.
fn align(now: Time, samples: &mut [Sample]) {
    samples.sort_by(|one, other| (one.time, &one.gpu).cmp(&(other.time, &other.gpu)));
    let Some(newest) = samples.last().map(|sample| sample.time) else { return };
    if newest.since(now) <= SKEW && now.since(newest) <= SKEW {
        return;
    }
    for sample in samples {
        sample.time = Time(now.0.saturating_sub(newest.since(sample.time).as_millis() as u64));
    }
}

async fn write_all(
    store: Arc<dyn Store>,
    clock: Clock,
    mut receiver: mpsc::Receiver<AgentSamples>,
    counters: Arc<SampleCounters>,
) {
    let mut minutes = Minutes::default();
    let mut works = true;
    let mut sent = Vec::new();
    while receiver.recv_many(&mut sent, BACKLOG).await > 0 {
        // What comes in the next moment is written in one go with it.
        sleep(GATHER).await;
        while let Ok(batch) = receiver.try_recv() {
            sent.push(batch);
        }
        let count: usize = sent.iter().map(|batch| batch.samples.len()).sum();
        let now = clock.now();
        for batch in &sent {
            minutes.add(batch);
        }
        sent.extend(minutes.take_over(now));
        let stored = store.record(now, &sent).await;
        sent.clear();
        let counter = if stored.is_ok() { &counters.stored } else { &counters.dropped };
        counter.fetch_add(count as u64, Ordering::Relaxed);
        match &stored {
            Err(cause) if works => warn!(%cause, "telemetry cannot be stored, dropping it"),
            Ok(()) if !works => info!("telemetry is stored again"),
            Ok(()) | Err(_) => {}
        }
        works = stored.is_ok();
    }
}

/// Sum and count of what was told.
#[derive(Debug, Default)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.sum += value;
            self.count += 1;
        }
    }

    fn value(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}

/// The minute under way of one GPU.
#[derive(Debug, Default)]
struct Minute {
    summary: Sample,
    utilization: Mean,
    power: Mean,
    clock: Mean,
}

impl Minute {
    fn begin(sample: &Sample) -> Self {
        let time = Time(sample.time.0 / MINUTE * MINUTE);
        Self { summary: Sample { time, gpu: sample.gpu.clone(), ..Sample::default() }, ..Self::default() }
    }

    fn add(&mut self, sample: &Sample) {
        self.utilization.add(sample.utilization_ratio);
        self.power.add(sample.power_watts);
        self.clock.add(sample.clock_mhz.map(f64::from));
        let summary = &mut self.summary;
        summary.memory_used_mib = summary.memory_used_mib.max(sample.memory_used_mib);
        summary.temperature_celsius = summary.temperature_celsius.max(sample.temperature_celsius);
        summary.energy_joules = sample.energy_joules.or(summary.energy_joules);
        for reason in &sample.throttle_reasons {
            if !summary.throttle_reasons.contains(reason) {
                summary.throttle_reasons.push(reason.clone());
            }
        }
    }

    fn end(self) -> Sample {
        Sample {
            utilization_ratio: self.utilization.value(),
            power_watts: self.power.value(),
            clock_mhz: self.clock.value().map(|clock| clock.round() as u32),
            ..self.summary
        }
    }
}

/// The minutes under way. A scheduler that begins in the middle of one knows the rest of it only.
#[derive(Debug, Default)]
struct Minutes {
    open: BTreeMap<(AgentId, GpuUuid), Minute>,
    over: BTreeMap<AgentId, Vec<Sample>>,
}

impl Minutes {
    fn add(&mut self, batch: &AgentSamples) {
        for sample in &batch.samples {
            let key = (batch.agent, sample.gpu.clone());
            let minute = self.open.entry(key).or_insert_with(|| Minute::begin(sample));
            if sample.time.0 / MINUTE != minute.summary.time.0 / MINUTE {
                let ended = std::mem::replace(minute, Minute::begin(sample));
                self.over.entry(batch.agent).or_default().push(ended.end());
            }
            minute.add(sample);
        }
    }

    /// The minutes that are over, and those of agents that say nothing more.
    fn take_over(&mut self, now: Time) -> Vec<AgentSamples> {
        let is_stale = |minute: &Minute| now.0 >= minute.summary.time.0.saturating_add(2 * MINUTE);
        let stale: Vec<(AgentId, GpuUuid)> =
            self.open.iter().filter(|(_, minute)| is_stale(minute)).map(|(key, _)| key.clone()).collect();
        for key in stale {
            if let Some(minute) = self.open.remove(&key) {
                self.over.entry(key.0).or_default().push(minute.end());
            }
        }
        let over = std::mem::take(&mut self.over).into_iter();
        over.map(|(agent, samples)| AgentSamples { agent, resolution: Resolution::Minutes, samples })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn sample(ms: u64, utilization: f64, memory: u64) -> Sample {
        Sample {
            time: Time(ms),
            gpu: GpuUuid("GPU-1".into()),
            utilization_ratio: Some(utilization),
            memory_used_mib: Some(memory),
            ..Sample::default()
        }
    }

    fn batch(samples: Vec<Sample>) -> AgentSamples {
        AgentSamples { agent: AgentId(Uuid::from_u128(1)), resolution: Resolution::Seconds, samples }
    }

    #[test]
    fn a_minute_is_told_by_its_mean_and_its_peaks() {
        let mut minutes = Minutes::default();
        let mut throttled = sample(61_000, 1.0, 300);
        throttled.throttle_reasons = vec!["thermal".into()];
        minutes.add(&batch(vec![sample(60_000, 0.5, 900), throttled, sample(119_999, 0.0, 100)]));
        assert_eq!(minutes.take_over(Time(121_000)), []);
        minutes.add(&batch(vec![sample(120_000, 0.1, 1)]));
        let told = minutes.take_over(Time(121_000));
        let [AgentSamples { resolution: Resolution::Minutes, samples, .. }] = told.as_slice() else {
            panic!("{told:?}")
        };
        let expected = Sample { throttle_reasons: vec!["thermal".into()], ..sample(60_000, 0.5, 900) };
        assert_eq!(*samples, [expected]);
    }

    #[test]
    fn the_last_minute_of_an_agent_that_falls_silent_is_told_too() {
        let mut minutes = Minutes::default();
        minutes.add(&batch(vec![sample(60_000, 0.5, 900)]));
        assert_eq!(minutes.take_over(Time(179_999)), []);
        assert_eq!(minutes.take_over(Time(180_000)).len(), 1);
        assert_eq!(minutes.take_over(Time(999_999)), []);
    }

    #[test]
    fn samples_of_a_clock_that_is_wrong_are_brought_to_our_time() {
        let mut far = [sample(7_002_000, 0.2, 1), sample(7_001_000, 0.1, 1)];
        align(Time(50_000), &mut far);
        assert_eq!(
            far.map(|sample| (sample.time.0, sample.utilization_ratio)),
            [(49_000, Some(0.1)), (50_000, Some(0.2))]
        );
        let mut near = [sample(45_000, 0.2, 1)];
        align(Time(50_000), &mut near);
        assert_eq!(near[0].time, Time(45_000));
    }
}
