//! How many images a second each kind of GPU trains of each workload: learned from what running attempts
//! tell, and carried over to GPUs and workloads that nobody has seen together yet.
//!
//! Everything is in logarithms, where a GPU that is twice as fast is the same distance away for every
//! model. A cell keeps a running mean and variance in which newer values count more and outliers are cut
//! off. Of a cell without values, the estimate is the data sheet's, corrected by how far the workload is off
//! on other GPUs and the GPU is off on other workloads.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use trainyard_types::{JobSpec, ModelScale};

use crate::throughput::datasheet;

/// What jobs are alike in as far as their speed goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Workload {
    pub model: ModelScale,
    /// Side of the square image in pixels.
    pub imgsz: u32,
    /// Whether in mixed precision.
    pub amp: bool,
    /// GPUs that work together.
    pub gpus: u32,
}

impl From<&JobSpec> for Workload {
    fn from(spec: &JobSpec) -> Self {
        let train = &spec.train;
        Self { model: train.model, imgsz: train.imgsz, amp: train.amp, gpus: spec.resources.gpus.max(1) }
    }
}

/// What is stored of one workload on one kind of GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RateRecord {
    pub workload: Workload,
    /// The GPU's model, or `CPU`.
    pub device: String,
    /// Mean of the logarithm of images a second.
    pub log_mean: f64,
    /// Variance of that logarithm.
    pub log_variance: f64,
    /// Values that count, at most twenty.
    pub weight: f64,
}

/// An estimate of a speed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Over all GPUs of the workload.
    pub images_per_second: f64,
    /// By what factor it is off, either way, one time in three: 1.1 is good, 2 is a guess.
    pub spread: f64,
    /// Values behind it; 0 when it is carried over from other GPUs and workloads.
    pub seen: f64,
}

/// The newest values that count in a cell.
const MEMORY: f64 = 20.0;
/// Variance of a cell with one value: jobs of one workload differ by so much.
const FIRST_VARIANCE: f64 = 0.01;
/// A value counts as at most so many standard deviations away.
const CUT_OFF: f64 = 3.0;
/// Values from which on outliers are told.
const KNOWN: f64 = 1.0;
/// Standard deviations below this are taken for it, lest equal values make the cell deaf.
const LEAST_DEVIATION: f64 = 0.05;
/// What an offset is held against: so many values that say that the data sheet is right.
const DOUBT: f64 = 0.25;
/// Of a cell that nobody has seen, with and without a workload that was seen elsewhere.
const SPREAD_CARRIED: f64 = 1.8;
const SPREAD_PRIOR: f64 = 2.5;
/// A stored cell is written again when it has moved by this or has twice the values.
const WORTH_WRITING: f64 = 0.03;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Cell {
    mean: f64,
    variance: f64,
    weight: f64,
    /// Mean and weight as they are stored.
    stored: (f64, f64),
}

/// The table of speeds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rates {
    cells: BTreeMap<Workload, BTreeMap<String, Cell>>,
    /// How far a workload is off the data sheet on all GPUs, and from how many values that is known.
    workloads: BTreeMap<Workload, (f64, f64)>,
    /// How far a GPU is off beyond that.
    devices: BTreeMap<String, f64>,
}

impl Rates {
    /// What an attempt measured, counting `weight` values. Returns the record when it should be stored.
    pub(crate) fn observe(
        &mut self,
        workload: Workload,
        device: &str,
        images_per_second: f64,
        weight: f64,
    ) -> Option<RateRecord> {
        if !(images_per_second.is_finite() && images_per_second > 0.0) {
            return None;
        }
        let value = images_per_second.ln();
        let cells = self.cells.entry(workload).or_default();
        let new = Cell { mean: value, variance: FIRST_VARIANCE, weight: 0.0, stored: (f64::INFINITY, 0.0) };
        let cell = match cells.get_mut(device) {
            Some(cell) => cell,
            None => cells.entry(device.to_owned()).or_insert(new),
        };
        // What is known from a job's first minutes alone is no ground to doubt what follows.
        let is_known = cell.weight >= KNOWN;
        let cut = if is_known { CUT_OFF * cell.variance.sqrt().max(LEAST_DEVIATION) } else { f64::INFINITY };
        let step = (value - cell.mean).clamp(-cut, cut);
        let gain = weight / (cell.weight + weight);
        let moves = cell.weight == 0.0 || (gain * step).abs() > 1e-3;
        cell.mean += gain * step;
        cell.variance = (1.0 - gain) * (cell.variance + gain * step * step);
        cell.weight = (cell.weight + weight).min(MEMORY);
        let (mean, known) = cell.stored;
        let worth = (cell.mean - mean).abs() > WORTH_WRITING || cell.weight >= 2.0 * known;
        if worth {
            cell.stored = (cell.mean, cell.weight);
        }
        let record = worth.then(|| record(workload, device, cell));
        if moves {
            self.carry_over();
        }
        record
    }

    /// Takes in what was stored; [`Rates::carry_over`] is next.
    pub(crate) fn load(&mut self, record: RateRecord) {
        let RateRecord { workload, device, log_mean: mean, log_variance: variance, weight } = record;
        if [mean, variance, weight].iter().all(|value| value.is_finite()) && weight > 0.0 {
            let cell = Cell { mean, variance: variance.max(0.0), weight, stored: (mean, weight) };
            self.cells.entry(workload).or_default().insert(device, cell);
        }
    }

    /// How fast a kind of GPU trains a workload, as far as that can be told.
    pub fn estimate(&self, workload: &Workload, device: &str) -> Rate {
        if let Some(cell) = self.cells.get(workload).and_then(|cells| cells.get(device)) {
            let spread = cell.variance.sqrt().max(LEAST_DEVIATION).exp();
            return Rate { images_per_second: cell.mean.exp(), spread, seen: cell.weight };
        }
        let (workload_off, seen) = self.workloads.get(workload).copied().unwrap_or_default();
        let device_off = self.devices.get(device).copied().unwrap_or_default();
        let images_per_second =
            datasheet::images_per_second(workload, device) * (workload_off + device_off).exp();
        let spread = if seen > 0.0 { SPREAD_CARRIED } else { SPREAD_PRIOR };
        Rate { images_per_second, spread, seen: 0.0 }
    }

    /// How fast it may well be: what nobody has tried is taken to be as fast as its spread allows, so that it is
    /// tried, and then known.
    pub(crate) fn hope(&self, workload: &Workload, device: &str) -> f64 {
        let Rate { images_per_second, spread, seen } = self.estimate(workload, device);
        if seen > 0.0 { images_per_second } else { images_per_second * spread }
    }

    /// Every workload that was seen, on every device that was seen with any or is one of `also`.
    pub(crate) fn table<'a>(
        &'a self,
        also: impl Iterator<Item = &'a str>,
    ) -> impl Iterator<Item = (Workload, &'a str, Rate)> {
        let seen = self.cells.values().flat_map(BTreeMap::keys).map(String::as_str);
        let devices: Vec<&str> = seen.chain(also).collect::<BTreeSet<_>>().into_iter().collect();
        self.cells.keys().flat_map(move |workload| {
            let row: Vec<_> =
                devices.iter().map(|&device| (*workload, device, self.estimate(workload, device))).collect();
            row
        })
    }

    /// Works out the offsets anew. A workload's is what its cells are off on average, and a GPU's what is
    /// left after that.
    pub(crate) fn carry_over(&mut self) {
        let mut devices: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        let mut workloads = BTreeMap::new();
        // Twice, so that a workload which was only seen on odd GPUs is not blamed for them.
        for _ in 0..2 {
            let of_device = std::mem::take(&mut devices);
            for (workload, cells) in &self.cells {
                let off = |device: &str, cell: &Cell| {
                    cell.mean - datasheet::images_per_second(workload, device).ln()
                };
                let known = |device: &str| of_device.get(device).map_or(0.0, |(sum, n)| sum / (n + DOUBT));
                let (mut sum, mut weight) = (0.0, 0.0);
                for (device, cell) in cells {
                    sum += off(device, cell) - known(device);
                    weight += 1.0;
                }
                let mean = sum / weight;
                for (device, cell) in cells {
                    let (sum, n) = devices.entry(device).or_default();
                    *sum += off(device, cell) - mean;
                    // A workload seen on one GPU alone says nothing about the GPU.
                    *n += if cells.len() > 1 { 1.0 } else { 0.0 };
                }
                workloads.insert(*workload, (mean, weight));
            }
        }
        self.workloads = workloads;
        self.devices =
            devices.into_iter().map(|(device, (sum, n))| (device.to_owned(), sum / (n + DOUBT))).collect();
    }
}

fn record(workload: Workload, device: &str, cell: &Cell) -> RateRecord {
    RateRecord {
        workload,
        device: device.to_owned(),
        log_mean: cell.mean,
        log_variance: cell.variance,
        weight: cell.weight,
    }
}
