use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio::sync::watch;
use tokio::time::Instant;
use trainyard_proto::convert::agent::parse_data_checked;
use trainyard_proto::pb;

use super::*;
use crate::agent_status::AgentStatus;

/// An agent whose trainer is a script.
struct Checks {
    folder: tempfile::TempDir,
    requests: mpsc::Sender<DataCheckRequest>,
    answers: mpsc::Receiver<pb::AgentMessage>,
    answer: mpsc::Sender<pb::AgentMessage>,
    _end: tokio_util::sync::DropGuard,
}

impl Checks {
    fn start(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("data.yaml"), "names: [a]\n").unwrap();
        let trainer = folder.path().join("trainer");
        fs::write(&trainer, format!("#!/bin/sh\ncd {}\n{script}\n", folder.path().display())).unwrap();
        fs::set_permissions(&trainer, fs::Permissions::from_mode(0o755)).unwrap();
        // A script that waits starts programs, which confined ones do not.
        let config = Config {
            data_dir: folder.path().join("agent"),
            data_roots: vec![root.clone()],
            trainer: Some(trainer),
            confine_trainers: false,
            ..Config::default()
        };
        fs::create_dir(&config.data_dir).unwrap();
        let identity = Identity::load(&config.data_dir, &folder.path().join("machine-id"), false).unwrap();
        let status = watch::Sender::new(AgentStatus::default());
        let paths = PathMonitor::new(vec![root], Duration::from_secs(20), status);
        let (requests, received) = mpsc::channel(8);
        let end = CancellationToken::new();
        let context = DataCheckContext { config: Arc::new(config), identity, paths };
        tokio::spawn(DataChecker::new(context, received).run(end.clone()));
        let (answer, answers) = mpsc::channel(8);
        Self { folder, requests, answers, answer, _end: end.drop_guard() }
    }

    async fn ask(&self, id: u64, data: &str, time_limit: Duration) {
        let data = DataToCheck { data: self.folder.path().join(data), single_cls: false, fraction: 1.0 };
        let (came, answers) = (Instant::now(), self.answer.clone());
        self.requests.send(DataCheckRequest { id, data, time_limit, came, answers }).await.unwrap();
    }

    async fn answer(&mut self) -> (u64, DataChecked) {
        match self.answers.recv().await.unwrap().message.unwrap() {
            ToScheduler::DataChecked(checked) => parse_data_checked(checked).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a script says that it runs, by its process.
    async fn pid(&self) -> i32 {
        loop {
            if let Ok(text) = fs::read_to_string(self.folder.path().join("pid"))
                && let Ok(pid) = text.trim().parse()
            {
                return pid;
            }
            tokio::task::yield_now().await;
        }
    }
}

async fn is_gone(pid: i32) {
    while Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok() {
        tokio::task::yield_now().await;
    }
}

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_the_trainer_says_is_passed_on_and_what_is_not_seen_is_not_looked_at() {
    let mut checks = Checks::start(
        r#"echo "$@" >asked; echo '{"errors":["a.txt:1: class 7"],"more_errors":2,"warnings":[],"more_warnings":0}'"#,
    );
    checks.ask(1, "data/data.yaml", LIMIT).await;
    let check = DataCheck { more_errors: 2, ..DataCheck::new(&["a.txt:1: class 7".into()], &[], None) };
    assert_eq!(checks.answer().await, (1, DataChecked::Checked(check)));
    let asked = fs::read_to_string(checks.folder.path().join("asked")).unwrap();
    assert!(
        asked.starts_with("check --summary --fraction 1 --data-root ") && asked.ends_with("/data.yaml\n"),
        "{asked}"
    );
    fs::remove_file(checks.folder.path().join("asked")).unwrap();
    for (data, why) in [("data/none.yaml", "cannot be read on this agent"), ("else.yaml", "is outside of")] {
        checks.ask(2, data, LIMIT).await;
        let (_, answer) = checks.answer().await;
        assert!(matches!(&answer, DataChecked::NotSeen(text) if text.contains(why)), "{answer:?}");
    }
    checks.ask(3, "data", LIMIT).await;
    let (_, answer) = checks.answer().await;
    let DataChecked::Checked(folder) = answer else { panic!("{answer:?}") };
    assert!(folder.errors[0].contains("give the path of its data.yaml"), "{folder:?}");
    assert!(!checks.folder.path().join("asked").exists());
}

#[tokio::test]
async fn what_another_machine_may_see_is_told_from_what_is_wrong() {
    let unfit = r#"{"kind":"path_missing","path":"/d","message":"/nas is not there"}"#;
    let mut checks = Checks::start(&format!(
        r#"echo '{{"errors":["x"],"more_errors":0,"warnings":[],"more_warnings":0,"unfit":{unfit}}}'"#
    ));
    checks.ask(1, "data/data.yaml", LIMIT).await;
    assert_eq!(checks.answer().await.1, DataChecked::NotSeen("/nas is not there".into()));
}

#[tokio::test]
async fn a_place_that_a_data_yaml_names_in_vain_is_told_from_a_data_yaml_that_is_not_there() {
    for (kind, is_in_part) in [("path_missing", true), ("path_unreadable", false)] {
        let unfit = format!(r#"{{"kind":"{kind}","path":"/d","message":"/nas is not there"}}"#);
        let mut checks = Checks::start(&format!(
            r#"echo '{{"errors":["x"],"more_errors":3,"warnings":[],"more_warnings":0,"unfit":{unfit},"has_data_yaml":true}}'"#
        ));
        checks.ask(1, "data/data.yaml", LIMIT).await;
        let (_, answer) = checks.answer().await;
        let expected = if is_in_part {
            DataChecked::SeenInPart(DataCheck { more_errors: 3, ..DataCheck::new(&["x".into()], &[], None) })
        } else {
            DataChecked::NotSeen("/nas is not there".into())
        };
        assert_eq!(answer, expected);
    }
}

#[tokio::test]
async fn a_check_that_is_killed_has_no_result_and_its_children_end_with_it() {
    let mut checks = Checks::start("tail -f /dev/null & echo $! >child; echo $$ >made; mv made pid; wait");
    checks.ask(1, "data/data.yaml", LIMIT).await;
    let pid = checks.pid().await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let (_, answer) = checks.answer().await;
    let is_killed = |text: &str| text.contains("without a result (signal: 9");
    assert!(matches!(&answer, DataChecked::NotChecked(text) if is_killed(text)), "{answer:?}");
    let child = fs::read_to_string(checks.folder.path().join("child")).unwrap();
    is_gone(child.trim().parse().unwrap()).await;
}

#[tokio::test]
async fn a_check_that_takes_too_long_is_ended_and_so_is_one_that_nobody_waits_for() {
    let mut checks = Checks::start("echo $$ >made; mv made pid; exec tail -f /dev/null");
    checks.ask(1, "data/data.yaml", Duration::from_millis(1)).await;
    let (id, answer) = checks.answer().await;
    assert_eq!((id, &answer), (1, &DataChecked::NotChecked("its check takes too long".into())));
    let _ = fs::remove_file(checks.folder.path().join("pid"));
    checks.ask(2, "data/data.yaml", LIMIT).await;
    let pid = checks.pid().await;
    // The same data set is not looked at twice at a time.
    checks.ask(3, "data/data.yaml", LIMIT).await;
    let (id, answer) = checks.answer().await;
    assert_eq!((id, &answer), (3, &DataChecked::NotChecked("it is being looked at already".into())));
    checks.answers.close();
    is_gone(pid).await;
}

#[tokio::test]
async fn a_check_that_says_too_much_is_ended() {
    let mut checks = Checks::start("exec yes");
    checks.ask(1, "data/data.yaml", LIMIT).await;
    let (_, answer) = checks.answer().await;
    assert!(
        matches!(&answer, DataChecked::NotChecked(text) if text.contains("without a result")),
        "{answer:?}"
    );
}
