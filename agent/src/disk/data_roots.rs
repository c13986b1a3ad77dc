//! Which data sets jobs may read: those inside the configured directories, wherever links point.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use trainyard_types::faults::{self, Fault, Place};
use trainyard_types::{Unfit, UnfitKind};

use super::mounts::Mounts;
use crate::message::PathUse;

/// Why a data set is refused.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The agent lets jobs read no data sets.
    #[error(
        "this agent lets jobs read no data sets, for its configuration has no `data_roots`; add the \
         directory of {0} to `data_roots` (flag --data-root)"
    )]
    NoRoots(PathBuf),
    /// The path is outside of the roots, perhaps through a link.
    #[error("{data} is outside of this agent's `data_roots` ({roots}){through}")]
    Outside {
        /// The path as the job names it.
        data: PathBuf,
        /// The allowed directories.
        roots: String,
        /// Where links lead, if they do.
        through: String,
    },
    /// The path is not there or not readable.
    #[error("{path_use} {data} cannot be read on this agent: {source}{hint}")]
    Unreadable {
        /// What the path is to the job.
        path_use: PathUse,
        /// The path as the job names it.
        data: PathBuf,
        /// The system's error.
        source: io::Error,
        /// A likely cause, such as a share that is not mounted; empty where none is known, or nobody has asked.
        hint: String,
    },
    /// The path is there, and is no file.
    #[error("{path_use} {data} cannot be read on this agent: it is not a file; {}", .path_use.advice())]
    NoFile {
        /// What the path is to the job.
        path_use: PathUse,
        /// The path as the job names it.
        data: PathBuf,
    },
}

impl DataError {
    /// What the machine lacks; `None` where it would be the same on every machine.
    pub fn unfit(&self) -> Option<Unfit> {
        let (kind, path) = match self {
            Self::NoRoots(data) | Self::Outside { data, .. } => (UnfitKind::OutsideDataRoots, data),
            Self::Unreadable { data, source, .. } => {
                let known = faults::of_error(Place::Path, source);
                if known.is_some_and(|row| row.fault == Fault::Job) {
                    return None;
                }
                // Every other error of a path is this machine's.
                (known.and_then(|row| row.lack()).unwrap_or(UnfitKind::PathUnreadable), data)
            }
            Self::NoFile { .. } => return None,
        };
        Some(Unfit::at(kind, path, self.to_string()))
    }

    /// The error with a likely cause, which `mounts` are asked for: only where a person is told.
    pub fn explained(mut self, mounts: impl FnOnce() -> Mounts) -> Self {
        if let Self::Unreadable { data, hint, .. } = &mut self
            && let Some(complaint) = mounts().complaint_above(data)
        {
            *hint = format!("; {complaint}");
        }
        self
    }
}

/// The file `data` with every link in its directory resolved, if it lies inside one of `roots`.
///
/// # Errors
/// It does not, or cannot be read. A path outside is called outside whether or not it exists.
pub fn resolve(path_use: PathUse, data: &Path, roots: &[PathBuf]) -> Result<PathBuf, DataError> {
    if roots.is_empty() {
        return Err(DataError::NoRoots(data.to_owned()));
    }
    let unreadable =
        |source| DataError::Unreadable { path_use, data: data.to_owned(), source, hint: String::new() };
    let resolved = match data.canonicalize() {
        Ok(resolved) => resolved,
        Err(source) if inside(data, roots) => return Err(unreadable(source)),
        Err(_) => return Err(outside(data, data, roots)),
    };
    let mut real = Cow::Borrowed(roots);
    // The roots themselves are only read where their names do not tell. One that does not answer must not hold up jobs
    // that read another.
    if !inside(&resolved, &real) {
        real = roots.iter().filter_map(|root| root.canonicalize().ok()).collect();
        if !inside(&resolved, &real) {
            return Err(outside(data, &resolved, roots));
        }
    }
    if !resolved.metadata().map_err(unreadable)?.is_file() {
        return Err(DataError::NoFile { path_use, data: data.to_owned() });
    }
    File::open(&resolved).and_then(|mut file| file.read(&mut [0])).map_err(unreadable)?;
    // The file's own name stays: what it refers to is relative to where the user put it.
    let folder = data.parent().and_then(|folder| folder.canonicalize().ok());
    let named = folder.zip(data.file_name()).map(|(folder, name)| folder.join(name));
    Ok(named.filter(|path| inside(path, &real)).unwrap_or(resolved))
}

/// Whether a path is inside one of `roots`, by components: `/data2` is not inside `/data`. A path with `..` is inside none.
fn inside(path: &Path, roots: &[PathBuf]) -> bool {
    let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
    !climbs && roots.iter().any(|root| path.starts_with(root))
}

fn outside(data: &Path, resolved: &Path, roots: &[PathBuf]) -> DataError {
    let roots: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
    let through = if resolved == data { String::new() } else { format!(": it is {}", resolved.display()) };
    DataError::Outside { data: data.to_owned(), roots: roots.join(", "), through }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct World {
        _folder: tempfile::TempDir,
        root: PathBuf,
        roots: Vec<PathBuf>,
    }

    fn world() -> World {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        for name in ["data/set", "data2", "secret"] {
            fs::create_dir_all(base.join(name)).unwrap();
        }
        for name in ["data/set/data.yaml", "data2/data.yaml", "secret/data.yaml"] {
            fs::write(base.join(name), "names: [a]\n").unwrap();
        }
        symlink(base.join("secret"), base.join("data/link")).unwrap();
        symlink(base.join("secret/data.yaml"), base.join("data/set/linked.yaml")).unwrap();
        symlink(base.join("data/set"), base.join("data/current")).unwrap();
        World { _folder: folder, roots: vec![base.join("data")], root: base }
    }

    fn refused(world: &World, name: &str) -> String {
        resolve(PathUse::Data, &world.root.join(name), &world.roots).unwrap_err().to_string()
    }

    #[test]
    fn a_data_set_inside_is_taken_also_through_a_link_that_stays_inside() {
        let world = world();
        let wanted = world.root.join("data/set/data.yaml");
        assert_eq!(resolve(PathUse::Data, &wanted, &world.roots).unwrap(), wanted);
        let linked = world.root.join("data/current/data.yaml");
        assert_eq!(resolve(PathUse::Data, &linked, &world.roots).unwrap(), wanted);
    }

    #[test]
    fn a_link_does_not_lead_out() {
        let world = world();
        for name in ["data/link/data.yaml", "data/set/linked.yaml"] {
            let text = refused(&world, name);
            assert!(
                text.contains("outside of this agent's `data_roots`") && text.contains("secret"),
                "{text}"
            );
        }
    }

    #[test]
    fn dots_and_a_longer_name_do_not_lead_out() {
        let world = world();
        for name in ["data/../secret/data.yaml", "data2/data.yaml", "data/../nowhere/data.yaml"] {
            assert!(refused(&world, name).contains("outside"), "{name}");
        }
    }

    #[test]
    fn what_is_not_there_is_said_to_be_unreadable_only_inside() {
        let world = world();
        assert!(refused(&world, "data/none.yaml").contains("cannot be read"));
        assert!(refused(&world, "none.yaml").contains("outside"));
        assert!(refused(&world, "data/set").contains("data.yaml"));
    }

    #[test]
    fn mounts_are_asked_only_where_somebody_is_told_why_a_path_cannot_be_read() {
        let world = world();
        let data = world.root.join("data/none.yaml");
        let mounts = || Mounts::parse(&format!("nas:/d {} nfs x 0 0", world.roots[0].display()), "");
        let error = || resolve(PathUse::Data, &data, &world.roots).unwrap_err();
        assert!(!error().to_string().contains("fstab"), "{}", error());
        let told = error().explained(mounts).to_string();
        assert!(told.ends_with("data of /etc/fstab is not mounted"), "{told}");
        let outside = resolve(PathUse::Data, &world.root.join("none.yaml"), &world.roots).unwrap_err();
        let _same = outside.explained(|| panic!("nothing is behind it"));
    }

    #[test]
    fn without_roots_the_way_out_is_named() {
        let text = resolve(PathUse::Data, Path::new("/d/data.yaml"), &[]).unwrap_err().to_string();
        assert!(text.contains("`data_roots`") && text.contains("--data-root"), "{text}");
    }

    #[test]
    fn what_another_machine_may_have_is_this_ones_lack_and_the_rest_is_the_jobs_fault() {
        let world = world();
        let kind = |name: &str| {
            let error = resolve(PathUse::Data, &world.root.join(name), &world.roots).unwrap_err();
            error.unfit().map(|unfit| (unfit.kind, unfit.path == world.root.join(name).display().to_string()))
        };
        assert_eq!(kind("data/none.yaml"), Some((UnfitKind::PathMissing, true)));
        assert_eq!(kind("data/set/data.yaml/deeper"), Some((UnfitKind::PathMissing, true)));
        assert_eq!(kind("secret/data.yaml"), Some((UnfitKind::OutsideDataRoots, true)));
        assert_eq!(kind("data/set"), None, "a folder is one everywhere");
        assert_eq!(kind(&format!("data/{}", "x".repeat(300))), None, "too long a name is one everywhere");
        let none = resolve(PathUse::Data, Path::new("/d/data.yaml"), &[]).unwrap_err().unfit().unwrap();
        assert_eq!(none.kind, UnfitKind::OutsideDataRoots);
    }
}
