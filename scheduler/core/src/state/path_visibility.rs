//! Which agents can read the paths that jobs name: by the directories that they let jobs read, and by what they
//! were asked for in vain.
//!
//! As of the newest word of each; nothing of it is stored. Where every agent reads everything, nothing is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use trainyard_types::{AgentId, DataRoot, Fitness};

use crate::record::JobRecord;
use crate::state::job_group::Content;

/// The paths that a job names on the machine that trains it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobPaths {
    /// The data set's data.yaml.
    pub data: String,
    /// Weights to begin from; empty when it names none.
    pub pretrained: String,
}

impl JobPaths {
    /// With what a sweep's grid says of this job.
    pub(crate) fn of(job: &JobRecord) -> Self {
        // All values of an axis set one field: making the spec is worth it only where that is a path.
        let is_varied = job.group.as_ref().is_some_and(|member| match &member.group.content {
            Content::Specs(_) => false,
            Content::Sweep(sweep) => sweep
                .axes
                .iter()
                .filter_map(|axis| axis.values.first())
                .any(|(_, patch)| patch.data.is_some() || patch.pretrained.is_some()),
        });
        let full = is_varied.then(|| job.full_spec());
        let train = full.as_ref().map_or(&job.spec.train, |spec| &spec.train);
        let words = |path: &Path| path.to_string_lossy().into_owned();
        Self { data: words(&train.data), pretrained: words(&train.pretrained) }
    }

    /// The paths that the job names, without the empty one.
    pub(crate) fn each(&self) -> impl Iterator<Item = &str> {
        [self.data.as_str(), self.pretrained.as_str()].into_iter().filter(|path| !path.is_empty())
    }
}

/// Why an agent cannot read a job's paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable<'a> {
    /// The data set lies in none of the directories that it lets jobs read.
    Outside,
    /// The directory that it lies in cannot be read now, and why: it may come back by itself.
    Root(&'a str, &'a str),
    /// That path cannot be read there.
    Path(&'a str),
    /// Its data set or weights are in the cluster's store, and the agent cannot fetch from there.
    CannotFetch,
}

/// Whether a path names something in the cluster's store: paths of machines are absolute.
pub(crate) fn is_stored(path: &str) -> bool {
    !path.is_empty() && Path::new(path).is_relative()
}

/// Whether the agent says what it has, and that it cannot fetch anything.
fn cannot_fetch(fitness: &Fitness) -> bool {
    fitness.data_roots.is_some() && fitness.held_versions.is_none()
}

/// Why an agent cannot read these paths, if it cannot. Weights may lie outside of its directories for data.
///
/// `by_words`: whether a path outside of its directories is unreadable there without asking, as
/// [`PathVisibility::is_inside`] has it.
pub(crate) fn unreadable<'a>(
    fitness: &'a Fitness,
    paths: &'a JobPaths,
    by_words: bool,
) -> Option<Unreadable<'a>> {
    if cannot_fetch(fitness) && paths.each().any(is_stored) {
        return Some(Unreadable::CannotFetch);
    }
    if let Some(roots) = fitness.data_roots.as_ref().filter(|_| !is_stored(&paths.data)) {
        let covering: Vec<&DataRoot> =
            roots.iter().filter(|root| root.covers(Path::new(&paths.data))).collect();
        // By a link it may lie in any of them.
        let candidates = if covering.is_empty() && !by_words { roots.iter().collect() } else { covering };
        let Some(first) = candidates.first() else { return Some(Unreadable::Outside) };
        if candidates.iter().all(|root| !root.problem.is_empty()) {
            return Some(Unreadable::Root(&first.path, &first.problem));
        }
    }
    let missing = |path: &&str| fitness.missing_paths.iter().any(|missing| missing == path);
    paths.each().find(missing).map(Unreadable::Path)
}

/// The index of which agents can read which paths, by their newest words.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct PathVisibility {
    /// Agents by the directories that they name and that can be read.
    by_roots: BTreeMap<Vec<String>, BTreeSet<AgentId>>,
    /// How many agents name each directory, whether it can be read or not.
    named: BTreeMap<String, u32>,
    /// Agents by what they were asked for in vain.
    missing: BTreeMap<String, BTreeSet<AgentId>>,
    /// Agents that cannot fetch from the cluster's store.
    without_fetching: BTreeSet<AgentId>,
}

impl PathVisibility {
    /// An agent has spoken; `before` is what it had said until then. Returns whether it can read other things now.
    pub(crate) fn note(&mut self, agent: AgentId, before: &Fitness, now: &Fitness) -> bool {
        let roots_moved = before.data_roots != now.data_roots;
        if roots_moved {
            if let Some(usable) = usable_roots(before)
                && let Some(agents) = self.by_roots.get_mut(&usable)
            {
                agents.remove(&agent);
                if agents.is_empty() {
                    self.by_roots.remove(&usable);
                }
            }
            if let Some(usable) = usable_roots(now) {
                self.by_roots.entry(usable).or_default().insert(agent);
            }
            for root in before.data_roots.iter().flatten() {
                if let Some(agents) = self.named.get_mut(&root.path) {
                    *agents -= 1;
                    if *agents == 0 {
                        self.named.remove(&root.path);
                    }
                }
            }
            for root in now.data_roots.iter().flatten() {
                *self.named.entry(root.path.clone()).or_default() += 1;
            }
        }
        let fetching_moved = cannot_fetch(before) != cannot_fetch(now);
        if cannot_fetch(now) {
            self.without_fetching.insert(agent);
        } else {
            self.without_fetching.remove(&agent);
        }
        if before.missing_paths == now.missing_paths {
            return roots_moved || fetching_moved;
        }
        for path in &before.missing_paths {
            if let Some(agents) = self.missing.get_mut(path) {
                agents.remove(&agent);
                if agents.is_empty() {
                    self.missing.remove(path);
                }
            }
        }
        for path in &now.missing_paths {
            self.missing.entry(path.clone()).or_default().insert(agent);
        }
        true
    }

    /// Whether the data set lies in a directory that any agent names, by its words. One that does not may do so by a
    /// link that only the machines can follow: then words decide nothing, and agents are asked.
    pub(crate) fn is_inside(&self, paths: &JobPaths) -> bool {
        let mut above = Path::new(&paths.data).ancestors().filter_map(Path::to_str);
        above.any(|folder| self.named.contains_key(folder))
    }

    /// The agents that cannot read one of these paths.
    pub(crate) fn excluded(&self, paths: &JobPaths) -> BTreeSet<AgentId> {
        let mut excluded = BTreeSet::new();
        let data = Path::new(&paths.data);
        let is_inside = self.is_inside(paths);
        let is_of_machine = !is_stored(&paths.data);
        if !self.without_fetching.is_empty() && paths.each().any(is_stored) {
            excluded.extend(&self.without_fetching);
        }
        for (roots, agents) in self.by_roots.iter().filter(|_| is_of_machine) {
            // One without any that can be read need not be asked.
            if (is_inside || roots.is_empty()) && !roots.iter().any(|root| data.starts_with(root)) {
                excluded.extend(agents);
            }
        }
        if !self.missing.is_empty() {
            excluded.extend(paths.each().filter_map(|path| self.missing.get(path)).flatten());
        }
        excluded
    }
}

/// The directories in which something can be read now; `None` of an agent that is too old to say.
fn usable_roots(fitness: &Fitness) -> Option<Vec<String>> {
    let roots = fitness.data_roots.as_ref()?;
    let mut usable: Vec<String> =
        roots.iter().filter(|root| root.problem.is_empty()).map(|root| root.path.clone()).collect();
    usable.sort();
    usable.dedup();
    Some(usable)
}

/// Where attempts came up with a data set, over the jobs that are known: it could be read there.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct DataReaders(BTreeMap<String, BTreeMap<AgentId, u32>>);

impl DataReaders {
    /// A trainer came up with it there.
    pub(crate) fn add(&mut self, data: &str, agent: AgentId) {
        let agents = match self.0.get_mut(data) {
            Some(agents) => agents,
            None => self.0.entry(data.to_owned()).or_default(),
        };
        *agents.entry(agent).or_default() += 1;
    }

    /// A job is known from now on, with its attempts.
    pub(crate) fn note(&mut self, job: &JobRecord) {
        self.each_reader(job, Self::add);
    }

    /// A job is forgotten, and its attempts with it.
    pub(crate) fn forget(&mut self, job: &JobRecord) {
        self.each_reader(job, Self::remove);
    }

    fn each_reader(&mut self, job: &JobRecord, act: impl Fn(&mut Self, &str, AgentId)) {
        let mut came_up = job.attempts.iter().filter(|attempt| attempt.started.is_some()).peekable();
        if came_up.peek().is_some() {
            let data = JobPaths::of(job).data;
            came_up.for_each(|attempt| act(self, &data, attempt.agent));
        }
    }

    /// An attempt is forgotten with its job.
    fn remove(&mut self, data: &str, agent: AgentId) {
        let Some(agents) = self.0.get_mut(data) else { return };
        if let Some(count) = agents.get_mut(&agent) {
            *count -= 1;
            if *count == 0 {
                agents.remove(&agent);
            }
        }
        if agents.is_empty() {
            self.0.remove(data);
        }
    }

    /// Whether it could be read there.
    pub(crate) fn contains(&self, data: &str, agent: AgentId) -> bool {
        self.0.get(data).is_some_and(|agents| agents.contains_key(&agent))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn paths(data: &str, pretrained: &str) -> JobPaths {
        JobPaths { data: data.into(), pretrained: pretrained.into() }
    }

    fn fitness(roots: Option<&[(&str, &str)]>, missing: &[&str]) -> Fitness {
        let root =
            |(path, problem): &(&str, &str)| DataRoot { path: (*path).into(), problem: (*problem).into() };
        Fitness {
            data_roots: roots.map(|roots| roots.iter().map(root).collect()),
            missing_paths: missing.iter().map(|path| (*path).to_owned()).collect(),
            ..Fitness::default()
        }
    }

    #[test]
    fn what_an_agent_lacks_is_said_by_its_roots_first_and_then_by_what_it_was_asked_for() {
        let cells = paths("/data/cells.yaml", "/models/n.pt");
        let old = fitness(None, &[]);
        assert_eq!(unreadable(&old, &cells, true), None);
        assert_eq!(unreadable(&fitness(Some(&[]), &[]), &cells, true), Some(Unreadable::Outside));
        assert_eq!(
            unreadable(&fitness(Some(&[("/data2", "")]), &[]), &cells, true),
            Some(Unreadable::Outside)
        );
        assert_eq!(unreadable(&fitness(Some(&[("/data2", "")]), &[]), &cells, false), None);
        assert_eq!(unreadable(&fitness(Some(&[("/data", "")]), &[]), &cells, true), None);
        let stale = fitness(Some(&[("/data", "stale")]), &["/data/cells.yaml"]);
        assert_eq!(unreadable(&stale, &cells, true), Some(Unreadable::Root("/data", "stale")));
        let one_of_two = fitness(Some(&[("/data", "stale"), ("/", "")]), &[]);
        assert_eq!(unreadable(&one_of_two, &cells, true), None);
        let no_weights = fitness(Some(&[("/data", "")]), &["/models/n.pt"]);
        assert_eq!(unreadable(&no_weights, &cells, true), Some(Unreadable::Path("/models/n.pt")));
        assert_eq!(unreadable(&no_weights, &paths("/data/cells.yaml", ""), true), None);
    }

    #[test]
    fn the_index_says_of_each_agent_what_its_own_words_say() {
        let agents: Vec<AgentId> = (1..=8).map(|number| AgentId(Uuid::from_u128(number))).collect();
        let said = [
            fitness(None, &[]),
            fitness(Some(&[("/data", "")]), &[]),
            fitness(Some(&[("/data", "stale")]), &[]),
            fitness(Some(&[("/data", "")]), &["/data/cells.yaml"]),
            fitness(Some(&[]), &["/n.pt"]),
            fitness(Some(&[("/other", ""), ("/data", "")]), &["/n.pt"]),
            Fitness { held_versions: Some(Vec::new()), ..fitness(Some(&[("/other", "")]), &["cells@0123"]) },
            Fitness { held_versions: Some(Vec::new()), ..fitness(Some(&[]), &[]) },
        ];
        let mut visibility = PathVisibility::default();
        let nothing = Fitness::default();
        for (&agent, said) in agents.iter().zip(&said) {
            visibility.note(agent, &nothing, said);
        }
        for paths in [
            paths("/data/cells.yaml", ""),
            paths("/data/cells.yaml", "/n.pt"),
            paths("/x", ""),
            paths("cells@0123", ""),
            paths("/data/cells.yaml", "n@0123"),
            paths("cells@0123", "/n.pt"),
        ] {
            let excluded: BTreeSet<AgentId> = agents
                .iter()
                .zip(&said)
                .filter(|(_, said)| unreadable(said, &paths, visibility.is_inside(&paths)).is_some())
                .map(|(&agent, _)| agent)
                .collect();
            assert_eq!(visibility.excluded(&paths), excluded, "{paths:?}");
        }
        assert!(
            visibility.is_inside(&paths("/data/cells.yaml", ""))
                && !visibility.is_inside(&paths("/data2/cells.yaml", ""))
        );
        let asked = |agent: &AgentId| !visibility.excluded(&paths("/home/a/cells.yaml", "")).contains(agent);
        assert_eq!(
            agents.iter().map(asked).collect::<Vec<_>>(),
            [true, true, false, true, false, true, true, false]
        );
        assert!(!visibility.note(agents[5], &said[5], &said[5]));
        for (&agent, said) in agents.iter().zip(&said) {
            visibility.note(agent, said, &nothing);
        }
        assert_eq!(visibility, PathVisibility::default());
    }
}
