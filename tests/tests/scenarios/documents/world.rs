//! A place where the commands of documents are run: a folder, a shell's variables, and a cluster.
//!
//! Commands are run as they stand. Only what a reader fills in is filled in: `ID`, `AGENT`, `/data`, host names.
//! Jobs train really, on the CPU, at the smallest size: that is the installed trainer's doing, not the commands'.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use trainyard_tests::cluster::{PATIENCE, run};
use trainyard_tests::process::{Process, binary};

use super::markdown::{self, Document, Mark, ROOT};

const POLL: Duration = Duration::from_millis(50);
/// Seconds that a command may take.
const LIMIT: &str = "120";
/// Started by hand, or too slow for a test: their words are checked, they are not run.
const ONLY_CHECKED: [&str; 3] = ["cargo", "git", "make"];
/// The name of the agent that documents call `AGENT`.
pub const AGENT: &str = "lab-1";

/// Trains on the CPU whatever the GPU, and makes every training the smallest that there is.
const TRAINER: &str = r#"#!/bin/sh
case "$*" in
  self-test*cuda*) echo '{"ok":true,"libtorch":"2.13.0"}'; exit 0;;
  info*--libtorch*) exit 64;;
esac
[ "$1" = train ] || exec "$REAL" "$@"
epochs=${TRAINYARD_TEST_EPOCHS:-1}
for word; do
  shift
  next=$word
  case $option in
    --device) word=cpu;;
    --epochs) word=$epochs;;
    --imgsz) word=64;;
    --model) word=yolov8n;;
    --spec)
      sed -E -e "s/\"epochs\": *[0-9]+/\"epochs\":$epochs/" -e 's/"imgsz": *[0-9]+/"imgsz":64/' \
        -e 's/"workers": *[0-9]+/"workers":1/' -e 's/"yolov8[smlx]"/"yolov8n"/' "$word" >"$word.small"
      word=$word.small;;
  esac
  set -- "$@" "$word"
  option=$next
done
exec "$REAL" "$@"
"#;

/// Folders `target/release` and `target/debug` with the programs as users have them, but for the trainer.
pub fn programs() -> TempDir {
    // On the disk of the programs, so that a link does.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let release = dir.path().join("target/release");
    fs::create_dir_all(&release).unwrap();
    std::os::unix::fs::symlink("release", dir.path().join("target/debug")).unwrap();
    for name in ["yard", "trainyard-scheduler", "trainyard-agent", "trainyard-sim"] {
        fs::hard_link(binary(name).unwrap(), release.join(name)).unwrap();
    }
    let trainer = release.join("trainyard-trainer");
    let real = binary("trainyard-trainer").unwrap().display().to_string();
    fs::write(&trainer, TRAINER.replace("$REAL", &real)).unwrap();
    fs::set_permissions(&trainer, fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// What a page's commands find, and what they have left.
pub struct World {
    home: TempDir,
    programs: PathBuf,
    /// The current directory.
    folder: PathBuf,
    /// What stands for `/data`.
    data: PathBuf,
    /// What stands for 7433.
    port: u16,
    variables: Vec<(String, String)>,
    /// The job or sweep that was submitted last; what stands for `ID`.
    job: String,
    /// What the last command has printed.
    printed: String,
    /// Commands that train and were run: once is enough.
    trained: BTreeSet<String>,
    /// What runs in the background.
    services: Vec<Process>,
}

impl World {
    /// A clone of the repository in which `programs` are built, in which the commands of a page are run.
    pub fn new(programs: &Path, port: u16) -> Self {
        let home = tempfile::Builder::new().prefix("trainyard-").tempdir().unwrap();
        let folder = home.path().join("trainyard");
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(programs.join("target"), folder.join("target")).unwrap();
        let gpus = home.path().join("gpus.json");
        fs::copy(format!("{ROOT}/tests/fake-nvml/gpus.json"), &gpus).unwrap();
        let text = |path: &Path| path.display().to_string();
        let variables = [
            ("PATH", format!("{}:{ROOT}/.tools", std::env::var("PATH").unwrap())),
            ("HOME", text(home.path())),
            ("FAKE_NVML_STATE", text(&gpus)),
            ("TRAINYARD_AGENT__NVML_LIBRARY", text(&binary("libfake_nvml.so").unwrap())),
            ("TRAINYARD_AGENT__METRICS_LISTEN", String::new()),
            // The script above starts other programs, and writes a spec of its own.
            ("TRAINYARD_AGENT__CONFINE_TRAINERS", "false".to_owned()),
            ("YARD_SERVER", format!("http://127.0.0.1:{port}")),
        ];
        Self {
            programs: programs.join("target/release"),
            data: home.path().join("data"),
            folder,
            home,
            port,
            variables: variables.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            job: String::new(),
            printed: String::new(),
            trained: BTreeSet::new(),
            services: Vec::new(),
        }
    }

    /// Says where `/data` is; the commands are run in a folder of it.
    pub fn with_data(mut self, data: PathBuf) -> Self {
        self.folder = data.join("lab");
        fs::create_dir_all(&self.folder).unwrap();
        std::os::unix::fs::symlink(self.programs.parent().unwrap(), self.folder.join("target")).unwrap();
        self.data = data;
        self
    }

    /// Sets a variable of the shell.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Puts the programs on the path: pages of the manual take for granted that they are.
    pub fn with_programs_on_the_path(mut self) -> Self {
        let path = &mut self.variables[0].1;
        *path = format!("{}:{path}", self.programs.display());
        self
    }

    /// Makes the data set that pages call `/data/bccd`.
    pub fn make_data(&self) {
        let mut command = Command::new(self.programs.join("yard"));
        command
            .arg("demo-data")
            .arg(self.data.join("bccd"))
            .args(["--train", "8", "--val", "4", "--size", "64"]);
        assert!(command.output().unwrap().status.success());
    }

    /// Does what a page says, from its first line to its last.
    pub async fn follow(&mut self, document: &Document) {
        for block in markdown::blocks(document) {
            let Some(mark) = block.mark() else { continue };
            let mut commands = markdown::commands(&block.text);
            match mark {
                Mark::NotRun => {}
                Mark::Run { hidden, until } => {
                    let last = until.as_ref().and_then(|_| commands.pop());
                    for command in hidden.iter().chain(&commands) {
                        self.run(&block.place, command).await;
                    }
                    if let (Some(last), Some(until)) = (last, until) {
                        self.run_until(&block.place, &last, &until).await;
                    }
                }
                Mark::Start { again, until } => {
                    if again {
                        self.stop().await;
                    }
                    let last = commands.pop().unwrap();
                    for command in &commands {
                        self.run(&block.place, command).await;
                    }
                    self.start(&block.place, &last, &until).await;
                }
                Mark::Save { file, then } => {
                    fs::write(self.folder.join(&file), self.filled(&block.text)).unwrap();
                    self.run(&block.place, &then).await;
                }
                Mark::Output => self.compare(&block.place, &block.text),
            }
        }
    }

    /// What a reader puts in the place of a word.
    fn filled(&self, text: &str) -> String {
        let address = format!("127.0.0.1:{}", self.port);
        let data = self.data.display().to_string();
        let set = data.clone() + "/bccd/data.yaml";
        let words = [
            ("/data", data.as_str()),
            ("DATA.yaml", &set),
            ("ID", &self.job),
            ("AGENT", AGENT),
            ("NAME", "yolov8n"),
            ("DIR", "recording"),
            ("P", "fair"),
            ("localhost:7433", &address),
            ("scheduler:7433", &address),
            ("0.0.0.0:7433", &address),
            ("yard up", &format!("yard up --listen {address}")),
        ];
        words.into_iter().fold(text.to_owned(), |text, (word, value)| replace_word(&text, word, value))
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(&self.folder).env_clear();
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end, and keeps what it has changed of the shell.
    async fn run(&mut self, place: &str, command: &str) {
        let program = command.split_whitespace().find(|word| !word.contains('='));
        if program.is_some_and(|program| ONLY_CHECKED.contains(&program)) {
            return;
        }
        let command = self.filled(command);
        let trains =
            ["yard train ", "trainyard-trainer train "].iter().any(|words| command.starts_with(words));
        if trains && !self.trained.insert(command.clone()) {
            return;
        }
        let state = self.home.path().join("state");
        let script = format!("{command}\nenv -0 >'{0}'; pwd >>'{0}'", state.display());
        let mut shell = Command::new("timeout");
        let bash = self.shell(&script);
        shell.arg(LIMIT).arg(bash.get_program()).args(bash.get_args()).current_dir(&self.folder).env_clear();
        shell.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let (code, out, error) = run(&mut shell).await.unwrap();
        assert_eq!(code, 0, "{place}: `{command}` ended with {code}:\n{out}{error}");
        self.remember(&fs::read_to_string(&state).unwrap());
        if ["yard train", "yard submit", "/Submit"].iter().any(|words| command.contains(words))
            && let Some(id) = out.split(|c: char| !c.is_ascii_hexdigit() && c != '-').find(|word| is_id(word))
        {
            id.clone_into(&mut self.job);
        }
        self.printed = out;
    }

    /// Keeps the shell's variables and its current directory.
    fn remember(&mut self, state: &str) {
        let mut parts: Vec<&str> = state.split('\0').collect();
        self.folder = PathBuf::from(parts.pop().unwrap().trim_end());
        let own = ["_", "PWD", "OLDPWD", "SHLVL"];
        let pairs = parts.into_iter().filter_map(|part| part.split_once('='));
        let pairs = pairs.filter(|(name, _)| !own.contains(name));
        self.variables = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    }

    fn spawn(&self, command: &str) -> Process {
        let log = self.home.path().join(format!("{}.log", self.services.len()));
        let _ = fs::remove_file(&log);
        // The shell becomes the program, so that signals reach it.
        Process::spawn(&mut self.shell(&self.filled(command)), &log).unwrap()
    }

    /// Presses Ctrl-C once a command has printed `until`.
    async fn run_until(&mut self, place: &str, command: &str, until: &str) {
        let mut process = self.spawn(command);
        let (deadline, mut poll) = (Instant::now() + PATIENCE, tokio::time::interval(POLL));
        while !process.output().contains(until) {
            poll.tick().await;
            let over = process.ended().unwrap().is_some() || Instant::now() > deadline;
            assert!(!over, "{place}: `{command}` did not print {until}:\n{}", process.output());
        }
        process.signal(Signal::SIGINT).unwrap();
        let code = ended(&mut process).await;
        assert_eq!(code, Some(130), "{place}: `{command}` after Ctrl-C:\n{}", process.output());
        self.printed = process.output();
    }

    /// Starts a command in the background, and waits until another one ends well.
    async fn start(&mut self, place: &str, command: &str, until: &str) {
        let mut process = self.spawn(command);
        let (deadline, mut poll) = (Instant::now() + PATIENCE, tokio::time::interval(POLL));
        let until = self.filled(until);
        while run(&mut self.shell(&until)).await.unwrap().0 != 0 {
            poll.tick().await;
            let over = process.ended().unwrap().is_some() || Instant::now() > deadline;
            assert!(!over, "{place}: `{until}` did not come true:\n{}", process.output());
        }
        self.services.push(process);
    }

    /// Presses Ctrl-C where something runs in the background, the newest first.
    async fn stop(&mut self) {
        while let Some(mut process) = self.services.pop() {
            process.signal(Signal::SIGINT).unwrap();
            assert_eq!(ended(&mut process).await, Some(0), "after Ctrl-C:\n{}", process.output());
        }
    }

    /// Sees that no job of the page has failed, and ends what the page has left behind.
    pub async fn leave(&mut self, document: &Document) {
        // Pages take the machine out of use. A page with machines of its own has none of that name.
        let _ = run(&mut self.shell(&format!("yard resume {AGENT}"))).await.unwrap();
        let jobs = run(&mut self.shell("yard jobs --limit 0 -o json")).await.unwrap();
        assert_eq!(jobs.0, 0, "{}: {}", document.path, jobs.2);
        let jobs: Value = serde_json::from_str(&jobs.1).unwrap();
        let mut left = Vec::new();
        for job in jobs["jobs"].as_array().unwrap() {
            let state = job["state"].as_str().unwrap();
            assert_ne!(state, "FAILED", "{}: {job:#}", document.path);
            if !["SUCCEEDED", "CANCELLED"].contains(&state) {
                left.push(job["id"].as_str().unwrap().to_owned());
            }
        }
        if !left.is_empty() {
            let (code, _, error) =
                run(&mut self.shell(&format!("yard cancel {}", left.join(" ")))).await.unwrap();
            assert_eq!(code, 0, "{}: {error}", document.path);
        }
        self.stop().await;
    }

    /// Holds a print of the page against what came. The page may leave lines out.
    fn compare(&self, place: &str, shown: &str) {
        let mut printed = self.printed.lines().map(words);
        for line in shown.lines() {
            let wanted = words(line);
            assert!(
                printed.any(|line| is_like(&wanted, &line)),
                "{place}: no line like `{line}` where it should be in:\n{}",
                self.printed
            );
        }
    }
}

/// The words of a line: numbers count as one word, whatever their digits.
fn words(line: &str) -> Vec<&str> {
    let plain = |word| if str::contains(word, |c: char| c.is_ascii_digit()) { "0" } else { word };
    line.split_whitespace().map(plain).collect()
}

/// Whether a line has the words that are wanted, where `…` stands for any number of them.
fn is_like(wanted: &[&str], line: &[&str]) -> bool {
    match wanted.split_first() {
        None => line.is_empty(),
        Some((&"…", rest)) => (0..=line.len()).any(|from| is_like(rest, &line[from..])),
        Some((word, rest)) => {
            line.split_first().is_some_and(|(first, others)| first == word && is_like(rest, others))
        }
    }
}

/// The exit code, when it has come to that.
async fn ended(process: &mut Process) -> Option<i32> {
    let (deadline, mut poll) = (Instant::now() + PATIENCE, tokio::time::interval(POLL));
    loop {
        poll.tick().await;
        if let Some(status) = process.ended().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < deadline, "it does not end:\n{}", process.output());
    }
}

fn is_id(word: &str) -> bool {
    word.len() == 36 && word.matches('-').count() == 4
}

/// Replaces `word` where it is not a part of a longer one.
fn replace_word(text: &str, word: &str, value: &str) -> String {
    let belongs = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let is_whole = !before.ends_with(belongs) && !after.starts_with(belongs);
        out.push_str(before);
        out.push_str(if is_whole { value } else { word });
        rest = after;
    }
    out + rest
}
