//! Machines that offer one GPU twice, machines with one identity, and clocks that differ.

use std::time::Duration;

use trainyard_scheduler_core::{AgentStatus, Core, CoreConfig, Hello, Refusal};
use trainyard_types::{EndReason, Fitness, Report, ReportBody, Time};

use crate::world::{World, agent, attempt, commands, cpu_spec, ended, hello, rtx_5070, spec, started};

#[test]
fn a_gpu_that_two_agents_offer_is_the_first_ones_and_both_say_so() {
    let mut world = World::new();
    world.connect(hello(1, vec![rtx_5070("a")], 0, vec![]));
    world.connect(hello(2, vec![rtx_5070("a")], 0, vec![]));
    assert_eq!(commands(&world.submit(1, spec())), ["assign 1/1 to 1"]);
    assert_eq!(commands(&world.submit(2, spec())), [""; 0]);
    let notices = |world: &World, number| world.core.notices(world.now, agent(number));
    assert_eq!(
        notices(&world, 1),
        ["GPU 0 (GPU-a) is offered by agent `lab-2`, too, which gets no job for it"]
    );
    assert_eq!(
        notices(&world, 2),
        ["GPU 0 (GPU-a) is offered by agent `lab-1`, too, which came first: stop one of the two agents"]
    );
    // A break of its connection changes nothing; its loss does.
    world.disconnect(1);
    assert_eq!(world.record(2).attempts.len(), 0);
    for _ in 0..2 {
        world.pass(Duration::from_secs(20));
        world.heartbeat(2);
    }
    assert_eq!(world.record(1).attempts.last().unwrap().agent, agent(2));
    assert_eq!(notices(&world, 2), [""; 0]);
    // When it is back it is the later one.
    world.connect(hello(1, vec![rtx_5070("a")], 0, vec![]));
    assert!(notices(&world, 1)[0].contains("came first"));
}

#[test]
fn a_gpu_that_an_agent_offers_no_more_is_the_others() {
    let mut world = World::new();
    world.connect(hello(1, vec![rtx_5070("a")], 0, vec![]));
    world.connect(hello(2, vec![rtx_5070("a")], 0, vec![]));
    world.connect(hello(1, vec![], 1, vec![]));
    assert_eq!(commands(&world.submit(1, spec())), ["assign 1/1 to 2"]);
}

#[test]
fn a_restarted_scheduler_knows_who_came_first() {
    let mut world = World::new();
    world.connect(hello(2, vec![rtx_5070("a")], 0, vec![]));
    world.pass(Duration::from_secs(1));
    world.connect(hello(1, vec![rtx_5070("a")], 0, vec![]));
    world.submit(1, spec());
    world.core = Core::load(CoreConfig::default(), world.now, world.store.stored());
    world.connect(hello(1, vec![rtx_5070("a")], 0, vec![]));
    assert_eq!(world.core.notices(world.now, agent(1)).len(), 1);
    world.connect(hello(2, vec![rtx_5070("a")], 0, vec![attempt(1, 1)]));
    assert_eq!(world.record(1).attempts.len(), 1);
}

fn process(instance: &str) -> Hello {
    Hello { instance: instance.into(), ..hello(1, vec![], 1, vec![]) }
}

#[test]
fn an_id_that_a_living_process_uses_is_refused_to_another_one() {
    let mut world = World::new();
    world.connect(process("first"));
    world.submit(1, cpu_spec());
    world.pass(Duration::from_secs(9));
    let output = world.connect(process("second"));
    let refusal = Refusal::AgentIdInUse { id: agent(1), name: "lab-1".into() };
    assert_eq!((output.reply, output.writes, output.commands), (Some(Err(refusal)), vec![], vec![]));
    assert!(world.core.notices(world.now, agent(1))[0].contains("another process with this agent's id"));
    // The first is not disturbed, and may come again.
    assert_eq!(world.record(1).attempts.len(), 1);
    assert_eq!(commands(&world.report(attempt(1, 1), started())), ["ack 1/1 #1 to 1"]);
    let again = Hello { attempts: vec![attempt(1, 1)], ..process("first") };
    assert_eq!(world.connect(again).reply, None);
    // Silent for two heartbeats, it is gone.
    world.pass(Duration::from_secs(10));
    let restarted = Hello { attempts: vec![attempt(1, 1)], ..process("second") };
    assert_eq!(world.connect(restarted).reply, None);
}

#[test]
fn a_restarted_process_gets_in_once_the_old_connection_is_gone_and_old_agents_replace_each_other() {
    let mut world = World::new();
    world.connect(process("first"));
    world.disconnect(1);
    assert_eq!(world.connect(process("second")).reply, None);
    assert_eq!(world.connect(process("")).reply, None);
    assert_eq!(world.connect(process("third")).reply, None);
}

#[test]
fn an_attempt_on_a_machine_whose_clock_is_a_day_behind_lasts_as_long_as_it_does() {
    let day = 25 * 3_600_000;
    let mut world = World::new();
    world.now = Time(2 * day);
    let fitness = |now: Time| Fitness { clock: Some(Time(now.0 - day)), ..Fitness::default() };
    let status = AgentStatus { fitness: fitness(world.now), ..AgentStatus::default() };
    world.connect(Hello { status, ..hello(1, vec![], 1, vec![]) });
    world.submit(1, cpu_spec());
    let tell = |world: &mut World, sequence, body: ReportBody| {
        let report = Report { attempt: attempt(1, 1), sequence, time: Time(world.now.0 - day), body };
        let session = world.session(agent(1));
        world.handle(trainyard_scheduler_core::Event::Report { agent: agent(1), session, report });
    };
    world.pass(Duration::from_secs(5));
    let begun = world.now;
    tell(&mut world, 1, started());
    world.pass(Duration::from_secs(20));
    tell(&mut world, 2, ended(EndReason::Completed));
    let attempt = &world.record(1).attempts[0];
    assert_eq!((attempt.started, attempt.ended.as_ref().unwrap().time), (Some(begun), world.now));
    assert_eq!(world.core.agent(agent(1)).unwrap().clock_offset_ms(), Some(-(day as i64)));
    assert!(world.core.notices(world.now, agent(1))[0].contains("1 d 1 h behind"));
}
