//! Ids of other people's jobs, where jobs are shown to their users alone: no message has one for whoever may not see the
//! job. Messages are made whole first, since many callers share them.

use std::collections::BTreeMap;
use std::sync::Arc;

use trainyard_proto::pb;
use trainyard_types::JobId;

use crate::access::Caller;
use crate::driver::StateView;

/// An agent, and whose jobs are on its slots. Whoever wants the message says for whom it is.
#[derive(Debug, Clone)]
pub struct ShownAgent {
    agent: pb::Agent,
    /// The user of each job, by the job's id.
    users: BTreeMap<String, Arc<str>>,
}

impl ShownAgent {
    pub fn new(state: &StateView<'_>, agent: pb::Agent) -> Self {
        let jobs = slots(&agent).filter(|id| !id.is_empty());
        let user = |id: &str| Some((id.to_owned(), state.core.job(id.parse().ok()?)?.user.clone()));
        let users = jobs.filter_map(user).collect();
        Self { agent, users }
    }

    /// Of an agent whose jobs are nobody's.
    #[cfg(test)]
    pub const fn idle(agent: pb::Agent) -> Self {
        Self { agent, users: BTreeMap::new() }
    }

    pub fn id(&self) -> &str {
        &self.agent.id
    }

    /// The same but for what changes with every heartbeat.
    pub fn is_like(&self, other: &Self) -> bool {
        let still =
            |agent: &pb::Agent| pb::Agent { last_seen_time: None, clock_offset: None, ..agent.clone() };
        still(&self.agent) == still(&other.agent)
    }

    /// The message for a caller.
    pub fn seen_by(&self, caller: &Caller) -> pb::Agent {
        let mut agent = self.agent.clone();
        if caller.sees_only().is_none() {
            return agent;
        }
        let hide = |job_id: &mut String, reason: &mut String, unavailable: &mut Option<pb::Unavailable>| {
            let own = std::mem::take(job_id);
            let is_seen = self.users.get(&own).is_some_and(|user| caller.sees(user));
            let shown = if is_seen { own } else { String::new() };
            hide_ids(reason, &shown);
            if let Some(unavailable) = unavailable {
                hide_ids(&mut unavailable.message, &shown);
            }
            *job_id = shown;
        };
        for gpu in &mut agent.gpus {
            hide(&mut gpu.job_id, &mut gpu.status_reason, &mut gpu.unavailable);
        }
        for slot in &mut agent.cpu_slots {
            hide(&mut slot.job_id, &mut slot.status_reason, &mut slot.unavailable);
        }
        let texts = agent.notices.iter_mut().chain([&mut agent.unavailable]);
        texts.for_each(|text| hide_ids(text, ""));
        agent
    }
}

fn slots(agent: &pb::Agent) -> impl Iterator<Item = &str> {
    let gpus = agent.gpus.iter().map(|gpu| gpu.job_id.as_str());
    gpus.chain(agent.cpu_slots.iter().map(|slot| slot.job_id.as_str()))
}

/// A job that its caller sees, for that caller: what it says of other jobs is without their ids.
pub fn in_job(mut job: pb::Job, caller: &Caller) -> pb::Job {
    if caller.sees_only().is_none() {
        return job;
    }
    let own = job.id.clone();
    for text in [&mut job.state_reason, &mut job.waiting_for, &mut job.waiting_sentence] {
        hide_ids(text, &own);
    }
    for attempt in &mut job.attempts {
        hide_ids(&mut attempt.message, &own);
        attempt.placement_reasons.iter_mut().for_each(|reason| hide_ids(reason, &own));
        if let Some(unfit) = &mut attempt.unfit {
            hide_ids(&mut unfit.message, &own);
        }
        if let Some(choice) = &mut attempt.choice {
            choice.made_way_job_id.clear();
        }
    }
    job
}

/// An event of a job that its caller sees, for that caller.
pub fn in_event(mut event: pb::JobEvent, job: JobId, caller: &Caller) -> pb::JobEvent {
    use pb::job_event::Event;
    if caller.sees_only().is_none() {
        return event;
    }
    let own = job.to_string();
    match &mut event.event {
        Some(Event::StateChange(change)) => hide_ids(&mut change.reason, &own),
        Some(Event::LogLine(line)) => hide_ids(&mut line.message, &own),
        Some(Event::Metrics(_)) | None => {}
    }
    event
}

/// Digits and hyphens of an id.
const LENGTH: usize = 36;
/// What stands before a GPU's UUID, which may look like an id.
const OF_GPU: &str = "GPU-";

/// Takes the ids of jobs out of a sentence but for one; `job 0199… was preempted` becomes `another job was preempted`.
fn hide_ids(text: &mut String, own: &str) {
    let mut from = 0;
    while let Some(at) = next_id(text, from) {
        let end = at + LENGTH;
        if own == &text[at..end] || text[..at].ends_with(OF_GPU) {
            from = end;
            continue;
        }
        // An attempt's id is its job's with a number.
        let number = text[end..]
            .strip_prefix('/')
            .map_or(0, |rest| 1 + rest.bytes().take_while(u8::is_ascii_digit).count());
        let (noun, instead) = match &text[..at] {
            before if before.ends_with("attempt ") => ("attempt ", "an attempt of another job"),
            before if before.ends_with("job ") => ("job ", "another job"),
            before if before.ends_with("Job ") => ("Job ", "Another job"),
            _ => ("", "another job"),
        };
        let begin = at - noun.len();
        text.replace_range(begin..end + number, instead);
        from = begin + instead.len();
    }
}

/// Where the next id of a job or attempt begins: they are of version 7, those of agents are not.
fn next_id(text: &str, from: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let is_id = |at: &usize| {
        let Some(id) = bytes.get(*at..at + LENGTH) else { return false };
        let fits = |(place, byte): (usize, &u8)| match place {
            8 | 13 | 18 | 23 => *byte == b'-',
            14 => *byte == b'7',
            _ => byte.is_ascii_hexdigit(),
        };
        id.iter().enumerate().all(fits)
    };
    (from..bytes.len()).find(is_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_records::AccessRole;

    const OWN: &str = "019ab3c4-1f2e-7000-8000-000000000001";
    const OTHER: &str = "019ab3c4-1f2e-7000-8000-000000000002";

    fn caller(user: &str, sees_all: bool) -> Caller {
        let token = "0011223344556677".parse().unwrap();
        Caller::Person { user: user.into(), role: AccessRole::User, token, expires: None, sees_all }
    }

    #[test]
    fn a_sentence_loses_the_ids_of_other_jobs_and_nothing_else() {
        for (text, wanted) in [
            (
                format!("why here; job {OTHER} was preempted for it"),
                "why here; another job was preempted for it",
            ),
            (
                format!("the trainer of attempt {OTHER}/12 hangs"),
                "the trainer of an attempt of another job hangs",
            ),
            (format!("Job {OTHER} was preempted for it."), "Another job was preempted for it."),
            (format!("{OTHER}, {OTHER}"), "another job, another job"),
            ("waits for GPU-019ab3c4-1f2e-7000-8000-000000000003 of `é`".into(), ""),
            (format!("job {OWN} is it"), ""),
            ("agent 019ab3c4-1f2e-4000-8000-000000000003".into(), ""),
            ("019ab3c4-1f2e-7000-8000-00000000000".into(), ""),
        ] {
            let mut seen = text.clone();
            hide_ids(&mut seen, OWN);
            assert_eq!(seen, if wanted.is_empty() { text } else { wanted.to_owned() });
        }
    }

    #[test]
    fn slots_show_the_jobs_that_a_caller_sees() {
        let gpu = |job: &str| pb::Gpu { job_id: job.into(), status: "busy".into(), ..Default::default() };
        let slot = pb::CpuSlot {
            job_id: OTHER.into(),
            status_reason: format!("attempt {OTHER}/1 hangs"),
            ..Default::default()
        };
        let agent =
            pb::Agent { gpus: vec![gpu(OWN), gpu(OTHER)], cpu_slots: vec![slot], ..Default::default() };
        let users = [(OWN.to_owned(), "ada".into()), (OTHER.to_owned(), "bob".into())].into();
        let shown = ShownAgent { agent: agent.clone(), users };
        let seen = shown.seen_by(&caller("ada", false));
        assert_eq!(seen.gpus, [gpu(OWN), gpu("")]);
        assert_eq!(seen.cpu_slots[0].job_id, "");
        assert_eq!(seen.cpu_slots[0].status_reason, "an attempt of another job hangs");
        assert_eq!(shown.seen_by(&caller("ada", true)), agent);
        assert_eq!(shown.seen_by(&Caller::Anybody), agent);
    }

    #[test]
    fn a_job_and_its_events_name_no_other_job() {
        let choice = pb::PlacementChoice { made_way_job_id: OTHER.into(), ..Default::default() };
        let job = pb::Job {
            id: OWN.into(),
            state_reason: format!("is preempted for job {OTHER}, which takes about 3 h here"),
            attempts: vec![pb::Attempt { choice: Some(choice), ..Default::default() }],
            ..Default::default()
        };
        let line = pb::LogLine { message: format!("job {OTHER} was preempted for it"), level: 1 };
        let event = pb::JobEvent { event: Some(pb::job_event::Event::LogLine(line)), ..Default::default() };
        for (who, is_hidden) in [(caller("ada", false), true), (caller("ada", true), false)] {
            let told = format!(
                "{:?} {:?}",
                in_job(job.clone(), &who),
                in_event(event.clone(), OWN.parse().unwrap(), &who)
            );
            assert_eq!(!told.contains(OTHER), is_hidden, "{told}");
            assert!(told.contains(OWN));
        }
    }
}
