//! What machines have of what jobs need: where jobs go for it, and when no agent has it.

use std::time::Duration;

use trainyard_scheduler_core::{
    AgentStatus, Axis, Content, CoreConfig, Event, Hello, JobGroupRecord, Policy, Sweep,
};
use trainyard_types::trainer::TrainerEvent;
use trainyard_types::{
    AttemptId, EndReason, Fitness, JobGroupId, JobSpec, JobState, ModelScale, ReportBody, TrainPatch,
    TrainSpec, Unavailable, UnavailableCause, UnfitKind,
};

use crate::world::{
    World, agent, attempt, commands, cpu_spec, ended, fitness, hello, rtx_4090, rtx_5070, spec, started,
    unfit,
};

const DATA: &str = "/data/data.yaml";

fn waiting_for(world: &World, number: u128) -> String {
    world.core.waiting(world.now, world.record(number).id).unwrap().reason
}

fn says(number: u128, slots: u32, status: AgentStatus) -> Hello {
    Hello { status, ..hello(number, vec![], slots, vec![]) }
}

fn worlds() -> impl Iterator<Item = World> {
    Policy::ALL.into_iter().map(|policy| World::with(CoreConfig { policy, ..CoreConfig::default() }))
}

#[test]
fn a_job_goes_to_the_agent_whose_roots_cover_its_data_under_every_policy() {
    for mut world in worlds() {
        world.connect(says(1, 1, fitness(&[("/other", "")], &[])));
        world.connect(says(2, 1, fitness(&[("/data", "stale NFS handle")], &[])));
        world.connect(says(3, 1, fitness(&[("/data", "")], &["/data/other.yaml"])));
        let output = world.submit(1, cpu_spec());
        assert_eq!(commands(&output), ["assign 1/1 to 3"]);
        // A second one waits, although two slots are free.
        assert_eq!(commands(&world.submit(2, cpu_spec())), [""; 0]);
        let reason = waiting_for(&world, 2);
        for part in
            ["the only CPU slot", "`lab-1` is left out", "outside of its `data_roots` (/other)", "stale NFS"]
        {
            // The policy by finish time has words of its own for the rest.
            assert!(reason.contains(part) || part.starts_with("the only"), "{part} is not in: {reason}");
        }
        // Its share is back.
        let output = world.beat(2, fitness(&[("/data", "")], &[]));
        assert_eq!(commands(&output), ["assign 2/1 to 2"]);
    }
}

#[test]
fn jobs_with_other_data_are_not_held_up_and_gpus_of_all_kinds_are_told_apart_by_agent() {
    for mut world in worlds() {
        world.connect(Hello {
            status: fitness(&[("/a", "")], &[]),
            ..hello(1, vec![rtx_4090("a")], 0, vec![])
        });
        world.connect(Hello {
            status: fitness(&[("/b", "")], &[]),
            ..hello(2, vec![rtx_4090("b")], 0, vec![])
        });
        let on = |data: &str| {
            let mut spec = spec();
            spec.train.data = data.into();
            spec
        };
        let mut sent = Vec::new();
        for (number, data) in [(1, "/a/x.yaml"), (2, "/a/x.yaml"), (3, "/b/x.yaml"), (4, "/b/x.yaml")] {
            sent.extend(commands(&world.submit(number, on(data))));
        }
        assert_eq!(sent, ["assign 1/1 to 1", "assign 3/1 to 2"]);
        world.report(attempt(3, 1), started());
        let output = world.report(attempt(3, 1), ended(EndReason::Completed));
        assert_eq!(commands(&output), ["ack 3/1 #2 to 2", "assign 4/1 to 2"]);
    }
}

#[test]
fn weights_to_begin_from_count_by_what_was_asked_for() {
    let mut world = World::new();
    let status = fitness(&[("/data", "")], &["/models/n.pt"]);
    world.connect(says(1, 1, status));
    let mut spec = cpu_spec();
    spec.train.pretrained = "/models/n.pt".into();
    world.connect(says(2, 0, fitness(&[("/data", "")], &[])));
    world.submit(1, spec.clone());
    assert_eq!(world.record(1).state, JobState::Failed, "the only agent with a slot has said no");
    let mut world = World::new();
    world.connect(says(1, 1, fitness(&[("/data", "")], &[])));
    assert_eq!(commands(&world.submit(1, spec)), ["assign 1/1 to 1"]);
}

#[test]
fn an_agent_that_lacks_a_path_is_not_asked_again_and_the_job_is_charged_nothing() {
    for mut world in worlds() {
        for number in 1..=2 {
            world.connect(hello(number, vec![], 1, vec![]));
        }
        world.submit(1, JobSpec { max_retries: 0, ..cpu_spec() });
        let output = world.report(attempt(1, 1), unfit(UnfitKind::PathMissing, DATA));
        assert_eq!(commands(&output), ["ack 1/1 #1 to 1", "assign 1/2 to 2"]);
        let job = world.record(1);
        assert_eq!((job.crashes, job.failures.is_none()), (0, true));
        let end = job.attempts[0].ended.as_ref().unwrap();
        assert_eq!(end.unfit.as_ref().unwrap().path, DATA);
        // Nobody else is offered there with that data, and others are.
        assert_eq!(commands(&world.submit(2, cpu_spec())), [""; 0]);
        let mut other = cpu_spec();
        other.train.data = "/data/other.yaml".into();
        assert_eq!(commands(&world.submit(3, other)), ["assign 3/1 to 1"]);
    }
}

#[test]
fn a_path_that_no_agent_has_fails_at_once_with_each_agents_reason() {
    for mut world in worlds() {
        world.connect(hello(1, vec![], 1, vec![]));
        world.connect(says(2, 1, fitness(&[("/scratch", "")], &[])));
        // It has no slot that would do and is not asked.
        world.connect(Hello {
            status: fitness(&[("/data", "")], &[]),
            ..hello(3, vec![rtx_5070("a")], 0, vec![])
        });
        world.submit(1, cpu_spec());
        world.submit(2, cpu_spec());
        world.report(attempt(1, 1), unfit(UnfitKind::PathMissing, DATA));
        for number in [1, 2] {
            let job = world.record(number);
            assert_eq!((job.state, job.crashes), (JobState::Failed, 0));
            assert_eq!(
                job.state_reason,
                "no agent that could run it can read what it names: agent `lab-1`: /data/data.yaml is not there; agent \
                 `lab-2`: /data/data.yaml is outside of its `data_roots` (/scratch); correct the path, or have it mounted \
                 and `yard retry`"
            );
        }
        // The next one need not even be tried, and its user may try again when it is there.
        world.submit(3, cpu_spec());
        assert_eq!((world.record(3).state, world.record(3).attempts.len()), (JobState::Failed, 0));
        world.beat(1, fitness(&[("/data", "")], &[]));
        assert_eq!(commands(&world.retry(3)), ["assign 3/1 to 1"]);
    }
}

#[test]
fn a_long_list_of_agents_is_cut_off() {
    let mut world = World::new();
    for number in 1..=20 {
        world.connect(says(number, 1, fitness(&[], &[])));
    }
    world.submit(1, cpu_spec());
    let reason = &world.record(1).state_reason;
    assert!(reason.contains("agent `lab-8`") && reason.contains("and 12 more"), "{reason}");
    assert!(!reason.contains("lab-9"), "{reason}");
}

#[test]
fn a_job_waits_for_agents_that_are_away_and_starts_when_a_share_is_mounted_meanwhile() {
    for mut world in worlds() {
        world.connect(says(1, 1, fitness(&[("/data", "")], &[DATA])));
        world.connect(says(2, 1, fitness(&[("/data", "")], &[])));
        world.disconnect(2);
        world.submit(1, cpu_spec());
        assert_eq!(
            waiting_for(&world, 1),
            "waits for an agent that can read /data/data.yaml: `lab-2` is not connected; `lab-1` cannot: \
             /data/data.yaml cannot be read there"
        );
        let output = world.beat(1, fitness(&[("/data", "")], &[]));
        assert_eq!(commands(&output), ["assign 1/1 to 1"]);
    }
}

#[test]
fn a_share_that_is_down_everywhere_fails_nobody() {
    let mut world = World::new();
    for number in 1..=2 {
        world.connect(says(number, 1, fitness(&[("/data", "stale NFS handle")], &[DATA])));
    }
    world.submit(1, cpu_spec());
    assert_eq!(world.record(1).state, JobState::Queued);
    let reason = waiting_for(&world, 1);
    assert!(reason.ends_with("`lab-2` cannot: /data cannot be read now: stale NFS handle"), "{reason}");
    assert_eq!(commands(&world.beat(2, fitness(&[("/data", "")], &[]))), ["assign 1/1 to 2"]);
}

#[test]
fn a_drained_agent_that_has_not_said_no_is_waited_for() {
    let mut world = World::new();
    world.connect(says(1, 1, fitness(&[("/data", "")], &[])));
    world.connect(says(2, 1, fitness(&[("/x", "")], &[])));
    world.handle(trainyard_scheduler_core::Event::Drain { agent: agent(1), keep_running: true });
    world.submit(1, cpu_spec());
    let reason = waiting_for(&world, 1);
    assert!(reason.contains(": `lab-1` is drained; `lab-2` cannot: "), "{reason}");
}

#[test]
fn the_last_agent_that_was_not_asked_is_forgotten_and_the_job_fails() {
    let keep_agents_for = Duration::from_secs(60);
    let mut world = World::with(CoreConfig { keep_agents_for, ..CoreConfig::default() });
    world.connect(says(1, 1, fitness(&[("/data", "")], &[])));
    world.connect(says(2, 1, fitness(&[("/x", "")], &[DATA])));
    world.disconnect(1);
    world.submit(1, cpu_spec());
    assert_eq!(world.record(1).state, JobState::Queued);
    for _ in 0..12 {
        world.pass(Duration::from_secs(10));
        world.beat(2, fitness(&[("/x", "")], &[DATA]));
    }
    assert_eq!(world.record(1).state, JobState::Failed);
}

#[test]
fn of_equal_slots_the_one_is_taken_whose_agent_has_read_the_data_before() {
    for mut world in worlds() {
        world.connect(hello(2, vec![rtx_5070("b")], 0, vec![]));
        world.submit(1, spec());
        world.report(attempt(1, 1), started());
        world.report(attempt(1, 1), ended(EndReason::Completed));
        world.connect(hello(1, vec![rtx_5070("a")], 0, vec![]));
        assert_eq!(commands(&world.submit(2, spec())), ["assign 2/1 to 2"]);
    }
}

#[test]
fn what_a_job_of_a_sweep_over_data_sets_has_read_is_its_own_data_set() {
    for mut world in worlds() {
        world.connect(hello(2, vec![rtx_5070("b")], 0, vec![]));
        let patch = TrainPatch { data: Some("/b/data.yaml".into()), ..TrainPatch::default() };
        let axis = Axis { parameter: "data".into(), values: vec![("/b/data.yaml".into(), patch)] };
        let batch = JobGroupRecord {
            id: JobGroupId(uuid::Uuid::from_u128(1 << 96)),
            user: "ada".into(),
            request_id: None,
            content: Content::Sweep(Sweep { spec: spec(), axes: vec![axis] }),
            created: world.now,
        };
        let swept = AttemptId { job: batch.id.job(0), number: 1 };
        world.handle(Event::SubmitGroup { group: batch.into() });
        world.report(swept, started());
        world.report(swept, ended(EndReason::Completed));
        world.connect(hello(1, vec![rtx_5070("a")], 0, vec![]));
        let mut other = spec();
        other.train.data = "/b/data.yaml".into();
        assert_eq!(commands(&world.submit(1, other)), ["assign 1/1 to 2"]);
    }
}

#[test]
fn a_retry_goes_to_another_machine_if_one_is_free_and_else_where_it_was() {
    for reason in [EndReason::TrainerCrash, EndReason::HostOom, EndReason::Stalled] {
        for mut world in worlds() {
            for number in 1..=2 {
                world.connect(hello(number, vec![rtx_5070(&number.to_string())], 0, vec![]));
            }
            world.submit(1, spec());
            world.report(attempt(1, 1), ended(reason));
            world.pass(Duration::from_secs(10));
            assert_eq!(world.record(1).attempts[1].agent, agent(2), "{reason}");
        }
        for mut world in worlds() {
            for number in 1..=2 {
                world.connect(hello(number, vec![rtx_5070(&number.to_string())], 0, vec![]));
                world.submit(number, spec());
            }
            world.report(attempt(1, 1), ended(reason));
            world.pass(Duration::from_secs(10));
            assert_eq!(world.record(1).attempts[1].agent, agent(1), "{reason}: the other one is busy");
        }
    }
}

#[test]
fn a_quick_crash_is_not_charged_before_a_second_machine_was_tried() {
    let mut world = World::with_cpu_agents(2);
    world.submit(1, JobSpec { max_retries: 0, ..cpu_spec() });
    world.report(attempt(1, 1), ended(EndReason::TrainerCrash));
    let job = world.record(1);
    assert_eq!((job.state, job.crashes), (JobState::Queued, 0));
    assert_eq!(
        job.state_reason,
        "is tried again in 10 s, elsewhere if it can, after a crash of the trainer on CPU of agent `lab-1`, at no \
         charge: what the agent says"
    );
    world.pass(Duration::from_secs(10));
    assert_eq!(world.record(1).attempts[1].agent, agent(2));
    world.report(attempt(1, 2), ended(EndReason::TrainerCrash));
    assert_eq!(world.record(1).state, JobState::Failed);
}

#[test]
fn a_machine_that_lacks_a_trainer_costs_its_jobs_nothing_however_often() {
    let mut world = World::with_cpu_agent();
    world.submit(1, JobSpec { max_retries: 0, ..cpu_spec() });
    for number in 1..=9 {
        world.report(attempt(1, number), unfit(UnfitKind::TrainerMissing, ""));
        assert_eq!((world.record(1).state, world.record(1).crashes), (JobState::Queued, 0), "{number}");
        // The slot is in cooldown, and later the job waits, too.
        for _ in 0..40 {
            world.pass(Duration::from_secs(20));
            world.heartbeat(1);
        }
        assert_eq!(world.record(1).attempts.len(), number as usize + 1);
    }
    assert!(world.record(1).state_reason.contains("placed on"));
}

#[test]
fn what_a_machine_lacks_sends_the_job_elsewhere_at_once() {
    let mut world = World::with_cpu_agents(2);
    world.submit(1, JobSpec { max_retries: 0, ..cpu_spec() });
    let output = world.report(attempt(1, 1), unfit(UnfitKind::LibtorchUnusable, ""));
    assert_eq!(commands(&output), ["ack 1/1 #1 to 1", "assign 1/2 to 2"]);
    // Its slot is on offer to nobody for a while.
    assert_eq!(commands(&world.submit(2, cpu_spec())), [""; 0]);
}

#[test]
fn a_cpu_slot_that_its_agent_closes_takes_no_job_and_says_why() {
    let mut world = World::with_cpu_agent();
    let unavailable =
        Unavailable { cause: UnavailableCause::SelfTest, message: "libtorch cannot be loaded".into() };
    let fitness = Fitness { cpu_unavailable: Some(unavailable), ..Fitness::default() };
    world.beat(1, AgentStatus { fitness, ..AgentStatus::default() });
    world.submit(1, cpu_spec());
    assert_eq!(
        waiting_for(&world, 1),
        "the only CPU slot that would do is not proved: slot 0 of `lab-1`, libtorch cannot be loaded"
    );
    assert_eq!(commands(&world.heartbeat(1)), ["assign 1/1 to 1"]);
}

#[test]
fn a_slot_that_its_agent_has_mended_is_not_set_aside_any_longer() {
    let mut world = World::with_cpu_agent();
    let unavailable =
        Unavailable { cause: UnavailableCause::SelfTest, message: "there is no trainer".into() };
    let fitness = Fitness { cpu_unavailable: Some(unavailable), ..Fitness::default() };
    let closed = AgentStatus { fitness, ..AgentStatus::default() };
    world.submit(1, cpu_spec());
    // As agents do it: first the slot is closed, then the end is told.
    world.beat(1, closed.clone());
    world.report(attempt(1, 1), unfit(UnfitKind::TrainerMissing, ""));
    assert_eq!(commands(&world.beat(1, closed)), [""; 0]);
    assert_eq!(commands(&world.heartbeat(1)), ["assign 1/2 to 1"]);
}

#[test]
fn a_path_outside_of_all_roots_by_its_words_may_be_inside_by_a_link_and_is_asked_for() {
    for mut world in worlds() {
        world.connect(says(1, 1, fitness(&[("/data", "")], &[])));
        world.connect(says(2, 1, fitness(&[("/scratch", "")], &[])));
        // What is away cannot be asked, and need not be waited for.
        world.connect(says(3, 1, fitness(&[("/scratch", "")], &[])));
        world.disconnect(3);
        let mut linked = cpu_spec();
        linked.train.data = "/home/a/cells/data.yaml".into();
        assert_eq!(commands(&world.submit(1, linked.clone())), ["assign 1/1 to 1"]);
        world.report(attempt(1, 1), started());
        assert_eq!(commands(&world.submit(2, linked)), ["assign 2/1 to 2"]);
        // Both may say no; then it fails with the agents' own words.
        world.report(attempt(1, 1), ended(EndReason::Completed));
        let no = |world: &mut World, number| {
            let data = "/home/a/cells/data.yaml";
            world.report(attempt(2, number), unfit(UnfitKind::OutsideDataRoots, data));
        };
        no(&mut world, 1);
        assert_eq!(world.record(2).attempts[1].agent, agent(1));
        no(&mut world, 2);
        assert_eq!(world.record(2).state, JobState::Failed);
        let reason = &world.record(2).state_reason;
        assert!(reason.contains("`lab-3`") && reason.contains("(/scratch)"), "{reason}");
    }
}

#[test]
fn a_share_that_comes_and_goes_is_asked_again_after_a_wait_that_doubles() {
    let mut world = World::with_cpu_agent();
    world.connect(hello(2, vec![], 1, vec![]));
    world.disconnect(2);
    world.submit(1, cpu_spec());
    let mut waits = Vec::new();
    for number in 1..=5 {
        world.report(attempt(1, number), unfit(UnfitKind::PathMissing, DATA));
        waits.push(world.record(1).not_before.map(|until| until.since(world.now).as_secs()));
        world.beat(1, fitness(&[("/data", "")], &[]));
        world.pass(Duration::from_secs(20));
        world.beat(1, fitness(&[("/data", "")], &[]));
    }
    assert_eq!(waits, [None, None, Some(10), Some(20), Some(40)]);
    assert_eq!(world.record(1).crashes, 0);
}

#[test]
fn a_data_set_that_differs_between_two_agents_is_told_of() {
    let mut world = World::with_cpu_agents(2);
    world.submit(1, cpu_spec());
    world.report(attempt(1, 1), started());
    world.report(attempt(1, 1), unfit(UnfitKind::TrainerMissing, ""));
    let mut other = started();
    if let ReportBody::Trainer(TrainerEvent::Started(started)) = &mut other {
        started.train_images = 90;
    }
    world.report(attempt(1, 2), other);
    let told = "2 its data set differs: 100 and 10 images (training, validation) on agent `lab-1`, 90 and 10 on agent \
                `lab-2`; let all agents have the same copy";
    assert!(world.history(1).contains(&told.to_owned()), "{:?}", world.history(1));
}

#[test]
fn a_data_set_is_looked_at_by_an_agent_that_sees_it_and_knows_it_best() {
    let checks = |mut status: AgentStatus| {
        status.fitness.checks_data = true;
        status
    };
    let mut world = World::new();
    let sees = || checks(fitness(&[("/data", "")], &[]));
    // Too old, elsewhere, without the file, and without a slot that would do.
    world.connect(says(1, 1, fitness(&[("/data", "")], &[])));
    world.connect(says(2, 1, checks(fitness(&[("/x", "")], &[]))));
    world.connect(says(3, 1, checks(fitness(&[("/data", "")], &[DATA]))));
    world.connect(says(4, 0, sees()));
    assert_eq!(world.core.data_checkers(&cpu_spec()).asked, []);
    let absent = |world: &World| -> Vec<(String, bool)> {
        let absent = world.core.data_checkers(&cpu_spec()).absent;
        absent.into_iter().map(|agent| (agent.name, agent.is_connected)).collect()
    };
    assert_eq!(absent(&world), [("lab-1".to_owned(), true)]);
    world.connect(says(5, 1, sees()));
    world.connect(says(6, 1, sees()));
    assert_eq!(world.core.data_checkers(&cpu_spec()).asked, [agent(5), agent(6)]);
    // One that is idle goes first, and one that has trained on it before all others.
    world.disconnect(1);
    world.disconnect(6);
    assert_eq!(absent(&world), [("lab-1".to_owned(), false), ("lab-6".to_owned(), false)]);
    world.submit(1, cpu_spec());
    world.report(attempt(1, 1), started());
    world.connect(says(6, 1, sees()));
    assert_eq!(world.core.data_checkers(&cpu_spec()).asked, [agent(5), agent(6)]);
    let other = JobSpec { train: TrainSpec::new(ModelScale::N, "/data/other.yaml"), ..cpu_spec() };
    assert_eq!(world.core.data_checkers(&other).asked, [agent(3), agent(6), agent(5)]);
}
