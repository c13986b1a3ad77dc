//! What cuts a job off without being its fault, and when to stop believing that.
//!
//! A job that fails on two healthy GPUs of different machines, or crashes before its first step on any two machines,
//! is what they have in common. One that is cut off again and again, and not on one machine alone, would be queued
//! again for ever, and nobody would know. What one machine does to a job is never charged to it as long as another
//! machine would do.

use serde::{Deserialize, Serialize};
use trainyard_types::{AgentId, EndReason, GpuUuid, Unfit};

use crate::retry;

/// How often in a row a job is cut off, by a lost agent, a fault of a GPU or a stall, before it has failed.
pub const CUT_OFF_MAX: u32 = 5;
/// Agents that a job avoids: those where it ended badly last.
const AVOIDED: usize = 8;
/// How often in a row machines may lack something for a job before it waits between two tries.
const UNFIT_AT_ONCE: u32 = 2;

/// What happened to a job since it last completed an epoch that it had not completed before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FailureHistory {
    /// How many epochs it had completed.
    pub epochs_done: u32,
    /// Healthy GPUs on which it failed.
    #[serde(rename = "cards")]
    pub gpus: Vec<FailedGpu>,
    /// Where it crashed before its first step, one place of each agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stepless: Vec<FailureSite>,
    /// How often it lost its agent, its GPU failed, or nothing of it went on.
    pub cut_off: u32,
    /// The first two agents where that happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut_off_at: Vec<AgentId>,
    /// Agents where it ended badly, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad_at: Vec<AgentId>,
    /// Crashes that were charged to nobody: quick ones on one machine while another one would do.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spared: u32,
    /// How often a machine lacked something for it, other than a path.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unfit: u32,
    /// How often nothing of it went on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stalls: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks like that")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A GPU on which a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedGpu {
    pub gpu: GpuUuid,
    /// For people: its model and its agent.
    pub place: String,
    /// The GPU's agent; unknown in what earlier versions stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
}

/// Where a job crashed before its first step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureSite {
    pub agent: AgentId,
    /// For people: the device and its agent.
    pub name: String,
}

/// How an attempt ended, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How the attempt ended, by its agent's word.
    pub reason: EndReason,
    /// What the machine lacked, if the attempt ended by that.
    pub unfit: Option<Unfit>,
    /// Epochs that the job has completed by now.
    pub epochs_done: u32,
    /// The GPU, unless it was a CPU slot, or the GPU was to blame.
    pub healthy: Option<GpuUuid>,
    /// Where the attempt ended.
    pub site: FailureSite,
    /// Whether it ended before its first step.
    pub is_stepless: bool,
    /// Whether it ended before its first step, or within a minute.
    pub is_quick: bool,
    /// Whether another machine would do.
    pub elsewhere: bool,
}

/// What follows from a failure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Consequence {
    /// Why the job is given up, a sentence without its full stop, if it is.
    pub given_up: Option<String>,
    /// Whether the crash, if it is one, is charged to nobody.
    pub is_spared: bool,
    /// How many times the wait before a retry doubles; `None` where the job need not wait.
    pub waits: Option<u32>,
}

impl FailureHistory {
    /// Whether nothing has failed.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Agents that come last for it, in order.
    pub fn avoids(&self) -> Vec<AgentId> {
        let mut avoids = self.bad_at.clone();
        avoids.sort();
        avoids
    }

    /// Takes one more failure in.
    pub fn add(&mut self, failure: &Failure) -> Consequence {
        if failure.epochs_done > self.epochs_done {
            *self = Self { epochs_done: failure.epochs_done, ..Self::default() };
        }
        let is_bad = retry::is_bad(failure.reason, failure.unfit.as_ref());
        let was_elsewhere = self.bad_at.iter().any(|agent| *agent != failure.site.agent);
        if is_bad {
            self.bad_at.retain(|agent| *agent != failure.site.agent);
            self.bad_at.push(failure.site.agent);
            if self.bad_at.len() > AVOIDED {
                self.bad_at.remove(0);
            }
        }
        if failure.reason.is_cut_off() {
            self.cut_off(failure.site.agent);
        }
        let mut consequence = Consequence::default();
        match failure.reason {
            reason if reason.counts_as_retry() => {
                consequence.is_spared = failure.is_quick && failure.elsewhere && !was_elsewhere;
                if consequence.is_spared {
                    self.spared = self.spared.saturating_add(1);
                }
                consequence.waits = Some(self.spared.saturating_sub(1));
            }
            EndReason::Stalled => {
                consequence.waits = Some(self.stalls);
                self.stalls = self.stalls.saturating_add(1);
            }
            EndReason::AgentUnfit if is_bad => {
                self.unfit = self.unfit.saturating_add(1);
                consequence.waits = self.unfit.checked_sub(UNFIT_AT_ONCE + 1);
            }
            _ => {}
        }
        self.note_gpu(failure);
        self.note_stepless(failure);
        consequence.given_up = self.given_up(failure);
        consequence
    }

    fn cut_off(&mut self, agent: AgentId) {
        self.cut_off = self.cut_off.saturating_add(1);
        if self.cut_off_at.len() < 2 && !self.cut_off_at.contains(&agent) {
            self.cut_off_at.push(agent);
        }
    }

    /// A second GPU of one machine tells nothing new as long as another machine would do.
    fn note_gpu(&mut self, failure: &Failure) {
        let is_failure = matches!(failure.reason, EndReason::TrainerCrash | EndReason::GpuFault);
        let Some(gpu) = failure.healthy.as_ref().filter(|_| is_failure) else { return };
        let agent = Some(failure.site.agent);
        let is_known = |known: &FailedGpu| known.gpu == *gpu || failure.elsewhere && known.agent == agent;
        if !self.gpus.iter().any(is_known) {
            self.gpus.push(FailedGpu { gpu: gpu.clone(), place: failure.site.name.clone(), agent });
        }
    }

    /// Only a crash counts: a machine may well lack memory or a path, and many machines may.
    fn note_stepless(&mut self, failure: &Failure) {
        let is_new = self.stepless.iter().all(|site| site.agent != failure.site.agent);
        if failure.reason == EndReason::TrainerCrash && failure.is_stepless && is_new {
            self.stepless.push(failure.site.clone());
        }
    }

    fn given_up(&self, failure: &Failure) -> Option<String> {
        if let [first, second, ..] = self.gpus.as_slice() {
            return Some(format!(
                "failed on two healthy GPUs without completing an epoch in between ({}, then {}), so that the \
                 job itself is the likely cause",
                first.place, second.place
            ));
        }
        if let [first, second, ..] = self.stepless.as_slice() {
            return Some(format!(
                "crashed before its first step on two machines ({}, then {}), so that the job itself is the likely cause",
                first.name, second.name
            ));
        }
        // Whether it could run elsewhere is asked of what cuts it off, not of what it is preempted for.
        let is_cut_off = failure.reason.is_cut_off();
        let is_everywhere = self.cut_off_at.len() > 1 || !failure.elsewhere;
        (is_cut_off && self.cut_off >= CUT_OFF_MAX && is_everywhere).then(|| {
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
    use trainyard_types::UnfitKind;
    use uuid::Uuid;

    use super::*;

    fn agent(number: u128) -> AgentId {
        AgentId(Uuid::from_u128(number))
    }

    /// On the agent of that number, while another one would do.
    fn on(number: u128, reason: EndReason, epochs_done: u32, gpu: Option<&str>) -> Failure {
        let name = gpu.map_or_else(|| format!("a slot of {number}"), |gpu| format!("GPU {gpu}"));
        let site = FailureSite { agent: agent(number), name };
        let (healthy, unfit) = (gpu.map(|gpu| GpuUuid(gpu.into())), None);
        let (is_stepless, is_quick, elsewhere) = (false, false, true);
        Failure { reason, unfit, epochs_done, healthy, site, is_stepless, is_quick, elsewhere }
    }

    /// On the only agent.
    fn alone(reason: EndReason, epochs_done: u32, gpu: Option<&str>) -> Failure {
        Failure { elsewhere: false, ..on(1, reason, epochs_done, gpu) }
    }

    /// The number of the failure that is one too many, and what is said of it.
    fn given_up(failures: &[Failure]) -> Option<(usize, String)> {
        let mut known = FailureHistory::default();
        let mut each = failures.iter().enumerate();
        each.find_map(|(at, failure)| Some((at + 1, known.add(failure).given_up?)))
    }

    #[test]
    fn a_second_healthy_gpu_is_one_too_many() {
        for reasons in [[EndReason::TrainerCrash; 2], [EndReason::GpuFault, EndReason::TrainerCrash]] {
            let [one, other] = reasons;
            let two = [on(1, one, 0, Some("a")), on(2, other, 0, Some("b"))];
            let (at, why) = given_up(&two).unwrap();
            assert_eq!(at, 2);
            assert!(why.contains("GPU a, then GPU b"), "{why}");
            assert!(given_up(&[alone(one, 0, Some("a")), alone(other, 0, Some("b"))]).is_some());
        }
    }

    #[test]
    fn a_second_gpu_of_one_machine_blames_nobody_while_another_machine_would_do() {
        let crash = |gpu| on(1, EndReason::TrainerCrash, 0, Some(gpu));
        assert_eq!(given_up(&[crash("a"), crash("b"), crash("c")]), None);
        let elsewhere = on(2, EndReason::TrainerCrash, 0, Some("d"));
        assert_eq!(given_up(&[crash("a"), crash("b"), elsewhere]).unwrap().0, 3);
    }

    #[test]
    fn a_second_machine_without_a_first_step_is_one_too_many_and_only_for_crashes() {
        let stepless = |number, reason| Failure { is_stepless: true, ..on(number, reason, 0, None) };
        let crash = |number| stepless(number, EndReason::TrainerCrash);
        let (at, why) = given_up(&[crash(1), crash(1), crash(2)]).unwrap();
        assert_eq!(at, 3);
        assert!(why.contains("a slot of 1, then a slot of 2"), "{why}");
        let others = [stepless(2, EndReason::HostOom), stepless(3, EndReason::AgentUnfit)];
        let later = on(4, EndReason::TrainerCrash, 0, None);
        assert_eq!(given_up(&[&[crash(1), later][..], &others].concat()), None);
        let after_an_epoch = Failure { epochs_done: 1, ..crash(2) };
        assert_eq!(given_up(&[crash(1), after_an_epoch]), None);
    }

    #[test]
    fn one_gpu_twice_a_cpu_and_a_quarantined_gpu_blame_nobody() {
        let crash = |gpu| alone(EndReason::TrainerCrash, 0, gpu);
        assert_eq!(given_up(&[crash(Some("a")), crash(Some("a")), crash(None), crash(None)]), None);
        let fault = |gpu| alone(EndReason::GpuFault, 0, gpu);
        assert_eq!(given_up(&[fault(Some("a")), fault(None), fault(None)]), None);
    }

    #[test]
    fn an_epoch_in_between_starts_the_count_anew() {
        let crash = |epochs, gpu| alone(EndReason::TrainerCrash, epochs, Some(gpu));
        assert_eq!(given_up(&[crash(1, "a"), crash(2, "b"), crash(3, "c")]), None);
        let lost = |epochs| alone(EndReason::AgentLost, epochs, None);
        assert_eq!(given_up(&(0..20).map(lost).collect::<Vec<_>>()), None);
        // An epoch that was completed before is no progress.
        let (at, why) = given_up(&[lost(3), lost(3), lost(3), lost(3), lost(3)]).unwrap();
        assert_eq!((at, why.starts_with("was cut off 5 times in a row")), (5, true));
    }

    #[test]
    fn a_job_that_one_machine_cut_off_often_is_not_given_up_when_it_is_preempted() {
        for reason in [EndReason::Preempted, EndReason::Drained, EndReason::AgentUnfit] {
            let mut all: Vec<Failure> = (0..6).map(|_| on(1, EndReason::AgentLost, 0, None)).collect();
            all.push(alone(reason, 0, None));
            assert_eq!(given_up(&all), None, "{reason:?}");
        }
    }

    #[test]
    fn one_machine_that_cuts_a_job_off_again_and_again_is_not_the_jobs_fault() {
        for reason in [EndReason::AgentLost, EndReason::GpuFault, EndReason::Stalled] {
            let here = || on(1, reason, 0, None);
            assert_eq!(given_up(&(0..50).map(|_| here()).collect::<Vec<_>>()), None);
            let five = [here(), here(), here(), here(), on(2, reason, 0, None)];
            assert_eq!(given_up(&five).unwrap().0, 5, "{reason:?}");
        }
    }

    #[test]
    fn a_quick_crash_on_one_machine_is_spared_and_the_second_machine_counts() {
        let mut known = FailureHistory::default();
        let quick = |number| Failure { is_quick: true, ..on(number, EndReason::TrainerCrash, 0, None) };
        let spared = |failure: Failure, known: &mut FailureHistory| {
            let consequence = known.add(&failure);
            (consequence.is_spared, consequence.waits)
        };
        assert_eq!(spared(quick(1), &mut known), (true, Some(0)));
        assert_eq!(spared(quick(1), &mut known), (true, Some(1)), "the others were busy");
        assert_eq!(spared(quick(2), &mut known), (false, Some(1)));
        assert_eq!(spared(quick(1), &mut known), (false, Some(1)));
        assert_eq!(known.avoids(), [agent(1), agent(2)]);
        let slow = on(1, EndReason::TrainerCrash, 0, None);
        assert!(!FailureHistory::default().add(&slow).is_spared);
        let only = Failure { elsewhere: false, ..quick(1) };
        assert!(!FailureHistory::default().add(&only).is_spared, "nowhere else to go");
    }

    #[test]
    fn what_machines_lack_is_never_charged_and_waits_longer_each_time() {
        let mut known = FailureHistory::default();
        let unfit = |kind| Some(trainyard_types::Unfit { kind, path: String::new(), message: String::new() });
        let lack = |kind| Failure { unfit: unfit(kind), ..on(1, EndReason::AgentUnfit, 0, None) };
        let mut waits = |kind| known.add(&lack(kind)).waits;
        assert_eq!(waits(UnfitKind::PathMissing), None);
        let row: Vec<_> = (0..5).map(|_| waits(UnfitKind::TrainerMissing)).collect();
        assert_eq!(row, [None, None, Some(0), Some(1), Some(2)]);
        assert!(known.bad_at == [agent(1)] && known.cut_off == 0);
    }

    #[test]
    fn a_preemption_is_no_failure() {
        let away = |at: usize| on(1, [EndReason::Preempted, EndReason::Drained][at % 2], 0, Some("a"));
        assert_eq!(given_up(&(0..20).map(away).collect::<Vec<_>>()), None);
    }

    #[test]
    fn what_an_earlier_version_stored_is_read() {
        let stored = r#"{"epochs_done":1,"cards":[{"gpu":"GPU-a","place":"a card"}],"cut_off":2}"#;
        let failures: FailureHistory = serde_json::from_str(stored).unwrap();
        assert_eq!((failures.cut_off, failures.gpus[0].agent), (2, None));
    }
}
