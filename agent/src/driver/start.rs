//! Starts trainers, follows them, and looks at those that do not get on.

use std::path::Path;

use tracing::{error, info};
use trainyard_types::{Assignment, AttemptId, EndReason, Slot};

use super::{Driver, Input};
use crate::core::{Event, Prepared, Refusal};
use crate::disk;
use crate::evidence;
use crate::prepare::in_folder;
use crate::self_test::unstarted_lack;
use crate::trainer::child::{Handle, StartError, Trainer};
use crate::trainer::command::Start;
use crate::trainer::scene::Scene;
use crate::trainer::watch::Watch;

impl Driver {
    pub(super) async fn spawn(&mut self, assignment: &Assignment, prepared: &Prepared) -> Option<Event> {
        let attempt = assignment.attempt;
        let dir = self.job_dir(attempt);
        let start = Start {
            attempt,
            program: self.workshop.config.trainer(),
            spec: dir.spec(),
            run_dir: dir.run(),
            cache_dir: self.workshop.config.cache_dir(),
            cache_quota_gib: self.workshop.config.cache_quota_gib,
            cache_floor_gib: self.workshop.config.cache_floor_gib,
            batch_size: prepared.chosen.batch_size,
            measure_memory: prepared.measure_memory,
            slot: assignment.slot.clone(),
            data_roots: self.workshop.config.data_roots.clone(),
        };
        let program = start.program.clone();
        let scene = Scene::new(&self.workshop, assignment.slot.clone(), dir.log());
        let spawned = self.spawner.spawn(start, dir.log()).await;
        let watching = spawned.and_then(|Trainer { handle, events, exit }| {
            let events = tokio::net::unix::pipe::Receiver::from_owned_fd(events);
            let events = events.map_err(|error| {
                handle.kill();
                StartError::System(error)
            })?;
            Ok((handle, Watch { attempt, events, exit, inbox: self.sender.clone() }))
        });
        match watching {
            Ok((handle, started)) => {
                info!(%attempt, batch_size = prepared.chosen.batch_size, "trainer started");
                if let Some(pid) = handle.pid() {
                    self.workshop.crew.started(attempt, assignment.slot.clone(), pid);
                    // One may have begun while the attempt was prepared.
                    self.tests.occupied((&assignment.slot).into());
                }
                self.trainers.insert(attempt, handle);
                let sender = self.sender.clone();
                tokio::spawn(async move {
                    let exit = scene.exit(started).await;
                    info!(%attempt, kind = ?exit.kind, bad_lines = exit.bad_lines, "trainer exited");
                    // The inbox is closed when the agent is leaving.
                    let _leaving = sender.send(Input::Core(Event::Exited(attempt, exit))).await;
                });
                None
            }
            Err(error) => {
                let refusal = self.unstarted(&program, &error);
                error!(%attempt, told = refusal.message, "trainer did not start");
                Some(Event::SpawnFailed(attempt, refusal))
            }
        }
    }

    fn unstarted(&self, program: &Path, error: &StartError) -> Refusal {
        if let Some(message) = self.workshop.disk_shortage().filter(|_| disk::is_full(error.source())) {
            return Refusal::new(EndReason::Preempted, message);
        }
        match error {
            StartError::Program(error) => Refusal::unfit(unstarted_lack(program, error)),
            StartError::Log { .. } | StartError::System(_) => {
                in_folder(format!("this agent cannot start a trainer: {error}"), Some(error.source()))
            }
        }
    }

    /// Sees what a trainer without progress does.
    pub(super) fn examine(&self, attempt: AttemptId) {
        let pid = self.trainers.get(&attempt).and_then(Handle::pid);
        let slot = self.fits().slot(attempt);
        let (cards, sender) = (self.workshop.cards.clone(), self.sender.clone());
        tokio::spawn(async move {
            let mut text = match pid {
                Some(pid) => evidence::of(pid).await,
                None => "its process is gone".to_owned(),
            };
            if let Some(Slot::Gpu(uuid)) = &slot
                && let Some(ratio) = cards.borrow().card(uuid).and_then(|card| card.utilization_ratio)
            {
                text.push_str(&format!("; the GPU is busy {:.0} % of the time", 100.0 * ratio));
            }
            // The inbox is closed when the agent is leaving.
            let _leaving = sender.send(Input::Core(Event::Examined(attempt, text))).await;
        });
    }
}
