//! Makes everything ready for an attempt's trainer: checks the data set's place, fetches the checkpoint,
//! chooses the batch size.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use trainyard_types::faults::{self, Place};
use trainyard_types::fit::Shortage;
use trainyard_types::oom;
use trainyard_types::{
    Assignment, BatchChosen, Checkpoint, EndReason, Gpu, GpuTelemetry, JobId, Slot, Time, TrainSpec,
};

use crate::advert::Advert;
use crate::banner::{self, Device};
use crate::batch::{self, Load, Memory, Wish};
use crate::config::Config;
use crate::connection::Readings;
use crate::core::{Prepared, Refusal};
use crate::crew::Crew;
use crate::data_roots::What;
use crate::disk;
use crate::fit::{self, FitStore, Run};
use crate::gpu::GpuProbe;
use crate::host::loading::{self, Killed};
use crate::host::{self, Host};
use crate::job_dir::JobDir;
use crate::paths::Paths;
use crate::transfer::{self, Link, Terms, TransferError};

/// What preparation needs of the agent.
#[derive(Clone)]
pub struct Workshop {
    /// The agent's configuration.
    pub config: Arc<Config>,
    /// The machine's GPUs.
    pub probe: Arc<dyn GpuProbe>,
    /// What the GPUs' keeper makes of them.
    pub cards: watch::Receiver<Readings>,
    /// The trainers that run.
    pub crew: Crew,
    /// What earlier runs were seen to need.
    pub fits: Arc<Mutex<FitStore>>,
    /// The scheduler, when it is there.
    pub link: watch::Receiver<Option<Link>>,
    /// The machine's memory.
    pub host: Host,
    /// What the scheduler is told of this agent.
    pub advert: watch::Receiver<Advert>,
    /// What jobs may read, as far as it can be read.
    pub paths: Paths,
}

/// How long the scheduler may take to hear that the disk is short, before an attempt goes back to it.
const TELL_FIRST: Duration = Duration::from_secs(10);

impl Workshop {
    /// Why the disk of the data directory takes no job now, a sentence; `None` when it does.
    pub fn disk_shortage(&self) -> Option<String> {
        let (folder, floor) = (&self.config.data_dir, self.config.disk_limits().floor);
        let free = disk::free_bytes(folder).ok()?;
        Some(disk::refusal(folder, free, floor, false)).filter(|why| !why.is_empty())
    }

    /// A failure to prepare an attempt: for want of room it goes back for free, else it counts.
    async fn failure(&mut self, message: String, error: Option<&io::Error>) -> Refusal {
        let shortage = error.filter(|error| disk::is_full(error)).and_then(|_| self.disk_shortage());
        match shortage {
            Some(why) => self.sent_back(why).await,
            None => in_folder(message, error),
        }
    }

    /// The attempt goes back, as soon as the scheduler knows not to send it here again.
    async fn sent_back(&mut self, message: String) -> Refusal {
        let told = self.advert.wait_for(|advert| !advert.disk_short.is_empty());
        // One that does not hear of it sends the attempt again.
        let _told = timeout(TELL_FIRST, told).await.map(|told| told.is_ok());
        Refusal::new(EndReason::Preempted, message)
    }

    /// How patient a transfer is that holds up an attempt.
    pub fn terms(&self) -> Terms {
        let stall_after = self.config.stall_after;
        Terms { stall_after, give_up_after: Some(stall_after * STALLS), hands_in: None }
    }
}

/// What the system's refusal of something in the job's folder means.
pub fn in_folder(message: String, error: Option<&io::Error>) -> Refusal {
    let known = error.and_then(|error| faults::of_error(Place::Folder, error));
    match known.and_then(|row| row.lack()) {
        Some(kind) => Refusal::of_machine(kind, message),
        None => Refusal::new(EndReason::TrainerCrash, message),
    }
}

/// A transfer that holds up an attempt is given up after so many times the span after which a try counts as stalled.
const STALLS: u32 = 3;

/// Prepares `assignment`; waits for the scheduler when a checkpoint must be fetched.
///
/// # Errors
/// The data set may not or cannot be read, the GPU is not there, the disk is full, the checkpoint is gone.
pub async fn prepare(mut workshop: Workshop, assignment: Box<Assignment>) -> Result<Prepared, Refusal> {
    if let Some(why) = workshop.disk_shortage() {
        return Err(workshop.sent_back(why).await);
    }
    let train = &assignment.spec.train;
    let data = workshop.paths.find(What::Data, &train.data).await?;
    if !train.pretrained.as_os_str().is_empty() {
        workshop.paths.find(What::Pretrained, &train.pretrained).await?;
    }
    let dir = JobDir::new(&workshop.config.data_dir, assignment.attempt.job);
    let (shop, wanted, target) = (workshop.clone(), assignment.clone(), dir.clone());
    let local = tokio::task::spawn_blocking(move || prepare_locally(&shop, &wanted, data, &target));
    let Ok(local) = timeout(workshop.config.stall_after, local).await else {
        let message = format!(
            "the agent could not prepare the attempt within {} s: the disk of `data_dir`, or the driver, hangs",
            workshop.config.stall_after.as_secs()
        );
        return Err(Refusal::new(EndReason::Stalled, message));
    };
    let prepared = match local {
        Ok(Ok(prepared)) => prepared,
        Ok(Err(Unprepared::Refused(refusal))) => return Err(refusal),
        Ok(Err(Unprepared::Unwritten(error))) => {
            let message = format!("the agent cannot write {}: {error}", dir.spec().display());
            return Err(workshop.failure(message, Some(&error)).await);
        }
        Err(error) => {
            let message = format!("the agent failed to prepare the attempt: {error}");
            return Err(workshop.failure(message, None).await);
        }
    };
    if let Some(checkpoint) = &assignment.resume
        && dir.newest_step().is_none_or(|step| step < checkpoint.step)
    {
        fetch(&mut workshop, assignment.attempt.job, checkpoint, &dir).await?;
    }
    Ok(prepared)
}

/// Fetches the checkpoint that the trainer goes on from.
async fn fetch(
    workshop: &mut Workshop,
    job: JobId,
    checkpoint: &Checkpoint,
    dir: &JobDir,
) -> Result<(), Refusal> {
    let terms = workshop.terms();
    let fetched = transfer::download_checkpoint((&mut workshop.link, &terms), job, checkpoint, dir).await;
    let Err(error) = fetched else { return Ok(()) };
    if matches!(error, TransferError::Stalled { .. }) {
        let message = format!("the checkpoint of step {} does not come: {error}", checkpoint.step);
        return Err(Refusal::new(EndReason::Stalled, message));
    }
    let message = format!("the checkpoint of step {} cannot be fetched: {error}", checkpoint.step);
    Err(workshop.failure(message, error.of_the_disk()).await)
}

/// Why nothing was prepared.
enum Unprepared {
    Refused(Refusal),
    /// The job's directory or spec.
    Unwritten(io::Error),
}

impl From<Refusal> for Unprepared {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn prepare_locally(
    workshop: &Workshop,
    assignment: &Assignment,
    data: PathBuf,
    dir: &JobDir,
) -> Result<Prepared, Unprepared> {
    let mut train = TrainSpec { data, ..assignment.spec.train.clone() };
    let (device, memory) = device(workshop, &assignment.slot)?;
    let killed = dir.killed();
    let batch = choose_batch(workshop, assignment, &train, memory, &device, killed);
    let available_mib = workshop.host.memory_available_mib();
    let plan = loading::plan(&train, batch.chosen.batch_size, available_mib, host::cores(), killed);
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
    write().map_err(Unprepared::Unwritten)?;
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
    let record = fits.record(&run, Time::now());
    // On a CPU the batch lies in main memory, too.
    let too_large = killed.filter(|_| matches!(memory, Memory::Cpu { .. })).map(|killed| killed.batch_size);
    let too_large = too_large.and_then(oom::next_smaller);
    let (batch, nominal) = (train.batch, train.nbs);
    let noted = fits.noted(&run).into_iter().chain(too_large).min();
    let chosen = batch::choose(&Wish { memory, load, batch, nominal, record: record.as_ref(), noted });
    let shortage = Shortage {
        model: load.model,
        imgsz: load.imgsz,
        multi_scale: load.multi_scale,
        single: !load.amp,
        available_mib: Some(memory.free_mib()),
    };
    let measure_memory = fits.wants_measurement(&run);
    fits.begin(assignment.attempt, run);
    ChosenBatch { chosen, measure_memory, advice: shortage.advice() }
}

fn device(workshop: &Workshop, slot: &Slot) -> Result<(Device, Memory), Refusal> {
    let missing = |message: String| Refusal::new(EndReason::GpuFault, message);
    match slot {
        Slot::Cpu(slot) if *slot >= workshop.config.cpu_slots => {
            Err(missing(format!("this agent has no CPU slot {slot}")))
        }
        Slot::Cpu(slot) => {
            let available_mib = workshop.host.memory_available_mib();
            let memory = Memory::Cpu { total_mib: workshop.host.memory_total_mib(), available_mib };
            Ok((Device::Cpu { slot: *slot, available_mib }, memory))
        }
        Slot::Gpu(uuid) => {
            let gpus: Vec<Gpu> = workshop.probe.gpus();
            let gpu = gpus.into_iter().find(|gpu| gpu.uuid == *uuid);
            let gpu = gpu.ok_or_else(|| missing(format!("the GPU {uuid} does not answer any more")))?;
            let judged = workshop.cards.borrow().card(uuid).cloned();
            // Only that is asked for anew: a whole reading would take from the keeper what others did of late.
            let free_now = workshop.probe.memory_free_mib(uuid);
            let now = judged.map(|judged| GpuTelemetry {
                memory_free_mib: free_now.or(judged.memory_free_mib),
                ..judged
            });
            let memory = gpu_memory(&gpu, now.as_ref());
            Ok((Device::Gpu { model: gpu.model, memory_total_mib: gpu.memory_total_mib }, memory))
        }
    }
}

/// A GPU's memory as the driver tells of it now.
pub fn gpu_memory(gpu: &Gpu, now: Option<&GpuTelemetry>) -> Memory {
    Memory::Gpu {
        total_mib: gpu.memory_total_mib,
        free_mib: now.and_then(|now| now.memory_free_mib),
        reserved_mib: now.and_then(|now| now.memory_reserved_mib),
        foreign_mib: now.and_then(|now| now.memory_foreign_mib),
    }
}
