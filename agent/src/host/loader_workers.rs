//! How many workers load a job's images. At the start as many as main memory has room for, more while the device waits
//! for images and processors are idle, half when memory runs out. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use trainyard_types::{Batch, Cache, Time, TrainSpec};

use crate::message::HostReading;

#[cfg(test)]
mod tests;

/// Batches that wait, are used or are in the making; the trainer keeps four ready.
const BATCHES: u64 = 7;
/// What a trainer takes whatever it loads: libtorch, CUDA's host side, weights on their way to a checkpoint.
/// An estimate, rounded up, in MiB.
const TRAINER_MIB: u64 = 1400;
/// Memory of a worker beside its pictures: its stack and the decoder's tables, in MiB.
const WORKER_MIB: u64 = 16;
/// Decoded pictures of a worker, counted in images of the training size: the four sources of a mosaic, each of up to
/// four times the area, and the mosaic itself.
const WORKER_IMAGES: u64 = 20;
/// The fifth part of the available memory is left to other processes.
const HEADROOM: u64 = 5;
/// Most workers of a trainer.
const MOST: u32 = 64;

/// What a trainer had when the kernel killed it for want of main memory; the job's next trainer gets less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostOomRecord {
    /// Its loader workers.
    pub workers: u32,
    /// Its images per forward pass.
    pub batch_size: u32,
}

/// How a job's images are loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderPlan {
    /// Workers to begin with.
    pub workers: u32,
    /// Workers that it may come to have.
    pub most_workers: u32,
    /// Where decoded images are kept.
    pub cache: Cache,
    /// What differs from the spec and why, for the user.
    pub notes: Vec<String>,
}

/// Memory of one worker, in MiB.
const fn worker_mib(imgsz: u32) -> u64 {
    WORKER_MIB + image_bytes(imgsz) * WORKER_IMAGES / (1 << 20)
}

const fn image_bytes(imgsz: u32) -> u64 {
    3 * imgsz as u64 * imgsz as u64
}

/// How the images of `train` are loaded on a machine with `available_mib` of memory and `cores` for it.
pub fn plan(
    train: &TrainSpec,
    batch_size: u32,
    available_mib: u64,
    cores: u32,
    killed: Option<HostOomRecord>,
) -> LoaderPlan {
    let mut plan =
        LoaderPlan { workers: train.workers, most_workers: 0, cache: train.cache, notes: Vec::new() };
    if let Some(killed) = killed {
        plan.workers = plan.workers.min((killed.workers / 2).max(1));
        if plan.cache == Cache::Ram {
            plan.cache = Cache::Disk;
        }
        plan.notes.push(format!(
            "Workers: {} and cache: {}, because the kernel killed this job's trainer for want of memory with {} workers",
            plan.workers,
            plan.cache.name(),
            killed.workers
        ));
    }
    let batches = BATCHES * u64::from(batch_size) * image_bytes(train.imgsz) / (1 << 20);
    let room = (available_mib - available_mib / HEADROOM).saturating_sub(TRAINER_MIB + batches);
    let fitting = u32::try_from(room / worker_mib(train.imgsz)).unwrap_or(u32::MAX).max(1);
    if plan.workers > fitting {
        plan.notes.push(format!(
            "Workers: {fitting} instead of {}, because {available_mib} MiB of main memory are available and each \
             takes about {} MiB at {} px",
            plan.workers,
            worker_mib(train.imgsz),
            train.imgsz
        ));
        plan.workers = fitting;
    }
    // A user who loads on the training thread wants it so, and a job that was killed once gets no more workers.
    let may_grow = train.workers > 0 && killed.is_none();
    let most = MOST.min(fitting).min(cores.saturating_mul(2)).max(plan.workers);
    plan.most_workers = if may_grow { most } else { plan.workers };
    plan
}

/// For how long the device's waits are averaged.
const WINDOW: Duration = Duration::from_secs(20);
/// With fewer positions than this the averages say nothing.
const FEWEST: usize = 8;
/// Share of the time that the device may wait for the loader.
const WAITING: f64 = 0.1;
/// Share of processor time that must be idle for more workers to help.
const IDLE: f64 = 0.2;
/// More workers must cut the waits by this share, or they are given back.
const GAIN: f64 = 0.1;
/// After more workers did not help, none are added for so long.
const NO_RAISE_FOR: Duration = Duration::from_secs(1800);

/// A change of the number of workers, with a sentence why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerChange {
    /// How many workers there are from now on.
    pub workers: u32,
    /// Why, a sentence for the user.
    pub reason: String,
}

/// Tunes the number of loader workers of one trainer.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerTuner {
    workers: u32,
    most: u32,
    /// Recent positions: when, the share of time that the device waited, the share of processors that were idle.
    window: VecDeque<(Time, f64, f64)>,
    /// The last raise: how many workers there were before, and what share of time the device waited.
    raised: Option<(u32, f64)>,
    /// No worker is added before this.
    not_before: Time,
}

impl WorkerTuner {
    /// Begins with a trainer that starts.
    pub const fn new(workers: u32, most: u32) -> Self {
        Self { workers, most, window: VecDeque::new(), raised: None, not_before: Time(0) }
    }

    /// How many workers there are now.
    pub const fn workers(&self) -> u32 {
        self.workers
    }

    /// Takes what the trainer told: how many workers there are.
    pub fn on_workers(&mut self, workers: u32) {
        if workers != self.workers {
            self.set(workers);
        }
    }

    fn set(&mut self, workers: u32) {
        self.workers = workers;
        self.window.clear();
    }

    /// Memory runs out: half of the workers stay, and this process never gets more again.
    pub fn on_pressure(&mut self) -> Option<WorkerChange> {
        if self.workers < 2 {
            return None;
        }
        let (from, workers) = (self.workers, self.workers / 2);
        self.most = workers;
        self.raised = None;
        self.set(workers);
        let reason = format!("main memory runs out: {from} -> {workers} loader workers");
        Some(WorkerChange { workers, reason })
    }

    /// Takes a position inside an epoch, with the share of time that the device waited.
    pub fn on_step(&mut self, now: Time, loader_wait_ratio: f64, host: &HostReading) -> Option<WorkerChange> {
        self.window.push_back((now, loader_wait_ratio, host.idle_ratio));
        while self.window.front().is_some_and(|(time, ..)| *time + WINDOW * 2 < now) {
            self.window.pop_front();
        }
        let spans = self.window.front().is_some_and(|(time, ..)| *time + WINDOW <= now);
        if !spans || self.window.len() < FEWEST || now < self.not_before {
            return None;
        }
        let count = self.window.len() as f64;
        let waiting = self.window.iter().map(|(_, wait, _)| wait).sum::<f64>() / count;
        let idle = self.window.iter().map(|(_, _, idle)| idle).sum::<f64>() / count;
        if let Some((before, waited)) = self.raised.take()
            && waiting > waited * (1.0 - GAIN)
        {
            self.not_before = now + NO_RAISE_FOR;
            let from = self.workers;
            self.set(before);
            let reason = format!(
                "{from} loader workers did not help, the device waits {:.0} % of the time for images: back to {before}",
                waiting * 100.0
            );
            return Some(WorkerChange { workers: before, reason });
        }
        if waiting <= WAITING || idle < IDLE || self.workers == 0 || self.workers >= self.most {
            return None;
        }
        let from = self.workers;
        let workers = (from + from.div_ceil(2)).min(self.most);
        self.set(workers);
        self.raised = Some((from, waiting));
        let reason = format!(
            "the device waits {:.0} % of the time for images and {:.0} % of the processors are idle: {from} -> \
             {workers} loader workers",
            waiting * 100.0,
            idle * 100.0
        );
        Some(WorkerChange { workers, reason })
    }
}

/// Puts into a spec what the agent decides for the trainer; the batch size is an argument of its own.
pub fn apply(train: &mut TrainSpec, plan: &LoaderPlan) {
    train.workers = plan.workers;
    train.cache = plan.cache;
    if matches!(train.batch, Batch::Share(_)) {
        train.batch = Batch::Auto; // A trainer knows no share of memory.
    }
}
