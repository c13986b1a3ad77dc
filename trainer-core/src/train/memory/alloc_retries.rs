//! Memory of a GPU that is so short that all that is kept for reuse must be given back before there is room.

use tch::Device;

use crate::libtorch::memory_stats;

/// Watches whether that happens in training.
#[derive(Debug)]
pub struct AllocRetries {
    device: Device,
    /// How often it had happened when training began; None once it has happened again, and on a CPU.
    before: Option<u64>,
}

impl AllocRetries {
    /// Watches from now on.
    pub fn start(device: Device) -> Self {
        Self { device, before: retries(device) }
    }

    /// Whether it has happened since the start; says so once.
    pub fn have_begun(&mut self) -> bool {
        let Some(before) = self.before else { return false };
        let have_begun = retries(self.device).is_some_and(|now| now > before);
        if have_begun {
            self.before = None;
        }
        have_begun
    }
}

fn retries(device: Device) -> Option<u64> {
    memory_stats(device).map(|stats| stats.retries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_gives_nothing_back() {
        assert!(!AllocRetries::start(Device::Cpu).have_begun());
    }
}
