//! Whose turn it is: shares, weights, priorities, quotas.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_scheduler_core::{Core, CoreConfig, Event, Refusal, UserLimits};
use trainyard_types::{AttemptId, EndReason, JobSpec, JobState};

use crate::world::{World, attempt, cpu_spec, ended, hello, job, rtx_4090, rtx_5070, spec, started};

/// Two agents with a GPU each.
fn lab(config: CoreConfig) -> World {
    let mut world = World::with(config);
    world.connect(hello(1, vec![rtx_4090("a")], 1, vec![]));
    world.connect(hello(2, vec![rtx_5070("b")], 0, vec![]));
    world
}

fn limits(name: &str, limits: UserLimits) -> CoreConfig {
    CoreConfig { users: BTreeMap::from([(name.to_owned(), limits)]), ..CoreConfig::default() }
}

fn running(world: &World) -> Vec<AttemptId> {
    world.core.jobs().filter_map(|job| job.live_attempt()).map(|attempt| attempt.id).collect()
}

/// Whose jobs ran for how long, when each takes a minute.
fn minutes(world: &mut World, rounds: u64) -> BTreeMap<String, u64> {
    let mut minutes = BTreeMap::new();
    for _ in 0..rounds {
        for id in running(world) {
            world.report(id, started());
        }
        for _ in 0..6 {
            world.pass(Duration::from_secs(10));
            world.heartbeat(1);
            world.heartbeat(2);
        }
        for id in running(world) {
            *minutes.entry(world.core.job(id.job).unwrap().user.to_string()).or_default() += 1;
            world.report(id, ended(EndReason::Completed));
        }
    }
    minutes
}

#[test]
fn users_with_equal_weights_get_equal_time_whoever_came_first() {
    let mut world = lab(CoreConfig::default());
    for number in 1..=100 {
        world.submit_as("ada", number, spec());
    }
    for number in 101..=200 {
        world.submit_as("bob", number, spec());
    }
    let minutes = minutes(&mut world, 40);
    assert!(minutes["ada"].abs_diff(minutes["bob"]) <= 2, "{minutes:?}");
}

#[test]
fn a_user_of_weight_three_gets_three_times_as_much() {
    let mut world = lab(limits("ada", UserLimits { weight: 3, ..UserLimits::default() }));
    for number in 1..=200 {
        world.submit_as(if number <= 100 { "ada" } else { "bob" }, number, spec());
    }
    let minutes = minutes(&mut world, 60);
    assert!((26..=34).contains(&minutes["bob"]) && minutes["ada"] + minutes["bob"] == 120, "{minutes:?}");
}

#[test]
fn who_had_much_waits_until_that_counts_less() {
    let config = CoreConfig { share_half_life: Duration::from_secs(600), ..CoreConfig::default() };
    let mut world = lab(config);
    for number in 1..=100 {
        world.submit_as("ada", number, spec());
    }
    minutes(&mut world, 20);
    for number in 101..=200 {
        world.submit_as("bob", number, spec());
    }
    let share = |world: &World, user: &str| world.core.shares(world.now).get(user).map_or(0, |share| share.0);
    assert!(share(&world, "ada") > 10 * 60_000);
    // Bob catches up, and from there on they take turns.
    let first = minutes(&mut world, 3);
    assert!(first["bob"] >= 4, "{first:?}");
    minutes(&mut world, 60);
    let (ada, bob) = (share(&world, "ada"), share(&world, "bob"));
    assert!(ada.abs_diff(bob) <= 3 * 60_000, "{ada} {bob}");
    // Half as much after a half-life of nothing.
    for job in world.core.jobs().map(|job| job.id).collect::<Vec<_>>() {
        world.handle(trainyard_scheduler_core::Event::Cancel { job });
    }
    for id in running(&world) {
        world.report(id, ended(EndReason::Cancelled));
    }
    let before = share(&world, "bob");
    world.pass(Duration::from_secs(600));
    assert!(share(&world, "bob").abs_diff(before / 2) <= 1);
}

#[test]
fn a_higher_priority_goes_before_a_lower_share() {
    let mut world = lab(CoreConfig::default());
    for number in 1..=4 {
        world.submit_as("ada", number, spec());
    }
    world.submit_as("bob", 5, spec());
    world.submit_as("ada", 6, JobSpec { priority: 1, ..spec() });
    world.report(attempt(1, 1), ended(EndReason::Completed));
    assert_eq!(world.record(6).state, JobState::Starting);
    world.report(attempt(2, 1), ended(EndReason::Completed));
    assert_eq!(world.record(5).state, JobState::Starting);
}

#[test]
fn positions_say_in_which_order_jobs_start() {
    let mut world = lab(CoreConfig::default());
    for number in 1..=6 {
        world.submit_as("ada", number, spec());
    }
    for number in 7..=9 {
        world.submit_as("bob", number, spec());
    }
    // Ada runs two: two of Bob's stand before her next, and from there on they take turns.
    let position = |number| world.core.waiting(world.now, job(number)).unwrap().position;
    assert_eq!([7, 8, 3, 9, 4, 5, 6].map(position), [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn nobody_uses_more_gpus_than_it_may() {
    let mut world = lab(limits("ada", UserLimits { running_gpus: Some(1), ..UserLimits::default() }));
    for number in 1..=3 {
        world.submit_as("ada", number, spec());
    }
    world.submit_as("ada", 4, cpu_spec());
    let states = [1, 2, 4].map(|number| world.record(number).state);
    assert_eq!(states, [JobState::Starting, JobState::Queued, JobState::Starting]);
    let waiting = world.core.waiting(world.now, job(2)).unwrap();
    assert_eq!(waiting.reason, "ada uses as many GPUs as it may at a time (`running_gpus` is 1)");
    world.submit_as("bob", 5, spec());
    assert_eq!(world.record(5).state, JobState::Starting);
    world.report(attempt(1, 1), ended(EndReason::Completed));
    assert_eq!(world.record(2).state, JobState::Starting);
}

#[test]
fn limits_that_change_count_at_once() {
    let limits_of_ada = |gpus| UserLimits { running_gpus: Some(gpus), ..UserLimits::default() };
    let mut world = lab(limits("ada", limits_of_ada(1)));
    for number in 1..=3 {
        world.submit_as("ada", number, spec());
    }
    assert_eq!([1, 2].map(|number| world.record(number).state), [JobState::Starting, JobState::Queued]);
    let users = limits("ada", limits_of_ada(2)).users;
    world.handle(Event::LimitsChanged { usual: UserLimits::default(), users });
    let states = [1, 2, 3].map(|number| world.record(number).state);
    assert_eq!(states, [JobState::Starting, JobState::Starting, JobState::Queued]);
    let none = UserLimits { queued_jobs: Some(0), ..UserLimits::default() };
    world.handle(Event::LimitsChanged { usual: none, users: limits("ada", limits_of_ada(2)).users });
    assert!(world.submit_as("bob", 4, spec()).reply.unwrap().is_err());
}

#[test]
fn a_full_queue_refuses_by_name_and_takes_more_when_there_is_room() {
    let mut world = World::with(limits("ada", UserLimits { queued_jobs: Some(2), ..UserLimits::default() }));
    world.submit_as("ada", 1, spec());
    world.submit_as("ada", 2, spec());
    let refused = world.submit_as("ada", 3, spec()).reply;
    let full = Refusal::QueueFull { user: "ada".into(), queued: 2, more: 1, limit: 2 };
    assert_eq!(refused, Some(Err(full)));
    world.submit_as("bob", 4, spec());
    world.cancel(1);
    assert!(world.submit_as("ada", 3, spec()).reply.unwrap().is_ok());
    assert!(matches!(world.retry(1).reply, Some(Err(Refusal::QueueFull { .. }))));
}

#[test]
fn shares_survive_a_restart() {
    let mut world = lab(CoreConfig::default());
    for number in 1..=5 {
        world.submit_as("ada", number, spec());
    }
    minutes(&mut world, 2);
    let loaded = Core::load(CoreConfig::default(), world.now, world.store.stored());
    world.now = world.now + Duration::from_secs(100);
    assert_eq!(loaded.shares(world.now), world.core.shares(world.now));
}
