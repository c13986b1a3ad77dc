//! Drains and reservations: what people order, and what becomes of the attempts that are in the way.

use std::time::Duration;

use trainyard_scheduler_core::{Accepted, Core, CoreConfig, Event, Output, Refusal, Subject};
use trainyard_types::{EndReason, Gpu, GpuUuid, JobSpec, JobState, Resources};

use crate::world::{
    World, agent, attempt, commands, cpu_spec, ended, hello, rtx_4090, rtx_5070, spec, started,
};

fn drain(world: &mut World, number: u128, keep_running: bool) -> Output {
    world.handle(Event::Drain { agent: agent(number), keep_running })
}

fn resume(world: &mut World, number: u128) -> Output {
    world.handle(Event::Resume { agent: agent(number) })
}

fn reserve(world: &mut World, number: u128, gpu: &Gpu, seconds: u64) -> Output {
    let (gpus, span) = (vec![gpu.uuid.clone()], Duration::from_secs(seconds));
    world.handle(Event::Reserve { agent: agent(number), gpus, span })
}

fn release(world: &mut World, number: u128, gpu: &Gpu) -> Output {
    world.handle(Event::Release { agent: agent(number), gpus: vec![gpu.uuid.clone()] })
}

fn done(number: u128, repeated: bool) -> Option<Result<Accepted, Refusal>> {
    Some(Ok(Accepted { subject: Subject::Agent(agent(number)), repeated }))
}

/// Two agents with a GPU each; job 1 trains on the first.
fn two_agents() -> World {
    let mut world = World::new();
    world.connect(hello(1, vec![rtx_5070("a")], 0, vec![]));
    world.submit(1, spec());
    world.report(attempt(1, 1), started());
    world.connect(hello(2, vec![rtx_4090("b")], 0, vec![]));
    world
}

/// A new core from what is stored, as after a crash of the scheduler.
fn restart(world: &mut World) {
    world.core = Core::load(CoreConfig::default(), world.now, world.store.stored());
}

#[test]
fn a_drained_agents_job_goes_elsewhere_and_none_comes_until_it_is_resumed() {
    let mut world = two_agents();
    let output = drain(&mut world, 1, false);
    assert_eq!((commands(&output), output.reply), (vec!["stop 1/1 at 1 DRAINED".to_owned()], done(1, false)));
    let again = drain(&mut world, 1, false);
    assert_eq!((commands(&again), again.reply, again.writes), (vec![], done(1, true), vec![]));
    let output = world.report(attempt(1, 1), ended(EndReason::Drained));
    assert_eq!(commands(&output), ["ack 1/1 #2 to 1", "assign 1/2 to 2"]);
    world.submit(2, spec());
    let waiting = world.core.waiting(world.now, world.record(2).id).unwrap();
    assert_eq!(waiting.reason, "waits for the only GPU that fits; it is busy");
    let output = resume(&mut world, 1);
    assert_eq!((commands(&output), output.reply), (vec!["assign 2/1 to 1".to_owned()], done(1, false)));
    assert_eq!(resume(&mut world, 1).reply, done(1, true));
    assert_eq!(world.record(1).crashes, 0);
}

#[test]
fn what_holds_for_several_gpus_of_a_machine_is_said_once() {
    let gpus = |names: &[&str]| -> Vec<Gpu> {
        let of = |(index, name)| Gpu { index, ..rtx_5070(name) };
        (0..).zip(names.iter().copied()).map(of).collect()
    };
    let why = |world: &World| world.core.waiting(world.now, world.record(1).id).unwrap().reason;
    let mut world = World::new();
    world.connect(hello(1, gpus(&["a", "b", "c"]), 0, vec![]));
    world.connect(hello(2, gpus(&["d", "e"]), 0, vec![]));
    for number in 1..=2 {
        drain(&mut world, number, true);
    }
    world.submit(1, spec());
    assert_eq!(
        why(&world),
        "the only GPUs that would do are drained: all 3 GPUs of `lab-1`, `yard resume lab-1` takes it back into use; both \
         GPUs of `lab-2`, `yard resume lab-2` takes it back into use"
    );
    // What differs is said of each.
    let mut world = World::new();
    let [a, b, c] = <[Gpu; 3]>::try_from(gpus(&["a", "b", "c"])).unwrap();
    world.connect(hello(1, vec![c.clone(), b.clone(), a.clone()], 0, vec![]));
    for (gpu, seconds) in [(&a, 3600), (&b, 7200), (&c, 3600)] {
        reserve(&mut world, 1, gpu, seconds);
    }
    world.submit(1, spec());
    let reason = why(&world);
    assert!(reason.contains("are reserved: GPUs 0 and 2 of `lab-1`, until "), "{reason}");
    assert!(reason.contains("; GPU 1 of `lab-1`, until ") && !reason.contains("and 1 more"), "{reason}");
}

#[test]
fn an_agent_that_was_told_to_hand_over_a_job_on_two_gpus_has_both_back_when_it_is_resumed() {
    let mut world = World::new();
    world.connect(hello(1, vec![rtx_5070("a"), rtx_5070("b")], 0, vec![]));
    let resources = Resources { gpus: 2, ..Resources::default() };
    world.submit(1, JobSpec { resources, ..spec() });
    world.report(attempt(1, 1), started());
    drain(&mut world, 1, false);
    world.report(attempt(1, 1), ended(EndReason::Drained));
    assert_eq!(commands(&resume(&mut world, 1)), ["assign 1/2 to 1"]);
}

#[test]
fn a_drain_that_keeps_what_runs_stops_nothing_and_a_later_one_does() {
    let mut world = two_agents();
    assert_eq!(commands(&drain(&mut world, 1, true)), [""; 0]);
    world.submit(2, spec());
    assert_eq!(world.record(2).attempts[0].agent, agent(2));
    assert_eq!(commands(&drain(&mut world, 1, false)), ["stop 1/1 at 1 DRAINED"]);
}

#[test]
fn a_drain_holds_over_restarts_of_the_scheduler_and_of_the_agent() {
    let mut world = two_agents();
    drain(&mut world, 1, false);
    restart(&mut world);
    // The order may not have arrived before.
    let back = world.connect(hello(1, vec![rtx_5070("a")], 0, vec![attempt(1, 1)]));
    assert_eq!(commands(&back), ["stop 1/1 at 1 DRAINED"]);
    world.report(attempt(1, 1), ended(EndReason::Drained));
    assert_eq!(world.record(1).state, JobState::Queued);
    assert_eq!(commands(&world.connect(hello(1, vec![rtx_5070("a")], 0, vec![]))), [""; 0]);
    assert_eq!(commands(&resume(&mut world, 1)), ["assign 1/2 to 1"]);
}

#[test]
fn an_agent_that_is_away_can_be_drained() {
    let mut world = two_agents();
    world.disconnect(1);
    assert_eq!(commands(&drain(&mut world, 1, false)), [""; 0]);
    let back = world.connect(hello(1, vec![rtx_5070("a")], 0, vec![attempt(1, 1)]));
    assert_eq!(commands(&back), ["stop 1/1 at 1 DRAINED"]);
}

#[test]
fn a_job_that_its_user_cancelled_is_not_told_to_stop_for_another_reason() {
    let mut world = two_agents();
    world.cancel(1);
    assert_eq!(commands(&drain(&mut world, 1, false)), [""; 0]);
}

#[test]
fn a_reserved_gpus_job_goes_elsewhere_and_the_gpu_comes_back_when_its_time_is_over() {
    let mut world = two_agents();
    let output = reserve(&mut world, 1, &rtx_5070("a"), 600);
    assert_eq!(
        (commands(&output), output.reply),
        (vec!["stop 1/1 at 1 PREEMPTED".to_owned()], done(1, false))
    );
    let output = world.report(attempt(1, 1), ended(EndReason::Preempted));
    assert_eq!(commands(&output), ["ack 1/1 #2 to 1", "assign 1/2 to 2"]);
    world.submit(2, spec());
    for _ in 0..29 {
        assert_eq!(world.pass(Duration::from_secs(20)), []);
        world.heartbeat(1);
        world.heartbeat(2);
    }
    let outputs = world.pass(Duration::from_secs(20));
    assert_eq!(commands(&outputs[0]), ["assign 2/1 to 1"]);
    assert!(world.store.agents[&agent(1)].reserved.is_empty());
}

#[test]
fn a_reservation_outlives_the_scheduler_is_replaced_by_another_and_can_be_given_back() {
    let mut world = two_agents();
    reserve(&mut world, 2, &rtx_4090("b"), 60);
    reserve(&mut world, 2, &rtx_4090("b"), 3600);
    restart(&mut world);
    world.connect(hello(2, vec![rtx_4090("b")], 0, vec![]));
    world.connect(hello(1, vec![rtx_5070("a")], 0, vec![attempt(1, 1)]));
    world.submit(2, spec());
    for _ in 0..6 {
        world.pass(Duration::from_secs(20));
        world.heartbeat(1);
        world.heartbeat(2);
    }
    assert_eq!(world.record(2).state, JobState::Queued);
    let output = release(&mut world, 2, &rtx_4090("b"));
    assert_eq!((commands(&output), output.reply), (vec!["assign 2/1 to 2".to_owned()], done(2, false)));
    assert_eq!(release(&mut world, 2, &rtx_4090("b")).reply, done(2, true));
}

#[test]
fn only_the_reserved_gpu_is_left() {
    let mut world = World::new();
    world.connect(hello(1, vec![rtx_5070("a"), rtx_4090("b")], 1, vec![]));
    world.submit(1, spec());
    world.submit(2, spec());
    world.submit(3, cpu_spec());
    assert_eq!(commands(&reserve(&mut world, 1, &rtx_4090("b"), 60)), ["stop 2/1 at 1 PREEMPTED"]);
}

#[test]
fn what_is_not_there_is_refused_and_changes_nothing() {
    let mut world = two_agents();
    let unknown = || Some(Err(Refusal::UnknownAgent(agent(9))));
    assert_eq!(drain(&mut world, 9, false).reply, unknown());
    assert_eq!(resume(&mut world, 9).reply, unknown());
    assert_eq!(reserve(&mut world, 9, &rtx_4090("b"), 60).reply, unknown());
    assert_eq!(release(&mut world, 9, &rtx_4090("b")).reply, unknown());
    let no_gpu = Refusal::UnknownGpu { agent: "lab-1".into(), gpu: GpuUuid("GPU-b".into()) };
    assert_eq!(
        reserve(&mut world, 1, &rtx_4090("b"), 60),
        Output { reply: Some(Err(no_gpu)), ..Output::default() }
    );
}

#[test]
fn a_gpu_is_cleared_by_its_agent_only() {
    let mut world = two_agents();
    let clear = || Event::ClearGpu { agent: agent(1), gpu: Some(rtx_5070("a").uuid) };
    assert_eq!(commands(&world.handle(clear())), ["clear GPU-a at 1"]);
    world.disconnect(1);
    let away = Some(Err(Refusal::AgentAway { agent: "lab-1".into() }));
    assert_eq!(world.handle(clear()).reply, away);
}
