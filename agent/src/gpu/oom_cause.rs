//! Whether other processes use a GPU at the moment when a trainer's memory has run out there, by readings that the GPU
//! monitor takes after that moment.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use trainyard_types::{GpuTelemetry, GpuUuid, Slot, UnavailableCause};

use super::monitor::READ_EVERY;
use crate::message::Readings;

/// The reading under way may have begun before the memory ran out; the one after it has not.
const READS: u64 = 2;

/// How long to wait for those readings; a driver that hangs is not waited for.
const LONGEST_WAIT: Duration = READ_EVERY.saturating_mul(4);

/// How other processes use a device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OtherUse {
    /// Memory that they hold, in MiB; `None` where the driver does not tell.
    pub memory_mib: Option<u64>,
    /// Why the GPU takes no jobs because of them, a sentence; `None` while it takes jobs.
    pub taken: Option<String>,
}

impl OtherUse {
    fn of(gpu: &GpuTelemetry) -> Self {
        let taken = gpu.unavailable.clone().filter(|because| {
            matches!(because.cause, UnavailableCause::ForeignUse | UnavailableCause::Owner)
        });
        Self { memory_mib: gpu.memory_foreign_mib, taken: taken.map(|because| because.message) }
    }
}

/// Waits until the GPUs were read again. A process that was seen before that, but is gone, counts too: it may just have
/// ended.
pub async fn read_again(mut readings: watch::Receiver<Readings>, slot: &Slot) -> OtherUse {
    let Slot::Gpu(uuid) = slot else { return OtherUse::default() };
    let (before, reads) = {
        let readings = readings.borrow();
        (of_gpu(&readings, uuid), readings.reads)
    };
    // Either way what is known by then counts.
    let read = timeout(LONGEST_WAIT, readings.wait_for(|readings| readings.reads >= reads + READS)).await;
    drop(read);
    let now = of_gpu(&readings.borrow(), uuid);
    OtherUse { memory_mib: before.memory_mib.max(now.memory_mib), taken: now.taken.or(before.taken) }
}

fn of_gpu(readings: &Readings, uuid: &GpuUuid) -> OtherUse {
    readings.gpu(uuid).map(OtherUse::of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use trainyard_types::Unavailable;

    use super::*;

    fn readings(reads: u64, memory_mib: u64, cause: Option<UnavailableCause>) -> Readings {
        let unavailable = cause.map(|cause| Unavailable { cause, message: format!("{cause:?}") });
        let gpu = GpuTelemetry {
            uuid: GpuUuid("GPU-1".into()),
            memory_foreign_mib: Some(memory_mib),
            unavailable,
            ..GpuTelemetry::default()
        };
        Readings { reads, telemetry: vec![gpu], ..Readings::default() }
    }

    #[tokio::test]
    async fn another_process_that_came_within_the_last_second_is_seen_and_one_that_has_just_left_too() {
        let slot = Slot::Gpu(GpuUuid("GPU-1".into()));
        let (sender, receiver) = watch::channel(readings(1, 300, None));
        let keep = async {
            sender.send(readings(2, 300, None)).unwrap();
            sender.send(readings(3, 9000, Some(UnavailableCause::ForeignUse))).unwrap();
        };
        let (others, ()) = tokio::join!(read_again(receiver.clone(), &slot), keep);
        let taken = OtherUse { memory_mib: Some(9000), taken: Some("ForeignUse".into()) };
        assert_eq!(others, taken);
        let keep = async {
            sender.send(readings(5, 100, None)).unwrap();
        };
        let (others, ()) = tokio::join!(read_again(receiver.clone(), &slot), keep);
        assert_eq!(others, taken);
        // Nobody reads them any more.
        drop(sender);
        assert_eq!(read_again(receiver.clone(), &slot).await.memory_mib, Some(100));
        assert_eq!(read_again(receiver, &Slot::Cpu(0)).await, OtherUse::default());
    }

    #[tokio::test]
    async fn a_gpu_that_failed_is_not_called_taken() {
        let quarantined = readings(1, 0, Some(UnavailableCause::Quarantined));
        let (sender, receiver) = watch::channel(quarantined);
        drop(sender);
        let others = read_again(receiver, &Slot::Gpu(GpuUuid("GPU-1".into()))).await;
        assert_eq!(others, OtherUse { memory_mib: Some(0), taken: None });
    }
}
