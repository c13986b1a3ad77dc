//! For whom a job waits whose paths some agents cannot see, and who is left out.

use crate::engine::Core;
use crate::policy::ClusterView;
use crate::state::agents::agent::AgentState;
use crate::state::queue::Request;

/// Agents that a sentence names one by one.
const NAMED: usize = 8;

impl Core {
    /// For whom a job waits whose paths some agents cannot see; `None` when no agent could run it anyway.
    pub(crate) fn waits_for_paths(&self, request: &Request) -> Option<String> {
        let paths = request.paths.as_ref()?;
        let by_words = self.jobs.visibility().is_inside(paths);
        let (mut waits, mut no) = (Vec::new(), Vec::new());
        for (_, agent) in self.agents.iter().filter(|(_, agent)| agent.could_run(request)) {
            let name = agent.name();
            match agent.why_unreadable(paths, by_words) {
                Some((words, _)) => no.push(format!("`{name}` cannot: {words}")),
                None => waits.push(match agent.state() {
                    AgentState::Disconnected => format!("`{name}` is not connected"),
                    AgentState::Lost => format!("`{name}` is lost"),
                    AgentState::Connected if agent.record().drain.is_some() => format!("`{name}` is drained"),
                    AgentState::Connected if !agent.is_open_to(request) => {
                        format!("`{name}` takes no such job now")
                    }
                    AgentState::Connected => format!("`{name}` has not been asked yet"),
                }),
            }
        }
        if waits.is_empty() && no.is_empty() {
            return None;
        }
        let what = paths.each().collect::<Vec<_>>().join(" and ");
        let mut words = format!("waits for an agent that can read {what}");
        for (part, named) in [(": ", waits), ("; ", no)] {
            if !named.is_empty() {
                words.push_str(part);
                words.push_str(&bounded(named.into_iter(), NAMED));
            }
        }
        Some(words)
    }
}

impl ClusterView<'_> {
    /// Agents with open slots that are left out, since they cannot see what a job names; an end of a sentence.
    pub(crate) fn left_out(&self, request: &Request) -> String {
        let excluded = self.queue().excluded(request);
        let (Some(paths), false) = (request.paths.as_ref(), excluded.is_empty()) else {
            return String::new();
        };
        let by_words = self.visibility().is_inside(paths);
        let agents = excluded.iter().filter_map(|id| self.agent(*id));
        let named: Vec<String> = agents
            .filter(|agent| agent.is_open_to(request))
            .filter_map(|agent| Some((agent, agent.why_unreadable(paths, by_words)?.0)))
            .map(|(agent, words)| format!("`{}` is left out: {words}", agent.name()))
            .collect();
        if named.is_empty() { String::new() } else { format!("; {}", bounded(named.into_iter(), NAMED)) }
    }
}

/// The first few, and how many more there are.
pub(crate) fn bounded(named: impl ExactSizeIterator<Item = String>, at_most: usize) -> String {
    let more = named.len().saturating_sub(at_most);
    let mut words: Vec<String> = named.take(at_most).collect();
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    words.join("; ")
}
