//! GPUs that are reserved for gangs. Each round of decisions makes the reservations anew.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_types::{AgentId, JobId, Time};

use crate::duration::whole_millis;

/// GPUs of an agent that are reserved for a gang.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GangReservation {
    /// The index of the queue of the GPUs' kind.
    pub(super) queue: usize,
    pub(super) agent: AgentId,
    pub(super) job: JobId,
    /// When the GPUs are expected to be free.
    pub(super) ready_at: Time,
    /// Jobs that are preempted for it at their next checkpoint.
    pub(super) victims: BTreeSet<JobId>,
}

/// What decides how long a gang waits: the queue, its GPUs, and a class of about equal runtimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GangClass {
    queue: usize,
    gpus: u32,
    runtime: u64,
}

impl GangClass {
    /// `runtime` is in milliseconds.
    pub(super) fn new(queue: usize, gpus: u32, runtime: f64) -> Self {
        Self { queue, gpus, runtime: whole_millis(runtime.max(1.0).log2() * 2.0) }
    }
}

/// The reservations of this round, and how long gangs wait.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    reservations: Vec<GangReservation>,
    /// How long gangs of a class wait, in milliseconds.
    waits: BTreeMap<GangClass, f64>,
}

impl Reservations {
    pub(super) fn is_empty(&self) -> bool {
        self.reservations.is_empty()
    }

    /// The reservations of GPUs that one queue has.
    pub(super) fn of_queue(&self, queue: usize) -> impl Iterator<Item = &GangReservation> + Clone {
        self.reservations.iter().filter(move |reservation| reservation.queue == queue)
    }

    /// The one of an agent's GPUs, if they are reserved.
    pub(super) fn of_agent(&self, queue: usize, agent: AgentId) -> Option<&GangReservation> {
        self.of_queue(queue).find(|reservation| reservation.agent == agent)
    }

    pub(super) fn add(&mut self, reservation: GangReservation) {
        self.reservations.push(reservation);
    }

    /// Drops all reservations.
    pub(super) fn clear(&mut self) {
        self.reservations.clear();
    }

    /// How long a gang of a class waits, in milliseconds, if that was computed before.
    pub(super) fn wait(&self, class: GangClass) -> Option<f64> {
        self.waits.get(&class).copied()
    }

    /// Keeps how long a gang of a class waits.
    pub(super) fn keep_wait(&mut self, class: GangClass, wait: f64) {
        self.waits.insert(class, wait);
    }

    /// Forgets how long gangs wait.
    pub(super) fn clear_waits(&mut self) {
        self.waits.clear();
    }
}
