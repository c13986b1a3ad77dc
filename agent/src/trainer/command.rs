//! From an attempt to the trainer's command line and environment. Everything here is a function of its
//! arguments.

use std::ffi::OsString;
use std::path::PathBuf;

use trainyard_types::{AttemptId, Slot};

use crate::device::Device;

/// What a trainer's command line is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainerCommand {
    /// The attempt that it trains.
    pub attempt: AttemptId,
    /// The trainer's binary.
    pub program: PathBuf,
    /// The TrainSpec as JSON.
    pub spec: PathBuf,
    /// The run directory.
    pub run_dir: PathBuf,
    /// The directory of decoded images.
    pub cache_dir: PathBuf,
    /// GiB that they may take, if the agent says.
    pub cache_quota_gib: Option<u32>,
    /// GiB of their disk that stay free, if the agent says.
    pub cache_floor_gib: Option<u32>,
    /// Images per forward pass.
    pub batch_size: u32,
    /// Whether it measures what memory it needs.
    pub measure_memory: bool,
    /// The slot that it trains on.
    pub slot: Slot,
    /// The directories that images may lie in.
    pub data_roots: Vec<PathBuf>,
    /// Whether the data set is one of the cluster's store, which is the same on every machine.
    pub is_stored: bool,
}

impl TrainerCommand {
    /// Arguments of the trainer, whose events go to the descriptor `events_fd` and which is asked things on
    /// `control_fd`. `--resume` goes on from the newest checkpoint in the run directory, or starts afresh
    /// without one.
    pub fn arguments(&self, events_fd: i32, control_fd: i32) -> Vec<OsString> {
        let device = device_name(&Device::from(&self.slot));
        let mut arguments: Vec<OsString> = vec![
            "train".into(),
            "--spec".into(),
            self.spec.clone().into(),
            "--run-dir".into(),
            self.run_dir.clone().into(),
            "--events-fd".into(),
            events_fd.to_string().into(),
            "--control-fd".into(),
            control_fd.to_string().into(),
            "--batch-size".into(),
            self.batch_size.to_string().into(),
            "--device".into(),
            device.into(),
            "--cache-dir".into(),
            self.cache_dir.clone().into(),
            "--resume".into(),
        ];
        for (flag, gib) in
            [("--cache-quota-gib", self.cache_quota_gib), ("--cache-floor-gib", self.cache_floor_gib)]
        {
            if let Some(gib) = gib {
                arguments.extend([flag.into(), gib.to_string().into()]);
            }
        }
        if self.measure_memory {
            arguments.extend(["--measure-memory".into(), "always".into()]);
        }
        for root in &self.data_roots {
            arguments.extend(["--data-root".into(), root.clone().into()]);
        }
        if self.is_stored {
            arguments.push("--stored".into());
        }
        arguments
    }

    /// The environment variables that it needs on its slot.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        environment(&Device::from(&self.slot))
    }
}

/// The value of `--device` for a trainer on this device.
pub const fn device_name(device: &Device) -> &'static str {
    match device {
        Device::Gpu(_) => "cuda:0", // The only one that it sees.
        Device::Cpu => "cpu",
    }
}

/// Environment variables that a trainer on this device needs beside those of the agent.
pub fn environment(device: &Device) -> [(&'static str, String); 3] {
    let visible = match device {
        Device::Gpu(uuid) => uuid.to_string(),
        // A job on a CPU slot must not touch a GPU.
        Device::Cpu => String::new(),
    };
    [
        ("CUDA_VISIBLE_DEVICES", visible),
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID".into()),
        // Beside another OpenMP program, libgomp's spinning costs three to five times the time.
        ("OMP_WAIT_POLICY", "PASSIVE".into()),
    ]
}

#[cfg(test)]
mod tests {
    use trainyard_types::{GpuUuid, JobId};

    use super::*;

    fn command(slot: Slot) -> TrainerCommand {
        TrainerCommand {
            attempt: AttemptId { job: JobId(uuid::Uuid::from_u128(7)), number: 1 },
            program: "/bin/trainer".into(),
            spec: "/d/spec.json".into(),
            run_dir: "/d/run".into(),
            cache_dir: "/d/cache".into(),
            cache_quota_gib: None,
            cache_floor_gib: None,
            batch_size: 24,
            measure_memory: false,
            slot,
            data_roots: vec!["/data".into()],
            is_stored: false,
        }
    }

    #[test]
    fn a_trainer_sees_only_its_own_gpu() {
        let command = command(Slot::Gpu(GpuUuid("GPU-1".into())));
        let line = command.arguments(5, 6).join(std::ffi::OsStr::new(" "));
        let wanted = "train --spec /d/spec.json --run-dir /d/run --events-fd 5 --control-fd 6 \
                      --batch-size 24 --device cuda:0 --cache-dir /d/cache --resume --data-root /data";
        assert_eq!(line, wanted);
        assert!(command.environment().contains(&("CUDA_VISIBLE_DEVICES", "GPU-1".into())));
    }

    #[test]
    fn the_cache_has_the_limits_that_are_configured() {
        let mut command = TrainerCommand { cache_quota_gib: Some(200), ..command(Slot::Cpu(0)) };
        let line = |command: &TrainerCommand| {
            command.arguments(5, 6).join(std::ffi::OsStr::new(" ")).into_string().unwrap()
        };
        assert!(line(&command).contains(" --cache-quota-gib 200 --data-root "), "{}", line(&command));
        command.cache_floor_gib = Some(0);
        assert!(line(&command).contains(" --cache-quota-gib 200 --cache-floor-gib 0 "), "{}", line(&command));
    }

    #[test]
    fn memory_is_measured_where_the_agent_wants_to_know() {
        let command = TrainerCommand { measure_memory: true, ..command(Slot::Cpu(0)) };
        let line = command.arguments(5, 6).join(std::ffi::OsStr::new(" ")).into_string().unwrap();
        assert!(line.contains(" --measure-memory always "), "{line}");
    }

    #[test]
    fn a_trainer_knows_that_its_data_set_is_a_stored_one() {
        let stored = TrainerCommand { is_stored: true, ..command(Slot::Cpu(0)) };
        assert!(stored.arguments(5, 6).contains(&"--stored".into()));
        assert!(!command(Slot::Cpu(0)).arguments(5, 6).contains(&"--stored".into()));
    }

    #[test]
    fn a_trainer_on_a_cpu_slot_sees_none() {
        let command = command(Slot::Cpu(0));
        assert!(command.arguments(5, 6).contains(&"cpu".into()));
        assert!(command.environment().contains(&("CUDA_VISIBLE_DEVICES", String::new())));
    }
}
