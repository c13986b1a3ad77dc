//! Attempts whose data set or weights come from the cluster's store.

use std::path::PathBuf;

use trainyard_types::trainer::LogLevel;
use trainyard_types::{Fetching, TrainSpec, Unfit, UnfitKind};

use super::*;
use crate::message::PathUse;

fn version(name: &str, digits: &str) -> PathBuf {
    format!("{name}@{}", digits.repeat(16)).into()
}

fn preparing() -> (Core, AttemptId) {
    let (mut core, a) = (Core::new(LIMITS), id(1, 1));
    let mut assignment = assignment(a, Slot::Cpu(0), None);
    assignment.spec.train = TrainSpec {
        pretrained: version("start", "0123"),
        ..TrainSpec::new(ModelScale::N, version("cells", "3f9a"))
    };
    core.handle(Time(0), Event::Assigned(assignment));
    (core, a)
}

#[test]
fn what_comes_is_told_while_the_attempt_is_prepared_and_not_after_its_end() {
    let (mut core, a) = preparing();
    let fetching =
        Fetching { what: "cells@3f9a".into(), done_bytes: 1, total_bytes: 2, bytes_per_second: 0.5 };
    let comes = Event::Fetching(a, fetching.clone());
    let out = core.handle(Time(1), comes.clone());
    assert_eq!(out, [Command::Report(a, Time(1), ReportBody::Fetching(fetching))]);
    let note = Event::PreparationNote(a, LogLevel::Warning, "damaged".into());
    assert_eq!(core.handle(Time(2), note.clone()), [log(a, Time(2), LogLevel::Warning, "damaged".into())]);
    let out = core.handle(Time(3), Event::Stop { attempt: a, reason: EndReason::Cancelled, grace: None });
    assert_eq!(out[0], Command::CancelTransfers(a));
    assert_eq!(ended(&out).unwrap().0, EndReason::Cancelled);
    assert_eq!(core.handle(Time(4), comes), []);
    assert_eq!(core.handle(Time(5), note), []);
}

#[test]
fn a_path_below_a_versions_folder_is_told_as_the_job_names_the_version() {
    for (below, path_use, named) in [
        ("3f9a", PathUse::Data, version("cells", "3f9a")),
        ("0123", PathUse::Pretrained, version("start", "0123")),
    ] {
        let (mut core, a) = preparing();
        core.handle(Time(1), Event::Prepared(a, Ok(prepared(16))));
        let path: PathBuf = format!("/cache/versions/{}/file", below.repeat(16)).into();
        let unfit = Unfit::at(UnfitKind::PathMissing, &path, "is not there");
        let failed = Failed { message: "is not there".into(), violations: Vec::new(), unfit: Some(unfit) };
        core.handle(Time(2), Event::Line(a, Time(2), TrainerEvent::Failed(failed)));
        let out = core.handle(Time(3), Event::Exited(a, exit(ExitKind::Code(64))));
        assert_eq!(out[0], Command::NoteMissingPath { path_use, named, below: Some(path) });
    }
}
