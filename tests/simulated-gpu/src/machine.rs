//! The machine that a program is started on, as it is told by the environment; see `cpp/settings.h`.

use std::path::PathBuf;
use std::process::Command;

/// A simulated GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// As NVML and `CUDA_VISIBLE_DEVICES` name it.
    pub uuid: String,
    /// Its memory, in MiB.
    pub memory_mib: u64,
    /// Its compute capability: (8, 9).
    pub compute_capability: (u32, u32),
}

/// A fault that an operator meets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperatorFault {
    /// `aten::convolution`; empty: any operator.
    pub operator: String,
    /// How many of that name from now on; 0: none.
    pub nth: i64,
    /// CUDA's code of an error that stays until the process ends, such as 700, an illegal address; 0: none.
    pub sticky: i32,
    /// What is thrown, where no error stays.
    pub message: String,
}

/// A machine with simulated GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// In the order of their indices.
    pub gpus: Vec<Gpu>,
    /// The newest CUDA that the driver runs, 13000 being 13.0; 0: there is no driver.
    pub driver: u32,
    /// Memory of each GPU that other processes hold, in MiB.
    pub foreign_mib: u64,
    /// What CUDA takes of a GPU for itself, in MiB.
    pub context_mib: u64,
    /// The allocation that runs out of memory; 0: none.
    pub fail_at: u64,
    /// An operator that fails.
    pub fault: OperatorFault,
    /// The file that a program's counts go to when it exits.
    pub report: Option<PathBuf>,
    /// The folder where each process tells what it takes, for the stand-in of NVML.
    pub use_folder: Option<PathBuf>,
}

impl Machine {
    /// One GPU of so many MiB.
    pub fn with_memory(memory_mib: u64) -> Self {
        let gpu = Gpu { uuid: "GPU-simulated-0".to_owned(), memory_mib, compute_capability: (8, 9) };
        Self::with_gpus(vec![gpu])
    }

    /// These GPUs.
    pub fn with_gpus(gpus: Vec<Gpu>) -> Self {
        let fault = OperatorFault::default();
        Self {
            gpus,
            driver: 13_000,
            foreign_mib: 0,
            context_mib: 0,
            fail_at: 0,
            fault,
            report: None,
            use_folder: None,
        }
    }

    /// The variables that tell a program of this machine.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let gpu = |gpu: &Gpu| {
            let (major, minor) = gpu.compute_capability;
            format!("{}:{}:{}", gpu.uuid, gpu.memory_mib, major * 10 + minor)
        };
        let OperatorFault { operator, nth, sticky, message } = &self.fault;
        let before =
            std::env::var("LD_LIBRARY_PATH").map_or_else(|_| String::new(), |path| format!(":{path}"));
        let mut variables = vec![
            ("LD_PRELOAD", super::LIBRARY.to_owned()),
            ("LD_LIBRARY_PATH", format!("{}{before}", super::DRIVER_FOLDER)),
            ("SIMULATED_GPUS", self.gpus.iter().map(gpu).collect::<Vec<_>>().join(";")),
            ("SIMULATED_GPU_DRIVER", self.driver.to_string()),
            ("SIMULATED_GPU_FOREIGN_MIB", self.foreign_mib.to_string()),
            ("SIMULATED_GPU_CONTEXT_MIB", self.context_mib.to_string()),
            ("SIMULATED_GPU_FAIL_AT", self.fail_at.to_string()),
            ("SIMULATED_GPU_FAULT", format!("{operator}|{nth}|{sticky}|{message}")),
        ];
        variables
            .extend(self.use_folder.iter().map(|path| ("SIMULATED_GPU_USE", path.display().to_string())));
        variables.extend(self.report.iter().map(|path| ("SIMULATED_GPU_REPORT", path.display().to_string())));
        variables
    }

    /// Starts `command` on this machine.
    pub fn preload<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.envs(self.environment())
    }
}
