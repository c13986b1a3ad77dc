//! `yard up`: a whole cluster on this machine.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::failure::Failure;
use crate::up::{self, ClusterOptions};
use crate::values::absolute_path;

/// Run a whole cluster on this machine: private Redis, scheduler, agent
///
/// It stops with Ctrl-C: the agent first, so that running jobs write a checkpoint, and the next
/// `yard up` goes on with them.
#[derive(Debug, Args)]
pub struct Up {
    /// Where jobs, their results and logs are kept [default: ~/.local/share/trainyard]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the scheduler listens
    #[arg(long, default_value = "127.0.0.1:7433", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Listen beyond this machine in plaintext, and let whoever reaches the port do everything
    #[arg(long)]
    insecure: bool,
    /// How many jobs may train on the CPU at a time [default: 1 without a GPU, else 0]
    #[arg(long, value_name = "N")]
    cpu_slots: Option<u32>,
    /// A directory that jobs may read data sets from; repeat for more than one [default: your home
    /// directory and the current one]
    #[arg(long, value_name = "DIR")]
    data_root: Vec<PathBuf>,
    /// The NVIDIA management library [default: libnvidia-ml.so.1, where the driver put it]
    #[arg(long, value_name = "PATH")]
    nvml_library: Option<PathBuf>,
}

impl Up {
    /// Runs until it is stopped.
    ///
    /// # Errors
    /// Something is missing or in the way, or a part of the cluster does not come up.
    pub async fn run(self) -> Result<(), Failure> {
        check_reach(self.listen, self.insecure)?;
        let data_dir = match self.data_dir {
            Some(dir) => absolute_path(&dir),
            None => default_data_dir()?,
        };
        let roots = if self.data_root.is_empty() { default_roots() } else { self.data_root };
        let nvml_library = self.nvml_library.map(|path| absolute_path(&path));
        let cpu_slots = self.cpu_slots.unwrap_or_else(|| u32::from(!up::has_gpu(nvml_library.as_deref())));
        let data_roots = roots.iter().map(|root| absolute_path(root)).collect();
        up::run(ClusterOptions { data_dir, listen: self.listen, cpu_slots, data_roots, nvml_library }).await
    }
}

/// Beyond loopback a scheduler asks who calls, and its machines join: that is more than one command sets up.
fn check_reach(listen: SocketAddr, insecure: bool) -> Result<(), Failure> {
    if listen.ip().is_loopback() || insecure {
        return Ok(());
    }
    Err(Failure::usage(format!("`yard up` is for this machine alone, and {listen} is reached from others")).hint(
        "run `trainyard-scheduler` and let machines join (docs/how-to/add-a-machine.md), or add `--insecure`",
    ))
}

fn default_data_dir() -> Result<PathBuf, Failure> {
    let folder = std::env::var_os("XDG_DATA_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = folder.or_else(|| std::env::home_dir().map(|home| home.join(".local/share")));
    let missing =
        || Failure::usage("there is no home directory to keep data in").hint("give `--data-dir DIR`");
    Ok(folder.ok_or_else(missing)?.join("trainyard"))
}

fn default_roots() -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = std::env::home_dir().into_iter().collect();
    if let Ok(here) = std::env::current_dir() {
        // A folder inside the home directory is allowed already.
        if !roots.iter().any(|root| here.starts_with(root)) {
            roots.push(here);
        }
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_in_plaintext_that_others_reach_has_to_be_asked_for() {
        let check = |listen: &str, insecure| check_reach(listen.parse().unwrap(), insecure);
        assert!(check("127.0.0.1:7433", false).is_ok() && check("[::1]:7433", false).is_ok());
        assert!(check("0.0.0.0:7433", false).unwrap_err().message.contains("0.0.0.0:7433"));
        assert!(check("0.0.0.0:7433", true).is_ok());
    }
}
