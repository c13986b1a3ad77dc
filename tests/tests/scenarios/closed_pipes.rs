//! Nobody reads any more what the services and the simulator print: they do their work, and are quiet. Those of `yard`
//! and of the trainer are with them, since they need what these need.

use std::fs;
use std::io::PipeWriter;
use std::path::Path;
use std::process::{Command, Stdio};

use trainyard_tests::process::binary;

/// The writing end of a pipe that nobody reads.
fn unread() -> PipeWriter {
    std::io::pipe().unwrap().1
}

/// Runs a program with readers, without one on standard output, and without any; returns its exit code.
fn does_the_same_unheard(program: &str, words: &[&str], data_dir: &Path) -> Option<i32> {
    let run = |change: &dyn Fn(&mut Command)| {
        let mut command = Command::new(binary(program).unwrap());
        command.env("TRAINYARD_SCHEDULER__LISTEN", "127.0.0.1:0");
        command.env("TRAINYARD_SCHEDULER__DATA_DIR", data_dir);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        change(&mut command);
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, _) = run(&|_| ());
    let (unheard, said) = run(&|command| {
        command.stdout(unread());
    });
    assert_eq!(unheard, code, "{program} {words:?}: {said}");
    assert!(!said.contains("panicked"), "{program} {words:?}: {said}");
    let (deaf, _) = run(&|command| {
        command.stdout(unread()).stderr(unread());
    });
    assert_eq!(deaf, code, "{program} {words:?}");
    code
}

#[test]
fn no_command_of_the_scheduler_panics() {
    let dir = tempfile::tempdir().unwrap();
    for words in [&["config"][..], &["--help"], &["--version"], &["nonsense"], &["--redis-url", "nonsense"]] {
        does_the_same_unheard("trainyard-scheduler", words, dir.path());
    }
}

#[test]
fn no_command_of_the_agent_panics() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wrong.toml");
    fs::write(&file, "nonsense = 1\n").unwrap();
    let config = ["--scheduler", "http://127.0.0.1:1", "--nvml-library", "/none", "config"];
    let batch_table = [&config[..4], &["batch-table"]].concat();
    let wrong = ["--config", file.to_str().unwrap()];
    for words in [&config[..], &batch_table, &["--help"], &wrong, &["x"]] {
        does_the_same_unheard("trainyard-agent", words, dir.path());
    }
}

#[test]
fn no_command_of_the_simulator_panics_and_schedules_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("cluster.csv", "gpu_model,vram_gb,nodes,gpus_per_node\ngpu,24,1,1\n");
    write(
        "jobs.csv",
        "job_id,user,submit_s,gpus,min_vram_gb,priority,work_units,ckpt_units,declared_units,job_kind,tput_gpu\n\
         a,ada,0,1,0,0,1000,100,1000,k,10\n",
    );
    write("ran.csv", "job_id,start_s,end_s\na,0,100\n");
    let (case, out) = (dir.path().to_str().unwrap(), dir.path().join("schedule.csv"));
    let with_out = ["--case", case, "--out", out.to_str().unwrap()];
    let commands = [
        (&with_out[..], 0),
        (&["replay", case], 0),
        (&["--help"], 0),
        (&["replay", "/nowhere"], 1),
        (&[], 2),
    ];
    for (words, code) in commands {
        assert_eq!(does_the_same_unheard("trainyard-sim", words, dir.path()), Some(code), "{words:?}");
    }
    assert!(out.is_file());
}
