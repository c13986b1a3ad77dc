//! Starts trainers, follows them, and diagnoses those that make no progress.

use std::path::Path;

use tracing::{error, info};
use trainyard_types::reference::Reference;
use trainyard_types::{Assignment, AttemptId, EndReason, Slot};

use super::Driver;
use crate::disk::space;
use crate::message::{Event, Input, Prepared, Refusal};
use crate::prepare::folder_refusal;
use crate::self_test::program_unfit;
use crate::trainer::child::{StartError, StartedTrainer, TrainerHandle};
use crate::trainer::command::TrainerCommand;
use crate::trainer::confinement::{self, Work};
use crate::trainer::failure_report::FailureReport;
use crate::trainer::stall_diagnosis;
use crate::trainer::watch::WatchedTrainer;

impl Driver {
    pub(super) async fn spawn(&mut self, assignment: &Assignment, prepared: &Prepared) -> Option<Event> {
        let attempt = assignment.attempt;
        let dir = self.job_dir(attempt);
        let (config, slot) = (&self.context.prepare.config, &assignment.slot);
        let fetched = self.context.prepare.content.folders_of(attempt);
        let data_roots = config.data_roots.iter().chain(&fetched).cloned().collect();
        let command = TrainerCommand {
            attempt,
            program: config.trainer(),
            spec: dir.spec(),
            run_dir: dir.run(),
            cache_dir: config.decoded_dir(),
            cache_quota_gib: config.cache_quota_gib,
            cache_floor_gib: config.cache_floor_gib,
            batch_size: prepared.chosen.batch_size,
            measure_memory: prepared.measure_memory,
            slot: slot.clone(),
            data_roots,
            is_stored: Reference::of_path(&assignment.spec.train.data).is_some(),
        };
        let program = command.program.clone();
        // Data sets lead from one root to another, by links and lists, so all of them are read.
        let mut read = self.context.prepare.paths.responsive_roots();
        read.push(command.spec.clone());
        read.extend(fetched);
        let work = Work { read, write: vec![command.run_dir.clone(), command.cache_dir.clone()] };
        let confinement = confinement::ready(config, &slot.into(), work).await;
        let report = FailureReport::begin(
            config.clone(),
            self.context.prepare.host.clone(),
            self.context.prepare.readings.clone(),
            slot.clone(),
            dir.log(),
        );
        let spawned = match confinement {
            Ok(confinement) => self.context.spawner.spawn(command, confinement, dir.log()).await,
            Err(error) => Err(StartError::Confinement(error)),
        };
        let started = spawned.and_then(|StartedTrainer { handle, events, exit }| {
            let events = tokio::net::unix::pipe::Receiver::from_owned_fd(events);
            let events = events.map_err(|error| {
                handle.kill();
                StartError::System(error)
            })?;
            Ok((handle, WatchedTrainer { attempt, events, exit, inbox: self.context.sender.clone() }))
        });
        match started {
            Ok((handle, trainer)) => {
                info!(%attempt, batch_size = prepared.chosen.batch_size, "trainer started");
                if let Some(pid) = handle.pid() {
                    self.context.running.started(attempt, slot.clone(), pid);
                    // A self-test may have begun while the attempt was prepared.
                    self.context.self_tests.job_arrived(slot.into());
                }
                self.trainers.insert(attempt, handle);
                let sender = self.context.sender.clone();
                tokio::spawn(async move {
                    let exit = report.finish(trainer).await;
                    info!(%attempt, kind = ?exit.kind, bad_lines = exit.bad_lines, "trainer exited");
                    // The inbox is closed when the agent is leaving.
                    let _leaving = sender.send(Input::Core(Event::Exited(attempt, exit))).await;
                });
                None
            }
            Err(error) => {
                let refusal = self.not_started(&program, &error);
                error!(%attempt, told = refusal.message, "trainer did not start");
                Some(Event::SpawnFailed(attempt, refusal))
            }
        }
    }

    /// How an attempt ends whose trainer did not start.
    fn not_started(&self, program: &Path, error: &StartError) -> Refusal {
        let shortage = self.context.prepare.config.disk_shortage();
        if let Some(message) = shortage.filter(|_| space::is_full(error.source())) {
            return Refusal::new(EndReason::Preempted, message);
        }
        match error {
            StartError::Program(error) => Refusal::unfit(program_unfit(program, error)),
            StartError::Log { .. } | StartError::Confinement(_) | StartError::System(_) => {
                folder_refusal(format!("this agent cannot start a trainer: {error}"), Some(error.source()))
            }
        }
    }

    /// Finds out what the process of a trainer does that makes no progress, and tells the core.
    pub(super) fn diagnose_stall(&self, attempt: AttemptId) {
        let pid = self.trainers.get(&attempt).and_then(TrainerHandle::pid);
        let slot = self.fits().slot(attempt);
        let (readings, sender) = (self.context.prepare.readings.clone(), self.context.sender.clone());
        tokio::spawn(async move {
            let mut text = match pid {
                Some(pid) => stall_diagnosis::diagnose(pid).await,
                None => "its process is gone".to_owned(),
            };
            if let Some(Slot::Gpu(uuid)) = &slot
                && let Some(ratio) = readings.borrow().gpu(uuid).and_then(|gpu| gpu.utilization_ratio)
            {
                text.push_str(&format!("; the GPU is busy {:.0} % of the time", 100.0 * ratio));
            }
            // The inbox is closed when the agent is leaving.
            let _leaving = sender.send(Input::Core(Event::StallDiagnosed(attempt, text))).await;
        });
    }
}
