use super::*;

fn machine(home: Option<&str>) -> Machine {
    let programs = PathBuf::from(if home.is_some() { "/home/ada/a b/bin" } else { "/usr/local/bin" });
    let present = ["trainyard-agent", "trainyard-scheduler"].map(|name| programs.join(name)).to_vec();
    let below = |name: &str| home.map_or_else(|| PathBuf::from("/x"), PathBuf::from).join(name);
    Machine {
        home: home.map(PathBuf::from),
        configuration: if home.is_some() { below(".config/trainyard") } else { "/etc/trainyard".into() },
        data: if home.is_some() { below(".local/share/trainyard") } else { "/var/lib/trainyard".into() },
        redis: Some("/usr/bin/redis-server".into()),
        users: Vec::new(),
        data_on_share: false,
        has_user_manager: home.is_some(),
        programs,
        present,
    }
}

fn written(steps: &[Step], name: &str) -> String {
    let text = steps.iter().find_map(|step| match step {
        Step::Write { path, text, .. } if path.ends_with(name) => Some(text.clone()),
        _ => None,
    });
    text.unwrap_or_else(|| panic!("{name} is not written: {steps:#?}"))
}

#[test]
fn root_gets_the_packages_unit_for_programs_elsewhere() {
    let steps = make(Program::Agent, &machine(None)).unwrap();
    let unit = written(&steps, "etc/systemd/system/trainyard-agent.service");
    let packaged = include_str!("../../../../deploy/systemd/trainyard-agent.service");
    assert_eq!(unit, packaged.replace("/usr/bin/trainyard-agent", "/usr/local/bin/trainyard-agent"));
    assert!(matches!(&steps[0], Step::Run(words) if words[0] == "useradd"), "{steps:#?}");
    let config = written(&steps, "scheduler.toml".replace("scheduler", "agent").as_str());
    assert!(config.contains("data_dir = \"/var/lib/trainyard/agent\""), "{config}");
}

#[test]
fn a_user_gets_a_service_of_their_own_without_what_only_the_system_can() {
    let steps = make(Program::Agent, &machine(Some("/home/ada"))).unwrap();
    let unit = written(&steps, ".config/systemd/user/trainyard-agent.service");
    for needed in ["Delegate=yes", "Type=notify", "WatchdogSec=", "WantedBy=default.target"] {
        assert!(unit.contains(needed), "{needed}: {unit}");
    }
    for system in ["User=", "StateDirectory", "ExecStartPre", "ProtectSystem", "LoadCredential"] {
        assert!(!unit.contains(&format!("\n{system}")), "{system}: {unit}");
    }
    assert!(unit.contains("ExecStart=\"/home/ada/a b/bin/trainyard-agent\" --config"), "{unit}");
    assert!(!unit.contains("\n\n\n"), "{unit}");
    assert!(
        !steps.iter().any(|step| matches!(step, Step::Run(words) if words[0] != "systemctl")),
        "{steps:#?}"
    );
}

/// systemd reads what is written, and names a line that it does not understand by file and number.
#[test]
fn systemd_understands_every_line_of_the_units() {
    let dir = tempfile::tempdir().unwrap();
    // A user's units are not read without it, and not every session has one.
    let analyze = |arguments: &[&str]| {
        let mut command = std::process::Command::new("systemd-analyze");
        command.args(arguments).env("XDG_RUNTIME_DIR", dir.path()).output()
    };
    if analyze(&["--version"]).is_err() {
        println!("left out: there is no systemd-analyze on this machine");
        return;
    }
    for (program, home) in [Program::Agent, Program::Scheduler]
        .into_iter()
        .flat_map(|program| [None, Some("/home/ada")].map(|home| (program, home)))
    {
        let name = format!("{}.service", program.name());
        let file = dir.path().join(&name).display().to_string();
        let steps = make(program, &machine(home)).unwrap();
        let manager = if home.is_some() { "--user" } else { "--system" };
        let said = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let output = analyze(&[manager, "verify", "--man=no", &file]).unwrap();
            String::from_utf8(output.stderr).unwrap()
        };
        let unit = written(&steps, &name);
        let prefix = format!("{file}:");
        assert!(!said(&unit).lines().any(|line| line.starts_with(&prefix)), "{}", said(&unit));
        let wrong = unit.replace("WatchdogSec", "WatchdogSeconds");
        assert!(said(&wrong).lines().any(|line| line.starts_with(&prefix)), "{}", said(&wrong));
    }
}

#[test]
fn a_configuration_that_is_there_stays() {
    let mut machine = machine(None);
    machine.present.push("/etc/trainyard/scheduler.toml".into());
    let steps = make(Program::Scheduler, &machine).unwrap();
    let writes = |name: &str| {
        steps.iter().any(|step| matches!(step, Step::Write { path, .. } if path.ends_with(name)))
    };
    assert!(!writes("scheduler.toml") && writes("trainyard-scheduler.service"));
}

#[test]
fn what_cannot_be_a_service_is_refused_with_a_way_out() {
    let packaged =
        Machine { present: vec!["/usr/lib/systemd/system/trainyard-agent.service".into()], ..machine(None) };
    let no_redis = Machine { redis: None, ..machine(None) };
    let share = Machine { data_on_share: true, ..machine(None) };
    let mut private = machine(None);
    private.programs = "/root/bin".into();
    private.present = vec!["/root/bin/trainyard-agent".into()];
    let table = [
        (Program::Agent, packaged, "a package has installed"),
        (Program::Scheduler, no_redis, "there is no `redis-server`"),
        (Program::Scheduler, share, "is on a network share"),
        (Program::Agent, private, "cannot use programs in /root/bin"),
    ];
    for (program, machine, said) in table {
        let failure = make(program, &machine).unwrap_err();
        assert!(failure.message.contains(said) && failure.hint.is_some(), "{failure:?}");
    }
}

#[test]
fn a_user_without_a_login_session_is_told_before_anything_is_written() {
    let (own, whole) = (machine(Some("/home/ada")), machine(None));
    let failure = make(Program::Agent, &Machine { has_user_manager: false, ..own }).unwrap_err();
    assert!(failure.message.contains("no service manager"), "{failure:?}");
    assert!(failure.hint.unwrap().contains("loginctl enable-linger"));
    assert!(make(Program::Agent, &whole).is_ok());
}
