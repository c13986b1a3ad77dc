//! What always holds between two events, checked in tests, in the simulator and in debug builds.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_types::{AgentId, AttemptId, DeviceKind, Fitness, JobGroupId, JobId, JobState, Slot};

use crate::engine::Core;
use crate::policy::Fault;
use crate::record::{AttemptRecord, JobRecord};
use crate::state::agents::check::AgentFault;
use crate::state::jobs::check::JobFault;
use crate::state::path_visibility::PathVisibility;

/// A state that contradicts itself: a bug of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The wrong number of live attempts for its state, or a live one that is not the newest.
    #[error("job {job} is {state} and has {live} live attempts")]
    LiveAttempts {
        job: JobId,
        state: JobState,
        /// How many attempts have no end.
        live: usize,
    },
    /// Attempt numbers are 1, 2, 3 and so on.
    #[error("attempt {attempt} stands at place {place} of its job")]
    AttemptNumber {
        attempt: AttemptId,
        /// The attempt's place among its job's attempts, from 1.
        place: usize,
    },
    /// Two live attempts on one slot.
    #[error("attempts {first} and {second} both live on one slot of agent {agent}")]
    SlotShared {
        /// The agent of the slot.
        agent: AgentId,
        first: AttemptId,
        second: AttemptId,
    },
    /// The agents' view of what runs is not what the jobs say.
    #[error("agent {0} is believed to run other attempts than the jobs say")]
    Running(AgentId),
    /// The queue is not the set of queued jobs, or a job is in it but neither ready nor delayed.
    #[error("job {0} is not where it belongs in the queue")]
    QueueIndex(JobId),
    /// The queue holds a job that is not queued.
    #[error("the queue holds {indexed} jobs, and {queued} jobs are queued")]
    QueueSize {
        /// Jobs by the index.
        indexed: usize,
        /// Jobs by the records.
        queued: usize,
    },
    /// The slots on offer are not those of connected agents, or the wrong ones are free.
    #[error("the index of slots does not match the agents")]
    SlotIndex,
    /// What agents are believed to read is not what they say.
    #[error("the index of what agents can read does not match them")]
    Visibility,
    /// Something could be placed and was not.
    #[error("job {0} could be placed and was not")]
    NotPlaced(JobId),
    /// A lease, a reservation or a cooldown without deadline, or the other way round.
    #[error("the deadlines do not match the agents")]
    Deadlines,
    /// An agent that is not found by its name, or a name that no agent has.
    #[error("the index of names does not match the agents")]
    Names,
    /// A request id that does not lead to its job.
    #[error("the request id of job {0} does not lead to it")]
    RequestIndex(JobId),
    /// The index of jobs by state, user and end is not what the jobs say.
    #[error("the index of jobs does not match them")]
    JobIndex,
    /// A user is believed to run more or less than its jobs say.
    #[error("user {0} is believed to run other attempts than its jobs say")]
    User(String),
    /// A job group that has more or fewer jobs left than it says.
    #[error("job group {0} has another number of jobs left than it says")]
    JobGroup(JobGroupId),
    /// The queues of the policy are not what the jobs say.
    #[error("the policy's queues do not match the jobs")]
    Policy,
    /// A record that cannot have been written: no revision, no event, a final state without an end.
    #[error("the record of job {0} contradicts itself")]
    Record(JobId),
}

/// What runs where, by the jobs.
type Live = BTreeMap<AgentId, BTreeMap<Slot, AttemptId>>;
/// Live attempts that hold no slot any more, by the jobs.
type HandingIn = BTreeMap<AgentId, BTreeSet<AttemptId>>;

/// Checks everything, in steps in the number of jobs and slots.
pub fn check(core: &Core) -> Result<(), Broken> {
    let mut live: Live = BTreeMap::new();
    let mut handing_in: HandingIn = BTreeMap::new();
    for job in core.jobs.iter() {
        check_job(job)?;
        let Some(attempt) = job.live_attempt() else { continue };
        if !attempt.holds_slots() {
            handing_in.entry(attempt.agent).or_default().insert(attempt.id);
        } else {
            for slot in attempt.slots() {
                let before = live.entry(attempt.agent).or_default().insert(slot.clone(), attempt.id);
                if let Some(first) = before {
                    return Err(Broken::SlotShared { agent: attempt.agent, first, second: attempt.id });
                }
            }
        }
    }
    core.jobs.check().map_err(|fault| match fault {
        JobFault::Queue(job) => Broken::QueueIndex(job),
        JobFault::QueueSize { indexed, queued } => Broken::QueueSize { indexed, queued },
        JobFault::Request(job) => Broken::RequestIndex(job),
        JobFault::ByState => Broken::JobIndex,
        JobFault::Group(group) => Broken::JobGroup(group),
        JobFault::TimeLimits => Broken::Deadlines,
    })?;
    check_users(core)?;
    check_agents(core, &live, &handing_in)?;
    core.agents.check().map_err(|fault| match fault {
        AgentFault::Slots => Broken::SlotIndex,
        AgentFault::Deadlines => Broken::Deadlines,
        AgentFault::Names => Broken::Names,
    })?;
    match core.policy.check(&core.view()) {
        Ok(()) => Ok(()),
        Err(Fault::NotPlaced(job)) => Err(Broken::NotPlaced(job)),
        Err(Fault::State) => Err(Broken::Policy),
    }
}

fn check_job(job: &JobRecord) -> Result<(), Broken> {
    for (index, attempt) in job.attempts.iter().enumerate() {
        let (place, number) = (index + 1, usize::try_from(attempt.id.number));
        if attempt.id.job != job.id || number != Ok(place) {
            return Err(Broken::AttemptNumber { attempt: attempt.id, place });
        }
    }
    let live = job.attempts.iter().filter(|attempt| attempt.ended.is_none()).count();
    let active = matches!(job.state, JobState::Starting | JobState::Running);
    if live != usize::from(active) || job.live_attempt().is_some() != active {
        return Err(Broken::LiveAttempts { job: job.id, state: job.state, live });
    }
    let running = job.live_attempt().is_some_and(|attempt| attempt.started.is_some());
    let sound = (job.revision > 0 || job.group.is_some())
        && job.last_cursor > 0
        && !job.state_reason.is_empty()
        && job.ended.is_some() == job.state.is_final()
        && running == (job.state == JobState::Running)
        && (job.not_before.is_none() || job.state == JobState::Queued)
        && (job.artifacts.is_empty() || job.state == JobState::Succeeded);
    if sound { Ok(()) } else { Err(Broken::Record(job.id)) }
}

fn check_users(core: &Core) -> Result<(), Broken> {
    let mut running: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for job in core.jobs.iter() {
        if job.live_attempt().is_some_and(AttemptRecord::holds_slots) {
            let (gpus, cpus) = running.entry(&job.user).or_default();
            let resources = &job.spec.resources;
            *(if resources.device == DeviceKind::Cpu { cpus } else { gpus }) += resources.gpus.max(1);
        }
    }
    for user in core.users.iter() {
        let name = user.record().name.as_str();
        if running.remove(name).unwrap_or_default() != user.running() {
            return Err(Broken::User(name.to_owned()));
        }
    }
    running.keys().next().map_or(Ok(()), |&unknown| Err(Broken::User(unknown.to_owned())))
}

fn check_agents(core: &Core, live: &Live, handing_in: &HandingIn) -> Result<(), Broken> {
    if let Some(stranger) = live.keys().find(|agent| core.agents.get(**agent).is_none()) {
        return Err(Broken::Running(*stranger));
    }
    let mut visibility = PathVisibility::default();
    for (id, agent) in core.agents.iter() {
        visibility.note(id, &Fitness::default(), agent.fitness());
        if handing_in.get(&id).unwrap_or(&BTreeSet::new()) != agent.handing_in()
            || live.get(&id).unwrap_or(&BTreeMap::new()) != agent.running()
        {
            return Err(Broken::Running(id));
        }
    }
    let is_followed = visibility == *core.jobs.visibility() && core.jobs.queue().agrees_with(&visibility);
    if is_followed { Ok(()) } else { Err(Broken::Visibility) }
}

#[cfg(test)]
mod tests {
    use trainyard_types::{Inventory, JobSpec, ModelScale, Resources, Session, Time, TrainSpec};
    use uuid::Uuid;

    use super::*;
    use crate::state::deadlines::AgentDeadlines;
    use crate::state::slots::Slots;
    use crate::{CoreConfig, Event, Hello};

    const JOB: JobId = JobId(Uuid::from_u128(1));
    const OTHER: JobId = JobId(Uuid::from_u128(2));
    const AGENT: AgentId = AgentId(Uuid::from_u128(3));

    /// One job on the agent's CPU slot, and one that waits.
    fn core() -> Core {
        let mut core = Core::new(CoreConfig::default());
        let inventory = Inventory { cpu_slots: 1, ..Inventory::default() };
        let hello = Hello::new(AGENT, String::new(), String::new(), inventory);
        core.handle(Time(1), Event::AgentConnected { session: Session(1), hello });
        for job in [JOB, OTHER] {
            let spec = JobSpec {
                resources: Resources { device: DeviceKind::Cpu, ..Resources::default() },
                ..JobSpec::new(TrainSpec::new(ModelScale::N, "/data.yaml"))
            };
            let request_id = Some(job.to_string());
            core.handle(Time(1), Event::Submit { request_id, job, user: String::new(), spec });
        }
        assert_eq!(check(&core), Ok(()));
        core
    }

    fn broken(change: impl FnOnce(&mut Core)) -> Option<Broken> {
        let mut core = core();
        change(&mut core);
        check(&core).err()
    }

    fn job(core: &mut Core, id: JobId) -> &mut JobRecord {
        core.jobs.records_mut().get_mut(&id).unwrap()
    }

    #[test]
    fn a_queue_that_misses_a_job_is_found() {
        let found = broken(|core| core.jobs.remove_from_queue(OTHER));
        assert_eq!(found, Some(Broken::QueueIndex(OTHER)));
    }

    #[test]
    fn a_state_that_does_not_fit_its_attempts_is_found() {
        let found = broken(|core| job(core, JOB).state = JobState::Succeeded);
        assert_eq!(found, Some(Broken::LiveAttempts { job: JOB, state: JobState::Succeeded, live: 1 }));
    }

    #[test]
    fn a_wrong_attempt_number_is_found() {
        let found = broken(|core| job(core, JOB).attempts[0].id.number = 2);
        assert!(matches!(found, Some(Broken::AttemptNumber { place: 1, .. })), "{found:?}");
    }

    #[test]
    fn two_attempts_on_one_slot_are_found() {
        let found = broken(|core| {
            let mut second = core.jobs.get(JOB).unwrap().clone();
            (second.id, second.attempts[0].id.job) = (OTHER, OTHER);
            core.jobs.remove_from_queue(OTHER);
            second.request_id = None;
            core.jobs.records_mut().insert(OTHER, second);
        });
        assert!(matches!(found, Some(Broken::SlotShared { agent: AGENT, .. })), "{found:?}");
    }

    #[test]
    fn a_slot_that_is_free_and_not_offered_is_found() {
        let found = broken(|core| *core.agents.slots_mut() = Slots::default());
        assert_eq!(found, Some(Broken::SlotIndex));
    }

    #[test]
    fn a_lease_without_deadline_is_found() {
        assert_eq!(
            broken(|core| *core.agents.deadlines_mut() = AgentDeadlines::default()),
            Some(Broken::Deadlines)
        );
    }

    #[test]
    fn a_forgotten_request_is_found() {
        assert_eq!(broken(|core| core.jobs.requests_mut().clear()), Some(Broken::RequestIndex(JOB)));
    }

    #[test]
    fn a_record_that_contradicts_itself_is_found() {
        assert_eq!(broken(|core| job(core, JOB).ended = Some(Time(1))), Some(Broken::Record(JOB)));
    }
}
