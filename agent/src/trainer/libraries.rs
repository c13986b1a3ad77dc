//! Which files a program needs to start: its loader, and the libraries that the loader would load. The loader itself is
//! asked, and runs nothing of the program.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// libtorch's library for GPUs, which no program names: it is loaded later, from beside the others, and needs more.
const LATER: &str = "libtorch_cuda.so";

/// A program's beginning is read up to so many bytes: its headers lie there.
const HEAD: u64 = 4096;

/// The kernel takes no longer path of a loader.
const LONGEST_NAME: usize = 4096;

/// What a program is, by its first bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Program {
    /// A script that this interpreter runs.
    Script(PathBuf),
    /// A program that this loader starts.
    Loaded(PathBuf),
    /// Anything else, such as one that needs no loader.
    Other,
}

impl Program {
    /// Reads the first bytes of a program.
    pub fn of(file: &Path) -> Self {
        let found = File::open(file).ok().and_then(|file| {
            let mut head = Vec::new();
            (&file).take(HEAD).read_to_end(&mut head).ok()?;
            Self::parse(&head, |from, length| {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, from).ok()?;
                Some(bytes)
            })
        });
        found.unwrap_or(Self::Other)
    }

    /// `read` gives bytes from further on in the file: who has changed where a program finds its libraries may have moved
    /// the loader's name to its end.
    fn parse(head: &[u8], read: impl FnOnce(u64, usize) -> Option<Vec<u8>>) -> Option<Self> {
        let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
        if let Some(line) = head.strip_prefix(b"#!") {
            let words = line.split(|byte| b" \t\r\n".contains(byte));
            return words.into_iter().find(|word| !word.is_empty()).map(|word| Self::Script(path(word)));
        }
        // An ELF file of 64 bits, the lower byte first (elf(5)): where its program headers are, and the one of the loader.
        const MAGIC: &[u8] = b"\x7fELF\x02\x01";
        const LOADER: u64 = 3;
        let number = |at: usize, bytes: usize| {
            let bytes = head.get(at..at.checked_add(bytes)?)?;
            Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
        };
        let place = |at: usize| usize::try_from(number(at, 8)?).ok();
        let (first, size, count) = (place(32)?, number(54, 2)?, number(56, 2)?);
        let headers = (0..count).map_while(|index| first.checked_add(usize::try_from(index * size).ok()?));
        let loader = headers
            .into_iter()
            .find(|at| number(*at, 4) == Some(LOADER))
            .filter(|_| head.starts_with(MAGIC))?;
        let (from, length) = (number(loader + 8, 8)?, place(loader + 32)?);
        let name = read(from, Some(length).filter(|length| *length <= LONGEST_NAME)?)?;
        Some(Self::Loaded(path(name.split(|byte| *byte == 0).next()?)))
    }
}

/// Libraries that `program` is loaded with, those that its loader would find in `environment`, and all that lie beside
/// them: some are loaded later. Waits for the loader, some milliseconds.
pub fn needed(loader: &Path, program: &Path, environment: &[(OsString, OsString)]) -> BTreeSet<PathBuf> {
    let mut folders = folders(&listed(loader, program, environment));
    let later: Vec<PathBuf> =
        folders.iter().map(|folder| folder.join(LATER)).filter(|library| library.is_file()).collect();
    for library in later {
        folders.extend(self::folders(&listed(loader, &library, environment)));
    }
    folders.iter().flat_map(|folder| libraries_in(folder)).collect()
}

/// The libraries in a folder.
pub fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let is_library = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains(".so"))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(is_library).collect()
}

/// The folders that libraries lie in, by name and with links resolved.
fn folders(libraries: &[PathBuf]) -> BTreeSet<PathBuf> {
    let real = libraries.iter().filter_map(|library| library.canonicalize().ok());
    let all = libraries.iter().cloned().chain(real);
    all.filter_map(|library| library.parent()?.canonicalize().ok()).collect()
}

/// What the loader says that it would load.
fn listed(loader: &Path, program: &Path, environment: &[(OsString, OsString)]) -> Vec<PathBuf> {
    let mut command = Command::new(loader);
    command.arg("--list").arg(program).env_clear().envs(environment.iter().cloned());
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    parse_list(&String::from_utf8_lossy(&output))
}

/// Lines such as `libm.so.6 => /lib/libm.so.6 (0x00007f25)`.
fn parse_list(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let (rest, _) = line.trim().rsplit_once(" (0x")?;
        let path = rest.rsplit_once(" => ").map_or(rest, |(_, path)| path);
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_names_its_loader_and_a_script_its_interpreter() {
        let own = Program::of(&std::env::current_exe().unwrap());
        assert!(matches!(&own, Program::Loaded(loader) if loader.is_file()), "{own:?}");
        let parse = |head: &[u8]| Program::parse(head, |_, _| None);
        assert_eq!(parse(b"#! /bin/sh -e\n"), Some(Program::Script("/bin/sh".into())));
        for head in [&b""[..], b"#!", b"\x7fELF\x02\x01", &[0xff; 4096], b"MZ"] {
            assert_eq!(parse(head).unwrap_or(Program::Other), Program::Other, "{head:?}");
        }
    }

    #[test]
    fn the_loaders_name_may_lie_at_the_end_of_a_program() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut put = |at: usize, number: u64| bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        put(32, 64);
        put(64 + 8, 9000);
        put(64 + 32, 11);
        // Sizes of 16 bits, and the kind of the header, which is the loader's.
        (bytes[54], bytes[56], bytes[64]) = (56, 1, 3);
        bytes.resize(9000, 0);
        bytes.extend(b"/lib/ld.so\0");
        fs::write(&program, &bytes).unwrap();
        assert_eq!(Program::of(&program), Program::Loaded("/lib/ld.so".into()));
        bytes[64 + 32..64 + 40].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(&program, &bytes).unwrap();
        assert_eq!(Program::of(&program), Program::Other);
    }

    #[test]
    fn a_damaged_header_names_no_loader() {
        let program = fs::read(std::env::current_exe().unwrap()).unwrap();
        for at in 0..512 {
            let mut head = program[..4096].to_vec();
            head[at] ^= 0xff;
            let _nothing_panics = Program::parse(&head, |_, length| Some(vec![b'x'; length]));
        }
    }

    #[test]
    fn the_loader_lists_what_it_would_load() {
        let text = "\tlinux-vdso.so.1 (0x00007f25)\n\tlibm.so.6 => /lib/a b/libm.so.6 (0x00007f25)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f69)\n\tlibgone.so => not found\n";
        assert_eq!(
            parse_list(text),
            ["/lib/a b/libm.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        let own = std::env::current_exe().unwrap();
        let Program::Loaded(loader) = Program::of(&own) else { panic!("a test is loaded") };
        let found = needed(&loader, &own, &[]);
        assert!(found.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{found:?}");
    }
}
