//! `~/.config/trainyard`: what a login leaves there.

use std::fs;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Value};
use trainyard_files::write_private;

use crate::failure::Failure;

/// Where the settings are; `None` where there is no home directory.
pub fn path() -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_CONFIG_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = folder.or_else(|| std::env::home_dir().map(|home| home.join(".config")))?;
    Some(folder.join("trainyard").join("cli.toml"))
}

/// Where the certificate of the cluster's authority is, for other programs.
pub fn authority_path(settings: &Path) -> PathBuf {
    settings.with_file_name("ca.pem")
}

/// Sets keys of the settings, or removes those without a value. Other keys and comments stay. Only the user may read
/// the file.
///
/// # Errors
/// The file is no TOML, or cannot be written.
pub fn set(file: &Path, values: &[(&str, Option<String>)]) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::local(format!("{}: {error}", file.display()));
    // Who keeps it elsewhere and links to it goes on doing so.
    let file = &fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(&error)),
    };
    let mut document: DocumentMut = text.parse().map_err(|error| failed(&error))?;
    for (key, value) in values {
        let Some(text) = value else {
            document.remove(key);
            continue;
        };
        let mut new = Value::from(text.as_str());
        match document.get_mut(key).and_then(Item::as_value_mut) {
            Some(old) => {
                *new.decor_mut() = old.decor().clone();
                *old = new;
            }
            None => {
                document.insert(key, Item::Value(new));
            }
        }
    }
    let written = fs::create_dir_all(file.parent().unwrap_or(Path::new("")))
        .and_then(|()| write_private(file, document.to_string().as_bytes(), |_| {}));
    written.map_err(|error| failed(&error))
}

/// Keeps the certificate of the cluster's authority beside the settings; says where.
///
/// # Errors
/// The file cannot be written.
pub fn keep_authority(settings: &Path, pem: &str) -> std::io::Result<PathBuf> {
    let path = authority_path(settings);
    trainyard_files::write_atomically(&path, pem.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_login_keeps_comments_and_other_keys_and_shows_nobody_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("trainyard/cli.toml");
        set(&file, &[("server", Some("https://a:1".into())), ("token", Some("t".into()))]).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "server = \"https://a:1\"\ntoken = \"t\"\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        let before = "# of the lab\nserver = 'lab:7433' # the head\n\n# mine\nca = \"/ca.pem\"\n";
        fs::write(&file, before).unwrap();
        set(&file, &[("server", Some("https://b:2".into())), ("token", Some("u".into()))]).unwrap();
        let after = fs::read_to_string(&file).unwrap();
        assert!(after.starts_with("# of the lab\nserver = \"https://b:2\" # the head\n"), "{after}");
        assert!(after.contains("# mine\nca = \"/ca.pem\"\n") && after.contains("token = \"u\""), "{after}");
        set(&file, &[("token", None)]).unwrap();
        assert!(!fs::read_to_string(&file).unwrap().contains("token"));
    }

    #[test]
    fn a_link_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real.toml"), dir.path().join("cli.toml"));
        fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        set(&link, &[("server", Some("https://a:1".into()))]).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&real).unwrap().contains("https://a:1"));
    }
}
