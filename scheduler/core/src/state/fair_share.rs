//! Fair share: who has used how much of the cluster lately, and whose turn it is.
//!
//! A user's use is the GPU-time of its attempts, each second of which counts half after `share_half_life`,
//! a quarter after two, and so on. A CPU slot counts a tenth of a GPU. Of equal priority, the user goes
//! first whose use is lowest for its weight. Each attempt counts [`STAKE`] more while it runs, so that
//! users who begin at the same time take turns.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trainyard_types::{DeviceKind, Time};

use crate::config::{CoreConfig, UserLimits};

/// What a running attempt counts beyond the time that it ran, in GPU-milliseconds.
pub const STAKE: u64 = 60_000;
/// What a slot counts, in tenths of a GPU.
const GPU_TENTHS: u64 = 10;
const CPU_TENTHS: u64 = 1;

/// What is stored of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// As in [`crate::JobRecord::user`].
    pub name: String,
    /// GPU-milliseconds, as of `as_of`; attempts that run then count from there on.
    pub used: u64,
    /// When an attempt last began or ended.
    pub as_of: Time,
    /// How long an attempt that completes runs, on average, in milliseconds; newer ones count more.
    #[serde(default)]
    pub typical_run: Option<u64>,
}

/// A user, and what it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    record: UserRecord,
    /// GPUs that its attempts hold.
    gpus: u32,
    /// CPU slots that its attempts hold.
    cpus: u32,
}

impl User {
    fn new(name: &str, now: Time) -> Self {
        let record = UserRecord { name: name.to_owned(), used: 0, as_of: now, typical_run: None };
        Self { record, gpus: 0, cpus: 0 }
    }

    pub(crate) fn record(&self) -> &UserRecord {
        &self.record
    }

    /// The GPUs and the CPU slots that its attempts hold.
    pub(crate) fn running(&self) -> (u32, u32) {
        (self.gpus, self.cpus)
    }

    fn tenths(&self) -> u64 {
        u64::from(self.gpus) * GPU_TENTHS + u64::from(self.cpus) * CPU_TENTHS
    }

    /// GPU-milliseconds as of `now`.
    pub(crate) fn used(&self, config: &CoreConfig, now: Time) -> u64 {
        let half_life = config.share_half_life.as_secs_f64().max(1e-3) * 1000.0;
        let (span, used, tenths) = (
            now.since(self.record.as_of).as_secs_f64() * 1000.0,
            self.record.used as f64,
            self.tenths() as f64,
        );
        let kept = (-span / half_life).exp2();
        let running = tenths / 10.0 * half_life / std::f64::consts::LN_2 * (1.0 - kept);
        (used * kept + running).round() as u64
    }

    /// What orders users: lower goes first.
    pub(crate) fn share(&self, config: &CoreConfig, now: Time, limits: &UserLimits) -> u64 {
        let stakes = STAKE * self.tenths() / 10;
        self.used(config, now).saturating_add(stakes) / u64::from(limits.weight.max(1))
    }
}

/// What one more attempt adds to a user's share.
pub(crate) fn stake(device: DeviceKind, limits: &UserLimits) -> u64 {
    let tenths = if device == DeviceKind::Gpu { GPU_TENTHS } else { CPU_TENTHS };
    STAKE * tenths / 10 / u64::from(limits.weight.max(1))
}

/// All users that have run anything.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Users {
    by_name: BTreeMap<Arc<str>, User>,
}

impl Users {
    /// One copy of a name for all who need it.
    pub(crate) fn name(&self, name: &str) -> Arc<str> {
        self.by_name.get_key_value(name).map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&User> {
        self.by_name.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &User> {
        self.by_name.values()
    }

    pub(crate) fn load(&mut self, record: UserRecord) {
        let user = User { gpus: 0, cpus: 0, record };
        self.by_name.insert(user.record.name.as_str().into(), user);
    }

    /// An attempt of the user goes on since before the scheduler was started.
    pub(crate) fn load_running(&mut self, name: &Arc<str>, now: Time, device: DeviceKind, slots: u32) {
        let user = self.by_name.entry(Arc::clone(name)).or_insert_with(|| User::new(name, now));
        *count(user, device) += slots;
    }

    /// An attempt of the user begins.
    pub(crate) fn begin(
        &mut self,
        config: &CoreConfig,
        name: &Arc<str>,
        now: Time,
        device: DeviceKind,
        slots: u32,
    ) {
        let user = self.by_name.entry(Arc::clone(name)).or_insert_with(|| User::new(name, now));
        (user.record.used, user.record.as_of) = (user.used(config, now), now.max(user.record.as_of));
        *count(user, device) += slots;
    }

    /// An attempt of the user holds nothing any more.
    pub(crate) fn end(&mut self, config: &CoreConfig, name: &str, now: Time, device: DeviceKind, slots: u32) {
        let Some(user) = self.by_name.get_mut(name) else { return };
        (user.record.used, user.record.as_of) = (user.used(config, now), now.max(user.record.as_of));
        let running = count(user, device);
        *running = running.saturating_sub(slots);
    }

    /// An attempt of the user ran to its end, for so many milliseconds.
    pub(crate) fn completed(&mut self, name: &str, run: u64) {
        let Some(user) = self.by_name.get_mut(name) else { return };
        let before = user.record.typical_run.unwrap_or(run);
        user.record.typical_run = Some((before * 3 + run) / 4);
    }

    /// What orders a user among others; one that has not run anything has had nothing.
    pub(crate) fn share(&self, config: &CoreConfig, now: Time, name: &str) -> u64 {
        self.get(name).map_or(0, |known| known.share(config, now, config.limits(name)))
    }

    /// How many more GPUs a user may use now.
    pub(crate) fn gpus_left(&self, config: &CoreConfig, name: &str) -> u32 {
        let running = self.get(name).map_or(0, |user| user.gpus);
        config.limits(name).running_gpus.map_or(u32::MAX, |most| most.saturating_sub(running))
    }

    /// Forgets a user; its share begins anew.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        self.by_name.remove(name).is_some()
    }
}

fn count(user: &mut User, device: DeviceKind) -> &mut u32 {
    match device {
        DeviceKind::Gpu => &mut user.gpus,
        DeviceKind::Cpu => &mut user.cpus,
    }
}
