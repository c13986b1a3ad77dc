//! Random sequences of events: invariants hold after each, and a restart changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use trainyard_scheduler_core::{
    AgentStatus, Content, Core, CoreConfig, Event, Hello, JobGroupRecord, Output, Policy, UserLimits,
};
use trainyard_types::trainer::{Epoch, TrainerEvent};
use trainyard_types::{
    AgentId, AttemptId, Checkpoint, EndReason, GpuUuid, JobGroupId, JobId, JobSpec, Report, ReportBody,
    Resources, Session, SlotReleased, UnavailableCause, UnfitKind,
};

use crate::job_groups::sweep;
use crate::world::{
    World, agent, attempt, closed, cpu_spec, ended, fitness, hello, job, rtx_4090, rtx_5070, spec, started,
    unfit,
};

const AGENTS: u128 = 3;
const REASONS: [EndReason; 13] = [
    EndReason::Completed,
    EndReason::BadSpec,
    EndReason::GpuOom,
    EndReason::HostOom,
    EndReason::TrainerCrash,
    EndReason::GpuFault,
    EndReason::AgentLost,
    EndReason::Preempted,
    EndReason::Drained,
    EndReason::Cancelled,
    EndReason::TimeLimit,
    EndReason::AgentUnfit,
    EndReason::Stalled,
];

/// One happening, in terms that make sense in any state.
#[derive(Debug, Clone)]
enum Step {
    Submit {
        number: u128,
        request: Option<u8>,
        kind: u8,
    },
    /// One of three batches, as a sweep or one by one.
    Batch {
        number: u128,
        sweep: bool,
    },
    CancelBatch(u128),
    /// The archive of the oldest job that waits for one.
    Archived(bool),
    Cancel(u128),
    Retry(u128),
    Priority {
        job: u128,
        priority: i32,
    },
    /// With the attempts that the agent holds, but for the `forget`-th; `extra` is held without right.
    Connect {
        agent: u128,
        forget: Option<usize>,
        extra: Option<(u128, u32)>,
    },
    Disconnect(u128),
    /// One of the agent's GPUs is or is not in use by others, by the kind.
    Heartbeat {
        agent: u128,
        stale: bool,
        kind: u8,
    },
    Drain {
        agent: u128,
        keep_running: bool,
    },
    Resume(u128),
    ForgetAgent(u128),
    Reserve {
        agent: u128,
        gpu: usize,
        seconds: u64,
    },
    Release {
        agent: u128,
        gpu: usize,
    },
    Clear {
        agent: u128,
        gpu: usize,
    },
    /// On the job's newest attempt, by its own agent or by another one.
    Report {
        job: u128,
        ahead: i8,
        body: u8,
        impostor: bool,
    },
    Pass {
        seconds: u64,
    },
    Tick,
    /// GPUs that users may use at a time; 0 is no limit.
    Limits(u32),
}

fn step() -> impl Strategy<Value = Step> {
    // Above 6: a batch's.
    let job = 1..=12_u128;
    let agent = 1..=AGENTS;
    prop_oneof![
        1 => (1..=3_u128, any::<bool>()).prop_map(|(number, sweep)| Step::Batch { number, sweep }),
        1 => (1..=3_u128).prop_map(Step::CancelBatch),
        2 => prop::bool::weighted(0.8).prop_map(Step::Archived),
        3 => (1..=6_u128, prop::option::of(0..3_u8), 0..5_u8)
            .prop_map(|(number, request, kind)| Step::Submit { number, request, kind }),
        1 => job.clone().prop_map(Step::Cancel),
        1 => job.clone().prop_map(Step::Retry),
        2 => (job.clone(), -1..=1_i32).prop_map(|(job, priority)| Step::Priority { job, priority }),
        3 => (agent.clone(), prop::option::of(0..2_usize), prop::option::of((job.clone(), 1..4_u32)))
            .prop_map(|(agent, forget, extra)| Step::Connect { agent, forget, extra }),
        1 => agent.clone().prop_map(Step::Disconnect),
        4 => (agent.clone(), prop::bool::weighted(0.3), 0..11_u8)
            .prop_map(|(agent, stale, kind)| Step::Heartbeat { agent, stale, kind }),
        1 => (agent.clone(), any::<bool>())
            .prop_map(|(agent, keep_running)| Step::Drain { agent, keep_running }),
        2 => agent.clone().prop_map(Step::Resume),
        1 => agent.clone().prop_map(Step::ForgetAgent),
        1 => (agent.clone(), 0..3_usize, 1..60_u64)
            .prop_map(|(agent, gpu, seconds)| Step::Reserve { agent, gpu, seconds }),
        1 => (agent.clone(), 0..3_usize).prop_map(|(agent, gpu)| Step::Release { agent, gpu }),
        1 => (agent, 0..3_usize).prop_map(|(agent, gpu)| Step::Clear { agent, gpu }),
        8 => (job, prop_oneof![8 => Just(1_i8), 1 => -1..=3_i8], 0..23_u8, prop::bool::weighted(0.1))
            .prop_map(|(job, ahead, body, impostor)| Step::Report { job, ahead, body, impostor }),
        2 => (1..40_u64).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Tick),
        1 => (0..4_u32).prop_map(Step::Limits),
    ]
}

fn spec_of(kind: u8) -> JobSpec {
    let resources = Resources { min_vram_mib: 20480, ..Resources::default() };
    match kind {
        0 => cpu_spec(),
        1 => spec(),
        2 => JobSpec { resources, ..spec() },
        3 => JobSpec { priority: 7, max_retries: 0, ..spec() },
        _ => JobSpec { time_limit: Some(Duration::from_secs(30)), ..spec() },
    }
}

/// Tight enough for every limit to be met.
fn config() -> CoreConfig {
    let bob = UserLimits { weight: 3, running_gpus: Some(1), queued_jobs: Some(6) };
    CoreConfig {
        users: BTreeMap::from([("bob".to_owned(), bob)]),
        share_half_life: Duration::from_secs(60),
        keep_finished_for: Duration::from_secs(100),
        keep_finished: 3,
        ..CoreConfig::default()
    }
}

fn batch(number: u128) -> JobGroupId {
    JobGroupId(uuid::Uuid::from_u128(number << 96))
}

/// Jobs above 6 are the first ones of the batches.
fn any_job(number: u128) -> JobId {
    match number {
        0..=6 => job(number),
        7..=9 => batch(number - 6).job(0),
        _ => batch(number - 9).job(1),
    }
}

fn held_by(core: &Core, id: AgentId) -> Vec<AttemptId> {
    core.agent(id).map(|agent| agent.running.values().copied().collect()).unwrap_or_default()
}

fn hello_of(number: u128, attempts: Vec<AttemptId>) -> Hello {
    let gpus = match number {
        1 => vec![],
        2 => vec![rtx_5070("2a")],
        _ => vec![rtx_5070("3a"), rtx_4090("3b")],
    };
    hello(number, gpus, u32::from(number == 1), attempts)
}

/// From the given one on; one too far is none of them.
fn gpus_of(number: u128, from: usize) -> Vec<GpuUuid> {
    let gpus = hello_of(number, vec![]).inventory.gpus;
    gpus.into_iter().map(|gpu| gpu.uuid).chain([GpuUuid("GPU-none".into())]).skip(from).take(1).collect()
}

fn status_of(number: u128, kind: u8) -> AgentStatus {
    let gpus = hello_of(number, vec![]).inventory.gpus;
    let causes = [UnavailableCause::Owner, UnavailableCause::ForeignUse, UnavailableCause::Quarantined];
    let paths = |roots: &[(&str, &str)], missing: &[&str]| fitness(roots, missing);
    match (kind, gpus.first(), gpus.last()) {
        (8, ..) => paths(&[("/data", "")], &["/data/data.yaml"]),
        (9, ..) => paths(&[("/data", "stale")], &[]),
        (10, ..) => paths(&[("/other", "")], &[]),
        (0..=2, Some(first), _) => closed(first, causes[usize::from(kind)]),
        (3, _, Some(last)) => closed(last, UnavailableCause::Quarantined),
        (4, ..) => AgentStatus { unavailable: "its disk is full".into(), ..AgentStatus::default() },
        _ => AgentStatus::default(),
    }
}

fn body_of(kind: u8) -> ReportBody {
    match kind {
        0..=2 => started(),
        3 => ReportBody::CheckpointStored(Checkpoint { step: 5, epoch: 1, files: vec![] }),
        4 | 5 => ended(EndReason::TrainerCrash),
        19 | 20 => {
            ReportBody::SlotReleased(SlotReleased { waits_for: String::new(), is_trained: kind == 19 })
        }
        21 => unfit(UnfitKind::PathMissing, "/data/data.yaml"),
        22 => unfit(UnfitKind::TrainerMissing, ""),
        17 | 18 => {
            let (images_per_second, seconds) = (100.0 * f64::from(kind - 16), 10.0);
            let epoch = Epoch { epoch: 1, epochs: 9, images_per_second, seconds, ..Epoch::default() };
            ReportBody::Trainer(TrainerEvent::Epoch(epoch))
        }
        kind => ended(REASONS[(usize::from(kind) - 6) % REASONS.len()]),
    }
}

fn limits_of(gpus: u32) -> Event {
    let usual = UserLimits { running_gpus: Some(gpus).filter(|gpus| *gpus > 0), ..UserLimits::default() };
    Event::LimitsChanged { usual, users: config().users }
}

/// A batch that is submitted, as a sweep or one by one.
fn group_of(number: u128, is_sweep: bool, created: trainyard_types::Time) -> Event {
    let specs = || (0..3).map(|kind| Arc::new(spec_of(kind))).collect();
    let content = if is_sweep { Content::Sweep(sweep()) } else { Content::Specs(specs()) };
    let user = if number == 1 { "bob" } else { "cleo" };
    let request_id = Some(format!("batch-{}", number / 2));
    let record = JobGroupRecord { id: batch(number), user: user.into(), request_id, content, created };
    Event::SubmitGroup { group: Arc::new(record) }
}

/// Turns a step into an event for this state; `None` when it only moves time or makes no sense.
fn event(
    core: &Core,
    archives: &[JobId],
    next_session: &mut u64,
    now: trainyard_types::Time,
    step: &Step,
) -> Option<Event> {
    let session_of = |id: AgentId| core.agent(id).and_then(|agent| agent.session);
    Some(match *step {
        Step::Submit { number, request, kind } => {
            if core.job(job(number)).is_some() && request.is_none() {
                return None;
            }
            // The driver draws a new id each time; here the request decides it.
            let number = request.map_or(number, |request| 100 + u128::from(request));
            let request_id = request.map(|request| format!("r{request}"));
            let user = if number.is_multiple_of(2) { "ada" } else { "bob" };
            Event::Submit { request_id, job: job(number), user: user.into(), spec: spec_of(kind) }
        }
        Step::Batch { number, .. } if core.group(batch(number)).is_some() => return None,
        Step::Batch { number, sweep: is_sweep } => group_of(number, is_sweep, now),
        Step::CancelBatch(number) => Event::CancelMany { jobs: core.group(batch(number))?.ids().collect() },
        Step::Archived(done) => {
            let job = *archives.first()?;
            let revision = core.job(job).filter(|_| done).map(|job| job.revision);
            Event::Archived { job, revision }
        }
        Step::Cancel(number) => Event::Cancel { job: any_job(number) },
        Step::Retry(number) => Event::Retry { job: any_job(number) },
        Step::Priority { job, priority } => Event::SetPriority { job: any_job(job), priority },
        Step::Connect { agent: number, forget, extra } => {
            let mut held = held_by(core, agent(number));
            if let Some(forget) = forget.filter(|&forget| forget < held.len()) {
                held.remove(forget);
            }
            held.extend(extra.map(|(job, number)| attempt(job, number)));
            *next_session += 1;
            Event::AgentConnected { session: Session(*next_session), hello: hello_of(number, held) }
        }
        Step::Disconnect(number) => {
            Event::AgentDisconnected { agent: agent(number), session: session_of(agent(number))? }
        }
        Step::Heartbeat { agent: number, stale, kind } => {
            let session = if stale { Session(1) } else { session_of(agent(number))? };
            Event::Heartbeat { agent: agent(number), session, status: status_of(number, kind) }
        }
        Step::Drain { agent: number, keep_running } => Event::Drain { agent: agent(number), keep_running },
        Step::Resume(number) => Event::Resume { agent: agent(number) },
        Step::ForgetAgent(number) => Event::ForgetAgent { agent: agent(number) },
        Step::Reserve { agent: number, gpu, seconds } => {
            let span = Duration::from_secs(seconds);
            Event::Reserve { agent: agent(number), gpus: gpus_of(number, gpu), span }
        }
        Step::Release { agent: number, gpu } => {
            Event::Release { agent: agent(number), gpus: gpus_of(number, gpu) }
        }
        Step::Clear { agent: number, gpu } => {
            // One too far is all of them.
            let gpu = gpus_of(number, gpu).pop().filter(|gpu| gpu.0 != "GPU-none");
            Event::ClearGpu { agent: agent(number), gpu }
        }
        Step::Report { job: number, ahead, body, impostor } => {
            let newest = core.job(any_job(number))?.attempts.last()?;
            let from = if impostor { agent(number % AGENTS + 1) } else { newest.agent };
            let sequence = newest.last_sequence.saturating_add_signed(ahead.into());
            let report = Report { attempt: newest.id, sequence, time: now, body: body_of(body) };
            Event::Report { agent: from, session: session_of(from)?, report }
        }
        Step::Pass { .. } => return None,
        Step::Tick => Event::Tick,
        Step::Limits(gpus) => limits_of(gpus),
    })
}

/// `World` checks invariants and writes after every event.
fn run(world: &mut World, sessions: &mut u64, steps: &[Step]) {
    for step in steps {
        if let Step::Pass { seconds } = step {
            world.pass(Duration::from_secs(*seconds));
        }
        if let Some(event) = event(&world.core, &world.archives, sessions, world.now, step) {
            world.handle(event);
        }
    }
}

/// Ends all sessions of the running core and gives it the tick that a loaded one has no need of, so
/// that both stand at the same point.
fn settle(world: &mut World) {
    for number in 1..=AGENTS {
        world.disconnect(number);
    }
    world.handle(Event::Tick);
    // Archives that were asked for are asked for again after a restart; here none is left.
    while let Some(&job) = world.archives.first() {
        let revision = world.core.job(job).map(|job| job.revision);
        world.handle(Event::Archived { job, revision });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_after_any_sequence_of_events(
        policy in prop::sample::select(Policy::ALL.to_vec()),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        run(&mut World::with(CoreConfig { policy, ..config() }), &mut 1, &steps);
    }

    #[test]
    fn a_restarted_core_goes_on_as_if_nothing_had_been(
        before in prop::collection::vec(step(), 1..50),
        after in prop::collection::vec(step(), 1..50),
    ) {
        let (mut world, mut sessions) = (World::with(config()), 1);
        // After an archive that failed there is a pause, which a restart cuts short.
        let worked = |step: &Step| if matches!(step, Step::Archived(_)) { Step::Archived(true) } else { step.clone() };
        let before: Vec<Step> = before.iter().map(worked).collect();
        run(&mut world, &mut sessions, &before);
        settle(&mut world);
        // Limits are no state: a restarted scheduler reads them in its configuration.
        let CoreConfig { user_limits: usual, users, .. } = config();
        world.handle(Event::LimitsChanged { usual, users });
        let mut loaded = Core::load(config(), world.now, world.store.stored());
        // Every agent comes back and holds what it held.
        let mut events: Vec<Event> = Vec::new();
        for number in 1..=AGENTS {
            sessions += 1;
            let hello = hello_of(number, held_by(&world.core, agent(number)));
            events.push(Event::AgentConnected { session: Session(sessions), hello });
        }
        for event in events {
            same(&mut world, &mut loaded, &event)?;
        }
        prop_assert_eq!(loaded.next_deadline(), world.core.next_deadline());
        for step in &after {
            if let Step::Pass { seconds } = step {
                world.now = world.now + Duration::from_secs(*seconds);
                same(&mut world, &mut loaded, &Event::Tick)?;
            }
            if let Some(event) = event(&world.core, &world.archives, &mut sessions, world.now, step) {
                same(&mut world, &mut loaded, &event)?;
            }
        }
        let records = |core: &Core| core.jobs().map(|job| (job.id, job.clone())).collect::<BTreeMap<_, _>>();
        prop_assert_eq!(records(&world.core), records(&loaded));
    }
}

fn same(world: &mut World, loaded: &mut Core, event: &Event) -> Result<(), TestCaseError> {
    let expected: Output = world.handle(event.clone());
    prop_assert_eq!(loaded.handle(world.now, event.clone()), expected);
    Ok(())
}
