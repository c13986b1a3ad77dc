//! NVIDIA's management library, loaded at run time: an agent on a machine without it has no GPUs.

use std::path::Path;

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use tracing::warn;
use trainyard_types::{Gpu, GpuTelemetry, GpuUuid};

use super::GpuProbe;

const MIB: u64 = 1 << 20;

/// NVML, initialised.
#[derive(Debug)]
pub struct NvmlGpus(Nvml);

impl NvmlGpus {
    /// Loads the library at `path`, or the driver's own.
    ///
    /// # Errors
    /// There is no library or no driver.
    pub fn load(path: Option<&Path>) -> Result<Self, NvmlError> {
        let mut builder = Nvml::builder();
        if let Some(path) = path {
            builder.lib_path(path.as_os_str());
        }
        builder.init().map(Self)
    }

    /// Calls `read` for every card that answers, in the driver's order.
    fn each<T>(&self, read: impl Fn(&Device<'_>) -> Result<T, NvmlError>) -> Vec<T> {
        // A card that has fallen off the bus must not take the others with it.
        let reading = |index| {
            self.0
                .device_by_index(index)
                .and_then(|device| read(&device))
                .inspect_err(|error| warn!(index, %error, "a GPU does not answer"))
                .ok()
        };
        let count = self.0.device_count().inspect_err(|error| warn!(%error, "cannot count the GPUs"));
        (0..count.unwrap_or(0)).filter_map(reading).collect()
    }
}

impl GpuProbe for NvmlGpus {
    fn gpus(&self) -> Vec<Gpu> {
        self.each(|device| {
            let capability = device.cuda_compute_capability().ok();
            Ok(Gpu {
                uuid: GpuUuid(device.uuid()?),
                index: device.index()?,
                model: device.name()?,
                memory_total_mib: device.memory_info()?.total / MIB,
                compute_capability: capability.and_then(|version| {
                    Some((version.major.try_into().ok()?, version.minor.try_into().ok()?))
                }),
            })
        })
    }

    fn telemetry(&self) -> Vec<GpuTelemetry> {
        self.each(|device| {
            Ok(GpuTelemetry {
                uuid: GpuUuid(device.uuid()?),
                memory_free_mib: device.memory_info().ok().map(|memory| memory.free / MIB),
                utilization_ratio: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
                temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok(),
                power_watts: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0),
                ..GpuTelemetry::default()
            })
        })
    }

    fn driver_version(&self) -> String {
        self.0.sys_driver_version().unwrap_or_default()
    }
}
