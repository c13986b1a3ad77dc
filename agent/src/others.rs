//! Who else is on a GPU at the moment when a trainer's memory has run out there: as the GPUs' keeper judges it
//! once it has looked again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use trainyard_types::{GpuTelemetry, GpuUuid, Slot, UnavailableCause};

use crate::connection::Readings;
use crate::gpu::keeper::READ_EVERY;

/// The look under way may have begun before the memory ran out; the one after it has not.
const LOOKS: u64 = 2;

/// How long to wait for them; a driver that hangs is not waited for.
const PATIENCE: Duration = READ_EVERY.saturating_mul(4);

/// Others on a device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Others {
    /// What they hold, in MiB; `None` where nobody tells.
    pub memory_mib: Option<u64>,
    /// Why the GPU is theirs now, a sentence; `None` while it still takes jobs.
    pub taken: Option<String>,
}

impl Others {
    fn of(card: &GpuTelemetry) -> Self {
        let taken = card.unavailable.clone().filter(|because| {
            matches!(because.cause, UnavailableCause::ForeignUse | UnavailableCause::Owner)
        });
        Self { memory_mib: card.memory_foreign_mib, taken: taken.map(|because| because.message) }
    }
}

/// Waits until the GPUs were looked at again. Whoever was seen before that, but is gone, counts too: it may
/// just have left.
pub async fn look(mut cards: watch::Receiver<Readings>, slot: &Slot) -> Others {
    let Slot::Gpu(uuid) = slot else { return Others::default() };
    let (before, looks) = {
        let readings = cards.borrow();
        (of_card(&readings, uuid), readings.looks)
    };
    // Either way what is known by then counts.
    let looked = timeout(PATIENCE, cards.wait_for(|readings| readings.looks >= looks + LOOKS)).await;
    drop(looked);
    let now = of_card(&cards.borrow(), uuid);
    Others { memory_mib: before.memory_mib.max(now.memory_mib), taken: now.taken.or(before.taken) }
}

fn of_card(readings: &Readings, uuid: &GpuUuid) -> Others {
    readings.card(uuid).map(Others::of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use trainyard_types::Unavailable;

    use super::*;

    fn readings(looks: u64, memory_mib: u64, cause: Option<UnavailableCause>) -> Readings {
        let unavailable = cause.map(|cause| Unavailable { cause, message: format!("{cause:?}") });
        let card = GpuTelemetry {
            uuid: GpuUuid("GPU-1".into()),
            memory_foreign_mib: Some(memory_mib),
            unavailable,
            ..GpuTelemetry::default()
        };
        Readings { looks, telemetry: vec![card], ..Readings::default() }
    }

    #[tokio::test]
    async fn a_stranger_that_came_within_the_last_second_is_seen_and_one_that_has_just_left_too() {
        let slot = Slot::Gpu(GpuUuid("GPU-1".into()));
        let (sender, cards) = watch::channel(readings(1, 300, None));
        let keep = async {
            sender.send(readings(2, 300, None)).unwrap();
            sender.send(readings(3, 9000, Some(UnavailableCause::ForeignUse))).unwrap();
        };
        let (others, ()) = tokio::join!(look(cards.clone(), &slot), keep);
        let taken = Others { memory_mib: Some(9000), taken: Some("ForeignUse".into()) };
        assert_eq!(others, taken);
        let keep = async {
            sender.send(readings(5, 100, None)).unwrap();
        };
        let (others, ()) = tokio::join!(look(cards.clone(), &slot), keep);
        assert_eq!(others, taken);
        // Nobody looks any more.
        drop(sender);
        assert_eq!(look(cards.clone(), &slot).await.memory_mib, Some(100));
        assert_eq!(look(cards, &Slot::Cpu(0)).await, Others::default());
    }

    #[tokio::test]
    async fn a_card_that_failed_is_not_called_taken() {
        let quarantined = readings(1, 0, Some(UnavailableCause::Quarantined));
        let (sender, cards) = watch::channel(quarantined);
        drop(sender);
        let others = look(cards, &Slot::Gpu(GpuUuid("GPU-1".into()))).await;
        assert_eq!(others, Others { memory_mib: Some(0), taken: None });
    }
}
