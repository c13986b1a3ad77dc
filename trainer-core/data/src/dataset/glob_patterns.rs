//! Glob patterns of paths, as shells have them: `*`, `?`, `[…]`, and `**` for any number of folders.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};

use super::listing;

/// Whether a path has a character that makes it a pattern.
pub fn is_pattern(path: &[u8]) -> bool {
    path.iter().any(|byte| b"*?[".contains(byte))
}

/// The existing paths that `pattern` matches below `base`, sorted; none when it is no pattern, or not well formed. It
/// matches hidden and system files only where it names them.
pub fn matches(base: &Path, pattern: &str) -> Vec<PathBuf> {
    let Some(base) = base.to_str().filter(|_| is_pattern(pattern.as_bytes())) else { return Vec::new() };
    let pattern = Path::new(&Pattern::escape(base)).join(pattern);
    let Some(text) = pattern.to_str() else { return Vec::new() };
    let options = MatchOptions {
        require_literal_separator: true,
        require_literal_leading_dot: true,
        ..MatchOptions::new()
    };
    // The brackets of the folder itself are none of a pattern.
    let written: Vec<&[u8]> = pattern.components().map(|part| part.as_os_str().as_bytes()).collect();
    let is_wanted = |path: &PathBuf| {
        let mut parts = path
            .strip_prefix(base)
            .unwrap_or(path)
            .components()
            .filter(|part| matches!(part, Component::Normal(_)));
        parts.all(|part| {
            !listing::is_system_name(part.as_os_str()) || written.contains(&part.as_os_str().as_bytes())
        })
    };
    let found = glob::glob_with(text, options).into_iter().flatten().filter_map(Result::ok);
    found.filter(is_wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_find_what_shells_find_and_nothing_hidden() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("[set] *");
        for name in
            ["a/1.jpg", "a/b/2.jpg", "a/b/.3.jpg", "a/.c/4.jpg", "a/@eaDir/5.jpg", "a/6.png", ".h/7.jpg"]
        {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = |pattern: &str| {
            let paths = matches(&folder, pattern).into_iter();
            paths.map(|path| path.strip_prefix(&folder).unwrap().display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found("a/*.jpg"), ["a/1.jpg"]);
        assert_eq!(found("**/*.jpg"), ["a/1.jpg", "a/b/2.jpg"]);
        assert_eq!(found("a/[0-9].???"), ["a/1.jpg", "a/6.png"]);
        assert_eq!(found(".h/*.jpg"), [".h/7.jpg"]);
        assert_eq!(found("a/@eaDir/*"), ["a/@eaDir/5.jpg"]);
        assert_eq!(found("a/1.jpg"), Vec::<String>::new());
        assert_eq!(found("a/[.jpg"), Vec::<String>::new());
    }
}
