//! Submissions, cancellations, retries: what users see.

use std::time::Duration;

use trainyard_scheduler_core::{
    Accepted, AttemptRecord, Command, Event, EventBody, EventRecord, JobRecord, Output, Refusal, Subject,
    UserRecord, Write,
};
use trainyard_types::{Assignment, EndReason, JobSpec, JobState, Session, Slot};

use crate::world::{START, World, agent, attempt, commands, cpu_spec, ended, hello, job, spec, started};

#[test]
fn a_submission_and_its_placement_are_one_set_of_writes() {
    let mut world = World::with_cpu_agent();
    let output = world.submit(1, cpu_spec());
    let placed = "placed on CPU of agent `lab-1`, which prepares it";
    let queued = JobRecord::queued(job(1), "ada".into(), cpu_spec().into(), START);
    let record = JobRecord {
        revision: 1,
        state: JobState::Starting,
        state_reason: placed.into(),
        attempts: vec![AttemptRecord {
            id: attempt(1, 1),
            agent: agent(1),
            agent_name: "lab-1".into(),
            slot: Slot::Cpu(0),
            others: Vec::new(),
            device: "CPU".into(),
            choice: None,
            warm: false,
            expected_end: None,
            batch_chosen: None,
            fetching: None,
            setup: None,
            last_sequence: 0,
            placed: START,
            started: None,
            released: None,
            ended: None,
        }],
        last_cursor: 2,
        ..queued
    };
    // That it was queued follows from the record.
    let body = EventBody::State { state: JobState::Starting, reason: placed.into() };
    let events = vec![EventRecord { cursor: 2, time: START, attempt: 1, body }];
    let user = UserRecord { name: "ada".into(), used: 0, as_of: START, typical_run: None };
    let assignment =
        Box::new(Assignment { attempt: attempt(1, 1), spec: cpu_spec(), slot: Slot::Cpu(0), resume: None });
    assert_eq!(
        output,
        Output {
            writes: vec![
                Write::User(user),
                Write::Job(Box::new(record)),
                Write::JobEvents { job: job(1), events }
            ],
            commands: vec![Command::Assign { agent: agent(1), session: Session(1), assignment }],
            reply: Some(Ok(Accepted { subject: Subject::Job(job(1)), repeated: false })),
            archive: vec![],
        }
    );
}

fn submit_with_id(world: &mut World, number: u128, spec: JobSpec) -> Output {
    let request_id = Some("r1".to_owned());
    world.handle(Event::Submit { request_id, job: job(number), user: "ada".into(), spec })
}

#[test]
fn a_repeated_request_answers_with_the_first_ones_job_and_changes_nothing() {
    let mut world = World::new();
    submit_with_id(&mut world, 1, spec());
    let repeat = submit_with_id(&mut world, 2, spec());
    let reply = Some(Ok(Accepted { subject: Subject::Job(job(1)), repeated: true }));
    assert_eq!(repeat, Output { reply, ..Output::default() });
    assert_eq!(world.core.jobs().count(), 1);
}

#[test]
fn a_request_id_does_not_serve_for_another_spec() {
    let mut world = World::new();
    submit_with_id(&mut world, 1, spec());
    let other = submit_with_id(&mut world, 2, cpu_spec());
    let reply = Some(Err(Refusal::RequestIdReused { request_id: "r1".into(), job: job(1) }));
    assert_eq!(other, Output { reply, ..Output::default() });
    // Nor for another user, who would be told of a job that is not theirs.
    let (request_id, user) = (Some("r1".to_owned()), "bob".to_owned());
    let others = world.handle(Event::Submit { request_id, job: job(3), user, spec: spec() });
    let reply = Some(Err(Refusal::RequestIdTaken { request_id: "r1".into() }));
    assert_eq!(others, Output { reply, ..Output::default() });
}

#[test]
fn an_unknown_job_is_refused_by_name() {
    let mut world = World::new();
    assert_eq!(world.cancel(5).reply, Some(Err(Refusal::UnknownJob(job(5)))));
    assert_eq!(world.retry(5).reply, Some(Err(Refusal::UnknownJob(job(5)))));
}

#[test]
fn a_cancelled_job_that_waited_has_no_attempt_and_says_why() {
    let mut world = World::new();
    world.submit(1, spec());
    world.cancel(1);
    assert_eq!(world.record(1).state_reason, "its user cancelled it while it waited");
    assert_eq!(world.history(1), ["0 QUEUED", "0 CANCELLED"]);
    assert_eq!(world.record(1).ended, Some(START));
}

#[test]
fn a_cancelled_attempt_frees_its_slot_when_it_has_stopped_and_not_before() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    world.submit(2, cpu_spec());
    assert_eq!(commands(&world.cancel(1)), ["stop 1/1 at 1 CANCELLED"]);
    assert_eq!(world.record(2).state, JobState::Queued);
    let output = world.report(attempt(1, 1), ended(EndReason::Cancelled));
    assert_eq!(commands(&output), ["ack 1/1 #1 to 1", "assign 2/1 to 1"]);
    assert_eq!(world.record(1).state, JobState::Cancelled);
}

#[test]
fn a_cancellation_while_the_agent_is_away_reaches_it_when_it_is_back() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    world.disconnect(1);
    assert_eq!(commands(&world.cancel(1)), [""; 0]);
    let back = world.connect(hello(1, vec![], 1, vec![attempt(1, 1)]));
    assert_eq!(commands(&back), ["stop 1/1 at 1 CANCELLED"]);
}

#[test]
fn a_retried_job_forgets_its_crashes_and_goes_on_counting_attempts() {
    let mut world = World::with_cpu_agent();
    world.submit(1, JobSpec { max_retries: 0, ..cpu_spec() });
    world.report(attempt(1, 1), ended(EndReason::TrainerCrash));
    assert_eq!(world.record(1).state_reason, "crashed once (`max_retries` is 0): what the agent says");
    assert_eq!(commands(&world.retry(1)), ["assign 1/2 to 1"]);
    assert_eq!((world.record(1).crashes, world.record(1).ended), (0, None));
    world.report(attempt(1, 2), started());
    world.report(attempt(1, 2), ended(EndReason::Completed));
    assert_eq!(
        world.history(1),
        ["0 QUEUED", "1 STARTING", "1 FAILED", "0 QUEUED", "2 STARTING", "2 RUNNING", "2 SUCCEEDED"]
    );
}

#[test]
fn crashes_wait_longer_each_time_until_they_are_no_longer_forgiven() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    world.report(attempt(1, 1), ended(EndReason::TrainerCrash));
    let reason = "retry 1 of 2 is due in 10 s after a crash of the trainer: what the agent says";
    assert_eq!(world.record(1).state_reason, reason);
    for (number, seconds) in [(2, 10), (3, 20)] {
        assert_eq!(world.record(1).not_before, Some(world.now + Duration::from_secs(seconds)));
        world.heartbeat(1);
        let outputs = world.pass(Duration::from_secs(seconds));
        assert_eq!(commands(&outputs[0]), [format!("assign 1/{number} to 1")]);
        world.report(attempt(1, number), ended(EndReason::HostOom));
    }
    assert_eq!(world.record(1).state, JobState::Failed);
    assert_eq!(world.record(1).state_reason, "crashed 3 times (`max_retries` is 2): what the agent says");
}

#[test]
fn ids_can_be_shortened_to_any_prefix() {
    let mut world = World::new();
    for number in [0x0198_0000_0000_0000_0000_0000_0000_0001, 0x0198_ffff_0000_0000_0000_0000_0000_0002, 3] {
        world.submit(number, spec());
    }
    let count = |prefix: &str| world.core.jobs_with_prefix(prefix).count();
    assert_eq!(
        ["", "0198", "0198FFFF-0", "00000000-", "0198-fff", "2", "x"].map(count),
        [3, 2, 1, 1, 1, 0, 0]
    );
    let whole = job(3).to_string();
    assert_eq!((count(&whole), count(&format!("{whole}0"))), (1, 0));
}
