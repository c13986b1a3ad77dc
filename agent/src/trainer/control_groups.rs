//! A control group (version 2) for each trainer, where the agent's own is delegated to it: what the trainer
//! starts cannot leave the group, the kernel counts there whom it killed for want of memory, and all of it is
//! killed at once.

use std::io;
use std::path::Path;

use tracing::{debug, info, warn};
use trainyard_types::AttemptId;

use crate::host::cgroup::{Cgroup, own_and_above};

/// How the names of trainers' groups begin.
const PREFIX: &str = "trainer-";
/// Where the agent itself goes: a group with processes cannot share its controllers.
const OWN: &str = "agent";

/// What a person should know of an agent whose unit does not leave it its control group.
const UNIT_WITHOUT_DELEGATE: &str = "the unit of this agent lacks `Delegate=yes`: trainers get no control groups, so \
    what they start may outlive them, and memory that ran out is harder to tell; add it (`systemctl edit`), or use the \
    unit of `yard setup agent`";

/// The group in which trainers' groups are made.
#[derive(Debug, Clone)]
pub struct ControlGroups(Cgroup);

impl ControlGroups {
    /// Finds it: `configured`, or in the agent's own group if nobody else is in it; `None` where there is neither.
    ///
    /// # Errors
    /// There should be one: what a person should know, a sentence.
    pub fn find(configured: Option<&Path>) -> Result<Option<Self>, String> {
        let groups = match configured {
            Some(folder) => Self(Cgroup::at(folder)),
            None => match Self::in_own() {
                Ok(None) => return Ok(None),
                Ok(Some(groups)) => groups,
                Err(error) => {
                    debug!(%error, "no control group is delegated");
                    // systemd sets it for its units.
                    let is_unit = std::env::var_os("INVOCATION_ID").is_some_and(|id| !id.is_empty());
                    return if is_unit { Err(UNIT_WITHOUT_DELEGATE.to_owned()) } else { Ok(None) };
                }
            },
        };
        let probe = groups.0.create(&format!("{PREFIX}probe-{}", std::process::id()));
        match probe.and_then(|probe| probe.remove()) {
            Ok(()) => {}
            Err(error) => {
                let folder = groups.0.folder().display();
                if configured.is_some() {
                    return Err(format!(
                        "`cgroup` is `{folder}`, which cannot be used: {error}; trainers have process groups only, until \
                         it is delegated to the agent's user and the agent is started again"
                    ));
                }
                debug!(%folder, %error, "no control group is delegated");
                return Ok(None);
            }
        }
        let counts = groups.0.share_memory_controller().is_ok();
        info!(folder = %groups.0.folder().display(), memory = counts, "each trainer has a control group");
        Ok(Some(groups))
    }

    /// The folder of the group in which trainers' groups are made.
    pub fn folder(&self) -> &Path {
        self.0.folder()
    }

    /// The agent's own group, which it leaves for one inside of it.
    fn in_own() -> io::Result<Option<Self>> {
        let Some(own) = own_and_above().into_iter().next() else { return Ok(None) };
        let Ok(pid) = i32::try_from(std::process::id()) else { return Ok(None) };
        if own.processes() != [pid] {
            return Ok(None); // Other processes are in it: this agent must not divide it.
        }
        let inner = own.create(OWN)?;
        inner.add_process(pid)?;
        Ok(Some(Self(own)))
    }

    /// Kills what trainers of a former process left.
    pub fn end_leftovers(&self) {
        for group in self.0.children() {
            let name = group.folder().file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(PREFIX) {
                let processes = group.processes().len();
                if processes > 0 {
                    warn!(
                        group = name,
                        processes, "a former agent's trainer left processes: they are killed"
                    );
                }
                end(&group);
            }
        }
    }

    /// A group for an attempt's trainer; `None` when the kernel refuses, and the process group has to do.
    pub fn make(&self, attempt: AttemptId) -> Option<Cgroup> {
        let made = self.0.create(&format!("{PREFIX}{}-{}", attempt.job, attempt.number));
        made.inspect_err(|error| warn!(%attempt, %error, "no control group for a trainer")).ok()
    }
}

/// Kills all processes of a group and removes it. Blocks for a moment.
pub fn end(group: &Cgroup) {
    const ROUNDS: u32 = 100;
    for _ in 0..ROUNDS {
        if group.processes().is_empty() && group.remove().is_ok() {
            return;
        }
        if group.kill().is_err() {
            for pid in group.processes() {
                let _gone = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    warn!(group = %group.folder().display(), "a control group does not become empty; it stays");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_no_control_group_is_told_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let problem = ControlGroups::find(Some(&missing)).err().unwrap();
        assert!(
            problem.starts_with(&format!("`cgroup` is `{}`, which cannot", missing.display())),
            "{problem}"
        );
        assert!(problem.contains("delegated to the agent's user"), "{problem}");
    }
}
