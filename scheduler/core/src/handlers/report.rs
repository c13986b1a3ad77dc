//! What agents report of attempts, and what it changes in the job.
//!
//! An attempt is live from its placement to its end. Its reports are numbered from 1 and are taken in
//! once, in order, and from its own agent only.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_types::trainer::{Epoch, Failed, LogLevel, Phases, Started, Step, TrainerEvent};
use trainyard_types::{AgentId, AttemptId, Checkpoint, JobState, Report, ReportBody, Session, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::handlers::fetching::on_fetching;
use crate::output::Command;
use crate::record::{AttemptRecord, EventBody, JobRecord, Progress, Setup};
use crate::throughput::Observation;

/// What a report is, seen from the attempt that it is about.
enum ReportOrder {
    /// The next one of a live attempt.
    Next,
    /// A report that was taken in before.
    Repeat {
        /// The newest that was taken in.
        last_sequence: u64,
    },
    /// Earlier ones are missing; the agent sends it again after them.
    Gap,
    /// Of an attempt that is not this agent's, or not any more.
    Stale,
}

impl Core {
    /// An agent tells what happened. Such reports repeat, and may come from a former owner.
    pub(crate) fn on_report(
        &mut self,
        now: Time,
        agent: AgentId,
        session: Session,
        report: Report,
        out: &mut Changes,
    ) {
        if !self.hear(now, agent, session, out) {
            return; // An old connection: the agent says it again by the new one.
        }
        let attempt = report.attempt;
        match self.order_of(agent, &report) {
            ReportOrder::Next => {
                let sequence = report.sequence;
                self.take_in(now, report, out);
                out.command(Command::Ack { agent, session, attempt, sequence });
            }
            ReportOrder::Repeat { last_sequence } => {
                out.command(Command::Ack { agent, session, attempt, sequence: last_sequence });
            }
            ReportOrder::Gap => self.counters.report_gaps += 1,
            ReportOrder::Stale => out.command(Command::Revoke { agent, session, attempt }),
        }
    }

    fn order_of(&self, agent: AgentId, report: &Report) -> ReportOrder {
        let index = usize::try_from(report.attempt.number).ok().and_then(|number| number.checked_sub(1));
        let job = self.jobs.get(report.attempt.job);
        let attempt = job.zip(index).and_then(|(job, index)| job.attempts.get(index));
        let Some(attempt) = attempt.filter(|attempt| attempt.agent == agent) else {
            return ReportOrder::Stale;
        };
        if report.sequence <= attempt.last_sequence {
            return ReportOrder::Repeat { last_sequence: attempt.last_sequence };
        }
        match &attempt.ended {
            Some(_) => ReportOrder::Stale,
            None if report.sequence == attempt.last_sequence + 1 => ReportOrder::Next,
            None => ReportOrder::Gap,
        }
    }

    /// The next report of a live attempt.
    fn take_in(&mut self, now: Time, report: Report, out: &mut Changes) {
        let Report { attempt: id, sequence, time, body } = report;
        let Some(mut job) = self.jobs.edit(now, id.job) else { return };
        let Some(attempt) = job.live_attempt_mut() else { return };
        attempt.last_sequence = sequence;
        let (placed, agent) = (attempt.placed, attempt.agent);
        // Clocks differ: nothing happens before its attempt was placed, or in the future.
        let time = self.agents.get(agent).map_or(time, |agent| agent.clock().corrected(time));
        let time = time.max(placed).min(now.max(placed));
        out.touch_progress(id.job);
        match body {
            ReportBody::Trainer(event) => {
                let observation = Observation::of(&event, &job);
                let had_stepped = job.has_stepped();
                on_trainer(&mut job, time, id, event, out);
                let is_first_step = !had_stepped && job.has_stepped();
                let left = job.progress.as_ref().and_then(|progress| progress.eta);
                job.expect_end(left.map(|left| time + left));
                drop(job);
                self.observe_throughput(now, id.job, observation, out);
                if is_first_step {
                    self.judge_machine(now, id, out);
                }
            }
            ReportBody::BatchChosen(chosen) => {
                attempt.batch_chosen = Some(chosen);
                out.touch(id.job);
            }
            ReportBody::Fetching(fetching) => {
                self.throughput.fetches.observe(&fetching);
                on_fetching(&mut job, time, id, fetching, out);
            }
            ReportBody::SlotReleased(released) => {
                drop(job);
                self.on_slot_released(now, time, id, released, out);
            }
            ReportBody::CheckpointStored(checkpoint) => {
                on_checkpoint(&mut job, checkpoint);
                out.touch(id.job);
                out.note_checkpoint(id.job);
            }
            ReportBody::PicturesStored(pictures) => {
                if job.pictures != pictures {
                    job.pictures = pictures;
                    out.touch(id.job);
                }
            }
            ReportBody::Ended(ended) => {
                drop(job);
                self.end_attempt(now, time, id, ended, out);
            }
        }
    }
}

fn on_trainer(job: &mut JobRecord, time: Time, id: AttemptId, event: TrainerEvent, out: &mut Changes) {
    let log = |level, message| EventBody::Log { level, message };
    match event {
        TrainerEvent::Started(started) => on_started(job, time, id, &started, out),
        TrainerEvent::Step(step) => on_step(job, time, id, step, out),
        TrainerEvent::Epoch(epoch) => on_epoch(job, time, id, epoch, out),
        // What counts for the job is that it is stored, which is reported next.
        TrainerEvent::Checkpoint(_) => {}
        TrainerEvent::BatchSize(change) => {
            job.progress.get_or_insert_default().batch_size = change.to;
            out.event(job, time, id.number, log(LogLevel::Warning, change.message));
        }
        TrainerEvent::Memory(measured) => {
            let message = format!(
                "memory: {} MiB before any batch, {} MiB at the peak of a step with {} images and {} objects, \
                 {} MiB in validation",
                measured.fixed_mib,
                measured.step_peak_mib,
                measured.batch_size,
                measured.densest_objects,
                measured.validation_peak_mib
            );
            out.event(job, time, id.number, log(LogLevel::Info, message));
        }
        TrainerEvent::Workers(change) => {
            if let Some(setup) = job.live_attempt_mut().and_then(|attempt| attempt.setup.as_mut()) {
                setup.workers = change.to;
            }
            out.touch(id.job);
            let message = format!("{} loader workers instead of {}", change.to, change.from);
            out.event(job, time, id.number, log(LogLevel::Info, message));
        }
        // The agent's to watch.
        TrainerEvent::Beat(_) => {}
        TrainerEvent::Log(line) => out.event(job, time, id.number, log(line.level, line.message)),
        TrainerEvent::Finished(finished) => {
            let progress = job.progress.get_or_insert_default();
            renew(&mut progress.metrics, &finite(finished.metrics));
            progress.eta = Some(Duration::ZERO);
            let message =
                format!("training is done; the best weights are those of epoch {}", finished.best_epoch);
            out.event(job, time, id.number, log(LogLevel::Info, message));
        }
        TrainerEvent::Failed(failed) => {
            out.event(job, time, id.number, log(LogLevel::Error, failure(failed)));
        }
    }
}

fn on_started(job: &mut JobRecord, time: Time, id: AttemptId, started: &Started, out: &mut Changes) {
    let before = job.progress.as_ref().map_or(0, |progress| progress.epochs_done);
    job.progress = Some(Box::new(Progress {
        epoch: started.first_epoch,
        epochs: started.epochs,
        batch_size: started.batch_size,
        epochs_done: before.max(started.first_epoch.saturating_sub(1)),
        ..Progress::default()
    }));
    if let Some(attempt) = job.live_attempt_mut() {
        attempt.setup = Some(Setup {
            train_images: started.train_images,
            val_images: started.val_images,
            precision: started.precision.clone(),
            workers: started.workers,
            gflops: number(started.gflops),
            first_epoch: started.first_epoch,
            first_rate: 0.0,
        });
        out.touch(id.job);
    }
    if let Some(message) = other_content(job) {
        out.event(job, time, id.number, EventBody::Log { level: LogLevel::Warning, message });
    }
    run(job, time, id, out);
}

/// What is said when the newest attempt counted other images than an earlier one did on another agent.
fn other_content(job: &JobRecord) -> Option<String> {
    let counted = |attempt: &AttemptRecord| {
        let setup = attempt.setup.as_ref()?;
        Some((setup.train_images, setup.val_images))
    };
    let (newest, earlier) = job.attempts.split_last()?;
    let (here, agent) = (counted(newest)?, newest.agent);
    let other = earlier.iter().rev().find(|attempt| attempt.agent != agent && counted(attempt).is_some())?;
    let there = counted(other).filter(|there| *there != here)?;
    Some(format!(
        "its data set differs: {} and {} images (training, validation) on agent `{}`, {} and {} on agent `{}`; let \
         all agents have the same copy",
        there.0, there.1, other.agent_name, here.0, here.1, newest.agent_name
    ))
}

/// The first sign that the trainer is at work moves the job on; later ones change nothing.
fn run(job: &mut JobRecord, time: Time, id: AttemptId, out: &mut Changes) {
    let Some(attempt) = job.live_attempt_mut().filter(|attempt| attempt.started.is_none()) else { return };
    attempt.started = Some(time);
    let mut reason = format!("trains on {} of agent `{}`", attempt.device, attempt.agent_name);
    if let Some(progress) = &job.progress
        && progress.epoch > 1
    {
        reason.push_str(&format!(", from epoch {} of {}", progress.epoch, progress.epochs));
    }
    if job.cancel_requested {
        reason = format!("its user cancelled it; {reason} until it stops");
    }
    job.started.get_or_insert(time);
    out.state(job, time, id.number, JobState::Running, reason);
}

fn on_step(job: &mut JobRecord, time: Time, id: AttemptId, step: Step, out: &mut Changes) {
    run(job, time, id, out);
    let running_since = job.live_attempt().and_then(|attempt| attempt.started).unwrap_or(time);
    let progress = job.progress.get_or_insert_default();
    progress.epoch = step.epoch;
    progress.epochs = progress.epochs.max(step.epoch);
    progress.batch = step.batch;
    progress.batches = step.batches;
    progress.images_per_second = number(step.images_per_second);
    progress.loader_wait_ratio = number(step.loader_wait_ratio);
    progress.phases = step.phases.map(known).or(progress.phases);
    let values = finite(step.metrics);
    renew(&mut progress.metrics, &values);
    let done = f64::from(step.batch) / f64::from(step.batches.max(1));
    // Within the attempt's first epoch its own pace is all there is to go by.
    let pace = progress
        .epoch_seconds
        .or_else(|| (step.batch > 0).then(|| time.since(running_since).as_secs_f64() / done));
    progress.eta = pace.and_then(|pace| eta(pace, f64::from(progress.epochs - step.epoch) + 1.0 - done));
    let body = EventBody::Metrics {
        epoch: step.epoch,
        epochs: progress.epochs,
        epoch_end: false,
        batch: step.batch,
        batches: step.batches,
        images_per_second: progress.images_per_second,
        loader_wait_ratio: progress.loader_wait_ratio,
        values,
        phases: step.phases.map(known),
    };
    out.event(job, time, id.number, body);
}

fn on_epoch(job: &mut JobRecord, time: Time, id: AttemptId, epoch: Epoch, out: &mut Changes) {
    run(job, time, id, out);
    let setup = job.live_attempt_mut().and_then(|attempt| attempt.setup.as_mut());
    if let Some(setup) = setup.filter(|setup| setup.first_epoch == epoch.epoch) {
        setup.first_rate = number(epoch.images_per_second);
        out.touch(id.job);
    }
    let progress = job.progress.get_or_insert_default();
    progress.epoch = epoch.epoch;
    progress.epochs = epoch.epochs;
    progress.batch = progress.batches;
    progress.images_per_second = number(epoch.images_per_second);
    progress.loader_wait_ratio = number(epoch.loader_wait_ratio);
    progress.epochs_done = progress.epochs_done.max(epoch.epoch);
    progress.phases = epoch.phases.map(known).or(progress.phases);
    let values = finite(epoch.metrics);
    renew(&mut progress.metrics, &values);
    let pace = epoch.seconds / f64::from(epoch.epoch.max(1));
    progress.epoch_seconds = Some(pace).filter(|pace| pace.is_finite() && *pace >= 0.0);
    let left = epoch.epochs.saturating_sub(epoch.epoch);
    progress.eta = progress.epoch_seconds.and_then(|pace| eta(pace, f64::from(left)));
    let body = EventBody::Metrics {
        epoch: epoch.epoch,
        epochs: epoch.epochs,
        epoch_end: true,
        batch: progress.batch,
        batches: progress.batches,
        images_per_second: progress.images_per_second,
        loader_wait_ratio: progress.loader_wait_ratio,
        values,
        phases: epoch.phases.map(known),
    };
    out.event(job, time, id.number, body);
}

/// A resumed attempt may store one that is older than the newest; the newest is kept.
fn on_checkpoint(job: &mut JobRecord, checkpoint: Checkpoint) {
    if job.checkpoint.as_ref().is_none_or(|newest| newest.step <= checkpoint.step) {
        job.checkpoint = Some(checkpoint);
    }
}

fn failure(failed: Failed) -> String {
    let mut message = failed.message;
    for violation in &failed.violations {
        message.push_str(&format!("; {violation}"));
    }
    message
}

/// In whole milliseconds; `None` for what is no duration.
fn eta(epoch_seconds: f64, epochs_left: f64) -> Option<Duration> {
    let span = Duration::try_from_secs_f64(epoch_seconds * epochs_left).ok()?;
    Some(Duration::from_millis(span.as_millis().try_into().ok()?))
}

/// Metrics of the whole model that a job may have, and bytes of a metric's name. A trainer has some thirty.
const METRICS: usize = 256;
const METRIC_BYTES: usize = 128;
/// Metrics of single classes that a job may have beside them: two of each class.
const CLASS_METRICS: usize = 1024;

/// The class that a metric is of, as in `metrics/mAP50(B)/cat`; `None` for one of the whole model.
fn class_of(metric: &str) -> Option<&str> {
    metric.strip_prefix("metrics/")?.split_once("(B)/").map(|(_, class)| class)
}

/// JSON has no infinities, and what is stored must be readable and not grow without end: other values, and
/// those beyond what a job may have, are left out. Classes never take the place of the whole model.
fn finite(mut metrics: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    metrics.retain(|name, value| value.is_finite() && name.len() <= METRIC_BYTES);
    let (mut of_classes, of_model): (Vec<_>, Vec<_>) =
        metrics.into_iter().partition(|(name, _)| class_of(name).is_some());
    let mut kept: BTreeMap<String, f64> = of_model.into_iter().take(METRICS).collect();
    // All figures of a class are kept, or none.
    of_classes.sort_by(|(one, _), (other, _)| (class_of(one), one).cmp(&(class_of(other), other)));
    kept.extend(of_classes.into_iter().take(CLASS_METRICS));
    kept
}

/// Takes in the newest values; a name that is new finds no place where there are too many of its kind already.
fn renew(known: &mut BTreeMap<String, f64>, values: &BTreeMap<String, f64>) {
    let of_classes = known.keys().filter(|name| class_of(name).is_some()).count();
    let mut room =
        [METRICS.saturating_sub(known.len() - of_classes), CLASS_METRICS.saturating_sub(of_classes)];
    for (name, value) in values {
        let left = &mut room[usize::from(class_of(name).is_some())];
        match known.get_mut(name) {
            Some(known) => *known = *value,
            None if *left > 0 => {
                *left -= 1;
                known.insert(name.clone(), *value);
            }
            None => {}
        }
    }
}

/// As [`number`], for each phase.
fn known(phases: Phases) -> Phases {
    Phases {
        wait: number(phases.wait),
        copy: number(phases.copy),
        forward: number(phases.forward),
        loss: number(phases.loss),
        backward: number(phases.backward),
        optimizer: number(phases.optimizer),
    }
}

/// As [`finite`], for values that cannot be left out.
fn number(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}
