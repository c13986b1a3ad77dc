//! What the next job names comes to its agent while the GPU is busy.

use std::time::Duration;

use trainyard_scheduler_core::{AgentStatus, CoreConfig, Hello, Policy};
use trainyard_types::{EndReason, Fetching, Fitness, JobSpec, Prefetching};

use crate::finish_time::{gpu, spec, train};
use crate::world::{World, agent, attempt, commands, ended, hello};

/// From one plan to the next.
const PLANNED_EVERY: Duration = Duration::from_secs(10);

fn version(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// A job that names the data set of that name and version.
fn names(data: &str) -> JobSpec {
    let mut spec = spec(3);
    spec.train.data = data.into();
    spec
}

fn cells() -> String {
    format!("cells@{}", version('a'))
}

fn cars() -> String {
    format!("cars@{}", version('b'))
}

/// What an agent says that can prefetch and holds these versions.
fn status(held: &[String]) -> AgentStatus {
    let fitness = Fitness {
        data_roots: Some(vec![]),
        held_versions: Some(held.to_vec()),
        prefetching: Some(Prefetching::default()),
        ..Fitness::default()
    };
    AgentStatus { fitness, ..AgentStatus::default() }
}

fn told(status: AgentStatus, done_bytes: u64) -> AgentStatus {
    let now = Fetching { what: cells(), done_bytes, total_bytes: 1000, bytes_per_second: 10.0 };
    let prefetching = Some(Prefetching { now: Some(now) });
    AgentStatus { fitness: Fitness { prefetching, ..status.fitness }, ..status }
}

fn lab(number: u128, status: AgentStatus) -> Hello {
    let mut hello = hello(number, vec![gpu("4090", 0, 24564)], 0, vec![]);
    hello.inventory.gpus[0].uuid.0.push_str(&number.to_string());
    Hello { status, ..hello }
}

/// Agents whose GPUs each train a job that ends soon: the one of its own number, plus 100.
fn busy(policy: Policy, agents: &[AgentStatus]) -> World {
    let lease = Duration::from_secs(1_000_000);
    let mut world = World::with(CoreConfig { policy, lease, ..CoreConfig::default() });
    for (number, status) in (1..).zip(agents) {
        world.connect(lab(number, status.clone()));
        let mut runs = names(&format!("runs@{}", version('f')));
        runs.train.epochs = 20;
        world.submit(100 + number, runs);
        train(&mut world, 100 + number, 1, 100.0);
        // Later agents are free later.
        world.now = world.now + Duration::from_secs(10);
    }
    world
}

/// A heartbeat, when the next plan is due.
fn beat(world: &mut World, number: u128, status: AgentStatus) -> Vec<String> {
    world.now = world.now + PLANNED_EVERY;
    commands(&world.beat(number, status))
}

#[test]
fn what_the_next_job_names_is_prefetched_once_while_the_gpu_is_busy() {
    for policy in Policy::ALL {
        let mut world = busy(policy, &[status(&[])]);
        assert_eq!(commands(&world.submit(1, names(&cells()))), ["prefetch cells at 1"], "{policy:?}");
        assert!(world.core.agent_needs(agent(1), &cells()) && !world.core.agent_needs(agent(1), &cars()));
        assert_eq!(beat(&mut world, 1, told(status(&[]), 430)), [""; 0], "it is under way");
        let waiting = world.core.waiting(world.now, crate::world::job(1)).unwrap().reason;
        assert!(waiting.contains("; agent `lab-1` prefetches cells@aaaa"), "{waiting}");
        assert!(waiting.contains(": 43 % of"), "{waiting}");
        assert_eq!(beat(&mut world, 1, status(&[cells().split_off(6)])), [""; 0], "it is there");
        assert!(!world.core.agent_needs(agent(1), &cells()));
        let output = world.report(attempt(101, 1), ended(EndReason::Completed));
        assert_eq!(commands(&output)[1], "assign 1/1 to 1");
    }
}

#[test]
fn an_agent_that_cannot_prefetch_or_has_it_already_is_told_nothing() {
    for policy in Policy::ALL {
        let old = Fitness { prefetching: None, ..status(&[]).fitness };
        let mut world = busy(policy, &[AgentStatus { fitness: old, ..AgentStatus::default() }]);
        assert_eq!(commands(&world.submit(1, names(&cells()))), [""; 0], "{policy:?}");
        let mut world = busy(policy, &[status(&[cells().split_off(6)])]);
        assert_eq!(commands(&world.submit(1, names(&cells()))), [""; 0], "{policy:?}");
        // A path is of the machine.
        world.now = world.now + PLANNED_EVERY;
        assert_eq!(commands(&world.submit(2, spec(3))), [""; 0], "{policy:?}");
    }
}

#[test]
fn the_first_jobs_are_prefetched_where_gpus_are_free_first_and_weights_come_after_data() {
    for policy in Policy::ALL {
        let mut world = busy(policy, &[status(&[]), status(&[])]);
        let mut first = names(&cells());
        first.priority = 1;
        first.train.pretrained = format!("start@{}", version('c')).into();
        world.now = world.now + PLANNED_EVERY;
        assert_eq!(commands(&world.submit(1, first)), ["prefetch cells at 1"], "{policy:?}");
        world.now = world.now + PLANNED_EVERY;
        assert_eq!(commands(&world.submit(2, names(&cars()))), ["prefetch cars at 2"], "{policy:?}");
        assert_eq!(beat(&mut world, 1, status(&[version('a')])), ["prefetch start at 1"], "{policy:?}");
    }
}

#[test]
fn a_plan_that_changes_does_not_stop_what_a_waiting_job_needs() {
    for policy in Policy::ALL {
        let mut world = busy(policy, &[status(&[])]);
        assert_eq!(commands(&world.submit(1, names(&cells()))), ["prefetch cells at 1"], "{policy:?}");
        let mut urgent = names(&cars());
        urgent.priority = 1;
        world.now = world.now + PLANNED_EVERY;
        assert_eq!(commands(&world.submit(2, urgent)), [""; 0], "{policy:?}: what has begun becomes whole");
        world.cancel(1);
        assert_eq!(beat(&mut world, 1, status(&[])), ["prefetch cars at 1"], "{policy:?}");
        // It has not come: it is said again after a while, and at once by another session.
        world.now = world.now + Duration::from_secs(600);
        assert_eq!(commands(&world.beat(1, status(&[]))), ["prefetch cars at 1"], "{policy:?}");
        world.now = world.now + PLANNED_EVERY;
        let again = Hello { attempts: vec![attempt(101, 1)], ..lab(1, status(&[])) };
        assert_eq!(commands(&world.connect(again)), ["prefetch cars at 1"], "{policy:?}");
    }
}

#[test]
fn nothing_is_prefetched_for_a_gpu_that_is_busy_for_long_or_by_another_event_at_once() {
    for policy in Policy::ALL {
        let lease = Duration::from_secs(1_000_000);
        let mut world = World::with(CoreConfig { policy, lease, ..CoreConfig::default() });
        world.connect(lab(1, status(&[])));
        let mut runs = names(&format!("runs@{}", version('f')));
        runs.train.epochs = 20_000;
        world.submit(101, runs);
        train(&mut world, 101, 1, 100.0);
        train(&mut world, 101, 2, 100.0);
        assert_eq!(commands(&world.submit(1, names(&cells()))), [""; 0], "{policy:?}");
        let holds = status(&[version('f')]);
        let mut world = busy(policy, std::slice::from_ref(&holds));
        world.submit(1, names(&format!("runs@{}", version('f'))));
        assert_eq!(commands(&world.submit(2, names(&cells()))), [""; 0], "{policy:?}: looks are rare");
        world.cancel(1);
        assert_eq!(beat(&mut world, 1, holds), ["prefetch cells at 1"], "{policy:?}");
    }
}

#[test]
fn the_size_of_what_was_prefetched_counts_where_the_next_job_is_placed() {
    let mut world = busy(Policy::FinishTime, &[status(&[])]);
    world.submit(1, names(&cells()));
    let large = Fetching { what: cells(), done_bytes: 1, total_bytes: 500 << 30, bytes_per_second: 1e6 };
    let mut holds = status(&[]);
    holds.fitness.prefetching = Some(Prefetching { now: Some(large) });
    beat(&mut world, 1, holds);
    beat(&mut world, 1, status(&[version('a')]));
    world.report(attempt(101, 1), ended(EndReason::Completed));
    world.report(attempt(1, 1), ended(EndReason::Completed));
    let mut faster = hello(2, vec![gpu("5090", 0, 32607)], 0, vec![]);
    faster.status = status(&[]);
    world.connect(faster);
    world.submit(2, names(&cells()));
    assert_eq!(world.record(2).attempts[0].agent_name, "lab-1");
}
