//! What an installation has given a program: its configuration, its unit, and the file system of its data.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::statfs::{FsType, statfs};
use nix::unistd::Uid;

/// Where an installation keeps configuration.
const FOLDER: &str = "/etc/trainyard";

/// The installed configuration of this name, if it is there. Root acts for the service, and means this one; others run
/// programs of their own.
pub fn configuration(name: &str) -> Option<PathBuf> {
    let file = Path::new(FOLDER).join(name);
    (Uid::effective().is_root() && file.is_file()).then_some(file)
}

/// A unit of the system's service manager.
#[derive(Debug, Clone, Copy)]
pub struct Unit(pub &'static str);

impl Unit {
    /// Whether the manager runs, and knows the unit.
    pub fn is_known(self) -> bool {
        sd_notify::booted().unwrap_or(false) && self.systemctl(&["cat"]).is_ok()
    }

    /// Whether the unit's service runs.
    pub fn is_active(self) -> bool {
        self.systemctl(&["--quiet", "is-active"]).is_ok()
    }

    /// Has the manager do something with it.
    ///
    /// # Errors
    /// What the manager says about it.
    pub fn systemctl(self, order: &[&str]) -> io::Result<()> {
        let output = Command::new("systemctl").args(order).arg(self.0).output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(io::Error::other(format!("systemctl {} {}: {said}", order.join(" "), self.0)))
    }
}

/// What to do about a folder that the service of this name cannot use, the end of a sentence.
pub fn way_to_write(service: &str, folder: &Path, error: &io::Error) -> String {
    if error.kind() != io::ErrorKind::ReadOnlyFilesystem {
        return "give a directory that this user may write to".to_owned();
    }
    let folder = folder.display();
    format!(
        "under systemd the service may write to its own directories alone: make `{folder}` for its user, then `systemctl \
         edit {service}` with `[Service]` and `ReadWritePaths={folder}`; or give a directory on a disk that can be written"
    )
}

/// File systems of other machines, by the number that statfs(2) tells.
const NETWORK: [(i64, &str); 6] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0x6573_5546, "FUSE, such as sshfs"),
    (0x0102_1997, "9P"),
];

/// The kind of file system that a folder is on, or its nearest parent that is there, if it is another machine's.
pub fn network_file_system(folder: &Path) -> Option<&'static str> {
    let found = folder.ancestors().find_map(|folder| statfs(folder).ok())?;
    let FsType(number) = found.filesystem_type();
    NETWORK.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_this_machine_is_none_of_the_network_even_before_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(network_file_system(&dir.path().join("not/yet")), None);
    }

    #[test]
    fn a_folder_that_systemd_keeps_a_service_from_is_told_with_the_line_of_the_unit() {
        let tell = |kind: io::ErrorKind| way_to_write("trainyard-agent", Path::new("/data/a"), &kind.into());
        let told = tell(io::ErrorKind::ReadOnlyFilesystem);
        assert!(told.contains("`systemctl edit trainyard-agent`"), "{told}");
        assert!(told.contains("`ReadWritePaths=/data/a`"), "{told}");
        assert_eq!(tell(io::ErrorKind::PermissionDenied), "give a directory that this user may write to");
    }

    #[test]
    fn a_unit_that_is_not_there_is_not_known() {
        let unit = Unit("trainyard-of-nobody.service");
        assert!(!unit.is_known() && !unit.is_active());
    }
}
