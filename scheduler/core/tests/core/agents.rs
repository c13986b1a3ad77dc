//! Sessions, leases, and agents that come back as something else.

use std::time::Duration;

use trainyard_scheduler_core::{AgentState, AgentStatus, Core, CoreConfig, Event, Hello, Output, Write};
use trainyard_types::{EndReason, JobState, Session, Slot};

use crate::world::{
    World, agent, attempt, commands, cpu_spec, ended, hello, job, rtx_4090, rtx_5070, spec, started,
};

fn state(world: &World, number: u128) -> AgentState {
    world.core.agent(agent(number)).unwrap().state
}

#[test]
fn an_agent_that_is_silent_past_its_lease_has_its_job_tried_elsewhere() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    world.report(attempt(1, 1), started());
    world.disconnect(1);
    assert_eq!(state(&world, 1), AgentState::Disconnected);
    world.pass(Duration::from_secs(10));
    world.connect(hello(2, vec![], 1, vec![]));
    let outputs = world.pass(Duration::from_secs(20));
    assert_eq!(commands(&outputs[0]), ["assign 1/2 to 2"]);
    assert_eq!(state(&world, 1), AgentState::Lost);
    let end = world.record(1).attempts[0].ended.clone().unwrap();
    assert_eq!(
        (end.reason, end.message.as_str()),
        (EndReason::AgentLost, "nothing was heard of the agent for 30 s")
    );
    assert_eq!(world.record(1).crashes, 0);
}

#[test]
fn a_lost_agent_that_returns_is_told_what_is_no_longer_its_own() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    world.disconnect(1);
    world.pass(Duration::from_secs(31));
    let back = world.connect(hello(1, vec![], 1, vec![attempt(1, 1)]));
    assert_eq!(commands(&back), ["revoke 1/1 at 1", "assign 1/2 to 1"]);
}

#[test]
fn heartbeats_and_reports_renew_the_lease() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    for _ in 0..3 {
        assert_eq!(world.pass(Duration::from_secs(29)), []);
        world.heartbeat(1);
        assert_eq!(world.pass(Duration::from_secs(29)), []);
        world.report_as(agent(1), attempt(1, 1), 9, started());
    }
    assert_eq!(state(&world, 1), AgentState::Connected);
}

#[test]
fn an_agent_that_slept_on_an_open_connection_is_revoked_and_then_of_use_again() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    let outputs = world.pass(Duration::from_secs(30));
    assert_eq!(commands(&outputs[0]), ["revoke 1/1 at 1"]);
    assert_eq!(state(&world, 1), AgentState::Lost);
    assert_eq!(commands(&world.heartbeat(1)), ["assign 1/2 to 1"]);
    assert_eq!(state(&world, 1), AgentState::Connected);
}

#[test]
fn what_an_old_connection_says_changes_nothing() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    world.connect(hello(1, vec![], 1, vec![attempt(1, 1)]));
    let old = Session(1);
    let report =
        trainyard_types::Report { attempt: attempt(1, 1), sequence: 1, time: world.now, body: started() };
    let events = [
        Event::Heartbeat { agent: agent(1), session: old, status: AgentStatus::default() },
        Event::Report { agent: agent(1), session: old, report },
        Event::AgentDisconnected { agent: agent(1), session: old },
        Event::AgentConnected { session: old, hello: hello(1, vec![], 0, vec![]) },
    ];
    for event in events {
        assert_eq!(world.handle(event), Output::default());
    }
    assert_eq!(state(&world, 1), AgentState::Connected);
}

#[test]
fn an_agent_that_forgot_its_attempt_gets_the_next_one() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    let back = world.connect(hello(1, vec![], 1, vec![]));
    assert_eq!(commands(&back), ["assign 1/2 to 1"]);
    let end = world.record(1).attempts[0].ended.clone().unwrap();
    assert_eq!(end.message, "the agent no longer holds it");
    let kinds: Vec<&str> = back
        .writes
        .iter()
        .map(|write| match write {
            Write::Agent(_) => "agent",
            Write::Job(_) => "job",
            Write::JobEvents { .. } => "events",
            Write::User(_) => "user",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["agent", "user", "job", "events"]);
}

#[test]
fn an_attempt_on_a_gpu_that_is_gone_goes_on_for_as_long_as_the_agent_holds_it() {
    let mut world = World::new();
    world.connect(hello(1, vec![rtx_4090("a")], 0, vec![]));
    world.submit(1, spec());
    world.connect(hello(1, vec![rtx_5070("b")], 0, vec![attempt(1, 1)]));
    assert_eq!(world.record(1).state, JobState::Starting);
    world.submit(2, spec());
    world.report(attempt(1, 1), ended(EndReason::Completed));
    assert_eq!(world.submit(3, spec()).commands, []);
    let view = world.core.agent(agent(1)).unwrap();
    assert_eq!(view.running.len(), 1);
    assert_eq!(view.job_on(&Slot::Gpu(rtx_5070("b").uuid)), Some(job(2)));
}

#[test]
fn a_draining_agent_gets_nothing_until_it_connects_anew() {
    let mut world = World::new();
    world.connect(hello(1, vec![], 2, vec![]));
    world.submit(1, cpu_spec());
    let output = world.report(attempt(1, 1), ended(EndReason::Drained));
    assert_eq!(commands(&output), ["ack 1/1 #1 to 1"]);
    assert_eq!(world.record(1).state, JobState::Queued);
    let back = world.connect(hello(1, vec![], 2, vec![]));
    assert_eq!(commands(&back), ["assign 1/2 to 1"]);
}

#[test]
fn an_old_report_of_a_drain_does_not_keep_an_agent_idle_for_ever() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    // The drain could not be told before the agent was restarted.
    world.connect(hello(1, vec![], 1, vec![attempt(1, 1)]));
    world.report(attempt(1, 1), ended(EndReason::Drained));
    for _ in 0..12 {
        world.pass(Duration::from_secs(25));
        world.heartbeat(1);
    }
    assert_eq!(world.record(1).attempts.len(), 2);
}

#[test]
fn a_gpu_that_failed_is_set_aside_for_a_while_and_the_others_are_not() {
    let mut world = World::new();
    world.connect(hello(1, vec![rtx_5070("a"), rtx_4090("b")], 0, vec![]));
    world.submit(1, spec());
    assert_eq!(world.record(1).attempts[0].slot, Slot::Gpu(rtx_5070("a").uuid));
    world.report(attempt(1, 1), ended(EndReason::GpuFault));
    assert_eq!(world.record(1).attempts[1].slot, Slot::Gpu(rtx_4090("b").uuid));
    assert_eq!(world.record(1).crashes, 0);
    world.submit(2, spec());
    assert_eq!(world.record(2).state, JobState::Queued);
    for _ in 0..12 {
        world.pass(Duration::from_secs(25));
        world.heartbeat(1);
    }
    assert_eq!(world.record(2).attempts[0].slot, Slot::Gpu(rtx_5070("a").uuid));
}

#[test]
fn one_gpu_that_is_listed_twice_is_one_slot() {
    let mut world = World::new();
    world.connect(hello(1, vec![rtx_4090("a"), rtx_4090("a")], 0, vec![]));
    world.submit(1, spec());
    world.submit(2, spec());
    assert_eq!(world.record(2).state, JobState::Queued);
}

/// A new core from what is stored, as after a crash of the scheduler.
fn restarted(world: &World) -> Core {
    Core::load(CoreConfig::default(), world.now, world.store.stored())
}

#[test]
fn a_restarted_scheduler_gives_every_agent_a_fresh_lease_to_come_back_in() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    world.now = world.now + Duration::from_secs(3600);
    world.core = restarted(&world);
    assert_eq!(state(&world, 1), AgentState::Disconnected);
    assert_eq!(world.core.next_deadline(), Some(world.now + Duration::from_secs(30)));
    assert_eq!(world.connect(hello(1, vec![], 1, vec![attempt(1, 1)])).commands, []);
    assert_eq!(world.record(1).state, JobState::Starting);
}

#[test]
fn an_attempt_of_an_agent_that_never_comes_back_after_a_restart_is_lost() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    world.core = restarted(&world);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.record(1).state, JobState::Queued);
}

#[test]
fn an_attempt_whose_agents_record_is_missing_is_lost_with_its_lease() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    world.store.agents.clear();
    world.core = restarted(&world);
    assert_eq!(world.core.agents().map(|agent| agent.record.name.clone()).collect::<Vec<_>>(), ["lab-1"]);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.record(1).state, JobState::Queued);
}

#[test]
fn an_agent_that_is_lost_for_long_is_forgotten_over_restarts_too() {
    let mut world = World::with_cpu_agent();
    let month = CoreConfig::default().keep_agents_for;
    world.submit(1, cpu_spec());
    world.disconnect(1);
    world.pass(Duration::from_secs(30));
    assert_eq!(state(&world, 1), AgentState::Lost);
    world.pass(month - Duration::from_secs(60));
    world.core = Core::load(CoreConfig::default(), world.now, world.store.stored());
    // It gets a lease, as every agent that a new scheduler knows, but no new month.
    world.pass(Duration::from_secs(31));
    assert!(world.core.agent(agent(1)).is_some());
    world.pass(Duration::from_secs(30));
    assert!(world.core.agent(agent(1)).is_none());
    assert!(world.store.agents.is_empty());
    assert_eq!(commands(&world.connect(hello(1, vec![], 1, vec![]))), ["assign 1/2 to 1"]);
}

#[test]
fn an_agent_that_comes_back_is_remembered_anew() {
    let mut world = World::with_cpu_agent();
    let month = CoreConfig::default().keep_agents_for;
    world.disconnect(1);
    world.pass(Duration::from_secs(30));
    world.pass(month - Duration::from_secs(60));
    world.connect(hello(1, vec![], 1, vec![]));
    assert_eq!(world.store.agents[&agent(1)].lost, None);
    world.pass(Duration::from_secs(31));
    world.pass(month - Duration::from_secs(60));
    assert!(world.core.agent(agent(1)).is_some());
}

#[test]
fn a_forgotten_agent_is_unknown_as_soon_as_it_is_gone_and_its_name_is_free() {
    let mut world = World::new();
    let forget = |world: &mut World, number| world.handle(Event::ForgetAgent { agent: agent(number) });
    world.connect(hello(1, vec![rtx_4090("a")], 0, vec![]));
    world.disconnect(1);
    assert_eq!(forget(&mut world, 1).writes, [Write::ForgetAgent(agent(1))]);
    assert_eq!(world.core.agent(agent(1)), None);
    assert!(forget(&mut world, 1).reply.unwrap().is_err());

    // One that is connected stays until its connection is gone, unless it joins again meanwhile.
    world.connect(hello(1, vec![rtx_4090("a")], 0, vec![]));
    assert_eq!(forget(&mut world, 1).writes, []);
    world.connect(hello(1, vec![rtx_4090("a")], 0, vec![]));
    world.disconnect(1);
    assert_eq!(state(&world, 1), AgentState::Disconnected);
    world.connect(hello(1, vec![rtx_4090("a")], 0, vec![]));
    forget(&mut world, 1);
    assert_eq!(world.disconnect(1).writes, [Write::ForgetAgent(agent(1))]);

    // What runs there is its own until its lease is over.
    world.connect(hello(1, vec![rtx_4090("a")], 0, vec![]));
    world.submit(1, spec());
    world.report(attempt(1, 1), started());
    world.connect(hello(2, vec![rtx_4090("b")], 0, vec![]));
    world.disconnect(1);
    forget(&mut world, 1);
    assert_eq!(state(&world, 1), AgentState::Disconnected);
    let outputs = world.pass(Duration::from_secs(29));
    world.heartbeat(2);
    let outputs: Vec<Output> = outputs.into_iter().chain(world.pass(Duration::from_secs(2))).collect();
    assert_eq!(outputs.iter().flat_map(commands).collect::<Vec<_>>(), ["assign 1/2 to 2"]);
    assert_eq!(world.core.agent(agent(1)), None);
}

#[test]
fn agents_are_found_by_the_start_of_their_ids_and_two_of_one_name_say_so() {
    let mut world = World::new();
    for number in [0x10, 0x11, 0x20] {
        world.connect(Hello { name: "lab".into(), ..hello(number, vec![], 1, vec![]) });
    }
    world.connect(Hello { name: "other".into(), ..hello(0x20, vec![], 1, vec![]) });
    let found = |prefix: &str| {
        world.core.agents_with_prefix(prefix).map(|view| view.record.id.0.as_u128() >> 64).collect::<Vec<_>>()
    };
    assert_eq!(found("00000000-0000-001"), [0x10, 0x11]);
    assert_eq!(found("0000000000000020"), [0x20]);
    assert_eq!(found("xyz"), [0; 0]);
    assert_eq!(world.core.agents_named("lab").count(), 2);
    let notices = |number| world.core.notices(world.now, agent(number));
    assert!(notices(0x10)[0].starts_with("another machine has this name, too"), "{:?}", notices(0x10));
    assert_eq!(notices(0x20), [""; 0]);
}
