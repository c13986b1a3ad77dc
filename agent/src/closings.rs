//! Devices that the agent itself keeps jobs away from: because their self-test fails, or because a trainer that
//! does not end still holds them. The cards' keeper and the advert tell of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use trainyard_types::{GpuUuid, Slot, Unavailable, UnavailableCause};

use crate::advert::Advert;

/// What is tested, and closed, as one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// Every CPU slot.
    Cpu,
    /// A GPU.
    Gpu(GpuUuid),
}

impl From<&Slot> for Device {
    fn from(slot: &Slot) -> Self {
        match slot {
            Slot::Cpu(_) => Self::Cpu,
            Slot::Gpu(uuid) => Self::Gpu(uuid.clone()),
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Closings {
    closed: Arc<Mutex<Closed>>,
    changes: watch::Sender<u64>,
    advert: watch::Sender<Advert>,
}

#[derive(Debug, Default)]
struct Closed {
    untested: BTreeMap<Device, String>,
    stuck: BTreeMap<Device, String>,
}

impl Closed {
    fn get(&self, device: &Device) -> Option<Unavailable> {
        let because = |cause, message: &String| Unavailable { cause, message: message.clone() };
        let stuck = self.stuck.get(device).map(|why| because(UnavailableCause::Stuck, why));
        stuck.or_else(|| self.untested.get(device).map(|why| because(UnavailableCause::SelfTest, why)))
    }
}

impl Closings {
    /// Nothing is closed.
    pub fn new(advert: watch::Sender<Advert>) -> Self {
        Self { closed: Arc::default(), changes: watch::channel(0).0, advert }
    }

    fn closed(&self) -> MutexGuard<'_, Closed> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a device takes no job.
    pub fn get(&self, device: &Device) -> Option<Unavailable> {
        self.closed().get(device)
    }

    /// The GPUs that take no job.
    pub fn gpus(&self) -> BTreeMap<GpuUuid, Unavailable> {
        let closed = self.closed();
        let devices = closed.untested.keys().chain(closed.stuck.keys());
        let gpus = devices.filter_map(|device| match device {
            Device::Gpu(uuid) => Some((uuid.clone(), closed.get(device)?)),
            Device::Cpu => None,
        });
        gpus.collect()
    }

    /// Counts changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A device has failed its self-test, a sentence why, or passed it.
    pub fn set_untested(&self, device: &Device, why: Option<String>) {
        let mut closed = self.closed();
        match why {
            Some(why) => closed.untested.insert(device.clone(), why),
            None => closed.untested.remove(device),
        };
        drop(closed);
        self.tell();
    }

    /// The slots that trainers hold which do not end, each with a sentence.
    pub fn set_stuck(&self, stuck: &[(Slot, String)]) {
        self.closed().stuck = stuck.iter().map(|(slot, why)| (slot.into(), why.clone())).collect();
        self.tell();
    }

    fn tell(&self) {
        let cpu = self.get(&Device::Cpu);
        self.advert.send_if_modified(|advert| {
            let changes = advert.fitness.cpu_unavailable != cpu;
            advert.fitness.cpu_unavailable = cpu;
            changes
        });
        self.changes.send_modify(|changes| *changes += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_held_is_told_before_one_that_is_not_proved_and_both_end() {
        let (sender, advert) = watch::channel(Advert::default());
        let closings = Closings::new(sender);
        let gpu = Device::Gpu(GpuUuid("GPU-1".into()));
        closings.set_untested(&gpu, Some("no driver".into()));
        closings.set_untested(&Device::Cpu, Some("no libtorch".into()));
        closings.set_stuck(&[(Slot::Cpu(3), "hangs".into())]);
        let cause = |device| closings.get(device).map(|closed| closed.cause);
        assert_eq!(cause(&gpu), Some(UnavailableCause::SelfTest));
        assert_eq!(cause(&Device::Cpu), Some(UnavailableCause::Stuck));
        assert_eq!(advert.borrow().fitness.cpu_unavailable.as_ref().unwrap().message, "hangs");
        assert_eq!(closings.gpus().len(), 1);
        closings.set_stuck(&[]);
        assert_eq!(cause(&Device::Cpu), Some(UnavailableCause::SelfTest));
        closings.set_untested(&Device::Cpu, None);
        closings.set_untested(&gpu, None);
        assert!(closings.gpus().is_empty() && advert.borrow().fitness.cpu_unavailable.is_none());
    }
}
