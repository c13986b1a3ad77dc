//! Devices that the agent itself closes to jobs: because their self-test has failed, or because a trainer that does not end
//! still holds them. The GPU monitor tells of closed GPUs, the agent status of closed CPU slots.

use std::collections::BTreeMap;

use tokio::sync::watch;
use trainyard_types::{GpuUuid, Slot, Unavailable, UnavailableCause};

use crate::agent_status::AgentStatus;
use crate::device::Device;

/// Which devices are closed, and why. Clones share what they know.
#[derive(Debug, Clone)]
pub struct ClosedDevices {
    closed: watch::Sender<ClosuresByCause>,
    status: watch::Sender<AgentStatus>,
}

/// The closed devices by cause, with a sentence each.
#[derive(Debug, Default)]
pub struct ClosuresByCause {
    untested: BTreeMap<Device, String>,
    stuck: BTreeMap<Device, String>,
}

impl ClosuresByCause {
    fn get(&self, device: &Device) -> Option<Unavailable> {
        let because = |cause, message: &String| Unavailable { cause, message: message.clone() };
        let stuck = self.stuck.get(device).map(|why| because(UnavailableCause::Stuck, why));
        stuck.or_else(|| self.untested.get(device).map(|why| because(UnavailableCause::SelfTest, why)))
    }
}

impl ClosedDevices {
    /// An agent on which every device is open.
    pub fn new(status: watch::Sender<AgentStatus>) -> Self {
        Self { closed: watch::Sender::default(), status }
    }

    /// Why a device is closed; `None` while it is open.
    pub fn get(&self, device: &Device) -> Option<Unavailable> {
        self.closed.borrow().get(device)
    }

    /// The closed GPUs, and why.
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
    pub fn changes(&self) -> watch::Receiver<ClosuresByCause> {
        self.closed.subscribe()
    }

    /// Closes a device because its self-test has failed, with a sentence why; opens it with `None`.
    pub fn set_untested(&self, device: &Device, why: Option<String>) {
        self.closed.send_modify(|closed| {
            match why {
                Some(why) => closed.untested.insert(device.clone(), why),
                None => closed.untested.remove(device),
            };
        });
        self.tell();
    }

    /// Closes the devices of slots whose trainers do not end, each with a sentence, and opens all others.
    pub fn set_stuck(&self, stuck: &[(Slot, String)]) {
        let stuck = stuck.iter().map(|(slot, why)| (slot.into(), why.clone())).collect();
        self.closed.send_modify(|closed| closed.stuck = stuck);
        self.tell();
    }

    fn tell(&self) {
        self.status.send_if_modified(|status| {
            // Read here, so that a slower caller does not tell what was before another's change.
            let cpu = self.get(&Device::Cpu);
            let changes = status.fitness.cpu_unavailable != cpu;
            status.fitness.cpu_unavailable = cpu;
            changes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_held_is_told_before_one_that_is_not_proved_and_both_end() {
        let (sender, status) = watch::channel(AgentStatus::default());
        let closed_devices = ClosedDevices::new(sender);
        let gpu = Device::Gpu(GpuUuid("GPU-1".into()));
        closed_devices.set_untested(&gpu, Some("no driver".into()));
        closed_devices.set_untested(&Device::Cpu, Some("no libtorch".into()));
        closed_devices.set_stuck(&[(Slot::Cpu(3), "hangs".into())]);
        let cause = |device| closed_devices.get(device).map(|closed| closed.cause);
        assert_eq!(cause(&gpu), Some(UnavailableCause::SelfTest));
        assert_eq!(cause(&Device::Cpu), Some(UnavailableCause::Stuck));
        assert_eq!(status.borrow().fitness.cpu_unavailable.as_ref().unwrap().message, "hangs");
        assert_eq!(closed_devices.gpus().len(), 1);
        closed_devices.set_stuck(&[]);
        assert_eq!(cause(&Device::Cpu), Some(UnavailableCause::SelfTest));
        closed_devices.set_untested(&Device::Cpu, None);
        closed_devices.set_untested(&gpu, None);
        assert!(closed_devices.gpus().is_empty() && status.borrow().fitness.cpu_unavailable.is_none());
    }
}
