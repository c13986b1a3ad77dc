//! What is to be done for a service, in order; nothing is done here.

use std::path::{Path, PathBuf};

use super::machine::Machine;
use super::unit;
use crate::failure::Failure;

/// A program that can be a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The agent, which each machine with GPUs has.
    Agent,
    /// The scheduler, which one machine has.
    Scheduler,
}

impl Program {
    /// The name of the program's file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "trainyard-agent",
            Self::Scheduler => "trainyard-scheduler",
        }
    }

    /// The file of its configuration.
    pub const fn configuration(self) -> &'static str {
        match self {
            Self::Agent => "agent.toml",
            Self::Scheduler => "scheduler.toml",
        }
    }

    /// The folder of its data.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Scheduler => "scheduler",
        }
    }

    /// The system's user that it runs as.
    const fn user(self) -> &'static str {
        match self {
            Self::Agent => "trainyard",
            Self::Scheduler => "trainyard-scheduler",
        }
    }
}

/// One step of setting a service up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A file to write, with its permissions.
    Write { path: PathBuf, text: String, mode: u32 },
    /// A command to run: the program and its arguments.
    Run(Vec<String>),
    /// A sentence for the user.
    Say(String),
}

fn run(words: &[&str]) -> Step {
    Step::Run(words.iter().map(|word| (*word).to_owned()).collect())
}

/// What is to be done for `program`.
///
/// # Errors
/// A package has the service already, a service cannot use the programs where they are, or something is missing.
pub fn make(program: Program, machine: &Machine) -> Result<Vec<Step>, Failure> {
    check(program, machine)?;
    let is_own = machine.home.is_some();
    let service = format!("{}.service", program.name());
    let systemctl = if is_own { &["systemctl", "--user"][..] } else { &["systemctl"] };
    let order = |words: &[&str]| run(&[systemctl, words].concat());
    let mut steps = Vec::new();
    let user = program.user();
    let data = machine.data.join(program.folder());
    if !is_own {
        if !machine.users.iter().any(|known| known == user) {
            let home = data.to_string_lossy().into_owned();
            steps.push(run(&[
                "useradd",
                "--system",
                "--user-group",
                "--home-dir",
                &home,
                "--shell",
                "/usr/sbin/nologin",
                user,
            ]));
        }
        let data = data.to_string_lossy().into_owned();
        steps.push(run(&["install", "-d", "-m", "750", "-o", user, "-g", user, &data]));
    }
    let configuration = machine.configuration.join(program.configuration());
    if machine.has(&configuration) {
        steps.push(Step::Say(format!("{} is there, and stays", configuration.display())));
    } else {
        let text = unit::configuration(program, machine);
        steps.push(Step::Write { path: configuration.clone(), text, mode: 0o644 });
    }
    let path = match &machine.home {
        Some(home) => home.join(".config/systemd/user").join(&service),
        None => Path::new("/etc/systemd/system").join(&service),
    };
    steps.push(Step::Write { path, text: unit::text(program, machine), mode: 0o644 });
    steps.push(order(&["daemon-reload"]));
    let config = configuration.display();
    match program {
        Program::Scheduler => {
            steps.push(order(&["enable", "--now", &service]));
            steps
                .push(Step::Say(format!("the first login is in {}", data.join("first-login.txt").display())));
        }
        Program::Agent => {
            let ask = format!(
                "{} --config {config} join HOST:7433",
                machine.programs.join(program.name()).display()
            );
            steps.push(Step::Say(format!(
                "name the folders of your data sets in {config} (`data_roots`), then join:"
            )));
            steps.push(Step::Say(format!("    {ask}")));
            if is_own {
                steps.push(Step::Say(format!("    systemctl --user enable --now {service}")));
            }
        }
    }
    if is_own {
        steps.push(Step::Say("to run while you are not logged in: loginctl enable-linger".into()));
    }
    Ok(steps)
}

fn check(program: Program, machine: &Machine) -> Result<(), Failure> {
    let name = program.name();
    let service = format!("{name}.service");
    let packaged =
        ["/usr/lib/systemd/system", "/lib/systemd/system"].map(|folder| Path::new(folder).join(&service));
    if machine.home.is_none() && packaged.iter().any(|unit| machine.has(unit)) {
        return Err(Failure::usage(format!("a package has installed {service} already"))
            .hint(format!("change it with `systemctl edit {name}`")));
    }
    if machine.home.is_some() && !machine.has_user_manager {
        return Err(Failure::local("this user has no service manager of their own here").hint(format!(
            "log in as this user, not by `su` or `sudo -u`; or as root `loginctl enable-linger USER`, then as the user \
             `XDG_RUNTIME_DIR=/run/user/$(id -u) yard setup {}`; root sets up a service of the machine",
            program.folder()
        )));
    }
    let file = machine.programs.join(name);
    if !machine.has(&file) {
        return Err(Failure::local(format!(
            "there is no {name} beside `yard`, in {}",
            machine.programs.display()
        ))
        .hint("install the programs into one folder"));
    }
    let private =
        ["/home", "/root", "/run/user", "/tmp"].iter().any(|folder| machine.programs.starts_with(folder));
    if machine.home.is_none() && private {
        let hint =
            "install the programs into /usr/local/bin or /opt, or set up a service of your own, without root";
        let text = format!("a service of the machine cannot use programs in {}", machine.programs.display());
        return Err(Failure::local(text).hint(hint));
    }
    if program == Program::Scheduler && machine.redis.is_none() {
        return Err(Failure::local("there is no `redis-server`, which the scheduler starts for itself")
            .hint("apt install redis-server, and `systemctl disable --now redis-server`: its own service is not needed"));
    }
    if program == Program::Scheduler && machine.data_on_share {
        let text = format!(
            "{} is on a network share, where Redis can lose acknowledged jobs",
            machine.data.display()
        );
        return Err(Failure::local(text)
            .hint("write the unit with a `data_dir` on a local disk, and set `blob_dir` for the share"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
