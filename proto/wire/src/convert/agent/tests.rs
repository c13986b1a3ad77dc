use trainyard_types::trainer::{CheckpointSaved, Log, LogLevel, TrainerEvent};
use trainyard_types::{
    DataRoot, Ended, Fetching, JobId, JobSpec, ModelScale, Prefetching, Report, ReportBody, Time, TrainSpec,
};
use uuid::Uuid;

use super::*;

fn attempt() -> AttemptId {
    AttemptId { job: JobId(Uuid::from_u128(7)), number: 2 }
}

fn artifact(name: &str) -> Artifact {
    Artifact { name: name.into(), size_bytes: 5, sha256: "0a".repeat(32) }
}

fn checkpoint() -> Checkpoint {
    Checkpoint { step: 40, epoch: 2, files: vec![artifact("model.safetensors")] }
}

fn report(body: ReportBody) -> Report {
    Report { attempt: attempt(), sequence: 3, time: Time(1_700_000_000_005), body }
}

#[test]
fn every_kind_of_report_reads_back() {
    let log = Log { level: LogLevel::Info, message: "GPU: x".into() };
    let saved = CheckpointSaved { step: 1, epoch: 0, path: "checkpoints/step-00000001".into() };
    let artifacts = vec![artifact("weights/best.safetensors")];
    let ended = Ended { reason: EndReason::Completed, message: "done".into(), artifacts, unfit: None };
    for body in [
        ReportBody::Trainer(TrainerEvent::Log(log)),
        ReportBody::Trainer(TrainerEvent::Checkpoint(saved)),
        ReportBody::CheckpointStored(checkpoint()),
        ReportBody::PicturesStored(vec![artifact("train_batch0.jpg"), artifact("labels.png")]),
        ReportBody::Ended(ended),
    ] {
        let report = report(body);
        assert_eq!(Report::try_from(pb::Report::from(&report)), Ok(report));
    }
}

#[test]
fn an_assignment_reads_back_on_either_slot() {
    let spec = JobSpec {
        name: "cells".into(),
        priority: 5,
        max_retries: 0,
        labels: [("a".to_owned(), "b".to_owned())].into(),
        ..JobSpec::new(TrainSpec::new(ModelScale::S, "/data/bccd/data.yaml"))
    };
    let slots = [(Slot::Gpu(GpuUuid("GPU-1".into())), Some(checkpoint())), (Slot::Cpu(1), None)];
    for (slot, resume) in slots {
        let assignment = Assignment { attempt: attempt(), spec: spec.clone(), slot, resume };
        assert_eq!(Assignment::try_from(pb::Assign::from(&assignment)), Ok(assignment));
    }
}

fn fitness() -> Fitness {
    Fitness {
        data_roots: Some(vec![DataRoot { path: "/data".into(), problem: "is not mounted".into() }]),
        missing_paths: vec!["/data/cells.yaml".into()],
        trainer_version: "0.1.0".into(),
        libtorch_version: "2.13.0".into(),
        cpu_unavailable: Some(Unavailable { cause: UnavailableCause::SelfTest, message: "fails".into() }),
        clock: Some(Time(12_345)),
        held_versions: Some(vec!["3f9a".repeat(16)]),
        prefetching: Some(Prefetching {
            now: Some(Fetching {
                what: "cells@3f9a".into(),
                done_bytes: 3,
                total_bytes: 7,
                bytes_per_second: 2.5,
            }),
        }),
        notices: vec!["its unit lacks a line".into()],
        checks_data: true,
    }
}

#[test]
fn a_hello_reads_back() {
    let uuid = GpuUuid("GPU-1".into());
    let gpu = Gpu {
        uuid: uuid.clone(),
        index: 1,
        model: "NVIDIA GeForce RTX 4090".into(),
        memory_total_mib: 24564,
        compute_capability: Some((8, 9)),
    };
    let telemetry = GpuTelemetry {
        uuid,
        memory_free_mib: Some(0),
        utilization_ratio: Some(0.5),
        temperature_celsius: None,
        power_watts: Some(12.5),
        unavailable: Some(Unavailable {
            cause: UnavailableCause::Owner,
            message: "its owner works on it".into(),
        }),
        memory_reserved_mib: Some(400),
        memory_foreign_mib: Some(1),
        energy_joules: Some(2.5),
        clock_mhz: Some(2520),
        throttle_reasons: vec!["thermal".into()],
        pcie_link_width: Some(8),
        pcie_link_width_max: Some(16),
    };
    let hello = Hello {
        agent: AgentId(Uuid::from_u128(1)),
        name: "lab-1".into(),
        version: "0.1.0".into(),
        inventory: Inventory {
            gpus: vec![gpu],
            cpu_slots: 1,
            memory_total_mib: 64,
            driver_version: "580.1".into(),
        },
        telemetry: vec![telemetry],
        attempts: vec![attempt()],
        fit_records: vec![FitRecord {
            key: FitKey {
                model: ModelScale::S,
                imgsz: 640,
                multi_scale: false,
                precision: "fp16".into(),
                device: "NVIDIA GeForce RTX 4090".into(),
                libtorch: "2.11.0".into(),
            },
            fixed_mib: 900,
            per_image_mib: 230.5,
            validation_mib: 1500,
            batch_size: 32,
            failed_batch_size: Some(64),
        }],
        unavailable: "its disk is full".into(),
        cached_data: vec![("/data/cells.yaml".into(), 640)],
        fitness: fitness(),
        instance: "1f".into(),
        owners: vec!["ada".into()],
    };
    assert_eq!(Hello::try_from(pb::Hello::from(&hello)), Ok(hello.clone()));
    let twice = pb::Hello {
        gpus: [pb::Hello::from(&hello).gpus, pb::Hello::from(&hello).gpus].concat(),
        ..(&hello).into()
    };
    let error = Hello::try_from(twice).unwrap_err().to_string();
    assert_eq!(error, "hello.gpus[1].uuid: `GPU-1` is there twice");
}

#[test]
fn a_name_that_leaves_its_directory_is_refused() {
    for name in ["../x", "/etc/passwd", "a/../b", "", "a//b", "a\\b"] {
        let message = pb::Artifact { name: name.into(), ..(&artifact("x")).into() };
        assert!(Artifact::try_from(message).is_err(), "{name}");
    }
    let message = pb::Artifact { sha256: "xyz".into(), ..(&artifact("x")).into() };
    assert!(Artifact::try_from(message).is_err());
}

fn read(body: Option<pb::report::Report>) -> ReportBody {
    let report = report(ReportBody::CheckpointStored(checkpoint()));
    let read = Report::try_from(pb::Report { report: body, ..(&report).into() }).unwrap();
    assert_eq!((read.attempt, read.sequence, read.time), (report.attempt, report.sequence, report.time));
    read.body
}

#[test]
fn a_report_that_a_newer_agent_knows_is_a_warning_under_its_number() {
    let kept = pb::CheckpointStored { checkpoint: None };
    let bodies = [
        (Some(pb::report::Report::TrainerEvent(r#"{"v":1,"time":5,"type":"sings"}"#.into())), "sings"),
        (Some(pb::report::Report::TrainerEvent(r#"{"v":2,"time":5,"type":"log"}"#.into())), "trainer_event"),
        (Some(pb::report::Report::CheckpointStored(kept)), "checkpoint_stored.checkpoint: is missing"),
        (None, "report: is of a kind that is not known"),
    ];
    for (body, expected) in bodies {
        match read(body) {
            ReportBody::Trainer(TrainerEvent::Log(Log { level: LogLevel::Warning, message })) => {
                assert!(message.contains(expected), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn pictures_are_taken_up_to_a_bound() {
    let picture = |number: usize| pb::Artifact::from(&artifact(&format!("train_batch{number}.jpg")));
    let mut pictures: Vec<pb::Artifact> = (0..40).map(picture).collect();
    pictures.insert(0, (&artifact(&format!("{}.jpg", "x".repeat(300)))).into());
    match read(Some(pb::report::Report::PicturesStored(pb::PicturesStored { pictures }))) {
        ReportBody::PicturesStored(taken) => {
            assert_eq!((taken.len(), taken[0].name.as_str()), (32, "train_batch0.jpg"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn fields_that_a_newer_agent_adds_to_an_event_are_left_out() {
    let line = r#"{"v":1,"time":5,"type":"log","level":"info","message":"a","colour":"red"}"#;
    let log = Log { level: LogLevel::Info, message: "a".into() };
    assert_eq!(
        read(Some(pb::report::Report::TrainerEvent(line.into()))),
        ReportBody::Trainer(TrainerEvent::Log(log))
    );
}

#[test]
fn an_end_that_cannot_be_read_ends_the_attempt_all_the_same() {
    let outside = pb::Artifact { name: "../x".into(), ..(&artifact("x")).into() };
    let message = "the GPU melted".to_owned();
    for ended in [
        pb::Ended { reason: 9999, message: message.clone(), ..Default::default() },
        pb::Ended { reason: 1, message, artifacts: vec![outside], unfit: None },
    ] {
        match read(Some(pb::report::Report::Ended(ended))) {
            ReportBody::Ended(Ended { reason: EndReason::TrainerCrash, message, artifacts, .. }) => {
                assert!(message.ends_with(": the GPU melted") && artifacts.is_empty(), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_cannot_be_acknowledged_is_refused() {
    let report = pb::Report::from(&report(ReportBody::CheckpointStored(checkpoint())));
    let unnumbered = Report::try_from(pb::Report { sequence: 0, ..report.clone() }).unwrap_err();
    assert_eq!(unnumbered.0[0].field, "report.sequence");
    assert!(Report::try_from(pb::Report { attempt: "x".into(), ..report }).is_err());
}

#[test]
fn a_message_without_end_is_cut_off_at_a_whole_letter() {
    let ended = pb::Ended { reason: 5, message: "ä".repeat(1 << 20), ..Default::default() };
    match read(Some(pb::report::Report::Ended(ended))) {
        ReportBody::Ended(ended) => assert!(ended.message.len() < 17 << 10 && ended.message.ends_with("ä…")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn fit_records_of_an_unknown_model_are_left_out() {
    let known = pb::FitRecord { model: "yolov8n".into(), ..Default::default() };
    let newer = pb::FitRecord { model: "yolov99z".into(), ..Default::default() };
    assert_eq!(parse_fit_records(vec![newer, known]).unwrap().len(), 1);
}

/// Every list and text that an agent may make long.
#[test]
fn a_hello_that_says_too_much_is_refused_with_the_field_at_fault() {
    let gpu = |number: usize| pb::Gpu { uuid: number.to_string(), ..Default::default() };
    let long = || "x".repeat(5000);
    let agent_id = Uuid::from_u128(1).to_string();
    let good = pb::Hello { agent_id, name: "a".into(), ..Default::default() };
    let fit = |device: String| pb::FitRecord { model: "yolov8n".into(), device, ..Default::default() };
    let messages = [
        ("gpus", pb::Hello { gpus: (0..257).map(gpu).collect(), ..good.clone() }),
        ("gpus[0].uuid", pb::Hello { gpus: vec![pb::Gpu { uuid: long(), ..gpu(1) }], ..good.clone() }),
        ("gpus[0].model", pb::Hello { gpus: vec![pb::Gpu { model: long(), ..gpu(1) }], ..good.clone() }),
        ("cpu_slots", pb::Hello { cpu_slots: u32::MAX, ..good.clone() }),
        ("version", pb::Hello { version: long(), ..good.clone() }),
        ("driver_version", pb::Hello { driver_version: long(), ..good.clone() }),
        ("attempts", pb::Hello { attempts: vec![attempt().to_string(); 8193], ..good.clone() }),
        ("owners", pb::Hello { owners: vec![String::new(); 257], ..good.clone() }),
        ("owners[0]", pb::Hello { owners: vec![long()], ..good.clone() }),
        ("fit_records", pb::Hello { fit_records: vec![fit("a".into()); 4097], ..good.clone() }),
        ("fit_records[0].device", pb::Hello { fit_records: vec![fit(long())], ..good.clone() }),
        ("unavailable", pb::Hello { unavailable: long(), ..good.clone() }),
        ("cached_data", pb::Hello { cached_data: vec![Default::default(); 4097], ..good.clone() }),
    ];
    for (field, message) in messages {
        let error = Hello::try_from(message).unwrap_err();
        assert_eq!(error.0[0].field, format!("hello.{field}"));
    }
    let most = pb::Hello { gpus: (0..256).map(gpu).collect(), ..good };
    assert_eq!(Hello::try_from(most).unwrap().inventory.gpus.len(), 256);
}
