//! What would become of a job that is not submitted yet.

use std::time::Duration;

use trainyard_scheduler_core::{CoreConfig, Policy, UserLimits};
use trainyard_types::{JobSpec, JobState, Resources};

use crate::world::{World, attempt, cpu_spec, hello, job, rtx_4090, rtx_5070, spec, started};

fn world(policy: Policy) -> World {
    World::with(CoreConfig { policy, ..CoreConfig::default() })
}

#[test]
fn a_plan_is_what_then_happens_and_changes_nothing() {
    let mut world = world(Policy::FinishTime);
    world.connect(hello(1, vec![rtx_5070("a"), rtx_4090("b")], 0, vec![]));
    for number in 1..=3 {
        let before = world.store.stored();
        let plan = world.core.plan(world.now, "ada", spec());
        assert_eq!(plan, world.core.plan(world.now, "ada", spec()));
        assert_eq!(world.store.stored(), before);
        world.submit(number, spec());
        let record = world.record(number);
        let first = &plan.options[0];
        match record.state {
            JobState::Starting => {
                assert_eq!(record.attempts[0].device, first.device, "job {number}: {plan:?}");
                assert_eq!((plan.start, plan.waiting_for.as_str()), (Some(world.now), ""));
                assert_eq!(plan.end, record.attempts[0].expected_end);
            }
            JobState::Queued => {
                let waiting = world.core.waiting(world.now, job(number)).unwrap();
                assert!(waiting.reason.starts_with(&plan.waiting_for), "{waiting:?} {plan:?}");
                assert!(plan.start > Some(world.now) && plan.end > plan.start, "{plan:?}");
            }
            state => panic!("{state}"),
        }
        assert_eq!(plan.options.len(), 2, "both kinds would do");
        assert!(plan.options.iter().all(|option| option.total == 1 && option.takes > Some(Duration::ZERO)));
    }
    let wish = JobSpec { resources: Resources { min_vram_mib: 20 << 10, ..Resources::default() }, ..spec() };
    assert_eq!(world.core.plan(world.now, "ada", wish).options.len(), 1, "only one is so large");
}

#[test]
fn a_policy_that_does_not_compare_tells_what_there_is() {
    for policy in [Policy::Fair, Policy::Fifo] {
        let mut world = world(policy);
        let plan = world.core.plan(world.now, "ada", cpu_spec());
        assert_eq!((plan.options.len(), plan.start), (0, None));
        assert_eq!(plan.waiting_for, "no agent is connected");
        world.connect(hello(1, vec![], 1, vec![]));
        let plan = world.core.plan(world.now, "ada", cpu_spec());
        assert_eq!((plan.start, plan.waiting_for.as_str()), (Some(world.now), ""));
        assert_eq!((plan.options[0].free, plan.options[0].takes), (1, None));
        world.submit(1, cpu_spec());
        world.report(attempt(1, 1), started());
        world.submit(2, cpu_spec());
        let plan = world.core.plan(world.now, "bob", cpu_spec());
        assert_eq!(plan.options[0].free, 0);
        assert!(plan.waiting_for.starts_with("waits for the only CPU slot that fits"), "{plan:?}");
    }
}

#[test]
fn whoever_uses_all_that_it_may_is_told_so() {
    let user_limits = UserLimits { running_gpus: Some(0), ..UserLimits::default() };
    let mut world = World::with(CoreConfig { user_limits, ..CoreConfig::default() });
    world.connect(hello(1, vec![rtx_4090("a")], 0, vec![]));
    let plan = world.core.plan(world.now, "ada", spec());
    assert!(plan.start.is_none() && plan.waiting_for.contains("`running_gpus` is 0"), "{plan:?}");
}

#[test]
fn shares_tell_who_has_had_how_much_and_whose_jobs_count_as_longer() {
    let mut world = world(Policy::FinishTime);
    world.connect(hello(1, vec![rtx_4090("a")], 1, vec![]));
    world.submit_as("ada", 1, spec());
    world.report(attempt(1, 1), started());
    world.submit_as("bob", 2, spec());
    world.submit_as("bob", 3, cpu_spec());
    world.now = world.now + Duration::from_secs(10 * 3600);
    let shares = world.core.user_shares(world.now);
    let named: Vec<_> = shares
        .iter()
        .map(|share| (share.name.as_str(), share.queued_jobs, share.gpus, share.cpu_slots))
        .collect();
    assert_eq!(named, [("ada", 0, 1, 0), ("bob", 1, 0, 1)]);
    assert!(shares[0].gpu_time > shares[1].gpu_time * 5, "{shares:?}");
    assert!(shares[0].penalty > 1.0 && shares[1].penalty == 1.0, "{shares:?}");
}
