//! Nobody reads what the simulator prints any more: it does its work, and is quiet.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::PipeWriter;
use std::process::{Command, Stdio};

/// The writing end of a pipe that nobody reads.
fn unread() -> PipeWriter {
    std::io::pipe().unwrap().1
}

#[test]
fn no_command_panics_and_schedules_are_written() {
    let folder = std::env::temp_dir().join(format!("trainyard-sim-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (case, out) = (folder.to_str().unwrap(), folder.join("schedule.csv"));
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("cluster.csv", "gpu_model,vram_gb,nodes,gpus_per_node\ncard,24,1,1\n");
    write(
        "jobs.csv",
        "job_id,user,submit_s,gpus,min_vram_gb,priority,work_units,ckpt_units,declared_units,job_kind,tput_card\n\
         a,ada,0,1,0,0,1000,100,1000,k,10\n",
    );
    write("ran.csv", "job_id,start_s,end_s\na,0,100\n");
    let with_out = ["--case", case, "--out", out.to_str().unwrap()];
    for words in [&with_out[..], &["replay", case], &["--help"], &["replay", "/nowhere"], &[]] {
        let run = |change: &dyn Fn(&mut Command)| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-sim"));
            command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            change(&mut command);
            let output = command.spawn().unwrap().wait_with_output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let (code, said) = run(&|_| ());
        let wanted = if words == &["replay", "/nowhere"][..] { 1 } else { 0 };
        assert_eq!(code, Some(if words.is_empty() { 2 } else { wanted }), "{words:?}: {said}");
        let (unheard, said) = run(&|command| {
            command.stdout(unread());
        });
        assert_eq!(unheard, code, "{words:?}: {said}");
        assert!(!said.contains("panicked"), "{words:?}: {said}");
        let (deaf, _) = run(&|command| {
            command.stdout(unread()).stderr(unread());
        });
        assert_eq!(deaf, code, "{words:?}");
    }
    assert!(out.is_file());
    std::fs::remove_dir_all(&folder).unwrap();
}
