//! Every event in every state of a job, the impossible too, as one table.

use std::fmt::Write as _;
use std::time::Duration;

use trainyard_scheduler_core::{AgentStatus, Event, Output};
use trainyard_types::{EndReason, ReportBody, UnfitKind};

use crate::world::{World, agent, attempt, commands, cpu_spec, ended, hello, job, released, started, unfit};

type Step = (&'static str, fn(&mut World) -> Vec<Output>);

type State = (&'static str, fn(&mut World));

/// Ways to bring job 1 into a state. Agent 1 has one CPU slot; agent 2 has none.
const STATES: [State; 13] = [
    ("queued", |world| {
        world.disconnect(1);
        world.submit(1, cpu_spec());
    }),
    ("delayed", |world| {
        world.submit(1, cpu_spec());
        world.report(attempt(1, 1), ended(EndReason::TrainerCrash));
    }),
    ("starting", |world| {
        world.submit(1, cpu_spec());
    }),
    ("running", |world| {
        world.submit(1, cpu_spec());
        world.report(attempt(1, 1), started());
    }),
    ("cancelling", |world| {
        world.submit(1, cpu_spec());
        world.report(attempt(1, 1), started());
        world.cancel(1);
    }),
    ("draining", |world| {
        world.submit(1, cpu_spec());
        world.report(attempt(1, 1), started());
        drain(world, false);
    }),
    ("no more", |world| {
        world.submit(1, cpu_spec());
        world.report(attempt(1, 1), started());
        drain(world, true);
    }),
    ("away", |world| {
        world.submit(1, cpu_spec());
        world.report(attempt(1, 1), started());
        world.disconnect(1);
    }),
    ("handing in", |world| {
        world.submit(1, cpu_spec());
        world.report(attempt(1, 1), started());
        world.report(attempt(1, 1), released("room on the scheduler's disk"));
    }),
    ("last try", |world| {
        world.submit(1, trainyard_types::JobSpec { max_retries: 0, ..cpu_spec() });
    }),
    ("succeeded", |world| {
        world.submit(1, cpu_spec());
        world.report(attempt(1, 1), ended(EndReason::Completed));
    }),
    ("failed", |world| {
        world.submit(1, cpu_spec());
        world.report(attempt(1, 1), ended(EndReason::BadSpec));
    }),
    ("cancelled", |world| {
        world.submit(1, cpu_spec());
        world.cancel(1);
        world.report(attempt(1, 1), ended(EndReason::Cancelled));
    }),
];

fn drain(world: &mut World, keep_running: bool) -> Output {
    world.handle(Event::Drain { agent: agent(1), keep_running })
}

fn end(world: &mut World, reason: EndReason) -> Vec<Output> {
    end_with(world, ended(reason))
}

fn end_with(world: &mut World, body: ReportBody) -> Vec<Output> {
    let sequence = world.record(1).attempts.first().map_or(1, |attempt| attempt.last_sequence + 1);
    vec![world.report_as(agent(1), attempt(1, 1), sequence, body)]
}

const EVENTS: [Step; 32] = [
    ("cancel", |world| vec![world.cancel(1)]),
    ("retry", |world| vec![world.retry(1)]),
    ("priority", |world| vec![world.handle(Event::SetPriority { job: job(1), priority: 5 })]),
    ("started", |world| {
        let sequence = world.record(1).attempts.first().map_or(1, |attempt| attempt.last_sequence + 1);
        vec![world.report_as(agent(1), attempt(1, 1), sequence, started())]
    }),
    ("repeat", |world| vec![world.report_as(agent(1), attempt(1, 1), 1, started())]),
    ("gap", |world| vec![world.report_as(agent(1), attempt(1, 1), 9, started())]),
    ("from another agent", |world| vec![world.report_as(agent(2), attempt(1, 1), 1, started())]),
    ("of a later attempt", |world| vec![world.report_as(agent(1), attempt(1, 7), 1, started())]),
    ("COMPLETED", |world| end(world, EndReason::Completed)),
    ("BAD_SPEC", |world| end(world, EndReason::BadSpec)),
    ("GPU_OOM", |world| end(world, EndReason::GpuOom)),
    ("HOST_OOM", |world| end(world, EndReason::HostOom)),
    ("TRAINER_CRASH", |world| end(world, EndReason::TrainerCrash)),
    ("AGENT_LOST", |world| end(world, EndReason::AgentLost)),
    ("GPU_FAULT", |world| end(world, EndReason::GpuFault)),
    ("PREEMPTED", |world| end(world, EndReason::Preempted)),
    ("DRAINED", |world| end(world, EndReason::Drained)),
    ("CANCELLED", |world| end(world, EndReason::Cancelled)),
    ("AGENT_UNFIT", |world| end_with(world, unfit(UnfitKind::TrainerMissing, ""))),
    ("AGENT_UNFIT, path", |world| end_with(world, unfit(UnfitKind::PathMissing, "/data/data.yaml"))),
    ("STALLED", |world| end(world, EndReason::Stalled)),
    ("slot released", |world| end_with(world, released(""))),
    ("drain", |world| vec![drain(world, false)]),
    ("drain, runs on", |world| vec![drain(world, true)]),
    ("resume", |world| vec![world.handle(Event::Resume { agent: agent(1) })]),
    ("forget agent", |world| vec![world.handle(Event::ForgetAgent { agent: agent(1) })]),
    ("takes nothing", |world| {
        let status = AgentStatus { unavailable: "its disk is full".into(), ..AgentStatus::default() };
        vec![world.beat(1, status)]
    }),
    ("connection lost", |world| vec![world.disconnect(1)]),
    ("lease over", |world| world.pass(Duration::from_secs(35))),
    ("retry time", |world| {
        world.now = world.now + Duration::from_secs(10);
        vec![world.handle(Event::Tick)]
    }),
    ("hello with it", |world| vec![world.connect(hello(1, vec![], 1, vec![attempt(1, 1)]))]),
    ("hello without it", |world| vec![world.connect(hello(1, vec![], 1, vec![]))]),
];

fn outcome(world: &World, outputs: &[Output]) -> String {
    let mut words = vec![world.record(1).state.to_string()];
    for output in outputs {
        match &output.reply {
            Some(Ok(accepted)) if accepted.repeated => words.push("repeated".into()),
            Some(Ok(_)) => words.push("accepted".into()),
            Some(Err(refusal)) => words.push(format!("{refusal:?}").split([' ', '(']).next().unwrap().into()),
            None => {}
        }
        words.extend(commands(output));
    }
    words.join(", ")
}

#[test]
fn every_event_in_every_state_has_its_place_in_the_table() {
    let mut table = String::new();
    for (state, bring) in STATES {
        for (event, happen) in EVENTS {
            let mut world = World::with_cpu_agent();
            world.connect(hello(2, vec![], 0, vec![]));
            bring(&mut world);
            let outputs = happen(&mut world);
            writeln!(table, "{state:<10} + {event:<18} = {}", outcome(&world, &outputs)).unwrap();
        }
        table.push('\n');
    }
    // `TRAINYARD_BLESS=1 cargo test` writes the table anew; read the difference.
    if std::env::var_os("TRAINYARD_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/core/transitions.txt");
        std::fs::write(path, &table).unwrap();
        return; // The old one is compiled in.
    }
    for (line, expected) in table.lines().zip(include_str!("transitions.txt").lines()) {
        assert_eq!(line, expected);
    }
    assert_eq!(table.lines().count(), include_str!("transitions.txt").lines().count());
}
