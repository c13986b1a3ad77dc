//! The units and configurations that the packages have, for programs and folders elsewhere.

use std::path::Path;

use super::machine::Machine;
use super::plan::Program;

const AGENT: &str = include_str!("../../../deploy/systemd/trainyard-agent.service");
const SCHEDULER: &str = include_str!("../../../deploy/systemd/trainyard-scheduler.service");
const AGENT_TOML: &str = include_str!("../../../deploy/deb/trainyard-agent/agent.toml");
const SCHEDULER_TOML: &str = include_str!("../../../deploy/deb/trainyard-scheduler/scheduler.toml");

/// What a user's own manager cannot do, or need not.
const OF_THE_SYSTEM: [&str; 23] = [
    "After=",
    "Wants=",
    "ExecStartPre=",
    "User=",
    "Group=",
    "StateDirectory=",
    "StateDirectoryMode=",
    "LoadCredential=",
    "LimitMEMLOCK=",
    "CapabilityBoundingSet=",
    "PrivateDevices=",
    "PrivateTmp=",
    "ProtectClock=",
    "ProtectControlGroups=",
    "ProtectHome=",
    "ProtectHostname=",
    "ProtectKernelLogs=",
    "ProtectKernelModules=",
    "ProtectKernelTunables=",
    "ProtectProc=",
    "ProtectSystem=",
    "RemoveIPC=",
    "UMask=",
];

/// The unit of a program.
pub fn text(program: Program, machine: &Machine) -> String {
    let packaged = match program {
        Program::Agent => AGENT,
        Program::Scheduler => SCHEDULER,
    };
    let start = format!(
        "ExecStart={} --config {}",
        quoted(&machine.programs.join(program.name())),
        quoted(&machine.configuration.join(program.configuration()))
    );
    let is_own = machine.home.is_some();
    let mut lines: Vec<&str> = Vec::new();
    for line in packaged.lines() {
        if is_own && OF_THE_SYSTEM.iter().any(|key| line.starts_with(key)) {
            // With what was said about it.
            while lines.last().is_some_and(|line| line.starts_with('#')) {
                lines.pop();
            }
            continue;
        }
        lines.push(match line {
            _ if line.starts_with("ExecStart=") => &start,
            "WantedBy=multi-user.target" if is_own => "WantedBy=default.target",
            line => line,
        });
    }
    lines.dedup_by(|line, before| line.is_empty() && before.is_empty());
    lines.join("\n") + "\n"
}

/// The configuration of a program.
pub fn configuration(program: Program, machine: &Machine) -> String {
    let packaged = match program {
        Program::Agent => AGENT_TOML,
        Program::Scheduler => SCHEDULER_TOML,
    };
    let redis = machine.redis.as_deref().unwrap_or(Path::new("redis-server"));
    let line = |line: &str| match line.split(" = ").next() {
        Some("data_dir") => format!("data_dir = {:?}", machine.data.join(program.folder())),
        Some("redis_server") => format!("redis_server = {redis:?}"),
        _ => line.to_owned(),
    };
    packaged.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

/// A word of a unit: `%` begins something else there, and blanks part words.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy().replace('%', "%%");
    if text.contains([' ', '"', '\\']) { format!("{text:?}") } else { text }
}
