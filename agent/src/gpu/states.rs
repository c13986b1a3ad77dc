//! The state of each GPU: whether it takes jobs, why not, and what must happen to the attempt on it. Pure but for the
//! small file of quarantined GPUs; time is an argument.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use trainyard_types::cuda_support::{Driver, LibtorchBuild};
use trainyard_types::{EndReason, Gpu, GpuTelemetry, GpuUuid, Time, Unavailable, UnavailableCause};

use super::XidEvent;
use super::health::{Counts, Finding, Health};
use super::other_processes::{OtherProcessTracker, OtherProcesses, ProcessTable};
use super::owner_mode::{LocalTime, OwnerMode, OwnerModeConfig, duration_text};
use super::quarantine::{QuarantineRecord, QuarantineStore};
use super::reading::{GpuAnswer, GpuReading, ProbeError, ReadError, RecoveryAction};
use super::support::unsupported;
use super::xid::{ReleaseCondition, XidEffect, effect_of, policy};
use crate::message::GpuOrder;

/// Devices that are gone for so long do not come back to this process.
const GONE_FOR_GOOD: Duration = Duration::from_secs(60);

/// How failed GPUs are treated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthConfig {
    /// From a failure to the test that ends the quarantine, where a test may end it.
    #[serde(with = "humantime_serde")]
    pub self_test_after: Duration,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { self_test_after: Duration::from_secs(3600) }
    }
}

/// What the configuration says of GPUs.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuRules {
    /// When a GPU is its owner's.
    pub owner_mode: OwnerModeConfig,
    /// Memory that other processes may hold on a GPU that takes jobs.
    pub others_memory_allowance_mib: u64,
    /// How failed GPUs are treated.
    pub health: HealthConfig,
}

/// What is known of one GPU.
#[derive(Debug)]
struct GpuState {
    gpu: Gpu,
    /// `None` where no owner comes first.
    owner_mode: Option<OwnerMode>,
    tracker: OtherProcessTracker,
    health: Health,
    /// Why driver or libtorch cannot use it, ever.
    unsupported: Option<String>,
    /// Why it cannot be asked now: it does not answer, or no GPU does.
    unresponsive: Option<String>,
    /// Why it is its owner's now.
    owner: Option<String>,
    /// What other processes do on it; `None` while it does not answer.
    others: Option<OtherProcesses>,
    /// The newest reading; `None` when the GPU does not answer.
    last: Option<GpuReading>,
}

/// What a GPU does at one moment, for the metrics page and for telemetry.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuSnapshot {
    /// The GPU itself.
    pub gpu: Gpu,
    /// The newest reading; `None` when the GPU does not answer.
    pub reading: Option<GpuReading>,
    /// Memory of other processes.
    pub others_mib: Option<u64>,
    /// Whether it takes jobs, as far as the agent knows.
    pub available: bool,
    /// What was counted since the agent's start.
    pub counts: Counts,
}

/// What all GPUs do at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GpuSnapshots {
    /// By index.
    pub gpus: Vec<GpuSnapshot>,
    /// Why the agent must be started anew to have GPUs, a sentence; `None` where that would not help.
    pub needs_restart: Option<String>,
}

/// Every GPU of the machine.
#[derive(Debug)]
pub struct GpuStates {
    rules: GpuRules,
    gpus: Vec<GpuState>,
    quarantine: QuarantineStore,
    boot_id: String,
    /// Why no GPU could be asked the last time.
    unresponsive: Option<String>,
    /// Since when the devices are gone that this process was given, if they are.
    gone_since: Option<Time>,
    /// Whether a GPU answered that is not known.
    has_unknown: bool,
    /// GPUs that take no jobs for other reasons than their readings.
    closed: BTreeMap<GpuUuid, Unavailable>,
}

impl GpuStates {
    /// The GPUs that answer now, and those that have failed before and do not.
    pub fn new(rules: GpuRules, found: Vec<Gpu>, quarantine: QuarantineStore, boot_id: String) -> Self {
        let mut all = found;
        for record in quarantine.records() {
            if !all.iter().any(|gpu| gpu.uuid == record.gpu.uuid) {
                all.push(record.gpu.clone());
            }
        }
        let mut states = Self {
            rules,
            gpus: Vec::new(),
            quarantine,
            boot_id,
            unresponsive: None,
            gone_since: None,
            has_unknown: false,
            closed: BTreeMap::new(),
        };
        states.adopt(all);
        states
    }

    /// Takes in those of `gpus` that are not known. Returns whether there were any.
    pub fn adopt(&mut self, gpus: Vec<Gpu>) -> bool {
        let before = self.gpus.len();
        for gpu in gpus {
            if self.gpus.iter().all(|state| state.gpu.uuid != gpu.uuid) {
                self.gpus.push(GpuState::new(gpu, &self.rules.owner_mode));
            }
        }
        self.gpus.sort_by_key(|state| state.gpu.index);
        self.gpus.len() > before
    }

    /// Why no GPU could be asked the last time; `None` when they could.
    pub fn unresponsive(&self) -> Option<&str> {
        self.unresponsive.as_deref()
    }

    /// Why only another process could have GPUs, once that was so for a minute: its container has lost them.
    pub fn needs_restart(&self, now: Time) -> Option<&str> {
        let is_gone = self.gone_since.is_some_and(|since| now.since(since) >= GONE_FOR_GOOD);
        self.unresponsive.as_deref().filter(|_| is_gone)
    }

    /// Whether a GPU answers that did not when the GPUs were counted.
    pub const fn has_unknown(&self) -> bool {
        self.has_unknown
    }

    /// Every GPU, by index.
    pub fn gpus(&self) -> Vec<Gpu> {
        self.gpus.iter().map(|state| state.gpu.clone()).collect()
    }

    /// What driver and libtorch can use, once that is known.
    pub fn on_libtorch(&mut self, driver: &Driver, libtorch: &LibtorchBuild) {
        for state in &mut self.gpus {
            state.unsupported = unsupported(&state.gpu, driver, libtorch);
            if let Some(why) = &state.unsupported {
                warn!(gpu = %state.gpu.uuid, index = state.gpu.index, why, "this GPU takes no jobs");
            }
        }
    }

    /// Takes what the GPUs told. `trainers` are the process ids of this agent's trainers by GPU, `agent` is the agent's own.
    pub fn on_readings(
        &mut self,
        now: Time,
        local: LocalTime,
        read: Result<Vec<GpuAnswer>, ProbeError>,
        trainers: &BTreeMap<GpuUuid, u32>,
        agent: u32,
        processes: &dyn ProcessTable,
    ) -> Vec<GpuOrder> {
        let mut orders = Vec::new();
        let answers = match read {
            Ok(answers) => answers,
            Err(error) => {
                let why = no_gpu_answers(&error);
                self.gone_since = match error {
                    ProbeError::Unknown => self.gone_since.or(Some(now)),
                    ProbeError::Failed(_) => None,
                };
                for state in &mut self.gpus {
                    if state.unresponsive.as_ref() != Some(&why) {
                        warn!(gpu = %state.gpu.uuid, why, "a GPU cannot be asked");
                    }
                    (state.unresponsive, state.last, state.others) = (Some(why.clone()), None, None);
                    // Its owner's hours come all the same.
                    orders.extend(state.update_owner(now, local, &self.rules.owner_mode));
                }
                self.unresponsive = Some(why);
                return orders;
            }
        };
        (self.unresponsive, self.gone_since) = (None, None);
        let known = |answer: &GpuAnswer| self.gpus.iter().any(|state| state.gpu.uuid == answer.uuid);
        self.has_unknown = answers.iter().any(|answer| answer.reading.is_ok() && !known(answer));
        let lost = Err(ReadError::Lost);
        for state in &mut self.gpus {
            let answer = answers.iter().find(|answer| answer.uuid == state.gpu.uuid);
            let reading = answer.map_or(&lost, |answer| &answer.reading);
            let finding = state.health.observe(now, &state.gpu.uuid, reading.as_ref());
            state.last = reading.as_ref().ok().cloned();
            state.unresponsive = None;
            match finding {
                Finding::Fine => {}
                Finding::Unresponsive(why) => {
                    state.unresponsive =
                        Some(format!("the GPU does not answer: {why}; it takes jobs again when it does"));
                }
                Finding::Failed(_) if self.quarantine.get(&state.gpu.uuid).is_some() => {}
                Finding::Failed(reason) => {
                    let failure = Failure { xid: None, reason, release: ReleaseCondition::SelfTest };
                    orders.push(quarantine(&mut self.quarantine, &self.boot_id, now, state, failure));
                }
            }
            let trainer = trainers.get(&state.gpu.uuid).copied();
            state.others = state
                .last
                .as_ref()
                .map(|reading| state.tracker.observe(now, reading, trainer, agent, processes));
            orders.extend(state.update_owner(now, local, &self.rules.owner_mode));
        }
        self.test_quarantined(now);
        orders
    }

    /// Takes an error of the driver; `action` is what it wants done, if it says.
    pub fn on_xid(&mut self, now: Time, event: &XidEvent, action: Option<RecoveryAction>) -> Vec<GpuOrder> {
        let xid = event.xid;
        let allowed = self.rules.others_memory_allowance_mib;
        let Some(state) = self.gpus.iter_mut().find(|state| Some(&state.gpu.uuid) == event.gpu.as_ref())
        else {
            warn!(xid, gpu = ?event.gpu, "the driver tells an XID of a GPU that is not known");
            return Vec::new();
        };
        *state.health.counts.xids.entry(xid).or_default() += 1;
        state.health.counts.last_xid = xid;
        let policy = policy(xid);
        warn!(gpu = %state.gpu.uuid, index = state.gpu.index, xid, meaning = policy.meaning, "the driver tells an XID");
        let message = format!("XID {xid} ({})", policy.meaning);
        let effect = if policy.effect == XidEffect::AskDriver { effect_of(action) } else { policy.effect };
        let fail = |reason| GpuOrder::Fail {
            gpu: state.gpu.uuid.clone(),
            reason,
            message: message.clone(),
            at_once: false,
        };
        match effect {
            XidEffect::Note | XidEffect::AskDriver => Vec::new(),
            // With other processes on the GPU nobody knows whose process it was.
            XidEffect::JobsFault
                if state.others.as_ref().is_some_and(|others| others.memory_mib > allowed) =>
            {
                vec![fail(EndReason::GpuFault)]
            }
            XidEffect::JobsFault => vec![fail(EndReason::TrainerCrash)],
            XidEffect::RetryForFree => vec![fail(EndReason::GpuFault)],
            XidEffect::Quarantine(release) => {
                let failure = Failure { xid: Some(xid), reason: message, release };
                vec![quarantine(&mut self.quarantine, &self.boot_id, now, state, failure)]
            }
        }
    }

    /// Replaces the GPUs that take no jobs for other reasons than their readings.
    pub fn close(&mut self, closed: BTreeMap<GpuUuid, Unavailable>) {
        self.closed = closed;
    }

    /// A person says that a GPU is sound. Returns whether it was in quarantine.
    pub fn on_clear(&mut self, uuid: &GpuUuid) -> bool {
        let was_in = self.quarantine.remove(uuid);
        info!(gpu = %uuid, was_in, "a GPU's quarantine is ended by hand");
        was_in
    }

    /// Ends the quarantine of GPUs whose time has come and that answer without a new error.
    fn test_quarantined(&mut self, now: Time) {
        let due = |record: &QuarantineRecord| {
            let rebooted = !self.boot_id.is_empty() && record.boot_id != self.boot_id;
            let waited = now.since(record.since) >= self.rules.health.self_test_after;
            rebooted || (waited && record.release != ReleaseCondition::Reboot)
        };
        let due: Vec<QuarantineRecord> =
            self.quarantine.records().filter(|record| due(record)).cloned().collect();
        for record in due {
            let uuid = record.gpu.uuid.clone();
            let state = self.gpus.iter().find(|state| state.gpu.uuid == uuid);
            let reading = state.and_then(|state| state.last.as_ref());
            let passed = reading.is_some_and(|reading| {
                let same_run = record.boot_id == self.boot_id;
                let new_errors = same_run && reading.ecc_uncorrected > record.ecc_uncorrected;
                reading.memory_total_mib.is_some_and(|total| total > 0) && !new_errors
            });
            if passed {
                info!(gpu = %uuid, why = record.reason, "a quarantined GPU answers without new errors: it takes jobs again");
                self.quarantine.remove(&uuid);
            } else if now.since(record.since) >= self.rules.health.self_test_after {
                let ecc_uncorrected =
                    reading.and_then(|reading| reading.ecc_uncorrected).or(record.ecc_uncorrected);
                self.quarantine.add(QuarantineRecord { since: now, ecc_uncorrected, ..record });
            }
        }
    }

    /// Why a GPU takes no job, the gravest reason.
    fn unavailable(&self, state: &GpuState) -> Option<Unavailable> {
        let because = |cause, message: &String| Some(Unavailable { cause, message: message.clone() });
        if let Some(record) = self.quarantine.get(&state.gpu.uuid) {
            let message = quarantine_message(record, self.rules.health.self_test_after);
            return because(UnavailableCause::Quarantined, &message);
        }
        if let Some(why) = state.unsupported.as_ref().or(state.unresponsive.as_ref()) {
            return because(UnavailableCause::Unsupported, why);
        }
        if let Some(closed) = self.closed.get(&state.gpu.uuid) {
            return Some(closed.clone());
        }
        if let Some(why) = &state.owner {
            return because(UnavailableCause::Owner, why);
        }
        let others = state.others.as_ref()?;
        let allowed = self.rules.others_memory_allowance_mib;
        if others.memory_mib <= allowed {
            return None;
        }
        let message = match &others.who {
            Some(who) => format!(
                "others hold {} MiB on this GPU, most of it {who}; up to {allowed} MiB are allowed beside a job",
                others.memory_mib
            ),
            None => format!(
                "processes that the driver does not name hold {} MiB on this GPU; up to {allowed} MiB are allowed \
                 beside a job",
                others.memory_mib
            ),
        };
        because(UnavailableCause::ForeignUse, &message)
    }

    /// What Hello and heartbeats tell: one entry for each GPU, by index.
    pub fn telemetry(&self) -> Vec<GpuTelemetry> {
        let entry = |state: &GpuState| {
            let uuid = state.gpu.uuid.clone();
            let empty = GpuTelemetry { uuid: uuid.clone(), ..GpuTelemetry::default() };
            let read = state.last.as_ref().map(|reading| reading.telemetry(uuid));
            let memory_foreign_mib = state.others.as_ref().map(|others| others.memory_mib);
            let unavailable = self.unavailable(state);
            GpuTelemetry { memory_foreign_mib, unavailable, ..read.unwrap_or(empty) }
        };
        self.gpus.iter().map(entry).collect()
    }

    /// What the metrics page and telemetry tell.
    pub fn snapshots(&self) -> Vec<GpuSnapshot> {
        let snapshot = |state: &GpuState| GpuSnapshot {
            gpu: state.gpu.clone(),
            reading: state.last.clone(),
            others_mib: state.others.as_ref().map(|others| others.memory_mib),
            available: self.unavailable(state).is_none(),
            counts: state.health.counts.clone(),
        };
        self.gpus.iter().map(snapshot).collect()
    }
}

impl GpuState {
    fn new(gpu: Gpu, config: &OwnerModeConfig) -> Self {
        Self {
            owner_mode: config.covers(&gpu).then(|| OwnerMode::new(config.clone())),
            tracker: OtherProcessTracker::default(),
            health: Health::default(),
            unsupported: None,
            unresponsive: None,
            owner: None,
            others: None,
            last: None,
            gpu,
        }
    }

    /// Sees whether the GPU is its owner's. Returns an order if it has just become that.
    fn update_owner(&mut self, now: Time, local: LocalTime, config: &OwnerModeConfig) -> Option<GpuOrder> {
        let owner_mode = self.owner_mode.as_mut()?;
        let before = self.owner.take();
        self.owner = owner_mode.observe(now, local, self.others.as_ref());
        if before.is_some() != self.owner.is_some() {
            info!(gpu = %self.gpu.uuid, why = self.owner, "the GPU changes hands");
        }
        let message = self.owner.clone().filter(|_| before.is_none())?;
        Some(GpuOrder::Vacate { gpu: self.gpu.uuid.clone(), within: config.leave_within, message })
    }
}

/// Why a GPU goes into quarantine.
struct Failure {
    /// The driver's error, if there was one.
    xid: Option<u64>,
    /// What was seen, a sentence.
    reason: String,
    release: ReleaseCondition,
}

/// Puts a GPU into quarantine; returns what must happen to the attempt on it.
fn quarantine(
    store: &mut QuarantineStore,
    boot_id: &str,
    now: Time,
    state: &GpuState,
    Failure { xid, reason, release }: Failure,
) -> GpuOrder {
    warn!(gpu = %state.gpu.uuid, index = state.gpu.index, why = reason, ?release, "a GPU is quarantined");
    store.add(QuarantineRecord {
        gpu: state.gpu.clone(),
        since: now,
        xid,
        reason: reason.clone(),
        release,
        boot_id: boot_id.to_owned(),
        ecc_uncorrected: state.last.as_ref().and_then(|reading| reading.ecc_uncorrected),
    });
    GpuOrder::Fail {
        gpu: state.gpu.uuid.clone(),
        reason: EndReason::GpuFault,
        message: reason,
        at_once: true,
    }
}

fn quarantine_message(record: &QuarantineRecord, self_test_after: Duration) -> String {
    let seconds = i64::try_from(record.since.0 / 1000).unwrap_or(i64::MAX);
    let since = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    let after = duration_text(self_test_after);
    let back = match record.release {
        ReleaseCondition::Reboot => "it comes back with a restart of this machine".to_owned(),
        ReleaseCondition::SelfTest => format!("it is tested {after} after that"),
        ReleaseCondition::Reset => format!(
            "reset it (`nvidia-smi --gpu-reset`) or restart this machine; it is tested {after} after that"
        ),
    };
    format!("{} at {since}; {back}, or with `yard agents clear`", record.reason)
}

fn no_gpu_answers(error: &ProbeError) -> String {
    match error {
        ProbeError::Unknown => "NVML says Unknown Error for every GPU: in a container this follows a `systemctl \
                                daemon-reload` on the host, which takes the devices away; restart the container"
            .into(),
        ProbeError::Failed(why) => {
            format!("the driver does not answer: {why}; the GPUs take jobs again when it does")
        }
    }
}
