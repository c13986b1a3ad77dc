//! Devices that the agent itself keeps jobs away from: because their self-test fails, or because a trainer that
//! does not end still holds them. The GPUs' keeper and the advert tell of it.

use std::collections::BTreeMap;

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

/// Which devices are closed, and why; every clone tells the same.
#[derive(Debug, Clone)]
pub struct Closings {
    closed: watch::Sender<Closed>,
    advert: watch::Sender<Advert>,
}

/// The devices that are closed, by cause.
#[derive(Debug, Default)]
pub struct Closed {
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
    /// Closings of an agent on which every device is open.
    pub fn new(advert: watch::Sender<Advert>) -> Self {
        Self { closed: watch::Sender::default(), advert }
    }

    /// Why a device takes no job.
    pub fn get(&self, device: &Device) -> Option<Unavailable> {
        self.closed.borrow().get(device)
    }

    /// The GPUs that take no job.
    pub fn gpus(&self) -> BTreeMap<GpuUuid, Unavailable> {
        let closed = self.closed.borrow();
        let devices = closed.untested.keys().chain(closed.stuck.keys());
        let gpus = devices.filter_map(|device| match device {
            Device::Gpu(uuid) => Some((uuid.clone(), closed.get(device)?)),
            Device::Cpu => None,
        });
        gpus.collect()
    }

    /// Is marked as changed whenever a device is closed or opened.
    pub fn changes(&self) -> watch::Receiver<Closed> {
        self.closed.subscribe()
    }

    /// A device has failed its self-test, a sentence why, or passed it.
    pub fn set_untested(&self, device: &Device, why: Option<String>) {
        self.closed.send_modify(|closed| {
            match why {
                Some(why) => closed.untested.insert(device.clone(), why),
                None => closed.untested.remove(device),
            };
        });
        self.tell();
    }

    /// The slots that trainers hold which do not end, each with a sentence.
    pub fn set_stuck(&self, stuck: &[(Slot, String)]) {
        let stuck = stuck.iter().map(|(slot, why)| (slot.into(), why.clone())).collect();
        self.closed.send_modify(|closed| closed.stuck = stuck);
        self.tell();
    }

    fn tell(&self) {
        self.advert.send_if_modified(|advert| {
            // Read here, so that the last who tells does not tell what was before another's change.
            let cpu = self.get(&Device::Cpu);
            let changes = advert.fitness.cpu_unavailable != cpu;
            advert.fitness.cpu_unavailable = cpu;
            changes
        });
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
