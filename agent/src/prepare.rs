//! Makes everything ready for an attempt's trainer: checks the data set's path, chooses the batch size, fetches the
//! checkpoint.

pub mod banner;
mod locate;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use trainyard_types::batch_ladder;
use trainyard_types::faults::{self, Place};
use trainyard_types::fit::Shortage;
use trainyard_types::{
    Assignment, BatchChosen, Checkpoint, EndReason, Gpu, GpuTelemetry, JobId, Slot, Time, TrainSpec,
};

use crate::agent_status::AgentStatus;
use crate::config::Config;
use crate::content::Content;
use crate::disk::job_dir::JobDir;
use crate::disk::path_monitor::PathMonitor;
use crate::disk::space;
use crate::gpu::GpuProbe;
use crate::host::loader_workers::{self, HostOomRecord};
use crate::host::{self, Host};
use crate::memory::batch_size::{self, BatchRequest, DeviceMemory, Workload};
use crate::memory::fit_records::{self, FitRun, FitStore};
use crate::message::{PathUse, Prepared, Readings, Refusal, SchedulerLink};
use crate::report::transfer::{Transfer, TransferError};
use banner::AttemptDevice;

/// What preparing an attempt needs of the agent.
#[derive(Clone)]
pub struct PrepareContext {
    /// The agent's configuration.
    pub config: Arc<Config>,
    /// The machine's GPUs.
    pub probe: Arc<dyn GpuProbe>,
    /// What the GPU monitor has read of them.
    pub readings: watch::Receiver<Readings>,
    /// The memory that earlier runs were seen to need.
    pub fits: Arc<Mutex<FitStore>>,
    /// The scheduler, when it is there.
    pub link: watch::Receiver<Option<SchedulerLink>>,
    /// The machine's main memory and processors.
    pub host: Host,
    /// What the scheduler is told of this agent.
    pub status: watch::Receiver<AgentStatus>,
    /// The paths that jobs may read.
    pub paths: PathMonitor,
    /// The data sets and weights of the cluster's store.
    pub content: Content,
}

/// How long an attempt waits for the scheduler to hear that the disk is short, before it goes back to the scheduler.
const SCHEDULER_HEARS_WITHIN: Duration = Duration::from_secs(10);

impl PrepareContext {
    /// How an attempt ends that could not be prepared: it goes back for free if the disk is full.
    async fn failure(&mut self, message: String, error: Option<&io::Error>) -> Refusal {
        let shortage = error.filter(|error| space::is_full(error)).and_then(|_| self.config.disk_shortage());
        match shortage {
            Some(why) => self.send_back(why).await,
            None => folder_refusal(message, error),
        }
    }

    /// Sends the attempt back, as soon as the scheduler knows not to send it here again.
    async fn send_back(&mut self, message: String) -> Refusal {
        let told = self.status.wait_for(|status| !status.disk_short.is_empty());
        // A scheduler that does not hear of it sends the attempt again.
        let _told = timeout(SCHEDULER_HEARS_WITHIN, told).await.map(|told| told.is_ok());
        Refusal::new(EndReason::Preempted, message)
    }

    /// A transfer that holds up an attempt, and is given up after a while.
    pub fn transfer(&self) -> Transfer {
        let (link, stall_after) = (self.link.clone(), self.config.stall_after);
        Transfer { link, stall_after, give_up_after: Some(stall_after * GIVE_UP_FACTOR), progress: None }
    }
}

/// How an attempt ends for which something in the job's folder failed.
pub fn folder_refusal(message: String, error: Option<&io::Error>) -> Refusal {
    let known = error.and_then(|error| faults::of_error(Place::Folder, error));
    match known.and_then(|row| row.lack()) {
        Some(kind) => Refusal::of_machine(kind, message),
        None => Refusal::new(EndReason::TrainerCrash, message),
    }
}

/// A transfer that holds up an attempt is given up after so many times `stall_after`.
pub const GIVE_UP_FACTOR: u32 = 3;

/// Prepares `assignment`; waits for the scheduler when a checkpoint must be fetched.
///
/// # Errors
/// The data set may not or cannot be read, the GPU is not there, the disk is full, the checkpoint is gone.
pub async fn prepare(mut context: PrepareContext, assignment: Box<Assignment>) -> Result<Prepared, Refusal> {
    if let Some(why) = context.config.disk_shortage() {
        return Err(context.send_back(why).await);
    }
    let train = &assignment.spec.train;
    let attempt = assignment.attempt;
    let data = context.locate(attempt, PathUse::Data, &train.data).await?;
    let mut pretrained = train.pretrained.clone();
    if !pretrained.as_os_str().is_empty() {
        let found = context.locate(attempt, PathUse::Pretrained, &pretrained).await?;
        // A machine's own file keeps the name that the job gives it.
        if pretrained.is_relative() {
            pretrained = found;
        }
    }
    let files = Files { data, pretrained };
    let dir = JobDir::new(&context.config.data_dir, assignment.attempt.job);
    let (local_context, wanted, target) = (context.clone(), assignment.clone(), dir.clone());
    let local = tokio::task::spawn_blocking(move || prepare_locally(&local_context, &wanted, files, &target));
    let Ok(local) = timeout(context.config.stall_after, local).await else {
        let message = format!(
            "the agent could not prepare the attempt within {} s: the disk of `data_dir`, or the driver, hangs",
            context.config.stall_after.as_secs()
        );
        return Err(Refusal::new(EndReason::Stalled, message));
    };
    let prepared = match local {
        Ok(Ok(prepared)) => prepared,
        Ok(Err(Unprepared::Refused(refusal))) => return Err(refusal),
        Ok(Err(Unprepared::Unwritten(error))) => {
            let message = format!("the agent cannot write {}: {error}", dir.spec().display());
            return Err(context.failure(message, Some(&error)).await);
        }
        Err(error) => {
            let message = format!("the agent failed to prepare the attempt: {error}");
            return Err(context.failure(message, None).await);
        }
    };
    if let Some(checkpoint) = &assignment.resume
        && dir.newest_step().is_none_or(|step| step < checkpoint.step)
    {
        fetch(&mut context, assignment.attempt.job, checkpoint, &dir).await?;
    }
    Ok(prepared)
}

/// Fetches the checkpoint that the trainer goes on from.
async fn fetch(
    context: &mut PrepareContext,
    job: JobId,
    checkpoint: &Checkpoint,
    dir: &JobDir,
) -> Result<(), Refusal> {
    let fetched = context.transfer().download_checkpoint(job, checkpoint, dir).await;
    let Err(error) = fetched else { return Ok(()) };
    if matches!(error, TransferError::Stalled { .. }) {
        let message = format!("the checkpoint of step {} does not come: {error}", checkpoint.step);
        return Err(Refusal::new(EndReason::Stalled, message));
    }
    let message = format!("the checkpoint of step {} cannot be fetched: {error}", checkpoint.step);
    Err(context.failure(message, error.file_error()).await)
}

/// Why nothing was prepared.
enum Unprepared {
    /// How the attempt ends.
    Refused(Refusal),
    /// The job's directory or spec could not be written.
    Unwritten(io::Error),
}

impl From<Refusal> for Unprepared {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What the trainer reads, as paths of this machine.
struct Files {
    data: PathBuf,
    /// Empty where it begins from scratch.
    pretrained: PathBuf,
}

fn prepare_locally(
    context: &PrepareContext,
    assignment: &Assignment,
    files: Files,
    dir: &JobDir,
) -> Result<Prepared, Unprepared> {
    let Files { data, pretrained } = files;
    let mut train = TrainSpec { data, pretrained, ..assignment.spec.train.clone() };
    let (device, memory) = device(context, &assignment.slot)?;
    let host_oom = dir.host_oom();
    let batch = choose_batch(context, assignment, &train, memory, &device, host_oom);
    let available_mib = context.host.memory_available_mib();
    let plan = loader_workers::plan(&train, batch.chosen.batch_size, available_mib, host::cores(), host_oom);
    // The lines tell of the spec as the user wrote it, but for what is different here.
    let asked_for = train.batch;
    loader_workers::apply(&mut train, &plan);
    let mut lines =
        banner::lines(&device, &TrainSpec { batch: asked_for, ..train.clone() }, batch.chosen.batch_size);
    lines.extend(banner::layers(&batch.chosen));
    lines.extend(plan.notes);
    let write = || -> io::Result<()> {
        dir.create()?;
        std::fs::create_dir_all(context.config.decoded_dir())?;
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

/// A batch size, and what the trainer is told with it.
struct ChosenBatch {
    chosen: BatchChosen,
    measure_memory: bool,
    advice: String,
}

/// Chooses the batch size and begins to learn from the run.
fn choose_batch(
    context: &PrepareContext,
    assignment: &Assignment,
    train: &TrainSpec,
    memory: DeviceMemory,
    device: &AttemptDevice,
    host_oom: Option<HostOomRecord>,
) -> ChosenBatch {
    let workload = Workload::from(train);
    let run = FitRun {
        slot: assignment.slot.clone(),
        device: match device {
            AttemptDevice::Gpu { model, .. } => model.clone(),
            AttemptDevice::Cpu { .. } => fit_records::CPU.into(),
        },
        workload,
        memory,
        trainer: fit_records::trainer_identity(&context.config.trainer()),
    };
    let mut fits = context.fits.lock().unwrap_or_else(PoisonError::into_inner);
    let record = fits.record(&run, Time::now());
    // On a CPU the batch lies in main memory, too.
    let too_large =
        host_oom.filter(|_| matches!(memory, DeviceMemory::Cpu { .. })).map(|record| record.batch_size);
    let too_large = too_large.and_then(batch_ladder::next_smaller);
    let (batch, nominal) = (train.batch, train.nbs);
    let former_limit = fits.former_limit(&run).into_iter().chain(too_large).min();
    let chosen = batch_size::choose(&BatchRequest {
        memory,
        workload,
        batch,
        nominal,
        record: record.as_ref(),
        cuda_state_mib: fits.cuda_state_mib(&run),
        former_limit,
    });
    let shortage = Shortage {
        model: workload.model,
        imgsz: workload.imgsz,
        multi_scale: workload.multi_scale,
        single: !workload.amp,
        available_mib: Some(memory.free_mib()),
    };
    let measure_memory = fits.wants_measurement(&run);
    fits.begin(assignment.attempt, run);
    ChosenBatch { chosen, measure_memory, advice: shortage.advice() }
}

fn device(context: &PrepareContext, slot: &Slot) -> Result<(AttemptDevice, DeviceMemory), Refusal> {
    let missing = |message: String| Refusal::new(EndReason::GpuFault, message);
    match slot {
        Slot::Cpu(slot) if *slot >= context.config.cpu_slots => {
            Err(missing(format!("this agent has no CPU slot {slot}")))
        }
        Slot::Cpu(slot) => {
            let available_mib = context.host.memory_available_mib();
            let memory = DeviceMemory::Cpu { total_mib: context.host.memory_total_mib(), available_mib };
            Ok((AttemptDevice::Cpu { slot: *slot, available_mib }, memory))
        }
        Slot::Gpu(uuid) => {
            let gpus: Vec<Gpu> = context.probe.gpus();
            let gpu = gpus.into_iter().find(|gpu| gpu.uuid == *uuid);
            let gpu = gpu.ok_or_else(|| missing(format!("the GPU {uuid} does not answer any more")))?;
            let last = context.readings.borrow().gpu(uuid).cloned();
            // Only this value is read again: a whole reading would take the processes' recent use from the GPU monitor.
            let free_now = context.probe.memory_free_mib(uuid);
            let now =
                last.map(|last| GpuTelemetry { memory_free_mib: free_now.or(last.memory_free_mib), ..last });
            let memory = gpu_memory(&gpu, now.as_ref());
            Ok((AttemptDevice::Gpu { model: gpu.model, memory_total_mib: gpu.memory_total_mib }, memory))
        }
    }
}

/// A GPU's memory, by the newest reading.
pub fn gpu_memory(gpu: &Gpu, now: Option<&GpuTelemetry>) -> DeviceMemory {
    DeviceMemory::Gpu {
        total_mib: gpu.memory_total_mib,
        free_mib: now.and_then(|now| now.memory_free_mib),
        reserved_mib: now.and_then(|now| now.memory_reserved_mib),
        others_mib: now.and_then(|now| now.memory_foreign_mib),
    }
}
