//! The text that Prometheus scrapes, in Trainyard's names and in those of NVIDIA's dcgm-exporter. A reading that a GPU
//! refuses has no sample.
//!
//! It is written without a library: the crate `prometheus-client` appends `_total` to each counter's samples and leaves it
//! out of `TYPE` lines. dcgm-exporter's counters have no such suffix, and Trainyard's have it in both lines.

pub mod http;

use std::fmt::{Display, Write as _};

use trainyard_types::trainer::Phases;
use trainyard_types::{GpuUuid, Slot};

use crate::content::ContentCounts;
use crate::gpu::states::GpuSnapshot;
use crate::running_trainers::TrainingCounts;

const MIB: f64 = 1_048_576.0;

/// The values that the pages show, at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetricsSnapshot {
    /// The host's name.
    pub host: String,
    /// What every GPU does.
    pub gpus: Vec<GpuSnapshot>,
    /// What was counted of training.
    pub training: TrainingCounts,
    /// Bytes of decoded images on disk.
    pub cache_bytes: u64,
    /// What was fetched from the cluster's store.
    pub content: ContentCounts,
    /// Reports that were lost.
    pub gaps: u64,
}

/// A page under construction.
#[derive(Default)]
struct Page(String);

impl Page {
    /// One family; nothing when it has no samples.
    fn family<V: Display>(&mut self, name: &str, kind: &str, help: &str, samples: Vec<(String, V)>) {
        if samples.is_empty() {
            return;
        }
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "{name}{{{labels}}} {value}");
        }
    }
}

/// One label; quotes, backslashes and line feeds are escaped.
fn label(name: &str, value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{escaped}\"")
}

/// The labels of a GPU: dcgm-exporter's, in its spelling.
fn labels(host: &str, gpu: &GpuSnapshot) -> String {
    let reading = gpu.reading.as_ref();
    let bus = reading.map(|reading| reading.pci_bus_id.clone()).unwrap_or_default();
    let device = reading.and_then(|reading| reading.minor).map(|minor| format!("nvidia{minor}"));
    [
        label("gpu", &gpu.gpu.index.to_string()),
        label("UUID", &gpu.gpu.uuid.0),
        label("pci_bus_id", &bus),
        label("device", &device.unwrap_or_default()),
        label("modelName", &gpu.gpu.model),
        label("Hostname", host),
    ]
    .join(",")
}

const fn float(number: u64) -> f64 {
    number as f64
}

/// One value of each GPU that tells it.
fn each(values: &MetricsSnapshot, read: impl Fn(&GpuSnapshot) -> Option<f64>) -> Vec<(String, f64)> {
    let sample = |gpu: &GpuSnapshot| Some((labels(&values.host, gpu), read(gpu)?));
    values.gpus.iter().filter_map(sample).collect()
}

/// The page under Trainyard's names.
pub fn page(values: &MetricsSnapshot) -> String {
    let mut page = Page::default();
    let version = label("version", env!("CARGO_PKG_VERSION"));
    page.family("trainyard_build_info", "gauge", "Version of the agent.", vec![(version, 1)]);
    gpus(values, &mut page);
    counts(values, &mut page);
    training(values, &mut page);
    let (disk, fetched) = (label("tier", "disk"), label("tier", "fetched"));
    let help = "Decoded images, and fetched data sets and weights, that are kept.";
    let kept = vec![(disk, values.cache_bytes), (fetched, values.content.stored_bytes)];
    page.family("trainyard_cache_bytes", "gauge", help, kept);
    content(values.content, &mut page);
    let help = "Reports of attempts that were lost.";
    page.family("trainyard_spool_gaps_total", "counter", help, vec![(String::new(), values.gaps)]);
    page.0
}

fn content(counts: ContentCounts, page: &mut Page) {
    let mut count = |name: &str, help: &str, samples| page.family(name, "counter", help, samples);
    let help = "Data sets and weights that came from the cluster's store.";
    count("trainyard_fetched_bytes_total", help, vec![(String::new(), counts.fetched_bytes)]);
    let of = |result: &str, count: u64| (label("result", result), count);
    let results = vec![of("held", counts.held), of("fetched", counts.fetched), of("failed", counts.failed)];
    let help = "Pushed data sets and weights that attempts wanted, by whether they were here whole.";
    count("trainyard_version_requests_total", help, results);
    let help = "Fetched files whose bytes had changed on this machine's disk.";
    count("trainyard_damaged_files_total", help, vec![(String::new(), counts.damaged)]);
}

fn gpus(values: &MetricsSnapshot, page: &mut Page) {
    let mib = |mib: Option<u64>| mib.map(|mib| float(mib) * MIB);
    let mut gauge = |name: &str, help: &str, read: &dyn Fn(&GpuSnapshot) -> Option<f64>| {
        page.family(&format!("trainyard_gpu_{name}"), "gauge", help, each(values, read));
    };
    let told = |gpu: &GpuSnapshot| gpu.reading.clone();
    gauge("available", "Whether the GPU takes jobs, as far as its agent knows.", &|gpu| {
        Some(f64::from(u8::from(gpu.available)))
    });
    gauge("utilization_ratio", "Share of time a kernel ran.", &|gpu| told(gpu)?.utilization_ratio);
    gauge("memory_total_bytes", "Memory of the GPU.", &|gpu| mib(Some(gpu.gpu.memory_total_mib)));
    gauge("memory_used_bytes", "Memory that processes hold.", &|gpu| mib(told(gpu)?.memory_used_mib));
    gauge("memory_reserved_bytes", "Memory that the driver keeps for itself.", &|gpu| {
        mib(told(gpu)?.memory_reserved_mib)
    });
    gauge(
        "memory_foreign_bytes",
        "Memory of processes that are not the agent's.",
        &|gpu| mib(gpu.others_mib),
    );
    gauge("power_watts", "Power drawn.", &|gpu| told(gpu)?.power_watts);
    gauge("temperature_celsius", "Temperature of the die.", &|gpu| {
        told(gpu)?.temperature_celsius.map(f64::from)
    });
    gauge("clock_hertz", "Clock of the multiprocessors.", &|gpu| {
        told(gpu)?.clock_mhz.map(|mhz| f64::from(mhz) * 1e6)
    });
    gauge("pcie_link_width", "PCIe lanes in use.", &|gpu| told(gpu)?.pcie_link_width.map(f64::from));
    gauge("pcie_link_width_max", "PCIe lanes that GPU and slot have.", &|gpu| {
        told(gpu)?.pcie_link_width_max.map(f64::from)
    });
    gauge(
        "ecc_uncorrected_errors",
        "Memory errors since the driver was loaded that were not corrected.",
        &|gpu| told(gpu)?.ecc_uncorrected.map(float),
    );
}

fn counts(values: &MetricsSnapshot, page: &mut Page) {
    let energy = each(values, |gpu| gpu.reading.as_ref()?.energy_joules);
    let help = "Energy since the driver was loaded.";
    page.family("trainyard_gpu_energy_joules_total", "counter", help, energy);
    let (mut throttled, mut xids) = (Vec::new(), Vec::new());
    for gpu in &values.gpus {
        let labels = labels(&values.host, gpu);
        let more = |name: &str, value: &str| format!("{labels},{}", label(name, value));
        throttled
            .extend(gpu.counts.throttled.iter().map(|(reason, seconds)| (more("reason", reason), *seconds)));
        xids.extend(gpu.counts.xids.iter().map(|(xid, count)| (more("xid", &xid.to_string()), *count)));
    }
    let help = "Time that the clock was held down, since the agent's start.";
    page.family("trainyard_gpu_throttle_seconds_total", "counter", help, throttled);
    let help = "Errors that the driver told, since the agent's start.";
    page.family("trainyard_gpu_xid_errors_total", "counter", help, xids);
}

/// The labels of a slot: its GPU's, or `device="cpu0"`.
fn slot_labels(values: &MetricsSnapshot, slot: &Slot) -> String {
    let found = |uuid: &GpuUuid| values.gpus.iter().find(|gpu| gpu.gpu.uuid == *uuid);
    match slot {
        Slot::Gpu(uuid) => {
            found(uuid).map_or_else(|| label("UUID", &uuid.0), |gpu| labels(&values.host, gpu))
        }
        Slot::Cpu(index) => {
            format!("{},{}", label("device", &format!("cpu{index}")), label("Hostname", &values.host))
        }
    }
}

fn training(values: &MetricsSnapshot, page: &mut Page) {
    let training = &values.training;
    let images = training.images.iter().map(|(slot, images)| (slot_labels(values, slot), *images)).collect();
    let help = "Images trained on the slot since the agent's start.";
    page.family("trainyard_train_images_total", "counter", help, images);
    let (mut waits, mut steps) = (Vec::new(), Vec::new());
    for (slot, timing) in &training.timing {
        let labels = slot_labels(values, slot);
        waits.extend(timing.loader_wait_ratio.map(|ratio| (labels.clone(), ratio)));
        for (phase, seconds) in timing.phases.map(named).into_iter().flatten() {
            steps.push((format!("{labels},{}", label("phase", phase)), seconds));
        }
    }
    let help = "Mean time that a batch spends in each phase, over the last second or so.";
    page.family("trainyard_train_step_seconds", "gauge", help, steps);
    let help = "Share of its time that the trainer waits for data.";
    page.family("trainyard_loader_wait_ratio", "gauge", help, waits);
}

const fn named(phases: Phases) -> [(&'static str, f64); 6] {
    [
        ("wait", phases.wait),
        ("copy", phases.copy),
        ("forward", phases.forward),
        ("loss", phases.loss),
        ("backward", phases.backward),
        ("optimizer", phases.optimizer),
    ]
}

/// The page under the names and units of NVIDIA's dcgm-exporter, for dashboards that know those.
pub fn dcgm_page(values: &MetricsSnapshot) -> String {
    let mut page = Page::default();
    let mut family = |name: &str, kind: &str, help: &str, read: &dyn Fn(&GpuSnapshot) -> Option<f64>| {
        page.family(&format!("DCGM_FI_DEV_{name}"), kind, help, each(values, read));
    };
    let told = |gpu: &GpuSnapshot| gpu.reading.clone();
    family("GPU_UTIL", "gauge", "GPU utilization (in %).", &|gpu| {
        Some(told(gpu)?.utilization_ratio? * 100.0)
    });
    family("FB_USED", "gauge", "Framebuffer memory used (in MiB).", &|gpu| {
        told(gpu)?.memory_used_mib.map(float)
    });
    family("FB_FREE", "gauge", "Framebuffer memory free (in MiB).", &|gpu| {
        told(gpu)?.memory_free_mib.map(float)
    });
    family("FB_RESERVED", "gauge", "Framebuffer memory reserved (in MiB).", &|gpu| {
        told(gpu)?.memory_reserved_mib.map(float)
    });
    family("POWER_USAGE", "gauge", "Power draw (in W).", &|gpu| told(gpu)?.power_watts);
    family("TOTAL_ENERGY_CONSUMPTION", "counter", "Total energy consumption since boot (in mJ).", &|gpu| {
        Some(told(gpu)?.energy_joules? * 1000.0)
    });
    family("GPU_TEMP", "gauge", "GPU temperature (in C).", &|gpu| {
        told(gpu)?.temperature_celsius.map(f64::from)
    });
    family("SM_CLOCK", "gauge", "SM clock frequency (in MHz).", &|gpu| told(gpu)?.clock_mhz.map(f64::from));
    family("XID_ERRORS", "gauge", "Value of the last XID error encountered.", &|gpu| {
        Some(float(gpu.counts.last_xid))
    });
    page.0
}

#[cfg(test)]
mod tests {
    use trainyard_types::Gpu;

    use super::*;
    use crate::gpu::health::Counts;
    use crate::gpu::reading::GpuReading;
    use crate::running_trainers::StepTiming;

    fn values() -> MetricsSnapshot {
        let gpu = Gpu {
            uuid: GpuUuid("GPU-1".into()),
            index: 2,
            model: "NVIDIA \"X\"".into(),
            memory_total_mib: 1024,
            compute_capability: None,
        };
        let reading = GpuReading {
            pci_bus_id: "00000000:01:00.0".into(),
            minor: Some(2),
            memory_used_mib: Some(512),
            utilization_ratio: Some(0.5),
            energy_joules: Some(1.5),
            clock_mhz: Some(2000),
            ..GpuReading::default()
        };
        let counts = Counts { xids: [(31, 2)].into(), last_xid: 31, throttled: [("thermal", 7.5)].into() };
        let gpu =
            GpuSnapshot { gpu, reading: Some(reading), others_mib: Some(256), available: false, counts };
        let slot = Slot::Gpu(GpuUuid("GPU-1".into()));
        let phases = Phases { backward: 0.25, ..Phases::default() };
        let timing = StepTiming { phases: Some(phases), loader_wait_ratio: Some(0.1) };
        let content =
            ContentCounts { stored_bytes: 6, fetched_bytes: 7, held: 1, ..ContentCounts::default() };
        let training = TrainingCounts {
            images: [(slot.clone(), 640), (Slot::Cpu(0), 8)].into(),
            timing: [(slot, timing)].into(),
        };
        MetricsSnapshot { host: "lab".into(), gpus: vec![gpu], training, cache_bytes: 5, content, gaps: 0 }
    }

    const LABELS: &str = "gpu=\"2\",UUID=\"GPU-1\",pci_bus_id=\"00000000:01:00.0\",device=\"nvidia2\",\
                          modelName=\"NVIDIA \\\"X\\\"\",Hostname=\"lab\"";

    fn assert_has(page: &str, lines: &[String]) {
        for line in lines {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn the_page_has_the_promised_names_labels_and_units() {
        let lines = [
            "# TYPE trainyard_gpu_energy_joules_total counter".into(),
            format!("trainyard_gpu_utilization_ratio{{{LABELS}}} 0.5"),
            format!("trainyard_gpu_memory_used_bytes{{{LABELS}}} 536870912"),
            format!("trainyard_gpu_memory_foreign_bytes{{{LABELS}}} 268435456"),
            format!("trainyard_gpu_energy_joules_total{{{LABELS}}} 1.5"),
            format!("trainyard_gpu_clock_hertz{{{LABELS}}} 2000000000"),
            format!("trainyard_gpu_available{{{LABELS}}} 0"),
            format!("trainyard_gpu_xid_errors_total{{{LABELS},xid=\"31\"}} 2"),
            format!("trainyard_gpu_throttle_seconds_total{{{LABELS},reason=\"thermal\"}} 7.5"),
            format!("trainyard_train_images_total{{{LABELS}}} 640"),
            "trainyard_train_images_total{device=\"cpu0\",Hostname=\"lab\"} 8".into(),
            format!("trainyard_train_step_seconds{{{LABELS},phase=\"backward\"}} 0.25"),
            format!("trainyard_loader_wait_ratio{{{LABELS}}} 0.1"),
            "trainyard_cache_bytes{tier=\"disk\"} 5".into(),
            "trainyard_cache_bytes{tier=\"fetched\"} 6".into(),
            "trainyard_fetched_bytes_total{} 7".into(),
            "trainyard_version_requests_total{result=\"held\"} 1".into(),
            "trainyard_spool_gaps_total{} 0".into(),
        ];
        assert_has(&page(&values()), &lines);
    }

    #[test]
    fn a_reading_that_a_gpu_refuses_has_no_sample() {
        let page = page(&values());
        assert!(!page.contains("trainyard_gpu_power_watts") && !page.contains("NaN"), "{page}");
    }

    #[test]
    fn the_alias_page_speaks_dcgms_names_and_units() {
        let lines = [
            format!("DCGM_FI_DEV_GPU_UTIL{{{LABELS}}} 50"),
            format!("DCGM_FI_DEV_FB_USED{{{LABELS}}} 512"),
            format!("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{LABELS}}} 1500"),
            format!("DCGM_FI_DEV_SM_CLOCK{{{LABELS}}} 2000"),
            format!("DCGM_FI_DEV_XID_ERRORS{{{LABELS}}} 31"),
        ];
        assert_has(&dcgm_page(&values()), &lines);
    }
}
