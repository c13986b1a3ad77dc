//! The policy on a cluster without an engine.

use std::time::Duration;

use trainyard_types::Time;

use super::{FinishTime, REPLAN_AFTER};
use crate::policy::PlacementPolicy;
use crate::policy::fixture::{Cluster, job};

const NOW: Time = Time(1_000_000);
const FAST: (&str, u64) = ("NVIDIA GeForce RTX 4090", 24);
const SLOW: (&str, u64) = ("NVIDIA GeForce RTX 1080", 8);

#[test]
fn the_shorter_job_goes_first_and_the_longer_one_waits_for_the_same_gpu() {
    let (mut cluster, mut policy) = (Cluster::default(), FinishTime::default());
    cluster.connect(1, &[FAST]);
    cluster.submit(NOW, 1, "ada", 300, 1);
    cluster.submit(NOW, 2, "ada", 3, 1);
    assert_eq!(cluster.round(NOW, &mut policy), [(job(2), FAST.0.into())]);
    let wait = policy.explain_wait(NOW, &cluster.view(), job(1)).unwrap();
    assert_eq!(wait.ahead, 0);
    assert!(wait.start > NOW && Some(wait.start) == policy.expected_end(job(2)), "{wait:?}");
}

#[test]
fn a_job_that_is_stopped_at_its_time_limit_is_a_short_one() {
    let (mut cluster, mut policy) = (Cluster::default(), FinishTime::default());
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
    cluster.connect(1, &[FAST]);
    cluster.submit(NOW, 1, "ada", 300, 1);
    cluster.submit_with(NOW, 2, "ada", |spec| (spec.train.epochs, spec.time_limit) = (3000, Some(minute)));
    // It trains for an hour, whatever its epochs are.
    cluster.submit_with(NOW, 3, "ada", |spec| (spec.train.epochs, spec.train.time) = (1, 1.0));
    assert_eq!(cluster.round(NOW, &mut policy), [(job(2), FAST.0.into())]);
    assert_eq!(policy.expected_end(job(2)), Some(NOW + minute));
    let wait = policy.explain_wait(NOW, &cluster.view(), job(3)).unwrap();
    assert_eq!(wait.end, wait.start + hour);
}

#[test]
fn a_job_takes_the_faster_gpu_though_a_smaller_one_is_free() {
    let (mut cluster, mut policy) = (Cluster::default(), FinishTime::default());
    cluster.connect(1, &[SLOW]);
    cluster.connect(2, &[FAST]);
    cluster.submit(NOW, 1, "ada", 300, 1);
    assert_eq!(cluster.round(NOW, &mut policy), [(job(1), FAST.0.into())]);
    assert_eq!(policy.wake_at(), None, "nobody waits");
}

#[test]
fn a_job_that_has_waited_for_too_long_goes_before_shorter_ones() {
    let (mut cluster, mut policy) = (Cluster::default(), FinishTime::default());
    cluster.config.patience = Duration::from_secs(3600);
    cluster.submit(NOW, 1, "ada", 30, 1);
    let later = NOW + Duration::from_secs(30 * 24 * 3600);
    cluster.submit(later, 2, "ada", 3, 1);
    cluster.connect(1, &[FAST]);
    assert_eq!(cluster.round(later, &mut policy), [(job(1), FAST.0.into())]);
}

#[test]
fn a_checkpoint_of_a_long_job_lets_a_short_one_go_first_and_only_once() {
    let (mut cluster, mut policy) = (Cluster::default(), FinishTime::default());
    cluster.connect(1, &[FAST]);
    cluster.submit(NOW, 1, "ada", 10_000, 1);
    assert_eq!(cluster.round(NOW, &mut policy), [(job(1), FAST.0.into())]);
    let later = NOW + Duration::from_secs(600);
    assert_eq!(policy.on_checkpoint(later, &cluster.view(), job(1)), None, "nobody waits");
    cluster.submit(later, 2, "ada", 3, 1);
    assert_eq!(cluster.round(later, &mut policy), []);
    let preemption = policy.on_checkpoint(later, &cluster.view(), job(1)).unwrap();
    assert_eq!(preemption.job, job(1));
    assert!(preemption.reason.contains(&job(2).to_string()), "{}", preemption.reason);
    assert!(policy.is_being_preempted(job(1)));
    assert_eq!(policy.on_checkpoint(later, &cluster.view(), job(1)), None, "it was told already");
}

#[test]
fn a_job_that_waits_beside_a_free_gpu_is_thought_over_again() {
    let (mut cluster, mut policy) = (Cluster::default(), FinishTime::default());
    cluster.connect(1, &[FAST]);
    cluster.connect(2, &[SLOW]);
    cluster.submit(NOW, 1, "ada", 3, 1);
    cluster.submit(NOW, 2, "ada", 3000, 1);
    let placed = cluster.round(NOW, &mut policy);
    assert_eq!(placed, [(job(1), FAST.0.into())], "the long job waits for the fast GPU");
    assert_eq!(policy.wake_at(), Some(NOW + REPLAN_AFTER));
}

#[test]
fn gpus_of_one_agent_go_together_to_a_job_that_needs_several() {
    let (mut cluster, mut policy) = (Cluster::default(), FinishTime::default());
    cluster.connect(1, &[FAST]);
    cluster.connect(2, &[FAST, FAST]);
    cluster.submit(NOW, 1, "ada", 30, 2);
    cluster.submit(NOW, 2, "bob", 3, 1);
    let mut placed = cluster.round(NOW, &mut policy);
    placed.sort();
    assert_eq!(placed, [(job(1), FAST.0.into()), (job(2), FAST.0.into())]);
}
