//! Samples of the GPUs, one a second, on their way to the scheduler. A message has several seconds. What nobody takes is
//! dropped: samples are no reports.

use tokio::sync::mpsc;
use trainyard_proto::convert::job::timestamp;
use trainyard_proto::pb;
use trainyard_types::Time;

use super::states::GpuSnapshot;

/// Seconds in one message.
const SECONDS_PER_MESSAGE: usize = 5;

/// Messages that wait for a scheduler that is away. The older ones are kept, so that it sees what came before.
pub const WAITING: usize = 4;

/// Collects samples into messages.
#[derive(Debug)]
pub struct TelemetryBuffer {
    samples: Vec<pb::TelemetrySample>,
    seconds: usize,
    out: mpsc::Sender<pb::Telemetry>,
}

impl TelemetryBuffer {
    /// Sends to `out`, which holds [`WAITING`] messages.
    pub const fn new(out: mpsc::Sender<pb::Telemetry>) -> Self {
        Self { samples: Vec::new(), seconds: 0, out }
    }

    /// Takes one second of every GPU.
    pub fn add(&mut self, now: Time, gpus: &[GpuSnapshot]) {
        self.samples.extend(gpus.iter().filter_map(|gpu| sample(now, gpu)));
        self.seconds += 1;
        if self.seconds < SECONDS_PER_MESSAGE {
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

fn sample(now: Time, gpu: &GpuSnapshot) -> Option<pb::TelemetrySample> {
    let reading = gpu.reading.as_ref()?;
    Some(pb::TelemetrySample {
        time: Some(timestamp(now)),
        gpu: gpu.gpu.uuid.to_string(),
        utilization_ratio: reading.utilization_ratio,
        memory_used_mib: reading.memory_used_mib,
        power_watts: reading.power_watts,
        energy_joules: reading.energy_joules,
        temperature_celsius: reading.temperature_celsius,
        clock_mhz: reading.clock_mhz,
        throttle_reasons: reading.throttle_reasons.iter().map(ToString::to_string).collect(),
    })
}
