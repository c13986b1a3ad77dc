//! Commands as processes: what they print, what they send, how they exit.

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};
use trainyard_proto::pb;
use trainyard_proto::pb::JobState::{Queued, Running, Succeeded};

use crate::fake::{ID, Script, Server, UNCHECKED, code, job, stderr, stdout};

const OTHER: &str = "019ab3c4-1f2f-7000-8000-000000000002";
const THIRD: &str = "019ab3c4-1f30-7000-8000-000000000003";

fn bad_request() -> Status {
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("spec.train.epochs", "is 0; use 1 to 100000");
    details.add_bad_request_violation("spec.train.imgsz", "is 100; use a multiple of 32 from 32 to 4096");
    Status::with_error_details(tonic::Code::InvalidArgument, "the job has 2 bad fields", details)
}

#[test]
fn no_server_is_exit_code_3_with_a_way_out() {
    let (address, _) = Server::start(Script::default()).kill();
    // Each waits a little for a server that may be restarting, so they wait together.
    let commands = [&["jobs"][..], &["watch", ID], &["artifacts", ID]];
    let children = commands.map(|arguments| crate::fake::command(address, arguments).spawn().unwrap());
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 3, "{output:?}");
        let text = stderr(&output);
        assert!(text.contains("cannot be reached") && text.contains("hint: is it running?"), "{text}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_job_that_is_not_there_is_exit_code_4() {
    let output = Server::start(Script::default()).yard(&["job", "0000"]);
    assert_eq!(code(&output), 4);
    assert_eq!(
        stderr(&output),
        "error: there is no job `0000`\nhint: `yard jobs` lists the jobs that there are, `yard agents` the agents\n"
    );
}

#[test]
fn a_bad_spec_is_exit_code_2_and_names_every_field() {
    let script = Script { refuse: Some((String::new(), bad_request())), ..Default::default() };
    let output =
        Server::start(script).yard(&["train", "/nowhere/data.yaml", "--epochs", "0", "--imgsz", "100"]);
    assert_eq!(code(&output), 2);
    let wanted = "error: the job has 2 bad fields\n  spec.train.epochs: is 0; use 1 to 100000\n  \
                  spec.train.imgsz: is 100; use a multiple of 32 from 32 to 4096\nhint: ";
    assert!(stderr(&output).contains(wanted), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let server = Server::start(Script::default());
    for wrong in [&["frobnicate"][..], &["train"], &["train", "d", "--min-vram", "20"], &["job", "not an id"]]
    {
        assert_eq!(code(&server.yard(wrong)), 2, "{wrong:?}");
    }
    assert_eq!(code(&server.yard(&["--help"])), 0);
}

#[test]
fn a_submission_is_repeated_under_one_name_while_the_server_is_away() {
    let server = Server::start(Script { unavailable: 2, ..Default::default() });
    let mut command = crate::fake::command(server.address, &["train", "/nowhere/data.yaml", "--lr0", "0.02"]);
    let output = command.env("YARD_TOKEN", "s3cret").output().unwrap();
    assert_eq!((code(&output), stdout(&output)), (0, format!("{ID}\n")));
    assert!(stderr(&output).contains("warning: `/nowhere/data.yaml` is no file on this machine"));
    assert!(!stderr(&output).contains("s3cret"));
    let script = server.script.lock().unwrap();
    assert_eq!(script.submitted.len(), 3);
    assert!(script.submitted.windows(2).all(|pair| pair[0] == pair[1]));
    let train = script.submitted[0].spec.clone().unwrap().train.unwrap();
    assert_eq!((train.data.as_str(), train.lr0, train.epochs), ("/nowhere/data.yaml", Some(0.02), None));
    let (user, authorization) = &script.metadata[0];
    assert!(user.as_ref().is_some_and(|user| !user.is_empty()));
    assert_eq!(authorization.as_deref(), Some("Bearer s3cret"));
}

#[test]
fn a_dry_run_asks_and_queues_nothing() {
    let server = Server::start(Script::default());
    let output = server.yard(&["train", "/nowhere/data.yaml", "--dry-run"]);
    assert_eq!(code(&output), 0);
    let plan = stdout(&output);
    assert!(plan.starts_with("GPU ") && plan.contains("NVIDIA GeForce RTX 4090  1 of 2"), "{plan}");
    let json = server.yard(&["train", "/nowhere/data.yaml", "--dry-run", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["plan"]["options"][0]["batchSize"], 32);
    let told = stderr(&output);
    assert!(told.contains("warning: train: 1 label rows that repeat \u{FFFD}another\n"), "{told}");
    assert!(server.script.lock().unwrap().submitted.iter().all(|request| request.validate_only));
}

#[test]
fn a_dry_run_of_a_long_file_is_one_call() {
    let dir = tempfile::tempdir().unwrap();
    let text = ["train: {model: yolov8n, data: /d}\n"; 200].join("---\n");
    let file = crate::fake::write(dir.path(), "jobs.yaml", &text);
    let server = Server::start(Script::default());
    let output = server.yard(&["submit", "--dry-run", "-f", &file]);
    assert_eq!((code(&output), stdout(&output)), (0, String::new()));
    let unchecked = format!("warning: {UNCHECKED}\n");
    assert!(stderr(&output).contains(&unchecked), "{}", stderr(&output));
    {
        let script = server.script.lock().unwrap();
        assert_eq!((script.submitted.len(), script.job_groups.len(), script.validated), (0, 1, 1));
    }
    // Programs read it, too; and so it is with a sweep.
    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = server.yard(&[arguments, &["-o", "json"]].concat());
        assert!(stderr(&output).contains(&unchecked), "{}", stderr(&output));
        serde_json::from_str(&stdout(&output)).unwrap()
    };
    let sweep = ["train", "/d", "--sweep", "lr0=0.1,0.2", "--dry-run"];
    for arguments in [&["submit", "--dry-run", "-f", &file][..], &["submit", "-f", &file], &sweep] {
        assert_eq!(json(arguments)["warnings"], serde_json::json!([UNCHECKED]), "{arguments:?}");
    }
}

#[test]
fn of_a_file_with_one_bad_job_nothing_is_submitted() {
    let dir = tempfile::tempdir().unwrap();
    let text = "name: good\ntrain: {model: yolov8n, data: /d}\n---\nname: bad one\ntrain: {model: yolov8n, data: /d}\n";
    let file = crate::fake::write(dir.path(), "job.yaml", text);
    let script = Script { refuse: Some(("bad".into(), bad_request())), ..Default::default() };
    let server = Server::start(script);
    let output = server.yard(&["submit", "-f", &file]);
    assert_eq!(code(&output), 2);
    let text = stderr(&output);
    assert!(text.contains("job.yaml: nothing was submitted"), "{text}");
    assert!(text.contains("\n  document 2: spec.train.epochs: is 0"), "{text}");
    assert!(text.contains("\n  document 2: spec.train.imgsz: is 100"), "{text}");
    assert!(server.script.lock().unwrap().submitted.iter().all(|request| request.validate_only));
}

#[test]
fn a_job_file_is_text_as_users_write_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("job.yaml");
    let server = Server::start(Script::default());
    let submit = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let output = server.yard(&["submit", "--dry-run", "-f", file.to_str().unwrap()]);
        (code(&output), stderr(&output))
    };
    let text = "# größe\rname: é\rtrain:\r  model: yolov8n\r  data: /d\r";
    let (code, told) = submit(format!("\u{feff}{text}").as_bytes());
    assert_eq!(code, 0, "{told}");
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (code, told) = submit(&wide);
    assert!(code == 2 && told.contains("job.yaml: is UTF-16 text; save it as UTF-8"), "{told}");
    let (code, told) = submit(b"name: a\nlabels: {who: Jos\xE9}\n");
    assert!(code == 2 && told.contains("job.yaml:2: byte 18 of the line, 0xE9, is not UTF-8"), "{told}");
}

#[test]
fn a_file_with_good_jobs_prints_an_id_for_each() {
    let dir = tempfile::tempdir().unwrap();
    let file = crate::fake::write(
        dir.path(),
        "jobs.yaml",
        "train: {model: yolov8n, data: /d}\n---\ntrain: {model: yolov8s, data: /d}\n",
    );
    let server = Server::start(Script::default());
    let output = server.yard(&["submit", "-f", &file]);
    let id = |at: u32| format!("{}{at}", &ID[..35]);
    assert_eq!((code(&output), stdout(&output)), (0, format!("{}\n{}\n", id(0), id(1))));
    let output = server.yard(&["submit", "-f", &file, "-o", "jsonl"]);
    assert_eq!(stdout(&output).lines().count(), 2);
    let names = server.script.lock().unwrap().job_groups.clone();
    assert!(names.len() == 2 && names.iter().all(|name| uuid::Uuid::try_parse(name).is_ok()));
}

#[test]
fn a_sweep_is_one_call_and_is_shown_and_cancelled_as_one() {
    let server = Server::start(Script::default());
    let train = ["train", "/d.yaml", "--sweep", "lr0=0.1,0.2", "--sweep", "seed=1,2,3"];
    let output = server.yard(&train);
    assert_eq!((code(&output), stdout(&output)), (0, format!("{ID}\n")));
    assert!(stderr(&output).contains("6 jobs are queued"), "{output:?}");
    assert_eq!(server.script.lock().unwrap().sweeps[0].axes[1].values, ["1", "2", "3"]);
    let text = stdout(&server.yard(&["sweep", ID]));
    assert_eq!(text, format!("ID        {ID}\nParameter lr0 = 0.1, 0.2\nRUNNING   2\n"));
    assert!(stdout(&server.yard(&["cancel", "--sweep", ID])).contains("CANCELLED 2"));
    let output = server.yard(&["jobs", "--sweep", ID, "--label", "a=b", "--name", "cells"]);
    assert_eq!(code(&output), 0);
    let listed = server.script.lock().unwrap().listed.clone();
    assert_eq!((listed[0].sweep_id.as_str(), listed[0].name_prefix.as_str()), (ID, "cells"));
    assert_eq!(listed[0].labels["a"], "b");
}

#[test]
fn jobs_are_listed_over_pages_as_a_table_or_as_json() {
    let mut running = job(OTHER, Running);
    running.spec = Some(pb::JobSpec { name: "cells \x1b[2J".into(), ..Default::default() });
    running.progress = Some(pb::Progress {
        epoch: 3,
        epochs: 50,
        metrics: [("metrics/mAP50-95(B)".to_owned(), 0.4321)].into(),
        eta: Some(prost_types::Duration { seconds: 754, nanos: 0 }),
        ..Default::default()
    });
    running.attempts =
        vec![pb::Attempt { agent_name: "lab1".into(), device: "CPU".into(), ..Default::default() }];
    let mut queued = job(ID, Queued);
    (queued.queue_position, queued.waiting_for) = (Some(1), "needs a GPU with 20 GB".into());
    let script = Script { jobs: vec![queued, running, job(THIRD, Succeeded)], ..Default::default() };
    let server = Server::start(script);
    let output = server.yard(&["jobs", "--state", "running", "--state", "queued", "--user", "ada"]);
    let text = stdout(&output);
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split("  ").filter(|cell| !cell.trim().is_empty()).map(str::trim).collect())
        .collect();
    assert_eq!(
        lines[0],
        [
            "ID",
            "NAME",
            "USER",
            "STATE",
            "PROGRESS",
            "mAP50-95",
            "STARTS IN",
            "ENDS IN",
            "AGE",
            "WHERE / WAITING FOR"
        ]
    );
    assert_eq!(
        lines[1],
        ["019ab3c4-1f2e", "ada", "QUEUED", "-", "-", "-", "-", "-", "#1 needs a GPU with 20 GB"]
    );
    let row = [
        "019ab3c4-1f2f",
        "cells \u{FFFD}[2J",
        "ada",
        "RUNNING",
        "epoch 3/50",
        "0.432",
        "-",
        "12m",
        "-",
        "lab1: CPU",
    ];
    assert_eq!(lines[2], row);
    assert_eq!(lines.len(), 4);
    let listed = server.script.lock().unwrap().listed.clone();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|request| request.states == [3, 1] && request.user == "ada"));
    let json: serde_json::Value =
        serde_json::from_slice(&server.yard(&["jobs", "-o", "json"]).stdout).unwrap();
    assert_eq!(json["jobs"][1]["progress"]["eta"], "754s");
    assert_eq!(json["jobs"][1]["state"], "RUNNING");
    assert_eq!(stdout(&server.yard(&["jobs", "-o", "jsonl"])).lines().count(), 3);
    let limited = server.yard(&["jobs", "--limit", "2"]);
    assert_eq!(stdout(&limited).lines().count(), 3);
    assert!(stderr(&limited).contains("there are more"));
}

#[test]
fn every_job_is_cancelled_even_when_one_is_not_there() {
    let server =
        Server::start(Script { jobs: vec![job(ID, Running), job(OTHER, Queued)], ..Default::default() });
    let output = server.yard(&["cancel", "019ab3c4-1f2e", "0000", "019ab3c4-1f2f"]);
    assert_eq!(code(&output), 4);
    assert_eq!(stdout(&output), format!("{ID} cancelled\n{OTHER} cancelled\n"));
    assert!(stderr(&output).contains("there is no job `0000`"));
}

#[test]
fn a_job_that_runs_cannot_be_retried() {
    let output = Server::start(Script::default()).yard(&["retry", ID]);
    assert_eq!(code(&output), 4);
    assert!(stderr(&output).contains("error: the job runs"), "{output:?}");
}

/// An agent with a GPU in each state.
fn lab() -> pb::Agent {
    let gpu = |index, status: &str, status_reason: &str| pb::Gpu {
        index,
        model: "NVIDIA GeForce RTX 4090".into(),
        memory_total_mib: 24564,
        status: status.into(),
        status_reason: status_reason.into(),
        ..Default::default()
    };
    let reserved_until = Some(prost_types::Timestamp { seconds: 4_102_444_800, nanos: 0 });
    pb::Agent {
        id: ID.into(),
        name: "lab1".into(),
        state: pb::AgentState::Connected.into(),
        status: "connected".into(),
        gpus: vec![
            pb::Gpu {
                job_id: OTHER.into(),
                memory_foreign_mib: Some(300),
                ..gpu(0, "busy", "its clock is held down: thermal")
            },
            gpu(1, "owner", "python3 (PID 4711) uses it; back 10 minutes after it ends"),
            gpu(2, "quarantined", "XID 79, fallen off the bus; reboot the machine"),
            pb::Gpu {
                reserved_until,
                clock_mhz: Some(2520),
                ..gpu(3, "reserved", "it is reserved for its owner")
            },
        ],
        fit_records: vec![pb::FitRecord {
            model: "yolov8n".into(),
            imgsz: 640,
            precision: "bf16".into(),
            device: "NVIDIA GeForce RTX 4090".into(),
            fixed_mib: 700,
            per_image_mib: 181.26,
            validation_mib: 3100,
            batch_size: 32,
            failed_batch_size: Some(64),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The cells of each line but the first.
fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .skip(1)
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect()
}

#[test]
fn gpus_tell_what_each_gpu_does_and_why() {
    let server = Server::start(Script { agents: vec![lab()], ..Default::default() });
    let text = stdout(&server.yard(&["gpus"]));
    let told: Vec<(&str, &str)> = rows(&text).iter().map(|row| (row[3], *row.last().unwrap())).collect();
    assert_eq!(told[0], ("busy", "its clock is held down: thermal"));
    assert_eq!(told[1], ("owner", "python3 (PID 4711) uses it; back 10 minutes after it ends"));
    assert_eq!(told[2], ("quarantined", "XID 79, fallen off the bus; reboot the machine"));
    assert_eq!(told[3].0, "reserved");
    let why = "it is reserved for its owner, until 2100-01-01T00:00:00Z, in ";
    assert!(told[3].1.starts_with(why), "{text}");
    assert!(text.contains("300 MiB") && text.contains("2520 MHz"), "{text}");
    let rates = stdout(&server.yard(&["gpus", "--rates"]));
    let words: Vec<Vec<&str>> = rates
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect())
        .collect();
    assert_eq!(
        words[1],
        ["yolov8s", "640", "yes", "1", "NVIDIA GeForce RTX 4090", "212.3", "5 %", "jobs on it"]
    );
    assert_eq!(words[2][5..], ["98.0", "80 %", "data sheets and other jobs"]);
    let fit = stdout(&server.yard(&["gpus", "--fit"]));
    assert_eq!(
        rows(&fit)[0],
        [
            "lab1",
            "NVIDIA GeForce RTX 4090",
            "yolov8n",
            "640",
            "bf16",
            "700 MiB",
            "181.3 MiB",
            "3100 MiB",
            "batch 32",
            "batch 64"
        ]
    );
    let json: serde_json::Value =
        serde_json::from_slice(&server.yard(&["gpus", "--fit", "-o", "json"]).stdout).unwrap();
    assert_eq!(json["fitRecords"][0]["failedBatchSize"], 64);
    let json: serde_json::Value =
        serde_json::from_slice(&server.yard(&["agents", "-o", "json"]).stdout).unwrap();
    assert_eq!(json["agents"][0]["fitRecords"][0]["model"], "yolov8n");
    let drained = pb::Agent { drained: true, status: "drained".into(), ..lab() };
    server.script.lock().unwrap().agents = vec![drained];
    assert!(stdout(&server.yard(&["agents"])).contains("DRAINED"));
    // A scheduler of before tells no words.
    server.script.lock().unwrap().agents = vec![pb::Agent { status: String::new(), ..lab() }];
    assert!(stdout(&server.yard(&["agents"])).contains("CONNECTED"));
}

#[test]
fn what_is_not_as_it_should_be_on_a_machine_is_said_below_the_list() {
    let slot = pb::CpuSlot { status: "not proved".into(), ..Default::default() };
    let notices = ["/data cannot be read now: stale NFS handle", "its clock is 1 h ahead of the scheduler's"];
    let notices = notices.map(str::to_owned).to_vec();
    let agent = pb::Agent { cpu_slots: vec![slot], notices, ..lab() };
    let server = Server::start(Script { agents: vec![agent], ..Default::default() });
    let text = stdout(&server.yard(&["agents"]));
    let below = "
lab1: /data cannot be read now: stale NFS handle
lab1: its clock is 1 h ahead of the scheduler's";
    assert!(text.contains(below) && text.contains("1 (0 free)"), "{text}");
}

#[test]
fn orders_are_sent_as_written_and_told() {
    let server = Server::start(Script { agents: vec![lab()], ..Default::default() });
    let cases: [(&[&str], &str, &str); 7] = [
        (
            &["drain", "lab1"],
            "DrainAgentRequest { agent: \"lab1\", keep_running: false }",
            "lab1 takes no new jobs; 1 job on the way elsewhere, with a checkpoint; `yard resume lab1` ends it\n",
        ),
        (
            &["drain", "lab1", "--keep-running"],
            "DrainAgentRequest { agent: \"lab1\", keep_running: true }",
            "lab1 takes no new jobs; 1 job may end there; `yard resume lab1` ends it\n",
        ),
        (&["resume", "lab1"], "ResumeAgentRequest { agent: \"lab1\" }", "lab1 takes jobs\n"),
        (
            &["agents", "reserve", "lab1", "--gpu", "0", "--gpu", "3", "--for", "90m"],
            "ReserveGpusRequest { agent: \"lab1\", gpus: [\"0\", \"3\"], span: Some(Duration { seconds: 5400, nanos: 0 }) }",
            "lab1: reserved are GPU 3 until 2100-01-01T00:00:00Z\n",
        ),
        (
            &["agents", "release", "lab1"],
            "ReleaseGpusRequest { agent: \"lab1\", gpus: [] }",
            "lab1: 1 GPU is still reserved\n",
        ),
        (
            &["agents", "clear", "lab1", "2"],
            "ClearGpuRequest { agent: \"lab1\", gpu: \"2\" }",
            "lab1 tries GPU 2 again; `yard agents` and `yard gpus` tell\n",
        ),
        (
            &["agents", "clear", "lab1"],
            "ClearGpuRequest { agent: \"lab1\", gpu: \"\" }",
            "lab1 tries all its slots again; `yard agents` and `yard gpus` tell\n",
        ),
    ];
    for (arguments, sent, told) in cases {
        let output = server.yard(arguments);
        assert_eq!((code(&output), stdout(&output).as_str()), (0, told), "{}", stderr(&output));
        assert_eq!(server.script.lock().unwrap().orders.pop().unwrap(), sent);
        let json = server.yard(&[arguments, &["-o", "json"]].concat());
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json["name"], "lab1");
    }
    for wrong in [&["drain"][..], &["agents", "reserve", "lab1", "--for", "soon"], &["agents", "clear"]] {
        assert_eq!(code(&server.yard(wrong)), 2, "{wrong:?}");
    }
    server.script.lock().unwrap().agents.clear();
    assert_eq!(code(&server.yard(&["drain", "lab1"])), 4);
}

#[test]
fn why_slow_and_top_speak_to_people_and_to_scripts() {
    let diagnosis = pb::Diagnosis {
        bound: pb::diagnosis::Bound::Disk.into(),
        headline: "It waits for images: they are read and decoded anew each time.".into(),
        findings: vec!["It trains 12 images a second in batches of 8.".into()],
        advice: vec!["Set `cache: disk`.".into()],
        ..Default::default()
    };
    let jobs = vec![job(OTHER, Running), job(THIRD, Queued)];
    let server = Server::start(Script { agents: vec![lab()], jobs, diagnosis, ..Default::default() });
    let text = stdout(&server.yard(&["why-slow", OTHER]));
    assert!(text.starts_with("It waits for images: they are read and decoded anew each time.\n"), "{text}");
    assert!(text.ends_with("What to change:\n- Set `cache: disk`.\n"), "{text}");
    let json: serde_json::Value =
        serde_json::from_slice(&server.yard(&["why-slow", OTHER, "-o", "json"]).stdout).unwrap();
    assert_eq!(json["bound"], "DISK");
    // Not on a terminal: once, without steering it.
    let text = stdout(&server.yard(&["top"]));
    assert!(text.contains("1 connected agent, 4 GPUs, 2 jobs") && !text.contains('\x1b'), "{text}");
    assert!(text.find("RUNNING").unwrap() < text.find("QUEUED").unwrap(), "{text}");
    let json: serde_json::Value =
        serde_json::from_slice(&server.yard(&["top", "-o", "json"]).stdout).unwrap();
    assert_eq!((json["gpus"].as_array().unwrap().len(), json["jobs"].as_array().unwrap().len()), (4, 2));
}

#[test]
fn gpus_show_a_dash_for_what_the_driver_does_not_tell() {
    let gpu = pb::Gpu {
        index: 1,
        model: "NVIDIA GeForce RTX 4090".into(),
        memory_total_mib: 24564,
        memory_free_mib: Some(20000),
        utilization_ratio: Some(0.93),
        status: "free".into(),
        ..Default::default()
    };
    let agent = pb::Agent {
        id: ID.into(),
        name: "lab1".into(),
        state: pb::AgentState::Connected.into(),
        gpus: vec![gpu],
        ..Default::default()
    };
    let server = Server::start(Script { agents: vec![agent], ..Default::default() });
    let text = stdout(&server.yard(&["gpus"]));
    let row: Vec<&str> =
        text.lines().nth(1).unwrap().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(
        row,
        [
            "lab1",
            "1",
            "NVIDIA GeForce RTX 4090",
            "free",
            "20000 MiB",
            "-",
            "24564 MiB",
            "93 %",
            "-",
            "-",
            "-",
            "-"
        ]
    );
    assert!(stdout(&server.yard(&["agents"])).contains("1 × NVIDIA GeForce RTX 4090 (1 free)"));
    let json: serde_json::Value =
        serde_json::from_slice(&server.yard(&["gpus", "-o", "json"]).stdout).unwrap();
    assert_eq!(
        (&json["gpus"][0]["agent"], &json["gpus"][0]["memoryTotalMib"]),
        (&"lab1".into(), &"24564".into())
    );
}

#[test]
fn completions_are_printed_for_every_shell() {
    let (address, _) = Server::start(Script::default()).kill();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = crate::fake::command(address, &["completions", shell]).output().unwrap();
        assert!(stdout(&output).contains("demo-data"), "{shell}");
    }
}

#[test]
fn a_file_of_settings_with_an_unknown_key_is_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("trainyard")).unwrap();
    crate::fake::write(dir.path(), "trainyard/cli.toml", "servr = 'x'\n");
    let mut command = crate::fake::command("127.0.0.1:1".parse().unwrap(), &["jobs"]);
    let output = command.env("XDG_CONFIG_HOME", dir.path()).output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("did you mean `server`?"), "{output:?}");
}

#[test]
fn the_help_names_every_command_in_a_line() {
    let output = crate::fake::command("127.0.0.1:1".parse().unwrap(), &["-h"]).output().unwrap();
    let text = stdout(&output);
    let commands: String = text.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap().to_owned();
    let wanted = "  up           Run a whole cluster on this machine: private Redis, scheduler, agent
  setup        Run the scheduler or the agent as a service of systemd
  login        Log in to a cluster: check it by the token, and keep both for later commands
  logout       Forget the token on this machine; it counts until it expires or is revoked
  train        Queue a training job from flags and print its id
  submit       Queue the jobs of a file and print their ids
  jobs         List jobs, newest first
  job          Show everything about a job
  sweep        Show a sweep: its parameters, and how many of its jobs are in each state
  watch        Follow a job until it ends
  logs         Print a job's log
  metrics      Print a job's figures, epoch by epoch
  cancel       End jobs
  retry        Queue a job that failed or was cancelled again
  priority     Give a job that waits another priority
  queue        Show who waits, in which order, and what each user has had of late
  agents       List the machines, reserve, release and clear their GPUs, or forget a machine
  gpus         List the GPUs: what they are, how busy, and for which job
  drain        Take a machine out of use: no new jobs, and those that run go elsewhere
  resume       Take a drained machine into use again
  top          Show GPUs and jobs, once a second on a terminal, otherwise once
  record       Record the jobs that have ended and the GPUs, for `trainyard-sim replay`
  why-slow     Tell what holds a job up, and what to change
  artifacts    List or fetch what a job has left behind
  data         Push data sets to the cluster, list, show, fetch and remove them
  weights      Push weights to begin with to the cluster, list, show, fetch and remove them
  whoami       Show who you are to the scheduler, and what you may do
  token        Make, list and revoke tokens
  audit        Show who did what, and who was refused; admins only
  notify       Be told when a job ends, fails, or waits for too long
  open         Open the scheduler's page, or that of a job, in the browser; or print its address
  demo-data    Write a small generated data set in YOLO format
  completions  Print a completion script for a shell
  help         Print this message or the help of the given subcommand(s)";
    assert_eq!(commands, wanted);
}
