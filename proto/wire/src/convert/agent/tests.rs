use trainyard_types::trainer::{CheckpointSaved, Log, LogLevel, TrainerEvent};
use trainyard_types::{JobId, JobSpec, ModelScale, Time, TrainSpec};
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
    let ended = Ended { reason: EndReason::Completed, message: "done".into(), artifacts };
    for body in [
        ReportBody::Trainer(TrainerEvent::Log(log)),
        ReportBody::Trainer(TrainerEvent::Checkpoint(saved)),
        ReportBody::CheckpointStored(checkpoint()),
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

#[test]
fn an_unknown_event_and_an_unset_reason_are_named() {
    let report = report(ReportBody::CheckpointStored(checkpoint()));
    let line = r#"{"v":1,"time":5,"type":"sings"}"#;
    let body = pb::report::Report::TrainerEvent(line.into());
    let error = Report::try_from(pb::Report { report: Some(body), ..(&report).into() }).unwrap_err();
    assert_eq!(error.0[0].field, "report.trainer_event");
    let body = pb::report::Report::Ended(pb::Ended::default());
    let error = Report::try_from(pb::Report { report: Some(body), ..(&report).into() }).unwrap_err();
    assert_eq!(error.0[0].field, "report.ended.reason");
}
