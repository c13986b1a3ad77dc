//! What an agent costs while it does nothing: processor time and memory of the real process, with eight GPUs of
//! the stand-in for NVML that are read once a second, the metrics page on, and no scheduler to talk to.

use std::error::Error;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// From the start to the first look: finding GPUs and dialling are not idling.
const SETTLE: Duration = Duration::from_secs(5);
const SPAN: Duration = Duration::from_secs(30);

/// Killed with the benchmark.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It may be gone; there is nothing to do about an error here.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let gpu = |index: usize| {
        format!(
            r#"{{"name":"NVIDIA GeForce RTX 4090","uuid":"GPU-{index}","memory_total_mib":24564,
            "memory_used_mib":364,"graphics_processes":[{{"pid":1,"memory_mib":64}}]}}"#
        )
    };
    let gpus: Vec<String> = (0..8).map(gpu).collect();
    let state = folder.path().join("gpus.json");
    fs::write(&state, format!(r#"{{"gpus":[{}]}}"#, gpus.join(",")))?;
    let library = std::env::current_exe()?.with_file_name("libfake_nvml.so");
    if !library.is_file() {
        return Err(format!("{} is not built", library.display()).into());
    }
    let agent = Command::new(env!("CARGO_BIN_EXE_trainyard-agent"))
        .args(["--scheduler", "http://127.0.0.1:9", "--metrics-listen", "127.0.0.1:0", "--name", "idle"])
        .arg("--data-dir")
        .arg(folder.path().join("agent"))
        .arg("--nvml-library")
        .arg(&library)
        .env("FAKE_NVML_STATE", &state)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let agent = Agent(agent);
    let pid = agent.0.id();
    sleep(SETTLE);
    let before = ticks(pid)?;
    sleep(SPAN);
    let ticks = ticks(pid)? - before;
    // A tick is a hundredth of a second on every Linux that we know of.
    println!("agent_idle_cpu {:.2} percent", ticks / SPAN.as_secs_f64());
    println!("agent_idle_memory {:.1} MiB", resident_kib(pid)? / 1024.0);
    Ok(())
}

/// Processor time so far, user and system.
fn ticks(pid: u32) -> Result<f64, Box<dyn Error>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').ok_or("no name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let (user, system) = (fields.get(11).ok_or("no time")?, fields.get(12).ok_or("no time")?);
    Ok(user.parse::<f64>()? + system.parse::<f64>()?)
}

fn resident_kib(pid: u32) -> Result<f64, Box<dyn Error>> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
