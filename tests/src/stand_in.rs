//! Stand-ins for what the machine lacks: GPUs, by a library in NVML's place, and trainers that only pretend.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::process::{Process, binary};

/// How a shell script begins that pretends to be a trainer: it passes its self-test.
pub const PRELUDE: &str =
    "#!/bin/sh\n[ \"$1\" = self-test ] && { echo '{\"ok\":true,\"libtorch\":\"2.13.0\"}'; exit 0; }\n";

/// Whether an agent's configuration names a trainer that only pretends.
pub fn pretends(variables: &[(&str, &str)]) -> bool {
    let trainer = variables.iter().find(|(name, _)| *name == "TRAINYARD_AGENT__TRAINER");
    let script = trainer.and_then(|(_, path)| fs::read(path).ok());
    script.is_some_and(|script| script.starts_with(PRELUDE.as_bytes()))
}

impl Cluster {
    /// Says what the GPUs of an agent are and do from now on; see `fake-nvml`.
    pub fn show_gpus(&self, agent: &str, gpus: &Value) -> Result<()> {
        // Whoever reads it meanwhile reads the one or the other.
        let new = self.path(&format!("{agent}.new"));
        fs::write(&new, gpus.to_string())?;
        Ok(fs::rename(new, self.gpus(agent))?)
    }

    fn gpus(&self, agent: &str) -> PathBuf {
        self.path(&format!("{agent}.json"))
    }

    /// Starts an agent with the GPUs that are shown for it.
    pub async fn start_agent_with_gpus(
        &self,
        name: &str,
        cpu_slots: u32,
        more: &[(&str, &str)],
    ) -> Result<Process> {
        let (library, gpus) = (binary("libfake_nvml.so")?, self.gpus(name));
        let (library, gpus) = (library.display().to_string(), gpus.display().to_string());
        // What a script of `trainer_with_simulated_gpus` loads and reads, and where its GPUs say what is used of them.
        let torch = Path::new(env!("LIBTORCH")).canonicalize()?;
        let (simulated, table) = (binary("libsimulated_gpu.so")?, torch.with_file_name("torchgen"));
        let reads = format!("{},{}", simulated.display(), table.display());
        let in_use = self.gpu_use(name).display().to_string();
        let own = [
            ("FAKE_NVML_STATE", gpus.as_str()),
            ("TRAINYARD_AGENT__NVML_LIBRARY", library.as_str()),
            ("TRAINYARD_AGENT__TRAINER_READS", reads.as_str()),
            ("TRAINYARD_AGENT__TRAINER_WRITES", in_use.as_str()),
        ];
        self.start_agent_with(name, cpu_slots, &[&own, more].concat()).await
    }

    /// The real trainer, to which the GPUs that are shown for this agent are simulated ones of so much memory; where it
    /// is. What it takes of them is what the fake NVML says, too. `more`: variables of the simulated GPU.
    pub fn trainer_with_simulated_gpus(
        &self,
        agent: &str,
        gpus: &Value,
        more: &[(&str, &str)],
    ) -> Result<String> {
        let gpu = |gpu: &Value| {
            let capability = &gpu["compute_capability"];
            let number = |at: usize| capability[at].as_u64().unwrap_or(0);
            let uuid = gpu["uuid"].as_str().unwrap_or_default();
            format!("{uuid}:{}:{}", gpu["memory_total_mib"], number(0) * 10 + number(1))
        };
        let all: Vec<String> = gpus["gpus"].as_array().into_iter().flatten().map(gpu).collect();
        let (library, real) = (binary("libsimulated_gpu.so")?, binary("trainyard-trainer")?);
        let (use_folder, trainer) = (self.gpu_use(agent), self.path(&format!("{agent}-trainer")));
        fs::create_dir_all(&use_folder)?;
        let more: String = more.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
        let script = format!(
            "#!/bin/sh\n{more}export LD_PRELOAD='{}' SIMULATED_GPUS='{}' SIMULATED_GPU_USE='{}'\nexec '{}' \"$@\"\n",
            library.display(),
            all.join(";"),
            use_folder.display(),
            real.display(),
        );
        fs::write(&trainer, script)?;
        fs::set_permissions(&trainer, fs::Permissions::from_mode(0o755))?;
        Ok(trainer.display().to_string())
    }

    /// Where trainings on an agent's simulated GPUs say what they take.
    pub fn gpu_use(&self, agent: &str) -> PathBuf {
        self.path(&format!("{agent}-gpu-use"))
    }

    /// A trainer that does what a shell script says after the [`PRELUDE`]; where it is.
    pub fn pretend(&self, script: &str) -> Result<String> {
        let trainer = self.path("trainer");
        fs::write(&trainer, format!("{PRELUDE}{script}"))?;
        fs::set_permissions(&trainer, fs::Permissions::from_mode(0o755))?;
        Ok(trainer.display().to_string())
    }
}
