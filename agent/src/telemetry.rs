//! What the GPUs did, once a second, on its way to the scheduler in batches. What nobody takes is dropped:
//! it is no report.

use tokio::sync::mpsc;
use trainyard_proto::convert::job::timestamp;
use trainyard_proto::pb;
use trainyard_types::Time;

use crate::gpu::cards::Snapshot;

/// Seconds in a batch.
const BATCH: usize = 5;

/// Batches that wait for a scheduler that is away; older ones stay, for it to see what came before.
pub const WAITING: usize = 4;

/// Collects samples.
#[derive(Debug)]
pub struct Batcher {
    samples: Vec<pb::TelemetrySample>,
    seconds: usize,
    out: mpsc::Sender<pb::Telemetry>,
}

impl Batcher {
    /// Sends to `out`, which holds [`WAITING`] batches.
    pub const fn new(out: mpsc::Sender<pb::Telemetry>) -> Self {
        Self { samples: Vec::new(), seconds: 0, out }
    }

    /// Takes one second of every GPU.
    pub fn add(&mut self, now: Time, cards: &[Snapshot]) {
        self.samples.extend(cards.iter().filter_map(|card| sample(now, card)));
        self.seconds += 1;
        if self.seconds < BATCH {
            return;
        }
        self.seconds = 0;
        let samples = std::mem::take(&mut self.samples);
        if !samples.is_empty() {
            // Full: the scheduler is away.
            let _dropped = self.out.try_send(pb::Telemetry { samples });
        }
    }
}

fn sample(now: Time, card: &Snapshot) -> Option<pb::TelemetrySample> {
    let reading = card.reading.as_ref()?;
    Some(pb::TelemetrySample {
        time: Some(timestamp(now)),
        gpu: card.gpu.uuid.to_string(),
        utilization_ratio: reading.utilization_ratio,
        memory_used_mib: reading.memory_used_mib,
        power_watts: reading.power_watts,
        energy_joules: reading.energy_joules,
        temperature_celsius: reading.temperature_celsius,
        clock_mhz: reading.clock_mhz,
        throttle_reasons: reading.throttle_reasons.iter().map(ToString::to_string).collect(),
    })
}
