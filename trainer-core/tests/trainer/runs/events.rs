//! What the events of a training say.

use trainyard_types::trainer::{BatchSizeChanged, Epoch, Finished, MemoryMeasured, Started, TrainerEvent};

/// Every epoch, in order.
pub fn epochs(events: &[TrainerEvent]) -> Vec<&Epoch> {
    events
        .iter()
        .filter_map(|event| match event {
            TrainerEvent::Epoch(epoch) => Some(epoch),
            _ => None,
        })
        .collect()
}

/// The numbers of the epochs, from 1.
pub fn epoch_numbers(events: &[TrainerEvent]) -> Vec<u32> {
    epochs(events).into_iter().map(|epoch| epoch.epoch).collect()
}

/// Every change of the batch size.
pub fn batch_sizes(events: &[TrainerEvent]) -> Vec<&BatchSizeChanged> {
    events
        .iter()
        .filter_map(|event| match event {
            TrainerEvent::BatchSize(change) => Some(change),
            _ => None,
        })
        .collect()
}

/// Every measurement of the device's memory.
pub fn memory(events: &[TrainerEvent]) -> Vec<&MemoryMeasured> {
    events
        .iter()
        .filter_map(|event| match event {
            TrainerEvent::Memory(memory) => Some(memory),
            _ => None,
        })
        .collect()
}

/// Every message, of any level.
pub fn logs(events: &[TrainerEvent]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| match event {
            TrainerEvent::Log(log) => Some(log.message.as_str()),
            _ => None,
        })
        .collect()
}

/// The steps of the checkpoints that were written.
pub fn checkpoints(events: &[TrainerEvent]) -> Vec<u64> {
    events
        .iter()
        .filter_map(|event| match event {
            TrainerEvent::Checkpoint(saved) => Some(saved.step),
            _ => None,
        })
        .collect()
}

/// The start; panics where there is none.
pub fn started(events: &[TrainerEvent]) -> &Started {
    events
        .iter()
        .find_map(|event| match event {
            TrainerEvent::Started(started) => Some(started),
            _ => None,
        })
        .unwrap_or_else(|| panic!("never started: {events:?}"))
}

/// The end of a run that finished; panics where the last event is another one.
pub fn finished(events: &[TrainerEvent]) -> &Finished {
    match events.last() {
        Some(TrainerEvent::Finished(finished)) => finished,
        other => panic!("{other:?}"),
    }
}
