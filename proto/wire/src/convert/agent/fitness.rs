//! What a machine has of what jobs need, and what it lacked for one.

use trainyard_types::{DataRoot, Fitness, Prefetching, Unfit, UnfitKind};

use super::{InvalidMessage, at_most, limits, no_longer};
use crate::convert::job::{parse_timestamp, timestamp};
use crate::pb;

impl From<&Fitness> for pb::Fitness {
    fn from(fitness: &Fitness) -> Self {
        Self {
            data_roots: fitness.data_roots.iter().flatten().map(Into::into).collect(),
            missing_paths: fitness.missing_paths.clone(),
            trainer_version: fitness.trainer_version.clone(),
            libtorch_version: fitness.libtorch_version.clone(),
            cpu_unavailable: fitness.cpu_unavailable.as_ref().map(Into::into),
            clock: fitness.clock.map(timestamp),
            held_versions: fitness
                .held_versions
                .as_ref()
                .map(|versions| pb::HeldVersions { versions: versions.clone() }),
            notices: fitness.notices.clone(),
            checks_data: fitness.checks_data,
            prefetching: fitness
                .prefetching
                .as_ref()
                .map(|prefetching| pb::Prefetching { now: prefetching.now.as_ref().map(Into::into) }),
        }
    }
}

impl From<&DataRoot> for pb::DataRoot {
    fn from(root: &DataRoot) -> Self {
        Self { path: root.path.clone(), problem: root.problem.clone() }
    }
}

/// What an agent says of its machine, in the field `fitness`. An agent that is too old to say leaves it out.
///
/// # Errors
/// Too many entries, or too long a text.
pub fn parse_fitness(fitness: Option<pb::Fitness>) -> Result<Fitness, InvalidMessage> {
    let Some(fitness) = fitness else { return Ok(Fitness::default()) };
    let under = |error: InvalidMessage| error.under("fitness");
    at_most("data_roots", fitness.data_roots.len(), limits::DATA_ROOTS).map_err(under)?;
    at_most("missing_paths", fitness.missing_paths.len(), limits::MISSING_PATHS).map_err(under)?;
    for (at, root) in fitness.data_roots.iter().enumerate() {
        for (name, text) in [("path", &root.path), ("problem", &root.problem)] {
            no_longer(&format!("data_roots[{at}].{name}"), text, limits::TEXT_BYTES).map_err(under)?;
        }
    }
    for (at, path) in fitness.missing_paths.iter().enumerate() {
        no_longer(&format!("missing_paths[{at}]"), path, limits::TEXT_BYTES).map_err(under)?;
    }
    at_most("notices", fitness.notices.len(), limits::NOTICES).map_err(under)?;
    for (at, notice) in fitness.notices.iter().enumerate() {
        no_longer(&format!("notices[{at}]"), notice, limits::TEXT_BYTES).map_err(under)?;
    }
    no_longer("trainer_version", &fitness.trainer_version, limits::NAME_BYTES).map_err(under)?;
    no_longer("libtorch_version", &fitness.libtorch_version, limits::NAME_BYTES).map_err(under)?;
    if let Some(unavailable) = &fitness.cpu_unavailable {
        no_longer("cpu_unavailable.message", &unavailable.message, limits::TEXT_BYTES).map_err(under)?;
    }
    let held_versions = fitness.held_versions.map(|held| held.versions);
    if let Some(held) = &held_versions {
        at_most("held_versions.versions", held.len(), limits::HELD_VERSIONS).map_err(under)?;
        for (at, version) in held.iter().enumerate() {
            no_longer(&format!("held_versions.versions[{at}]"), version, limits::NAME_BYTES)
                .map_err(under)?;
        }
    }
    let now = fitness.prefetching.as_ref().and_then(|prefetching| prefetching.now.as_ref());
    if let Some(fetching) = now {
        no_longer("prefetching.now.what", &fetching.what, limits::TEXT_BYTES).map_err(under)?;
    }
    let root = |root: pb::DataRoot| DataRoot { path: root.path, problem: root.problem };
    Ok(Fitness {
        data_roots: Some(fitness.data_roots.into_iter().map(root).collect()),
        missing_paths: fitness.missing_paths,
        trainer_version: fitness.trainer_version,
        libtorch_version: fitness.libtorch_version,
        cpu_unavailable: fitness.cpu_unavailable.map(Into::into),
        clock: fitness.clock.map(parse_timestamp),
        held_versions,
        notices: fitness.notices,
        checks_data: fitness.checks_data,
        prefetching: fitness
            .prefetching
            .map(|prefetching| Prefetching { now: prefetching.now.map(Into::into) }),
    })
}

impl From<&Unfit> for pb::Unfit {
    fn from(unfit: &Unfit) -> Self {
        Self { kind: kind(unfit.kind).into(), path: unfit.path.clone(), message: unfit.message.clone() }
    }
}

impl From<pb::Unfit> for Unfit {
    /// A kind that a newer agent names is something of the machine all the same.
    fn from(unfit: pb::Unfit) -> Self {
        let known = UnfitKind::ALL.into_iter().find(|&known| kind(known) == unfit.kind());
        Self { kind: known.unwrap_or(UnfitKind::SelfTest), path: unfit.path, message: unfit.message }
    }
}

const fn kind(kind: UnfitKind) -> pb::unfit::Kind {
    match kind {
        UnfitKind::OutsideDataRoots => pb::unfit::Kind::OutsideDataRoots,
        UnfitKind::PathMissing => pb::unfit::Kind::PathMissing,
        UnfitKind::PathUnreadable => pb::unfit::Kind::PathUnreadable,
        UnfitKind::TrainerMissing => pb::unfit::Kind::TrainerMissing,
        UnfitKind::LibtorchUnusable => pb::unfit::Kind::LibtorchUnusable,
        UnfitKind::DriverUnusable => pb::unfit::Kind::DriverUnusable,
        UnfitKind::GpuUnsupported => pb::unfit::Kind::GpuUnsupported,
        UnfitKind::FolderUnwritable => pb::unfit::Kind::FolderUnwritable,
        UnfitKind::OutOfResources => pb::unfit::Kind::OutOfResources,
        UnfitKind::SelfTest => pb::unfit::Kind::SelfTestFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire_and_an_unknown_one_is_the_machines() {
        for kind in UnfitKind::ALL {
            let unfit = Unfit { kind, path: "/data".into(), message: "is not there".into() };
            assert_eq!(Unfit::from(pb::Unfit::from(&unfit)), unfit);
        }
        assert_eq!(Unfit::from(pb::Unfit { kind: 99, ..Default::default() }).kind, UnfitKind::SelfTest);
    }

    #[test]
    fn an_agent_that_says_nothing_is_told_from_one_without_roots() {
        assert_eq!(parse_fitness(None).unwrap().data_roots, None);
        assert_eq!(parse_fitness(Some(pb::Fitness::default())).unwrap().data_roots, Some(Vec::new()));
        let long = pb::Fitness { missing_paths: vec!["x".repeat(5000)], ..Default::default() };
        assert!(parse_fitness(Some(long)).unwrap_err().to_string().contains("fitness.missing_paths[0]"));
    }
}
