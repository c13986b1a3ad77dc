//! `yard record`: what the cluster has been through, as a case that `trainyard-sim replay` runs again.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use prost_types::Timestamp;
use trainyard_proto::pb;
use trainyard_types::gpu::{matches_model, nominal_gib};
use trainyard_types::size::counted;

use crate::client::all_pages;
use crate::commands::{Context, agents};
use crate::failure::Failure;
use crate::terminal;

/// How many jobs one call asks for.
const PAGE: i32 = 500;

/// Record the jobs that have ended and the GPUs, for `trainyard-sim replay`
#[derive(Debug, Args)]
pub struct Record {
    /// Where cluster.csv, jobs.csv and ran.csv go; made if need be
    dir: PathBuf,
    /// Only this user's jobs
    #[arg(long)]
    user: Option<String>,
}

impl Record {
    /// Writes the three files.
    ///
    /// # Errors
    /// No server, nothing to record, or a directory that cannot be written.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let jobs = self.jobs(context).await?;
        let gpus = agents::gpus_of(&agents::list_agents(&context.client).await?);
        let rates = agents::list_rates(&context.client).await?;
        let recording = Recording::of(&jobs, &gpus, &rates);
        if recording.jobs == 0 {
            return Err(Failure::usage("no job has ended on a GPU that is still there")
                .hint("`yard jobs --state succeeded` lists those that have ended"));
        }
        let failed = |error: std::io::Error| {
            Failure::local(format!("cannot write to {}: {error}", self.dir.display()))
        };
        fs::create_dir_all(&self.dir).map_err(failed)?;
        for (name, text) in
            [("cluster.csv", &recording.cluster), ("jobs.csv", &recording.queue), ("ran.csv", &recording.ran)]
        {
            fs::write(self.dir.join(name), text).map_err(failed)?;
        }
        terminal::message(&format!(
            "recorded {} ({} left out: they trained on no GPU that is there); try `trainyard-sim replay {}`",
            counted(recording.jobs, "job"),
            recording.left_out,
            self.dir.display()
        ));
        Ok(())
    }

    async fn jobs(&self, context: &Context) -> Result<Vec<pb::Job>, Failure> {
        let ended = [pb::JobState::Succeeded, pb::JobState::Failed, pb::JobState::Cancelled];
        all_pages(async |page_token| {
            let request = pb::ListJobsRequest {
                page_size: PAGE,
                page_token,
                states: ended.map(i32::from).to_vec(),
                user: self.user.clone().unwrap_or_default(),
                ..Default::default()
            };
            let call = || async { context.client.jobs().list_jobs(request.clone()).await };
            let answer = context.client.retrying(call).await?;
            Ok((answer.jobs, answer.next_page_token))
        })
        .await
    }
}

/// The content of the three files.
#[derive(Debug, PartialEq)]
struct Recording {
    cluster: String,
    queue: String,
    ran: String,
    jobs: usize,
    left_out: usize,
}

/// A GPU model of the cluster.
struct GpuModel<'a> {
    name: &'a str,
    vram_gib: f64,
    gpus: usize,
}

/// A job, as a row of jobs.csv and of ran.csv says it. Times are seconds since 1970.
struct RecordedJob<'a> {
    job: &'a pb::Job,
    submit: f64,
    start: f64,
    end: f64,
    /// Training images of an epoch.
    images: f64,
    /// Epochs that were asked for.
    epochs: f64,
    epochs_done: f64,
    /// Images per second on each GPU model; `None` where the job may not run.
    rates: Vec<Option<f64>>,
}

impl Recording {
    fn of(jobs: &[pb::Job], gpus: &[agents::AgentGpu], rates: &[pb::Rate]) -> Self {
        let models = gpu_models(gpus);
        let mut rows: Vec<RecordedJob<'_>> =
            jobs.iter().filter_map(|job| recorded(job, &models, rates)).collect();
        rows.sort_by(|a, b| a.submit.total_cmp(&b.submit));
        let first = rows.first().map_or(0.0, |row| row.submit);
        let mut cluster = "gpu_model,vram_gb,nodes,gpus_per_node\n".to_owned();
        for GpuModel { name, vram_gib, gpus } in &models {
            let _ = writeln!(cluster, "{name},{vram_gib},{gpus},1");
        }
        let heads: String = models.iter().map(|model| format!(",tput_{}", model.name)).collect();
        let mut queue = format!(
            "job_id,user,submit_s,gpus,min_vram_gb,priority,work_units,ckpt_units,declared_units,job_kind{heads}\n"
        );
        let mut ran = "job_id,start_s,end_s\n".to_owned();
        for row in &rows {
            let spec = row.job.spec.clone().unwrap_or_default();
            let (train, resources) = (spec.train.unwrap_or_default(), spec.resources.unwrap_or_default());
            let (id, submit) = (&row.job.id, row.submit - first);
            let (user, work) = (row.job.user.replace(',', " "), row.epochs_done * row.images);
            let (images, declared) = (row.images, row.epochs * row.images);
            let vram = resources.min_vram_mib as f64 / 1024.0;
            let kind = format!("{}-{}", train.model, train.imgsz.unwrap_or(640));
            let priority = spec.priority;
            let _ = write!(
                queue,
                "{id},{user},{submit:.3},1,{vram},{priority},{work},{images},{declared},{kind}"
            );
            for rate in &row.rates {
                let _ = write!(queue, ",{}", rate.map(|rate| format!("{rate:.3}")).unwrap_or_default());
            }
            queue.push('\n');
            let _ = writeln!(ran, "{id},{:.3},{:.3}", row.start - first, row.end - first);
        }
        Self { cluster, queue, ran, jobs: rows.len(), left_out: jobs.len() - rows.len() }
    }
}

/// The GPU models, by name and size, with the number of their GPUs.
fn gpu_models(gpus: &[agents::AgentGpu]) -> Vec<GpuModel<'_>> {
    let mut models: Vec<GpuModel<'_>> = Vec::new();
    for entry in gpus {
        let (name, vram_gib) = (entry.gpu.model.as_str(), nominal_gib(entry.gpu.memory_total_mib));
        match models.iter_mut().find(|model| (model.name, model.vram_gib) == (name, vram_gib)) {
            Some(model) => model.gpus += 1,
            None => models.push(GpuModel { name, vram_gib, gpus: 1 }),
        }
    }
    models.sort_by(|one, other| one.name.cmp(other.name).then(one.vram_gib.total_cmp(&other.vram_gib)));
    models
}

/// What is known of a job; `None` when it never trained on a GPU that is there.
fn recorded<'a>(job: &'a pb::Job, models: &[GpuModel<'_>], table: &[pb::Rate]) -> Option<RecordedJob<'a>> {
    let (spec, progress) = (job.spec.as_ref()?, job.progress.as_ref()?);
    let (train, resources) = (spec.train.as_ref()?, spec.resources.clone().unwrap_or_default());
    let attempt = job.attempts.iter().rev().find(|attempt| attempt.train_images > 0)?;
    let usual_rate = |device: &str| {
        let is_it = |rate: &&pb::Rate| {
            rate.device == device
                && rate.model == train.model
                && rate.imgsz == train.imgsz.unwrap_or(640)
                && rate.amp == train.amp.unwrap_or(true)
                && rate.gpus == 1
        };
        table.iter().find(is_it).map(|rate| rate.images_per_second)
    };
    // As fast as it was on its own GPU, and on others as much faster or slower as such jobs are there.
    let own = if progress.images_per_second > 0.0 {
        progress.images_per_second
    } else {
        usual_rate(&attempt.device)?
    };
    let scale = usual_rate(&attempt.device).map_or(1.0, |usual| own / usual);
    let satisfies = |model: &GpuModel<'_>| {
        let wanted = &resources.gpu_models;
        model.vram_gib * 1024.0 >= resources.min_vram_mib as f64
            && (wanted.is_empty() || wanted.iter().any(|pattern| matches_model(model.name, pattern)))
    };
    let rate = |model: &GpuModel<'_>| {
        let rate = if model.name == attempt.device {
            Some(own)
        } else {
            usual_rate(model.name).map(|rate| rate * scale)
        };
        rate.filter(|_| satisfies(model))
    };
    let rates: Vec<Option<f64>> = models.iter().map(rate).collect();
    rates.iter().any(Option::is_some).then_some(())?;
    let seconds =
        |time: Option<&Timestamp>| time.map(|time| time.seconds as f64 + f64::from(time.nanos) * 1e-9);
    Some(RecordedJob {
        job,
        submit: seconds(job.create_time.as_ref())?,
        start: seconds(job.attempts.first()?.placed_time.as_ref())?,
        end: seconds(job.end_time.as_ref())?,
        images: attempt.train_images as f64,
        epochs: f64::from(progress.epochs.max(1)),
        epochs_done: f64::from(progress.epoch.max(1)),
        rates,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_has_the_gpus_the_jobs_with_their_speeds_and_what_came() {
        let gpu = |model: &str, memory_total_mib| agents::AgentGpu {
            agent: "lab-1".into(),
            gpu: pb::Gpu { model: model.into(), memory_total_mib, ..Default::default() },
        };
        let gpus = [gpu("RTX 4090", 24564), gpu("RTX 5070", 12227), gpu("RTX 5070", 12227)];
        let rate = |device: &str, images_per_second| pb::Rate {
            model: "yolov8s".into(),
            imgsz: 640,
            amp: true,
            gpus: 1,
            device: device.into(),
            images_per_second,
            ..Default::default()
        };
        let rates = [rate("RTX 4090", 200.0), rate("RTX 5070", 100.0)];
        let at = |seconds: i64| Some(Timestamp { seconds: 1_700_000_000 + seconds, nanos: 0 });
        let train = pb::TrainSpec { model: "yolov8s".into(), imgsz: Some(640), ..Default::default() };
        let job = |id: &str, device: &str| pb::Job {
            id: id.into(),
            user: "ada".into(),
            spec: Some(pb::JobSpec { train: Some(train.clone()), ..Default::default() }),
            create_time: at(100),
            end_time: at(500),
            progress: Some(pb::Progress {
                epoch: 8,
                epochs: 10,
                images_per_second: 110.0,
                ..Default::default()
            }),
            attempts: vec![pb::Attempt {
                device: device.into(),
                placed_time: at(160),
                train_images: 1000,
                ..Default::default()
            }],
            ..Default::default()
        };
        let never = pb::Job { attempts: vec![], ..job("never", "") };
        let recording = Recording::of(&[job("cells", "RTX 5070"), never], &gpus, &rates);
        assert_eq!((recording.jobs, recording.left_out), (1, 1));
        assert_eq!(
            recording.cluster,
            "gpu_model,vram_gb,nodes,gpus_per_node\nRTX 4090,24,1,1\nRTX 5070,12,2,1\n"
        );
        let row = "cells,ada,0.000,1,0,0,8000,1000,10000,yolov8s-640,220.000,110.000";
        assert_eq!(recording.queue.lines().nth(1), Some(row));
        assert_eq!(recording.ran, "job_id,start_s,end_s\ncells,60.000,400.000\n");
    }
}
