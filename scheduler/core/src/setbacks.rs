//! What cuts a job off without being its fault, and when to stop believing that.
//!
//! A job that fails on two healthy cards is what they have in common. One that is cut off again and again
//! without getting anywhere would be queued again for ever, and nobody would know.

use serde::{Deserialize, Serialize};
use trainyard_types::{EndReason, GpuUuid};

/// How often in a row a job is cut off by a lost agent or a fault of a card before it has failed.
pub const CUT_OFF_MAX: u32 = 5;

/// What happened to a job since it last completed an epoch that it had not completed before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Setbacks {
    /// How many epochs it had completed.
    pub epochs_done: u32,
    /// Healthy cards on which it failed.
    pub cards: Vec<Scene>,
    /// How often it lost its agent, or its card failed.
    pub cut_off: u32,
}

/// A card on which a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scene {
    /// Which.
    pub gpu: GpuUuid,
    /// For people: its model and its agent.
    pub place: String,
}

/// How an attempt ended, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setback {
    /// By its agent's word.
    pub reason: EndReason,
    /// Epochs that the job has completed by now.
    pub epochs_done: u32,
    /// The card, unless it was a CPU slot, or the card was to blame.
    pub healthy: Option<Scene>,
}

impl Setbacks {
    /// Whether nothing happened.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Takes one more in. Returns why the job is given up, a sentence without its full stop, if it is.
    pub fn add(&mut self, setback: Setback) -> Option<String> {
        let Setback { reason, epochs_done, healthy } = setback;
        if epochs_done > self.epochs_done {
            *self = Self { epochs_done, ..Self::default() };
        }
        if matches!(reason, EndReason::AgentLost | EndReason::GpuFault) {
            self.cut_off = self.cut_off.saturating_add(1);
        }
        if matches!(reason, EndReason::TrainerCrash | EndReason::GpuFault)
            && let Some(scene) = healthy
            && self.cards.iter().all(|known| known.gpu != scene.gpu)
        {
            self.cards.push(scene);
        }
        if let [first, second, ..] = self.cards.as_slice() {
            return Some(format!(
                "failed on two healthy cards without completing an epoch in between ({}, then {}), so that the \
                 job itself is the likely cause",
                first.place, second.place
            ));
        }
        (self.cut_off >= CUT_OFF_MAX).then(|| {
            format!(
                "was cut off {} times in a row without completing an epoch in between; look at its machines, \
                 then retry it",
                self.cut_off
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setback(reason: EndReason, epochs_done: u32, card: Option<&str>) -> Setback {
        let healthy = card.map(|card| Scene { gpu: GpuUuid(card.into()), place: format!("card {card}") });
        Setback { reason, epochs_done, healthy }
    }

    /// The number of the setback that is one too many, and what is said of it.
    fn given_up(setbacks: &[Setback]) -> Option<(usize, String)> {
        let mut known = Setbacks::default();
        setbacks.iter().enumerate().find_map(|(at, setback)| Some((at + 1, known.add(setback.clone())?)))
    }

    #[test]
    fn a_second_healthy_card_is_one_too_many() {
        for reasons in [[EndReason::TrainerCrash; 2], [EndReason::GpuFault, EndReason::TrainerCrash]] {
            let [one, other] = reasons;
            let (at, why) = given_up(&[setback(one, 0, Some("a")), setback(other, 0, Some("b"))]).unwrap();
            assert_eq!(at, 2);
            assert!(why.contains("card a, then card b"), "{why}");
        }
    }

    #[test]
    fn one_card_twice_a_cpu_and_a_quarantined_card_blame_nobody() {
        let crash = |card| setback(EndReason::TrainerCrash, 0, card);
        assert_eq!(given_up(&[crash(Some("a")), crash(Some("a")), crash(None), crash(None)]), None);
        let fault = |card| setback(EndReason::GpuFault, 0, card);
        assert_eq!(given_up(&[fault(Some("a")), fault(None), fault(None)]), None);
    }

    #[test]
    fn an_epoch_in_between_starts_the_count_anew() {
        let crash = |epochs, card| setback(EndReason::TrainerCrash, epochs, Some(card));
        assert_eq!(given_up(&[crash(1, "a"), crash(2, "b"), crash(3, "c")]), None);
        let lost = |epochs| setback(EndReason::AgentLost, epochs, None);
        assert_eq!(given_up(&(0..20).map(lost).collect::<Vec<_>>()), None);
        // An epoch that was completed before is no progress.
        let (at, why) = given_up(&[lost(3), lost(3), lost(3), lost(3), lost(3)]).unwrap();
        assert_eq!((at, why.starts_with("was cut off 5 times in a row")), (5, true));
    }

    #[test]
    fn making_way_is_no_setback() {
        let away = |at: usize| setback([EndReason::Preempted, EndReason::Drained][at % 2], 0, Some("a"));
        assert_eq!(given_up(&(0..20).map(away).collect::<Vec<_>>()), None);
    }
}
