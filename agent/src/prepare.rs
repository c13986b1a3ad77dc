//! Makes everything ready for an attempt's trainer: checks the data set's place, fetches the checkpoint,
//! chooses the batch size.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use trainyard_types::{Assignment, BatchChosen, EndReason, Gpu, GpuTelemetry, Slot, TrainSpec};

use crate::banner::{self, Device};
use crate::batch::{self, Load, Memory, Wish, advice};
use crate::config::Config;
use crate::connection::Readings;
use crate::core::{Prepared, Refusal};
use crate::crew::Crew;
use crate::data_roots;
use crate::fit::{self, FitStore, Run};
use crate::gpu::GpuProbe;
use crate::host;
use crate::host::loading::{self, Killed};
use crate::job_dir::JobDir;
use crate::transfer::{self, Link};

/// What preparation needs of the agent.
#[derive(Clone)]
pub struct Workshop {
    /// The agent's configuration.
    pub config: Arc<Config>,
    /// The machine's GPUs.
    pub probe: Arc<dyn GpuProbe>,
    /// What the cards' keeper makes of them.
    pub cards: watch::Receiver<Readings>,
    /// The trainers that run.
    pub crew: Crew,
    /// What earlier runs were seen to need.
    pub fits: Arc<Mutex<FitStore>>,
    /// The scheduler, when it is there.
    pub link: watch::Receiver<Option<Link>>,
}

/// Prepares `assignment`; waits for the scheduler when a checkpoint must be fetched.
///
/// # Errors
/// The data set may not or cannot be read, the GPU is not there, the disk is full, the checkpoint is gone.
pub async fn prepare(mut workshop: Workshop, assignment: Box<Assignment>) -> Result<Prepared, Refusal> {
    let dir = JobDir::new(&workshop.config.data_dir, assignment.attempt.job);
    let (shop, wanted, target) = (workshop.clone(), assignment.clone(), dir.clone());
    let local = move || prepare_locally(&shop, &wanted, &target);
    let prepared = tokio::task::spawn_blocking(local).await.map_err(|error| Refusal {
        reason: EndReason::TrainerCrash,
        message: format!("the agent failed to prepare the attempt: {error}"),
    })??;
    if let Some(checkpoint) = &assignment.resume
        && dir.newest_step().is_none_or(|step| step < checkpoint.step)
    {
        let fetched =
            transfer::download_checkpoint(&mut workshop.link, assignment.attempt.job, checkpoint, &dir).await;
        fetched.map_err(|error| Refusal {
            reason: EndReason::TrainerCrash,
            message: format!("the checkpoint of step {} cannot be fetched: {error}", checkpoint.step),
        })?;
    }
    Ok(prepared)
}

fn prepare_locally(workshop: &Workshop, assignment: &Assignment, dir: &JobDir) -> Result<Prepared, Refusal> {
    let mut train = assignment.spec.train.clone();
    train.data = data_roots::resolve(&train.data, &workshop.config.data_roots)
        .map_err(|error| Refusal { reason: EndReason::BadSpec, message: error.to_string() })?;
    let (device, memory) = device(workshop, &assignment.slot)?;
    let killed = dir.killed();
    let batch = choose_batch(workshop, assignment, &train, memory, &device, killed);
    let plan =
        loading::plan(&train, batch.chosen.batch_size, host::memory_available_mib(), host::cores(), killed);
    // The lines tell of the spec as it was written, but for what is different here.
    let wished = train.batch;
    loading::apply(&mut train, &plan);
    let mut lines =
        banner::lines(&device, &TrainSpec { batch: wished, ..train.clone() }, batch.chosen.batch_size);
    lines.extend(banner::layers(&batch.chosen));
    lines.extend(plan.notes);
    let write = || -> io::Result<()> {
        dir.create()?;
        std::fs::create_dir_all(workshop.config.cache_dir())?;
        std::fs::write(dir.spec(), serde_json::to_vec_pretty(&train)?)
    };
    write().map_err(|error| Refusal {
        reason: EndReason::TrainerCrash,
        message: format!("the agent cannot write {}: {error}", dir.spec().display()),
    })?;
    Ok(Prepared {
        chosen: batch.chosen,
        lines,
        measure_memory: batch.measure_memory,
        workers: plan.workers,
        most_workers: plan.most_workers,
        advice: batch.advice,
    })
}

/// A batch size, and what belongs to it.
struct ChosenBatch {
    chosen: BatchChosen,
    measure_memory: bool,
    advice: String,
}

/// Chooses the batch size and begins to learn from the run.
fn choose_batch(
    workshop: &Workshop,
    assignment: &Assignment,
    train: &TrainSpec,
    memory: Memory,
    device: &Device,
    killed: Option<Killed>,
) -> ChosenBatch {
    let load = Load::from(train);
    let run = Run {
        slot: assignment.slot.clone(),
        device: match device {
            Device::Gpu { model, .. } => model.clone(),
            Device::Cpu { .. } => fit::CPU.into(),
        },
        load,
        memory,
        trainer: fit::trainer_identity(&workshop.config.trainer()),
    };
    let mut fits = workshop.fits.lock().unwrap_or_else(PoisonError::into_inner);
    let record = fits.record(&run);
    // On a CPU the batch lies in main memory, too.
    let too_large = killed.filter(|_| matches!(memory, Memory::Cpu { .. })).map(|killed| killed.batch_size);
    let too_large = too_large.and_then(batch::next_smaller);
    let (batch, nominal) = (train.batch, train.nbs);
    let noted = fits.noted(&run).into_iter().chain(too_large).min();
    let chosen = batch::choose(&Wish { memory, load, batch, nominal, record, noted });
    let advice = advice::advice(memory, load, record);
    let measure_memory = fits.wants_measurement(&run);
    fits.begin(assignment.attempt, run);
    ChosenBatch { chosen, measure_memory, advice }
}

fn device(workshop: &Workshop, slot: &Slot) -> Result<(Device, Memory), Refusal> {
    let missing = |message: String| Refusal { reason: EndReason::GpuFault, message };
    match slot {
        Slot::Cpu(slot) if *slot >= workshop.config.cpu_slots => {
            Err(missing(format!("this agent has no CPU slot {slot}")))
        }
        Slot::Cpu(slot) => {
            let available_mib = host::memory_available_mib();
            let memory = Memory::Cpu { total_mib: host::memory_total_mib(), available_mib };
            Ok((Device::Cpu { slot: *slot, available_mib }, memory))
        }
        Slot::Gpu(uuid) => {
            let gpus: Vec<Gpu> = workshop.probe.gpus();
            let gpu = gpus.into_iter().find(|gpu| gpu.uuid == *uuid);
            let gpu = gpu.ok_or_else(|| missing(format!("the GPU {uuid} does not answer any more")))?;
            let of_card =
                |readings: Vec<GpuTelemetry>| readings.into_iter().find(|reading| reading.uuid == *uuid);
            let judged = of_card(workshop.cards.borrow().telemetry.clone());
            let memory_foreign_mib = judged.and_then(|judged| judged.memory_foreign_mib);
            let now = of_card(workshop.probe.telemetry())
                .map(|reading| GpuTelemetry { memory_foreign_mib, ..reading });
            let memory = gpu_memory(&gpu, now.as_ref());
            Ok((Device::Gpu { model: gpu.model, memory_total_mib: gpu.memory_total_mib }, memory))
        }
    }
}

/// A card's memory as the driver tells of it now.
pub fn gpu_memory(gpu: &Gpu, now: Option<&GpuTelemetry>) -> Memory {
    Memory::Gpu {
        total_mib: gpu.memory_total_mib,
        free_mib: now.and_then(|now| now.memory_free_mib),
        reserved_mib: now.and_then(|now| now.memory_reserved_mib),
        foreign_mib: now.and_then(|now| now.memory_foreign_mib),
    }
}
