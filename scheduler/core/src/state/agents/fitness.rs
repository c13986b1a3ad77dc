//! Whether an agent's machine could run a job, by its own word.

use super::agent::{Agent, AgentState};
use crate::state::path_visibility::{JobPaths, Unreadable, is_stored, unreadable};
use crate::state::queue::Request;
use crate::state::slots;

impl Agent {
    /// Whether its machine has slots enough of one kind that the request is satisfied by.
    pub(crate) fn could_run(&self, request: &Request) -> bool {
        let wanted = request.gpus as usize;
        let kinds = slots::of_inventory(&self.record.inventory).into_values().map(|(kind, _)| kind);
        let mut fitting: Vec<_> = kinds.filter(|kind| kind.satisfies(request)).collect();
        fitting.sort();
        fitting.chunk_by(|one, other| one == other).any(|kind| kind.len() >= wanted)
    }

    /// Whether a slot that would do is open, busy or not.
    pub(crate) fn is_open_to(&self, request: &Request) -> bool {
        self.state() == AgentState::Connected
            && self.open_slots().values().any(|(kind, _)| kind.satisfies(request))
    }

    /// Why it cannot run a job with these paths, after its name, and whether that is its last word. Where words do not
    /// decide, they do so of an agent that cannot be asked.
    pub(crate) fn why_unreadable(&self, paths: &JobPaths, by_words: bool) -> Option<(String, bool)> {
        let by_words = by_words || self.state() != AgentState::Connected;
        Some(match unreadable(&self.status.fitness, paths, by_words)? {
            Unreadable::Outside => {
                let roots = self.status.fitness.data_roots.iter().flatten();
                let roots: Vec<&str> = roots.map(|root| root.path.as_str()).collect();
                let roots = if roots.is_empty() { "none".to_owned() } else { roots.join(", ") };
                (format!("{} is outside of its `data_roots` ({roots})", paths.data), true)
            }
            Unreadable::CannotFetch => {
                let words = "it fetches nothing from the cluster's store: its version is too old, or its cache is off";
                (words.to_owned(), false)
            }
            Unreadable::Root(root, problem) => (format!("{root} cannot be read now: {problem}"), false),
            Unreadable::Path(path) => {
                let message = self.path_messages.get(path).cloned();
                // What does not come from the store today comes when that is mended.
                (message.unwrap_or_else(|| format!("{path} cannot be read there")), !is_stored(path))
            }
        })
    }
}
