//! Which file systems should be mounted, by `/etc/fstab`, and which are mounted, by `/proc/self/mountinfo`.

use std::path::{Path, PathBuf};

/// The mount points that should be there, and those that are.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    configured: Vec<PathBuf>,
    mounted: Vec<PathBuf>,
}

impl Mounts {
    /// Reads both files; one that cannot be read counts as empty.
    pub fn now() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/etc/fstab"), &read("/proc/self/mountinfo"))
    }

    /// Parses the texts of both files.
    pub fn parse(fstab: &str, mountinfo: &str) -> Self {
        let lines = |text: &str, word: usize| -> Vec<PathBuf> {
            let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
            let places = lines.filter_map(|line| line.split_ascii_whitespace().nth(word));
            places.filter(|place| place.starts_with('/')).map(unescaped).collect()
        };
        Self { configured: lines(fstab, 1), mounted: lines(mountinfo, 4) }
    }

    /// Says for a person that a place above `path`, or `path` itself, should be mounted and is not.
    pub fn complaint_above(&self, path: &Path) -> Option<String> {
        let mut configured = self.configured.iter().filter(|place| path.starts_with(place));
        let missing = configured.find(|place| !self.mounted.contains(place))?;
        Some(format!("{} of /etc/fstab is not mounted", missing.display()))
    }
}

/// A space is `\040` in both files, and a backslash `\134`.
fn unescaped(word: &str) -> PathBuf {
    let (mut text, mut rest) = (String::new(), word);
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        let (letter, length) = code.map_or(('\\', 1), |code| (char::from(code), 4));
        text.push(letter);
        rest = &rest[at + length..];
    }
    text.push_str(rest);
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_of_fstab_that_is_not_mounted_is_found_from_below_and_others_are_not() {
        let fstab = "# a comment /mnt/old\nnas:/data /mnt/nas nfs defaults 0 0\n/dev/sda1 / ext4 x 0 0\n\
                     nas:/b /mnt/with\\040space nfs x 0 0\nUUID=1 none swap sw 0 0\n";
        let there =
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:5 / /mnt/with\\040space rw - nfs nas:/b rw\n";
        let mounts = Mounts::parse(fstab, there);
        let complaint = |path: &str| mounts.complaint_above(Path::new(path));
        let missing = Some("/mnt/nas of /etc/fstab is not mounted");
        assert_eq!(complaint("/mnt/nas/set/data.yaml").as_deref(), missing);
        assert_eq!(complaint("/mnt/nas").as_deref(), missing);
        assert_eq!(complaint("/mnt/nas2/data.yaml"), None);
        assert_eq!(complaint("/mnt/with space/data.yaml"), None);
    }
}
