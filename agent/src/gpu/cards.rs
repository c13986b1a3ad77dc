//! What the agent makes of its GPUs: which take jobs, which do not and why, and what must happen to the attempts
//! on them. Pure but for the small file of quarantined GPUs; time is an argument.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use trainyard_types::{EndReason, Gpu, GpuTelemetry, GpuUuid, Time, Unavailable, UnavailableCause};

use super::XidEvent;
use super::foreign::{Foreign, Judge, Processes};
use super::health::{Counts, Finding, Health};
use super::quarantine::{Record, Ward};
use super::reading::{Answer, ProbeError, Reading, RecoveryAction, Silence};
use super::support::{Libtorch, unsupported};
use super::xid::{Comeback, Effect, effect_of, policy};
use crate::guest::{Guest, GuestConfig, Local, words};

/// How failed GPUs are treated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthConfig {
    /// From a failure to the test that ends the quarantine, where a test may.
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
pub struct Rules {
    /// The owner comes first.
    pub guest: GuestConfig,
    /// Others may hold so much on a GPU that takes jobs.
    pub foreign_memory_allowance_mib: u64,
    /// Failed GPUs.
    pub health: HealthConfig,
}

/// What must happen to the attempt on a GPU; nothing where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// It makes room: checkpoint, then SIGKILL when the time is over.
    Leave {
        /// The GPU.
        gpu: GpuUuid,
        /// From now.
        within: Duration,
        /// What was seen, a sentence.
        message: String,
    },
    /// It cannot go on.
    Fail {
        /// The GPU.
        gpu: GpuUuid,
        /// How it counts.
        reason: EndReason,
        /// What happened.
        message: String,
        /// Without a checkpoint: what the GPU holds is not to be trusted, or it will not answer.
        at_once: bool,
    },
}

/// One GPU.
#[derive(Debug)]
struct Card {
    gpu: Gpu,
    guest: Option<Guest>,
    judge: Judge,
    health: Health,
    /// Driver or libtorch cannot use it, and never will.
    unsupported: Option<String>,
    /// It does not answer now, or no GPU does.
    silent: Option<String>,
    owner: Option<String>,
    foreign: Option<Foreign>,
    last: Option<Reading>,
}

/// A GPU for a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The GPU itself.
    pub gpu: Gpu,
    /// What it told last; `None` when it does not answer.
    pub reading: Option<Reading>,
    /// Memory of others.
    pub foreign_mib: Option<u64>,
    /// Whether it takes jobs, as far as the agent knows.
    pub available: bool,
    /// Since the agent's start.
    pub counts: Counts,
}

/// See the module.
#[derive(Debug)]
pub struct Cards {
    rules: Rules,
    cards: Vec<Card>,
    ward: Ward,
    boot_id: String,
    /// Why no GPU could be asked the last time.
    silence: Option<String>,
    /// Whether one answered that is not known.
    has_strangers: bool,
    /// What the agent keeps jobs away from for other reasons than the readings'.
    closed: BTreeMap<GpuUuid, Unavailable>,
}

impl Cards {
    /// The GPUs that answer now, and those that have failed before and do not.
    pub fn new(rules: Rules, found: Vec<Gpu>, ward: Ward, boot_id: String) -> Self {
        let mut gpus = found;
        for record in ward.records() {
            if !gpus.iter().any(|gpu| gpu.uuid == record.gpu.uuid) {
                gpus.push(record.gpu.clone());
            }
        }
        let mut cards = Self {
            rules,
            cards: Vec::new(),
            ward,
            boot_id,
            silence: None,
            has_strangers: false,
            closed: BTreeMap::new(),
        };
        cards.adopt(gpus);
        cards
    }

    /// Takes in those of `gpus` that are not known. Says whether there were any.
    pub fn adopt(&mut self, gpus: Vec<Gpu>) -> bool {
        let before = self.cards.len();
        for gpu in gpus {
            if self.cards.iter().all(|card| card.gpu.uuid != gpu.uuid) {
                self.cards.push(Card::new(gpu, &self.rules.guest));
            }
        }
        self.cards.sort_by_key(|card| card.gpu.index);
        self.cards.len() > before
    }

    /// Why no GPU could be asked the last time; `None` when they could.
    pub fn silence(&self) -> Option<&str> {
        self.silence.as_deref()
    }

    /// Whether a GPU answers that did not when the GPUs were counted.
    pub const fn has_strangers(&self) -> bool {
        self.has_strangers
    }

    /// Every GPU, by index.
    pub fn gpus(&self) -> Vec<Gpu> {
        self.cards.iter().map(|card| card.gpu.clone()).collect()
    }

    /// What driver and libtorch can use, once that is known.
    pub fn on_libtorch(&mut self, driver_cuda: Option<(u32, u32)>, libtorch: &Libtorch) {
        for card in &mut self.cards {
            card.unsupported = unsupported(&card.gpu, driver_cuda, libtorch);
            if let Some(why) = &card.unsupported {
                warn!(gpu = %card.gpu.uuid, index = card.gpu.index, why, "this GPU takes no jobs");
            }
        }
    }

    /// Takes what the GPUs told. `trainers` are our own by GPU, `agent` is this process.
    pub fn on_readings(
        &mut self,
        now: Time,
        local: Local,
        read: Result<Vec<Answer>, ProbeError>,
        trainers: &BTreeMap<GpuUuid, u32>,
        agent: u32,
        processes: &dyn Processes,
    ) -> Vec<Order> {
        let mut orders = Vec::new();
        let answers = match read {
            Ok(answers) => answers,
            Err(error) => {
                let why = all_silent(&error);
                for card in &mut self.cards {
                    if card.silent.as_ref() != Some(&why) {
                        warn!(gpu = %card.gpu.uuid, why, "a GPU cannot be asked");
                    }
                    (card.silent, card.last, card.foreign) = (Some(why.clone()), None, None);
                    // Its owner's hours come all the same.
                    orders.extend(card.ask_owner(now, local, &self.rules.guest));
                }
                self.silence = Some(why);
                return orders;
            }
        };
        self.silence = None;
        let known = |answer: &Answer| self.cards.iter().any(|card| card.gpu.uuid == answer.uuid);
        self.has_strangers = answers.iter().any(|answer| answer.reading.is_ok() && !known(answer));
        let lost = Err(Silence::Lost);
        for card in &mut self.cards {
            let answer = answers.iter().find(|answer| answer.uuid == card.gpu.uuid);
            let reading = answer.map_or(&lost, |answer| &answer.reading);
            let finding = card.health.judge(now, &card.gpu.uuid, reading.as_ref());
            card.last = reading.as_ref().ok().cloned();
            card.silent = None;
            match finding {
                Finding::Fine => {}
                Finding::Silent(why) => {
                    card.silent =
                        Some(format!("the GPU does not answer: {why}; it takes jobs again when it does"));
                }
                Finding::Failed(_) if self.ward.get(&card.gpu.uuid).is_some() => {}
                Finding::Failed(sentence) => {
                    let comeback = Comeback::SelfTest;
                    orders.push(quarantine(
                        &mut self.ward,
                        &self.boot_id,
                        now,
                        card,
                        None,
                        sentence,
                        comeback,
                    ));
                }
            }
            let trainer = trainers.get(&card.gpu.uuid).copied();
            card.foreign =
                card.last.as_ref().map(|reading| card.judge.judge(now, reading, trainer, agent, processes));
            orders.extend(card.ask_owner(now, local, &self.rules.guest));
        }
        self.test_quarantined(now);
        orders
    }

    /// Takes an error of the driver; `action` is what it wants done, if it says.
    pub fn on_xid(&mut self, now: Time, event: &XidEvent, action: Option<RecoveryAction>) -> Vec<Order> {
        let xid = event.xid;
        let allowed = self.rules.foreign_memory_allowance_mib;
        let Some(card) = self.cards.iter_mut().find(|card| Some(&card.gpu.uuid) == event.gpu.as_ref()) else {
            warn!(xid, gpu = ?event.gpu, "the driver tells an XID of a GPU that is not known");
            return Vec::new();
        };
        *card.health.counts.xids.entry(xid).or_default() += 1;
        card.health.counts.last_xid = xid;
        let policy = policy(xid);
        warn!(gpu = %card.gpu.uuid, index = card.gpu.index, xid, meaning = policy.meaning, "the driver tells an XID");
        let message = format!("XID {xid} ({})", policy.meaning);
        let effect = if policy.effect == Effect::AskDriver { effect_of(action) } else { policy.effect };
        let fail = |reason| Order::Fail {
            gpu: card.gpu.uuid.clone(),
            reason,
            message: message.clone(),
            at_once: false,
        };
        match effect {
            Effect::Note | Effect::AskDriver => Vec::new(),
            // With others on the GPU nobody knows whose process it was.
            Effect::JobsFault
                if card.foreign.as_ref().is_some_and(|foreign| foreign.memory_mib > allowed) =>
            {
                vec![fail(EndReason::GpuFault)]
            }
            Effect::JobsFault => vec![fail(EndReason::TrainerCrash)],
            Effect::RetryForFree => vec![fail(EndReason::GpuFault)],
            Effect::Quarantine(comeback) => {
                vec![quarantine(&mut self.ward, &self.boot_id, now, card, Some(xid), message, comeback)]
            }
        }
    }

    /// These take no jobs, for other reasons than the readings'.
    pub fn close(&mut self, closed: BTreeMap<GpuUuid, Unavailable>) {
        self.closed = closed;
    }

    /// Somebody says that a GPU is sound. Says whether it was quarantined.
    pub fn on_clear(&mut self, uuid: &GpuUuid) -> bool {
        let was_in = self.ward.release(uuid);
        info!(gpu = %uuid, was_in, "a GPU's quarantine is ended by hand");
        was_in
    }

    /// Lets those go whose time has come and who answer without a new error.
    fn test_quarantined(&mut self, now: Time) {
        let due = |record: &Record| {
            let rebooted = !self.boot_id.is_empty() && record.boot_id != self.boot_id;
            let waited = now.since(record.since) >= self.rules.health.self_test_after;
            rebooted || (waited && record.comeback != Comeback::Reboot)
        };
        let due: Vec<Record> = self.ward.records().filter(|record| due(record)).cloned().collect();
        for record in due {
            let uuid = record.gpu.uuid.clone();
            let card = self.cards.iter().find(|card| card.gpu.uuid == uuid);
            let reading = card.and_then(|card| card.last.as_ref());
            let passed = reading.is_some_and(|reading| {
                let same_run = record.boot_id == self.boot_id;
                let new_errors = same_run && reading.ecc_uncorrected > record.ecc_uncorrected;
                reading.memory_total_mib.is_some_and(|total| total > 0) && !new_errors
            });
            if passed {
                info!(gpu = %uuid, why = record.sentence, "a quarantined GPU answers without new errors: it takes jobs again");
                self.ward.release(&uuid);
            } else if now.since(record.since) >= self.rules.health.self_test_after {
                let ecc_uncorrected =
                    reading.and_then(|reading| reading.ecc_uncorrected).or(record.ecc_uncorrected);
                self.ward.admit(Record { since: now, ecc_uncorrected, ..record });
            }
        }
    }

    /// Why a GPU takes no job; the gravest reason.
    fn unavailable(&self, card: &Card) -> Option<Unavailable> {
        let because = |cause, message: &String| Some(Unavailable { cause, message: message.clone() });
        if let Some(record) = self.ward.get(&card.gpu.uuid) {
            let message = quarantine_message(record, self.rules.health.self_test_after);
            return because(UnavailableCause::Quarantined, &message);
        }
        if let Some(why) = card.unsupported.as_ref().or(card.silent.as_ref()) {
            return because(UnavailableCause::Unsupported, why);
        }
        if let Some(closed) = self.closed.get(&card.gpu.uuid) {
            return Some(closed.clone());
        }
        if let Some(why) = &card.owner {
            return because(UnavailableCause::Owner, why);
        }
        let foreign = card.foreign.as_ref()?;
        let allowed = self.rules.foreign_memory_allowance_mib;
        if foreign.memory_mib <= allowed {
            return None;
        }
        let message = match &foreign.who {
            Some(who) => format!(
                "others hold {} MiB on this GPU, most of it {who}; up to {allowed} MiB are allowed beside a job",
                foreign.memory_mib
            ),
            None => format!(
                "processes that the driver does not name hold {} MiB on this GPU; up to {allowed} MiB are allowed \
                 beside a job",
                foreign.memory_mib
            ),
        };
        because(UnavailableCause::ForeignUse, &message)
    }

    /// For Hello and heartbeats: one entry a GPU, by index.
    pub fn telemetry(&self) -> Vec<GpuTelemetry> {
        let entry = |card: &Card| {
            let uuid = card.gpu.uuid.clone();
            let empty = GpuTelemetry { uuid: uuid.clone(), ..GpuTelemetry::default() };
            let read = card.last.as_ref().map(|reading| reading.telemetry(uuid));
            let memory_foreign_mib = card.foreign.as_ref().map(|foreign| foreign.memory_mib);
            let unavailable = self.unavailable(card);
            GpuTelemetry { memory_foreign_mib, unavailable, ..read.unwrap_or(empty) }
        };
        self.cards.iter().map(entry).collect()
    }

    /// For scrapes.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let snapshot = |card: &Card| Snapshot {
            gpu: card.gpu.clone(),
            reading: card.last.clone(),
            foreign_mib: card.foreign.as_ref().map(|foreign| foreign.memory_mib),
            available: self.unavailable(card).is_none(),
            counts: card.health.counts.clone(),
        };
        self.cards.iter().map(snapshot).collect()
    }
}

impl Card {
    fn new(gpu: Gpu, guest: &GuestConfig) -> Self {
        Self {
            guest: guest.covers(&gpu).then(|| Guest::new(guest.clone())),
            judge: Judge::default(),
            health: Health::default(),
            unsupported: None,
            silent: None,
            owner: None,
            foreign: None,
            last: None,
            gpu,
        }
    }

    /// Lets guest mode judge; an order if the GPU has just become its owner's.
    fn ask_owner(&mut self, now: Time, local: Local, config: &GuestConfig) -> Option<Order> {
        let guest = self.guest.as_mut()?;
        let before = self.owner.take();
        self.owner = guest.judge(now, local, self.foreign.as_ref());
        if before.is_some() != self.owner.is_some() {
            info!(gpu = %self.gpu.uuid, why = self.owner, "the GPU changes hands");
        }
        let message = self.owner.clone().filter(|_| before.is_none())?;
        Some(Order::Leave { gpu: self.gpu.uuid.clone(), within: config.leave_within, message })
    }
}

fn quarantine(
    ward: &mut Ward,
    boot_id: &str,
    now: Time,
    card: &Card,
    xid: Option<u64>,
    sentence: String,
    comeback: Comeback,
) -> Order {
    warn!(gpu = %card.gpu.uuid, index = card.gpu.index, why = sentence, ?comeback, "a GPU is quarantined");
    let ecc_uncorrected = card.last.as_ref().and_then(|reading| reading.ecc_uncorrected);
    let (gpu, boot_id) = (card.gpu.clone(), boot_id.to_owned());
    ward.admit(Record {
        gpu,
        since: now,
        xid,
        sentence: sentence.clone(),
        comeback,
        boot_id,
        ecc_uncorrected,
    });
    Order::Fail { gpu: card.gpu.uuid.clone(), reason: EndReason::GpuFault, message: sentence, at_once: true }
}

fn quarantine_message(record: &Record, self_test_after: Duration) -> String {
    let seconds = i64::try_from(record.since.0 / 1000).unwrap_or(i64::MAX);
    let since = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    let after = words(self_test_after);
    let back = match record.comeback {
        Comeback::Reboot => "it comes back with a restart of this machine".to_owned(),
        Comeback::SelfTest => format!("it is tested {after} after that"),
        Comeback::Reset => format!(
            "reset it (`nvidia-smi --gpu-reset`) or restart this machine; it is tested {after} after that"
        ),
    };
    format!("{} at {since}; {back}, or with `yard agents clear`", record.sentence)
}

fn all_silent(error: &ProbeError) -> String {
    match error {
        ProbeError::Unknown => "NVML says Unknown Error for every card: in a container this follows a `systemctl \
                                daemon-reload` on the host, which takes the devices away; restart the container"
            .into(),
        ProbeError::Failed(why) => {
            format!("the driver does not answer: {why}; the GPUs take jobs again when it does")
        }
    }
}
