//! Whether the words of a command mean something: subcommands and options by the programs' own help, targets of
//! the Makefile, packages and tests of cargo, keys of the configuration.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use trainyard_tests::process::binary;

use super::markdown::ROOT;

const PROGRAMS: [&str; 5] =
    ["yard", "trainyard-scheduler", "trainyard-agent", "trainyard-trainer", "trainyard-sim"];

/// What the programs and the repository say.
pub struct Known {
    /// Help by command, `yard agents reserve`.
    help: RefCell<BTreeMap<String, String>>,
    targets: Vec<String>,
    /// Folders of the workspace's packages by name.
    packages: BTreeMap<String, PathBuf>,
    /// `TRAINYARD_SCHEDULER__LISTEN` …
    variables: Vec<String>,
}

impl Known {
    /// Asks them.
    pub fn new() -> Self {
        let makefile = fs::read_to_string(format!("{ROOT}/Makefile")).unwrap();
        let targets = makefile.lines().filter_map(|line| line.split_once(':'));
        let keys = |program: &str| {
            let output = Command::new(binary(program).unwrap()).arg("config").output().unwrap();
            let page = String::from_utf8(output.stdout).unwrap();
            let prefix = program.replace('-', "_").to_uppercase();
            let keys =
                page.lines().filter_map(|line| line.trim_start_matches("# ").split_whitespace().next());
            keys.map(|key| format!("{prefix}__{}", key.replace('.', "__").to_uppercase())).collect::<Vec<_>>()
        };
        Self {
            help: RefCell::default(),
            targets: targets.map(|(target, _)| target.to_owned()).collect(),
            packages: packages(),
            variables: [keys("trainyard-scheduler"), keys("trainyard-agent")].concat(),
        }
    }

    /// What is wrong with a command, or with several between pipes.
    pub fn faults(&self, commands: &str) -> Vec<String> {
        let commands = commands.replace("\\\n", " ");
        let lines = commands.lines().map(|line| line.split(" # ").next().unwrap_or_default());
        lines.flat_map(|line| line.split(" | ")).flat_map(|command| self.faults_of_one(command)).collect()
    }

    fn faults_of_one(&self, command: &str) -> Vec<String> {
        let words: Vec<&str> = command.trim_start_matches("export ").split_whitespace().collect();
        let assigned = |word: &&&str| word.starts_with("TRAINYARD_") && word.contains('=');
        let variables = words.iter().filter(assigned).filter_map(|word| word.split('=').next());
        let mut faults: Vec<String> = variables.filter_map(|name| self.fault_of_variable(name)).collect();
        let rest = words.iter().position(|word| !word.contains('=') || word.starts_with('-'));
        let Some((program, rest)) = rest.and_then(|at| words[at..].split_first()) else { return faults };
        let program = program.rsplit('/').next().unwrap_or_default();
        faults.extend(match program {
            "make" => self.faults_of_make(rest),
            "cargo" => self.faults_of_cargo(rest),
            _ if PROGRAMS.contains(&program) => self.faults_of_program(program, rest),
            _ => Vec::new(),
        });
        faults
    }

    /// A variable of the scheduler's or the agent's configuration that has no key.
    pub fn fault_of_variable(&self, name: &str) -> Option<String> {
        let of_key = name.starts_with("TRAINYARD_SCHEDULER__") || name.starts_with("TRAINYARD_AGENT__");
        let known = self.variables.iter().any(|variable| variable == name);
        (of_key && !known).then(|| format!("no configuration key is `{name}`"))
    }

    fn faults_of_make(&self, words: &[&str]) -> Vec<String> {
        let targets = words.iter().filter(|word| !word.contains('='));
        let unknown = targets.filter(|word| !self.targets.iter().any(|target| target == *word));
        unknown.map(|word| format!("the Makefile has no target `{word}`")).collect()
    }

    fn faults_of_cargo(&self, words: &[&str]) -> Vec<String> {
        let mut faults = Vec::new();
        let mut folders: Vec<&PathBuf> = Vec::new();
        let mut tests: Vec<PathBuf> = Vec::new();
        for pair in words.windows(2) {
            let (option, name) = (pair[0], pair[1]);
            let kind = match option {
                "-p" => {
                    match self.packages.get(name) {
                        Some(folder) => folders.push(folder),
                        None => faults.push(format!("the workspace has no package `{name}`")),
                    }
                    continue;
                }
                "--test" => "tests",
                "--bench" => "benches",
                _ => continue,
            };
            let all: Vec<&PathBuf> = self.packages.values().collect();
            let places = if folders.is_empty() { &all } else { &folders };
            let found: Vec<PathBuf> = places.iter().map(|folder| folder.join(kind)).collect();
            tests = found.iter().map(|folder| folder.join(name)).collect();
            let is_there = |folder: &PathBuf| {
                folder.join(format!("{name}.rs")).exists() || folder.join(name).join("main.rs").exists()
            };
            if !found.iter().any(is_there) {
                faults.push(format!("no package has {kind}/{name}.rs"));
            }
        }
        // `-- jobs:: fuzz::` are modules of that test.
        for module in words.iter().filter_map(|word| word.strip_suffix("::")) {
            if !tests.iter().any(|folder| folder.join(format!("{module}.rs")).exists()) {
                faults.push(format!("the test has no module `{module}`"));
            }
        }
        faults
    }

    fn faults_of_program(&self, program: &str, words: &[&str]) -> Vec<String> {
        let mut command = program.to_owned();
        let mut helps = vec![self.help(&command)];
        let mut faults = Vec::new();
        for (at, word) in words.iter().enumerate() {
            let word = word.trim_matches(['[', ']', '…', ',', '\'', '"']);
            let inner = subcommands(helps.last().unwrap());
            let is_option = word.starts_with("--") && word.len() > 2;
            if inner.iter().any(|known| known == word) {
                command = format!("{command} {word}");
                helps.push(self.help(&command));
            } else if at == 0 && !inner.is_empty() && word.starts_with(|c: char| c.is_ascii_lowercase()) {
                faults.push(format!("`{command}` has no command `{word}`"));
            } else if is_option {
                let name = word.split('=').next().unwrap_or_default().replace('_', "-");
                let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-');
                let known = |help: &String| help.split(&name).skip(1).any(ends);
                if !helps.iter().any(known) {
                    faults.push(format!("`{command}` has no option `{name}`"));
                }
            }
        }
        faults
    }

    fn help(&self, command: &str) -> String {
        if let Some(help) = self.help.borrow().get(command) {
            return help.clone();
        }
        let mut words = command.split(' ');
        let program = binary(words.next().unwrap()).unwrap();
        let output = Command::new(program).args(words).arg("--help").output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        self.help.borrow_mut().insert(command.to_owned(), help.clone());
        help
    }
}

/// The names under `Commands:` in a program's help.
fn subcommands(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let rows = list.take_while(|line| !line.is_empty()).filter(|line| line.starts_with("  "));
    let names =
        rows.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

fn packages() -> BTreeMap<String, PathBuf> {
    let read = |folder: &Path| -> toml::Table {
        fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap()
    };
    let members = read(Path::new(ROOT))["workspace"]["members"].as_array().unwrap().clone();
    let folders = members.iter().map(|member| Path::new(ROOT).join(member.as_str().unwrap()));
    folders.map(|folder| (read(&folder)["package"]["name"].as_str().unwrap().to_owned(), folder)).collect()
}

/// Whether a shell can read a block.
pub fn is_shell(text: &str) -> bool {
    Command::new("bash").args(["-nc", text]).status().is_ok_and(|status| status.success())
}
