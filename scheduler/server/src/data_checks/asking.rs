//! One check: which agents are asked, one after the other or all at once, and what their answers mean together.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};
use trainyard_proto::convert::agent::DataChecked;
use trainyard_scheduler_core::{Absent, DataCheckers};
use trainyard_types::size::counted;
use trainyard_types::{AgentId, DataCheck, DataToCheck, JobSpec, Time};

use super::DataChecks;
use super::findings::{Finding, Unchecked};
use super::sessions::Reply;
use crate::driver::StateView;

/// Agents that are asked for one check, one after the other, if those before do not see the data.yaml.
const MOST_ASKED: usize = 3;
/// Agents that are asked at once for what a data.yaml names, if the first one lacks it.
const MOST_AT_ONCE: usize = 64;
/// An agent that was not heard of for so long is not expected to come back with a data set.
const GONE_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// The end of asking one agent.
enum Asked {
    Answered(DataChecked),
    /// It has left, or does not read what it is sent.
    Gone,
    TooLate,
}

/// The one data set of a check, and until when it is looked at.
#[derive(Clone)]
struct Question {
    data: DataToCheck,
    deadline: Instant,
}

impl DataChecks {
    /// Asks agents one after the other, until one can tell.
    pub(super) async fn run(&self, spec: &JobSpec) -> Finding {
        let question = Question { data: DataToCheck::from(&spec.train), deadline: self.deadline() };
        let wanted = spec.clone();
        let ask = move |state: &mut StateView<'_>| state.core.data_checkers(&wanted);
        let checkers = timeout_at(question.deadline, self.0.driver.ask_leader(ask)).await;
        let Ok(Ok(DataCheckers { asked, absent })) = checkers else {
            return Finding::Unchecked(Unchecked::Closing);
        };
        if asked.is_empty() {
            return Finding::Unchecked(Unchecked::NobodyCould);
        }
        let (mut agents, mut unseen) = (asked.into_iter(), None);
        for agent in agents.by_ref().take(MOST_ASKED) {
            match self.ask(agent, &question).await {
                Asked::Answered(DataChecked::Checked(check)) => return Finding::from(check),
                Asked::Answered(DataChecked::SeenInPart(check)) => {
                    let elsewhere = self.ask_all(agents.collect(), &question).await;
                    return elsewhere.finding(check, &absent);
                }
                Asked::Answered(DataChecked::NotSeen(why)) => {
                    debug!(%agent, data = %question.data.data.display(), why, "an agent does not see a data set");
                    unseen = Some(why);
                }
                Asked::Answered(DataChecked::NotChecked(why)) => {
                    warn!(%agent, data = %question.data.data.display(), why, "a data set was not checked, jobs queue without");
                    let left = question.deadline.saturating_duration_since(Instant::now());
                    let took_long = left <= self.0.time_limit / 10;
                    return Finding::Unchecked(if took_long {
                        Unchecked::TooLong(self.0.time_limit)
                    } else {
                        Unchecked::NoAnswer(why)
                    });
                }
                Asked::TooLate => {
                    let seconds = self.0.time_limit.as_secs();
                    warn!(%agent, data = %question.data.data.display(), seconds, "a data set was not checked in time, jobs queue without");
                    return Finding::Unchecked(Unchecked::TooLong(self.0.time_limit));
                }
                Asked::Gone => {}
            }
        }
        Finding::Unchecked(unseen.map_or(Unchecked::Gone, Unchecked::Unseen))
    }

    /// Asks many agents at once for what one of them lacks.
    async fn ask_all(&self, agents: Vec<AgentId>, question: &Question) -> Elsewhere {
        let mut elsewhere =
            Elsewhere { left: agents.len().saturating_sub(MOST_AT_ONCE), ..Elsewhere::default() };
        let (sender, mut answers) = mpsc::channel(MOST_AT_ONCE);
        for agent in agents.into_iter().take(MOST_AT_ONCE) {
            let (checks, question, sender) = (self.clone(), question.clone(), sender.clone());
            // Each waits for its agent, also when another one has answered: so nothing is left of it.
            self.0.tasks.spawn(async move {
                // Nobody may wait any more.
                let _ = sender.send(checks.ask(agent, &question).await).await;
            });
        }
        drop(sender);
        while let Some(asked) = answers.recv().await {
            match asked {
                Asked::Answered(DataChecked::Checked(check)) => {
                    elsewhere.check = Some(check);
                    break;
                }
                Asked::Answered(DataChecked::SeenInPart(_)) => elsewhere.in_part += 1,
                Asked::Answered(DataChecked::NotSeen(_)) => {}
                Asked::Answered(DataChecked::NotChecked(_)) | Asked::TooLate | Asked::Gone => {
                    elsewhere.left += 1;
                }
            }
        }
        elsewhere
    }

    async fn ask(&self, agent: AgentId, question: &Question) -> Asked {
        let Question { data, deadline } = question;
        // Less, so that an agent that works at it can say that it takes too long.
        let time_limit = deadline.saturating_duration_since(Instant::now()) * 9 / 10;
        let Some(Reply { id, answer }) = self.state().sessions.ask(agent, data, time_limit) else {
            return Asked::Gone;
        };
        match timeout_at(*deadline, answer).await {
            Ok(Ok(answer)) => Asked::Answered(answer),
            Ok(Err(_)) => Asked::Gone,
            Err(_) => {
                self.state().sessions.give_up(id);
                Asked::TooLate
            }
        }
    }
}

/// What other agents say of a data set of which one lacks a part.
#[derive(Debug, Default)]
struct Elsewhere {
    /// Of the first one that sees all of it.
    check: Option<DataCheck>,
    /// Agents that lack a part as well.
    in_part: usize,
    /// Agents that could not tell.
    left: usize,
}

impl Elsewhere {
    /// What is known, when `first` is what one agent found missing and `absent` could not be asked.
    fn finding(self, first: DataCheck, absent: &[Absent]) -> Finding {
        if let Some(check) = self.check {
            return check.into();
        }
        let missing = first.errors.first().cloned().unwrap_or_default();
        let now = Time::now();
        let may_come = |agent: &&Absent| agent.is_connected || agent.last_seen + GONE_AFTER > now;
        if let Some(agent) = absent.iter().find(may_come) {
            let why = if agent.is_connected { "is too old to look" } else { "is not connected" };
            return Finding::Unchecked(Unchecked::InPart {
                missing,
                left: format!("agent {}, which {why}, may have it", agent.name),
            });
        }
        if self.left > 0 {
            let left = format!("{} did not answer", counted(self.left, "other agent"));
            return Finding::Unchecked(Unchecked::InPart { missing, left });
        }
        Finding::Unusable(Arc::new(looked_everywhere(first, 1 + self.in_part)))
    }
}

/// The errors, of which the first one says on how many agents was looked.
fn looked_everywhere(mut check: DataCheck, agents: usize) -> DataCheck {
    if let Some(first) = check.errors.first_mut() {
        let agents = counted(agents, "agent");
        first.push_str(&format!("; looked on {agents}: all that see the data.yaml and could run the job"));
    }
    check
}

impl From<DataCheck> for Finding {
    fn from(check: DataCheck) -> Self {
        let is_usable = check.is_usable();
        let check = Arc::new(check);
        if is_usable { Self::Usable(check) } else { Self::Unusable(check) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absent(name: &str, is_connected: bool, ago: Duration) -> Absent {
        let last_seen = Time(Time::now().0.saturating_sub(u64::try_from(ago.as_millis()).unwrap()));
        Absent { name: name.into(), is_connected, last_seen }
    }

    fn finding(in_part: usize, left: usize, absent: &[Absent]) -> Finding {
        let first =
            DataCheck::new(&["data.yaml:1: `train: a` was not found; correct `train`".into()], &[], None);
        Elsewhere { check: None, in_part, left }.finding(first, absent)
    }

    #[test]
    fn what_no_agent_has_is_wrong_and_says_where_was_looked() {
        let Finding::Unusable(check) = finding(2, 0, &[absent("old", false, 2 * GONE_AFTER)]) else {
            panic!()
        };
        assert_eq!(
            check.errors,
            [
                "data.yaml:1: `train: a` was not found; correct `train`; looked on 3 agents: all that see the data.yaml \
              and could run the job"
            ]
        );
    }

    #[test]
    fn what_an_agent_may_have_that_cannot_be_asked_is_only_not_checked() {
        for (left, absent, told) in [
            (1, vec![], "1 other agent did not answer"),
            (
                0,
                vec![absent("lab-4", false, Duration::from_secs(3600))],
                "agent lab-4, which is not connected, may",
            ),
            (0, vec![absent("lab-5", true, Duration::ZERO)], "agent lab-5, which is too old to look, may"),
        ] {
            match finding(0, left, &absent) {
                Finding::Unchecked(Unchecked::InPart { left, .. }) => {
                    assert!(left.starts_with(told), "{left}");
                }
                other => panic!("{other:?}"),
            }
        }
        let usable = Elsewhere { check: Some(DataCheck::default()), in_part: 3, left: 3 };
        assert!(matches!(usable.finding(DataCheck::default(), &[]), Finding::Usable(_)));
    }
}
