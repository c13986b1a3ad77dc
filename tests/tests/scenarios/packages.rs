//! The Debian packages, built of the programs that these tests run: what is in them, whose it is, and what they need.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use trainyard_tests::process::binary;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const PACKAGES: [&str; 4] = ["trainyard-agent", "trainyard-cli", "trainyard-scheduler", "trainyard-trainer"];

fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a tool is there that not every machine has. A test says aloud when it leaves something out.
fn has(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        println!("left out: there is no {tool} on this machine");
    }
    there
}

/// The packages, and their files unpacked over each other.
struct Built {
    dir: tempfile::TempDir,
}

impl Built {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let programs = binary("yard").unwrap();
        let mut build = Command::new("deploy/deb/build.sh");
        build
            .current_dir(ROOT)
            .arg(dir.path())
            .env("BIN", programs.parent().unwrap())
            .env("VERSION", "7.8.9");
        done(&mut build);
        let built = Self { dir };
        for package in PACKAGES {
            done(Command::new("dpkg-deb").arg("-x").arg(built.package(package)).arg(built.root()));
        }
        built
    }

    fn package(&self, name: &str) -> PathBuf {
        let found = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let is_it = |path: &PathBuf| {
            path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{name}_7.8.9_"))
        };
        found.into_iter().find(is_it).unwrap_or_else(|| panic!("no {name}"))
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn field(&self, package: &str, field: &str) -> String {
        done(Command::new("dpkg-deb").arg("-f").arg(self.package(package)).arg(field)).trim().to_owned()
    }

    fn script(&self, package: &str, script: &str) -> String {
        done(Command::new("dpkg-deb").arg("-I").arg(self.package(package)).arg(script))
    }

    fn holds(&self) {
        for (file, mode) in [
            ("usr/bin/trainyard-scheduler", 0o755),
            ("usr/bin/trainyard-agent", 0o755),
            ("usr/bin/trainyard-trainer", 0o755),
            ("usr/bin/yard", 0o755),
            ("usr/sbin/trainyard-setup-libtorch", 0o755),
            ("usr/lib/systemd/system/trainyard-scheduler.service", 0o644),
            ("usr/lib/systemd/system/trainyard-agent.service", 0o644),
            // It may hold the password of a Redis.
            ("etc/trainyard/scheduler.toml", 0o640),
            ("etc/trainyard/agent.toml", 0o644),
            ("usr/share/man/man8/trainyard-agent-join.8.gz", 0o644),
            ("usr/share/man/man8/trainyard-scheduler.8.gz", 0o644),
            ("usr/share/man/man8/trainyard-setup-libtorch.8.gz", 0o644),
            ("usr/share/man/man1/yard-train.1.gz", 0o644),
            ("usr/share/man/man1/trainyard-trainer-val.1.gz", 0o644),
            ("usr/share/bash-completion/completions/yard", 0o644),
            ("usr/share/zsh/vendor-completions/_yard", 0o644),
            ("usr/share/fish/vendor_completions.d/yard.fish", 0o644),
            ("usr/share/trainyard/libtorch/cpu.lock", 0o644),
            ("usr/share/trainyard/libtorch/cu130.lock", 0o644),
        ] {
            let known =
                fs::metadata(self.root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(known.permissions().mode() & 0o777, mode, "{file}");
        }
        for package in PACKAGES {
            let documents = self.root().join("usr/share/doc").join(package);
            assert!(
                documents.join("copyright").is_file() && documents.join("changelog.gz").is_file(),
                "{package}"
            );
            let listed = done(Command::new("dpkg-deb").arg("-c").arg(self.package(package)));
            assert!(listed.lines().all(|line| line.contains(" root/root ")), "{listed}");
        }
        let redis = fs::read_link(self.root().join("usr/lib/trainyard/redis-server")).unwrap();
        assert_eq!(redis, Path::new("../../bin/redis-check-rdb"), "what `redis-tools` has");
    }

    fn needs(&self) {
        let depends = |package: &str| self.field(package, "Depends");
        for package in PACKAGES {
            assert!(depends(package).contains("libc6 (>= 2."), "{package}: {}", depends(package));
            assert_eq!(self.field(package, "Version"), "7.8.9");
        }
        let scheduler = depends("trainyard-scheduler");
        assert!(scheduler.contains("redis-tools") && !scheduler.contains("redis-server"), "{scheduler}");
        let trainer = depends("trainyard-trainer");
        assert!(
            trainer.contains("libgomp1") && trainer.contains("libstdc++6") && !trainer.contains("torch"),
            "{trainer}"
        );
        let program = self.root().join("usr/bin/trainyard-trainer");
        let runpath = done(Command::new("patchelf").arg("--print-rpath").arg(program));
        assert_eq!(runpath.trim(), "/var/lib/trainyard/libtorch/current/torch/lib");
    }

    fn keeps_configurations_and_restarts_nothing(&self) {
        for (package, file) in [("trainyard-agent", "agent"), ("trainyard-scheduler", "scheduler")] {
            assert!(self.script(package, "conffiles").contains(&format!("/etc/trainyard/{file}.toml")));
            for script in ["postinst", "prerm", "postrm"] {
                let text = self.script(package, script);
                let does = |line: &&str| !line.trim_start().starts_with("echo");
                assert!(
                    !text.lines().filter(does).any(|line| line.contains("restart")),
                    "{package} {script}"
                );
            }
        }
    }

    /// Units that systemd reads without a complaint, as safe as they are said to be.
    fn units_are_sound(&self) {
        if !has("systemd-analyze") {
            return;
        }
        for unit in ["trainyard-scheduler", "trainyard-agent"] {
            let file = format!("/usr/lib/systemd/system/{unit}.service");
            let root = format!("--root={}", self.root().display());
            let verify: Output =
                Command::new("systemd-analyze").args(["verify", "--man=no", &root, &file]).output().unwrap();
            let said = String::from_utf8_lossy(&verify.stderr).into_owned();
            // This root has no other units and programs; a line of ours is named by its number.
            let of_a_line = |line: &&str| {
                let rest = line.split(".service:").nth(1).unwrap_or_default();
                rest.starts_with(|c: char| c.is_ascii_digit()) || line.contains("/usr/bin/trainyard")
            };
            let about_ours: Vec<&str> = said.lines().filter(of_a_line).collect();
            assert!(about_ours.is_empty(), "{about_ours:#?}");
        }
        // The agent's cannot be as strict: see the end of its unit.
        for (unit, threshold) in [("trainyard-scheduler", "25"), ("trainyard-agent", "45")] {
            let file = format!("deploy/systemd/{unit}.service");
            let arguments = ["security", "--offline=true", "--no-pager", "--threshold", threshold, &file];
            done(Command::new("systemd-analyze").current_dir(ROOT).args(arguments));
        }
    }

    fn lintian_has_nothing_to_say(&self) {
        if !has("lintian") {
            return;
        }
        // Programs that bring their libraries along are Debian's concern alone, and the address is none.
        let known = "embedded-library,bogus-mail-host,bogus-mail-host-in-debian-changelog,initial-upload-closes-no-bugs,\
                     non-standard-file-perm,maintainer-script-calls-systemctl,unknown-field";
        let mut lintian = Command::new("lintian");
        lintian.args(["--allow-root", "--fail-on", "error,warning", "--suppress-tags", known]);
        lintian.args(PACKAGES.map(|package| self.package(package)));
        done(&mut lintian);
    }
}

/// A folder with wheels that hold small files, the lock file that names them, and a trainer that takes any libtorch.
struct Wheels(tempfile::TempDir);

impl Wheels {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = r##"
import hashlib, os, sys, zipfile
os.makedirs("wheels")
with zipfile.ZipFile("wheels/torch-2.13.0-any.whl", "w") as wheel:
    for name in ["libtorch_cpu.so", "libtorch_cuda.so", "libtorch_python.so", "libgomp.so.1"]:
        wheel.writestr("torch/lib/" + name, os.urandom(1 << 20))
    wheel.writestr("torch/version.py", "")
    wheel.writestr("torch/lib/../../../escaped.so", "")
digest = hashlib.sha256(open("wheels/torch-2.13.0-any.whl", "rb").read()).hexdigest()
open("cpu.lock", "w").write(f"# a comment\ntorch==2.13.0 --hash=sha256:{digest}\n")
open("cu130.lock", "w").write(f"torch==2.13.0 --hash=sha256:{digest}\n")
"##;
        done(Command::new("python3").args(["-c", script]).current_dir(dir.path()));
        let wheels = Self(dir);
        wheels.trainer("exit 0");
        wheels
    }

    fn trainer(&self, does: &str) {
        let program = self.0.path().join("trainer");
        fs::write(&program, format!("#!/bin/sh\n{does}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, before: &str) -> Command {
        let script = "deploy/deb/trainyard-trainer/trainyard-setup-libtorch";
        let mut command = Command::new("unshare");
        command.current_dir(ROOT).args(["-rm", "sh", "-ec"]);
        command.arg(format!(
            "{before} exec python3 {script} cpu --wheelhouse {}/wheels",
            self.0.path().display()
        ));
        command
            .env("TRAINYARD_LIBTORCH_LOCKS", self.0.path())
            .env("TRAINYARD_LIBTORCH_ROOT", self.0.path().join("root"));
        command.env("TRAINYARD_TRAINER", self.0.path().join("trainer"));
        command
    }

    /// Exit code and what was said.
    fn install(&self, before: &str) -> (bool, String) {
        let output = self.command(before).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    fn in_use(&self) -> Option<PathBuf> {
        fs::read_link(self.0.path().join("root/current")).ok()
    }
}

#[test]
fn libtorch_is_checked_and_tried_before_it_is_used_and_a_failure_leaves_the_old_one() {
    let wheels = Wheels::new();
    wheels.trainer("echo no such symbol >&2; exit 1");
    let (done, said) = wheels.install("");
    assert!(
        !done && said.contains("the trainer cannot use it: no such symbol; no libtorch stays in use"),
        "{said}"
    );
    assert_eq!(wheels.in_use(), None);

    wheels.trainer("test -e $LD_LIBRARY_PATH/libtorch_cpu.so");
    let (done, said) = wheels.install("");
    assert!(done, "{said}");
    let first = wheels.in_use().unwrap();
    let libraries = fs::read_dir(wheels.0.path().join("root/current/torch/lib")).unwrap();
    let mut libraries: Vec<_> =
        libraries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    libraries.sort();
    assert_eq!(libraries, ["libgomp.so.1", "libtorch_cpu.so"], "what Python and GPUs need is left out");
    assert!(wheels.install("").1.contains("is there already"));

    // A version that the disk has no room for.
    let lock = wheels.0.path().join("cpu.lock");
    let text = fs::read_to_string(&lock).unwrap();
    fs::write(&lock, text.replace("2.13.0", "2.14.0")).unwrap();
    let root = wheels.0.path().join("root").display().to_string();
    let small = format!(
        "mkdir /tmp/old$$; cp -a {root}/. /tmp/old$$; mount -t tmpfs -o size=1m none {root}; \
                         cp -a /tmp/old$$/current {root}; rm -r /tmp/old$$;"
    );
    let (done, said) = wheels.install(&small);
    assert!(!done && said.contains("is full: make room for 2 GB"), "{said}");
    assert_eq!(wheels.in_use(), Some(first.clone()));

    // Another file under the same name.
    fs::write(wheels.0.path().join("wheels/torch-2.13.0-any.whl"), "other").unwrap();
    let (done, said) = wheels.install("");
    assert!(
        !done && said.contains("lacks the wheels, or has others than the lock file names: torch==2.14.0"),
        "{said}"
    );
    assert_eq!(wheels.in_use(), Some(first));
}

#[test]
fn the_packages_hold_what_is_installed_and_say_what_they_need() {
    let built = Built::new();
    built.holds();
    built.needs();
    built.keeps_configurations_and_restarts_nothing();
    built.units_are_sound();
    built.lintian_has_nothing_to_say();
}
