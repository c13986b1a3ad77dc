//! What bounds a job's speed, and what to change: a function of what is known of the job and its GPU.

use std::collections::BTreeMap;

use trainyard_types::Cache;
use trainyard_types::trainer::Phases;

use crate::sample::Sample;

#[cfg(test)]
mod tests;

/// Share of a step above which waiting for data is what to look at.
const WAITS: f64 = 0.15;
/// Share of time above which heat is.
const HELD_DOWN: f64 = 0.2;
/// Share of an epoch spent training below which everything else is.
const TRAINS: f64 = 0.5;
/// Share of time with a kernel running below which the GPU is not kept busy.
const BUSY: f64 = 0.85;
/// Share of a GPU's memory below which more images fit.
const FULL: f64 = 0.6;
/// Share of a step above which copying is too slow.
const COPIES: f64 = 0.15;

/// What agents say when heat, or the hardware's own protection, holds a clock down.
const HEAT: [&str; 4] = ["thermal", "hardware_thermal", "hardware_slowdown", "power_brake"];

/// What holds a job up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Nothing is known yet.
    Unknown,
    /// Nothing will be: it ended before.
    EndedTooSoon,
    /// The GPU, or the processor, computes all the time.
    Gpu,
    /// Decoding and augmentation.
    Loader,
    /// Reading images, or decoding them anew each epoch.
    Disk,
    /// Batches that do not fill the GPU.
    BatchTooSmall,
    /// Validation, checkpoints and other things than training.
    DataTooSmall,
    /// Heat, power, or the bus.
    Throttled,
}

impl Bound {
    /// The conclusion in one sentence.
    pub const fn headline(self) -> &'static str {
        match self {
            Self::Unknown => "Not known yet.",
            Self::EndedTooSoon => "Not known: it ended too soon.",
            Self::Gpu => "It computes all the time: nothing holds it up.",
            Self::Loader => "It waits for images: decoding and augmentation are too slow.",
            Self::Disk => "It waits for images: they are read and decoded anew each time.",
            Self::BatchTooSmall => "Its batches are too small for the GPU.",
            Self::DataTooSmall => "Its epochs are too short: little of them is training.",
            Self::Throttled => "The GPU is held down.",
        }
    }
}

/// What is known of a job and its GPU.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evidence {
    /// Whether the job is over.
    pub is_over: bool,
    /// Whether it trains on a GPU.
    pub on_gpu: bool,
    /// Of the newest attempt's trainer; 0 when nothing was told.
    pub images_per_second: f64,
    /// Share of the training time spent waiting for data, 0 to 1.
    pub loader_wait_ratio: f64,
    /// Mean seconds of a batch in each phase.
    pub phases: Option<Phases>,
    /// The epoch under way, from 1.
    pub epoch: u32,
    /// How long an epoch takes with all that belongs to it; unknown before the first is over.
    pub epoch_seconds: Option<f64>,
    /// Images of the training set.
    pub train_images: u64,
    /// Images per forward pass.
    pub batch_size: u32,
    /// Whether the user chose that.
    pub batch_is_asked_for: bool,
    pub workers: u32,
    /// Where decoded images are kept.
    pub cache: Option<Cache>,
    /// Share of the GPU's peak, 0 to 1.
    pub mfu: Option<f64>,
    pub memory_total_mib: u64,
    /// What the GPU did of late, during this attempt.
    pub samples: Vec<Sample>,
    /// PCIe lanes in use and there.
    pub pcie_lanes: Option<(u32, u32)>,
}

/// What is concluded of a job's speed.
#[derive(Debug, Clone, PartialEq)]
pub struct Diagnosis {
    /// What holds it up.
    pub bound: Bound,
    /// What was seen, a sentence each.
    pub findings: Vec<String>,
    /// What to change, the most useful first.
    pub advice: Vec<String>,
    /// The figures that the conclusion rests on.
    pub figures: BTreeMap<&'static str, f64>,
}

/// Means over a GPU's samples.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct GpuMeans {
    utilization: Option<f64>,
    memory: Option<f64>,
    temperature: Option<f64>,
    power: Option<f64>,
    /// Share of samples in which heat or the hardware's own protection held the clock down.
    held_down: Option<f64>,
    /// Share of samples at the power limit.
    at_power_limit: Option<f64>,
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

fn gpu_means(evidence: &Evidence) -> GpuMeans {
    let samples = &evidence.samples;
    let total = evidence.memory_total_mib as f64;
    let has = |word: fn(&str) -> bool| {
        let is = move |sample: &Sample| sample.throttle_reasons.iter().any(|reason| word(reason));
        mean(samples.iter().map(|sample| if is(sample) { 1.0 } else { 0.0 }))
    };
    let memory = samples.iter().filter_map(|sample| sample.memory_used_mib);
    GpuMeans {
        utilization: mean(samples.iter().filter_map(|sample| sample.utilization_ratio)),
        memory: mean(memory.map(|used| used as f64 / total)).filter(|share| share.is_finite()),
        temperature: mean(samples.iter().filter_map(|sample| sample.temperature_celsius).map(f64::from)),
        power: mean(samples.iter().filter_map(|sample| sample.power_watts)),
        held_down: has(|reason| HEAT.contains(&reason)),
        at_power_limit: has(|reason| reason == "power"),
    }
}

fn total(phases: &Phases) -> f64 {
    let Phases { wait, copy, forward, loss, backward, optimizer } = phases;
    wait + copy + forward + loss + backward + optimizer
}

/// Concludes from what is known.
pub fn diagnose(evidence: &Evidence) -> Diagnosis {
    if evidence.images_per_second <= 0.0 && evidence.is_over {
        return Diagnosis {
            bound: Bound::EndedTooSoon,
            findings: vec!["It ended before it had trained for long enough to say.".to_owned()],
            advice: Vec::new(),
            figures: BTreeMap::new(),
        };
    }
    if evidence.images_per_second <= 0.0 {
        return Diagnosis {
            bound: Bound::Unknown,
            findings: vec!["It has not trained for long enough to say.".to_owned()],
            advice: vec!["Ask again once its first epoch is under way.".to_owned()],
            figures: BTreeMap::new(),
        };
    }
    let seen = Seen::new(evidence);
    let bound = seen.bound(evidence);
    Diagnosis {
        bound,
        findings: seen.findings(evidence),
        advice: advice(bound, evidence, &seen),
        figures: seen.figures(evidence),
    }
}

/// The shares that a conclusion rests on.
struct Seen {
    wait: f64,
    copy: Option<f64>,
    step_seconds: Option<f64>,
    trains: Option<f64>,
    gpu: GpuMeans,
}

impl Seen {
    fn new(evidence: &Evidence) -> Self {
        let phases = evidence.phases.as_ref().filter(|phases| total(phases) > 0.0);
        let share = |part: f64, phases: &Phases| part / total(phases);
        let training = evidence.train_images as f64 / evidence.images_per_second;
        Self {
            wait: phases.map_or(evidence.loader_wait_ratio, |phases| share(phases.wait, phases)),
            copy: phases.map(|phases| share(phases.copy, phases)),
            step_seconds: phases.map(total),
            trains: evidence
                .epoch_seconds
                .filter(|seconds| *seconds > 0.0 && training > 0.0)
                .map(|seconds| (training / seconds).min(1.0)),
            gpu: gpu_means(evidence),
        }
    }

    fn bound(&self, evidence: &Evidence) -> Bound {
        let narrow = evidence.pcie_lanes.is_some_and(|(used, all)| used < all);
        let above = |share: Option<f64>, limit| share.is_some_and(|share| share > limit);
        let below = |share: Option<f64>, limit| share.is_some_and(|share| share < limit);
        if above(self.gpu.held_down, HELD_DOWN) || (narrow && above(self.copy, COPIES)) {
            Bound::Throttled
        } else if below(self.trains, TRAINS) {
            Bound::DataTooSmall
        } else if self.wait > WAITS {
            if evidence.cache == Some(Cache::None) { Bound::Disk } else { Bound::Loader }
        } else if evidence.on_gpu && below(self.gpu.utilization, BUSY) && below(self.gpu.memory, FULL) {
            Bound::BatchTooSmall
        } else {
            Bound::Gpu
        }
    }

    fn findings(&self, evidence: &Evidence) -> Vec<String> {
        let mut found = vec![format!(
            "It trains {} images a second in batches of {}.",
            rate(evidence.images_per_second),
            evidence.batch_size
        )];
        if let Some(phases) = evidence.phases.as_ref().filter(|phases| total(phases) > 0.0) {
            found.push(spent(phases));
        } else {
            found.push(format!("{} of its training time it waits for data.", percent(self.wait)));
        }
        if let Some(trains) = self.trains {
            let rest = "the rest is validation, checkpoints and starting up";
            found.push(format!("Of each epoch {} is training; {rest}.", percent(trains)));
        }
        if let Some(utilization) = self.gpu.utilization {
            let mut sentence = format!("The GPU was busy {} of the time", percent(utilization));
            if let Some(memory) = self.gpu.memory {
                sentence.push_str(&format!(", with {} of its memory in use", percent(memory)));
            }
            if let Some(temperature) = self.gpu.temperature {
                sentence.push_str(&format!(", at {temperature:.0} °C"));
            }
            if let Some(power) = self.gpu.power {
                sentence.push_str(&format!(" and {power:.0} W"));
            }
            found.push(sentence + ".");
        }
        if let Some(mfu) = evidence.mfu {
            found.push(format!("It gets {} of what the GPU can multiply at best.", percent(mfu)));
        }
        if let Some(held) = self.gpu.held_down.filter(|share| *share > 0.0) {
            found.push(format!(
                "Heat or the hardware's own protection held its clock down {} of the time.",
                percent(held)
            ));
        }
        if let Some(limit) = self.gpu.at_power_limit.filter(|share| *share > HELD_DOWN) {
            let share = percent(limit);
            found.push(format!("It was at its power limit {share} of the time, as GPUs at full load are."));
        }
        if let Some((used, all)) = evidence.pcie_lanes.filter(|(used, all)| used < all) {
            found.push(format!("The GPU uses {used} of its {all} PCIe lanes."));
        }
        found
    }

    fn figures(&self, evidence: &Evidence) -> BTreeMap<&'static str, f64> {
        let known = [
            ("images_per_second", Some(evidence.images_per_second)),
            ("batch_size", Some(f64::from(evidence.batch_size))),
            ("loader_wait_ratio", Some(self.wait)),
            ("copy_ratio", self.copy),
            ("step_seconds", self.step_seconds),
            ("training_ratio", self.trains),
            ("utilization_ratio", self.gpu.utilization),
            ("memory_ratio", self.gpu.memory),
            ("temperature_celsius", self.gpu.temperature),
            ("power_watts", self.gpu.power),
            ("held_down_ratio", self.gpu.held_down),
            ("mfu", evidence.mfu),
        ];
        known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

fn advice(bound: Bound, evidence: &Evidence, seen: &Seen) -> Vec<String> {
    let workers = evidence.workers;
    let more = (workers * 2).max(8);
    let lines: Vec<String> = match bound {
        Bound::Unknown | Bound::EndedTooSoon => Vec::new(),
        Bound::Gpu if evidence.on_gpu => vec![
            "Nothing holds the GPU up; a faster GPU, a smaller model or a smaller `imgsz` makes it faster."
                .to_owned(),
        ],
        Bound::Gpu => {
            vec!["The processor computes all the time; on a GPU it would train many times faster.".to_owned()]
        }
        Bound::Loader if evidence.epoch <= 1 && evidence.cache.is_some() && !evidence.is_over => vec![
            "This is the first epoch, in which each image is decoded and kept; look again in the second one."
                .to_owned(),
            format!("If it still waits then, set `workers: {more}` (it has {workers})."),
        ],
        Bound::Loader => vec![
            format!("Set `workers: {more}` (it has {workers}), as far as the machine has cores."),
            "Set `cache: ram` where the decoded images fit into the machine's memory.".to_owned(),
            "Turn off what costs most per image: `mixup`, `degrees`, `shear` and `perspective`.".to_owned(),
        ],
        Bound::Disk => vec![
            "Set `cache: disk`: with `cache: none` each image is read and decoded anew every epoch."
                .to_owned(),
            format!("Set `workers: {more}` (it has {workers}), as far as the machine has cores."),
        ],
        Bound::BatchTooSmall => {
            let batch = evidence.batch_size;
            let auto = if evidence.batch_is_asked_for {
                format!("Leave `batch` out (or set it to -1) instead of {batch}: the agent fills the GPU.")
            } else {
                format!("Set `batch` above {batch}, for example {}; the GPU has room.", batch * 2)
            };
            vec![auto, "Or give this job a smaller GPU, and the large one to another job.".to_owned()]
        }
        Bound::DataTooSmall => {
            let trains = seen.trains.map_or_else(String::new, |share| format!(" ({})", percent(share)));
            vec![
                format!(
                    "The data set is small: little of an epoch is training{trains}; more `epochs` cost little."
                ),
                "Put more images into it, or train several such jobs side by side.".to_owned(),
            ]
        }
        Bound::Throttled if seen.gpu.held_down.is_some_and(|share| share > HELD_DOWN) => vec![
            "Cool the GPU: dust, fans, the room, and the distance to the next one.".to_owned(),
            "Or lower its power limit a little (`nvidia-smi -pl`), which costs less than its heat does."
                .to_owned(),
        ],
        Bound::Throttled => vec![
            "Move the GPU to a slot with all its lanes, or reseat it: its link came up narrower than it is."
                .to_owned(),
        ],
    };
    lines
}

/// `each batch takes 130 ms: 61 % backward, 30 % forward, …`, the largest first.
fn spent(phases: &Phases) -> String {
    let all = total(phases);
    let mut parts = [
        ("waiting for data", phases.wait),
        ("copying", phases.copy),
        ("forward", phases.forward),
        ("loss", phases.loss),
        ("backward", phases.backward),
        ("optimiser", phases.optimizer),
    ];
    parts.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let parts: Vec<String> =
        parts.iter().map(|(name, seconds)| format!("{} {name}", percent(seconds / all))).collect();
    format!("A batch takes {:.0} ms: {}.", all * 1000.0, parts.join(", "))
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 1.0 { "under 1 %".to_owned() } else { format!("{percent:.0} %") }
}

fn rate(images: f64) -> String {
    if images < 10.0 { format!("{images:.1}") } else { format!("{images:.0}") }
}
