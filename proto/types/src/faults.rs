//! Whose fault it is when an attempt cannot start or go on: one table for the agent and the trainer.
//!
//! A job is at fault only for what would be the same on every machine. What is not in the table is a crash, which
//! counts against the job's retries, as nobody knows.

use crate::fitness::UnfitKind;

/// Where the system refused something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A path that the job names, or that its data set names.
    Path,
    /// The trainer's program, as it was to be started.
    Program,
    /// The job's folder, the cache, the trainer's log.
    Folder,
}

/// What is seen of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// The system's error number at a place.
    Errno(Place, i32),
    /// The system's error number wherever it comes.
    AnyErrno(i32),
    /// A trainer that said nothing itself and ended with this exit code.
    Code(i32),
    /// A trainer that said nothing itself and was ended by this signal.
    Signal(i32),
    /// Among the last words of the trainer or of the dynamic loader, in lower case.
    Words(&'static str),
}

/// Who is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The job: it would be the same on every machine.
    Job,
    /// The machine lacks something.
    Machine(UnfitKind),
    /// The machine's disk is full, which has a reason of its own.
    FullDisk,
    /// The GPU, for good as far as the process goes: every later call to it fails, even those that free its memory.
    Gpu,
}

/// One row: what is seen, and whose fault that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// What is seen.
    pub sign: Sign,
    /// Who is at fault.
    pub fault: Fault,
    /// The same for a person.
    pub meaning: &'static str,
}

impl Row {
    /// What the machine lacks; `None` where it is not the machine's, its full disk, or a GPU that failed.
    pub const fn lack(&self) -> Option<UnfitKind> {
        match self.fault {
            Fault::Machine(kind) => Some(kind),
            Fault::Job | Fault::FullDisk | Fault::Gpu => None,
        }
    }
}

const fn path(errno: i32, kind: UnfitKind, meaning: &'static str) -> Row {
    Row { sign: Sign::Errno(Place::Path, errno), fault: Fault::Machine(kind), meaning }
}

const fn program(errno: i32, meaning: &'static str) -> Row {
    let fault = Fault::Machine(UnfitKind::TrainerMissing);
    Row { sign: Sign::Errno(Place::Program, errno), fault, meaning }
}

const fn folder(errno: i32, meaning: &'static str) -> Row {
    let fault = Fault::Machine(UnfitKind::FolderUnwritable);
    Row { sign: Sign::Errno(Place::Folder, errno), fault, meaning }
}

const fn any(errno: i32, fault: Fault, meaning: &'static str) -> Row {
    Row { sign: Sign::AnyErrno(errno), fault, meaning }
}

const fn words(words: &'static str, kind: UnfitKind, meaning: &'static str) -> Row {
    Row { sign: Sign::Words(words), fault: Fault::Machine(kind), meaning }
}

const fn gpu(words: &'static str, meaning: &'static str) -> Row {
    Row { sign: Sign::Words(words), fault: Fault::Gpu, meaning }
}

/// The table; the first row that matches counts.
pub const TABLE: &[Row] = &[
    // Anywhere: the process or the machine has no more of something.
    any(24, Fault::Machine(UnfitKind::OutOfResources), "the process may open no more files (EMFILE)"),
    any(23, Fault::Machine(UnfitKind::OutOfResources), "the machine has no more open files (ENFILE)"),
    any(11, Fault::Machine(UnfitKind::OutOfResources), "no more threads or processes (EAGAIN)"),
    any(12, Fault::Machine(UnfitKind::OutOfResources), "no more memory for a process or a mapping (ENOMEM)"),
    any(28, Fault::FullDisk, "the disk is full (ENOSPC)"),
    any(122, Fault::FullDisk, "the quota on the disk is used up (EDQUOT)"),
    // Paths that jobs name.
    path(2, UnfitKind::PathMissing, "it is not there (ENOENT)"),
    path(20, UnfitKind::PathMissing, "a part of it is no folder (ENOTDIR)"),
    path(19, UnfitKind::PathMissing, "its device is gone (ENODEV)"),
    path(6, UnfitKind::PathMissing, "its device is gone (ENXIO)"),
    path(13, UnfitKind::PathUnreadable, "the agent may not read it (EACCES)"),
    path(1, UnfitKind::PathUnreadable, "the agent may not read it (EPERM)"),
    path(5, UnfitKind::PathUnreadable, "the disk or share fails (EIO)"),
    path(116, UnfitKind::PathUnreadable, "a share's handle is stale (ESTALE)"),
    path(107, UnfitKind::PathUnreadable, "a share's server program is gone (ENOTCONN)"),
    path(110, UnfitKind::PathUnreadable, "a share does not answer (ETIMEDOUT)"),
    path(111, UnfitKind::PathUnreadable, "a share's server refuses (ECONNREFUSED)"),
    path(112, UnfitKind::PathUnreadable, "a share's server is down (EHOSTDOWN)"),
    path(113, UnfitKind::PathUnreadable, "a share's server cannot be reached (EHOSTUNREACH)"),
    path(103, UnfitKind::PathUnreadable, "a share has ended the connection (ECONNABORTED)"),
    path(117, UnfitKind::PathUnreadable, "the file system is damaged (EUCLEAN)"),
    path(121, UnfitKind::PathUnreadable, "a share fails on its server (EREMOTEIO)"),
    path(126, UnfitKind::PathUnreadable, "the key to a share is missing (ENOKEY)"),
    path(127, UnfitKind::PathUnreadable, "the key to a share has expired (EKEYEXPIRED)"),
    path(40, UnfitKind::PathUnreadable, "links lead in a circle (ELOOP)"),
    Row {
        sign: Sign::Errno(Place::Path, 36),
        fault: Fault::Job,
        meaning: "the name is too long (ENAMETOOLONG)",
    },
    Row { sign: Sign::Errno(Place::Path, 22), fault: Fault::Job, meaning: "the name is none (EINVAL)" },
    // The trainer's program.
    program(2, "the program, or what interprets it, is not there (ENOENT)"),
    program(13, "the program may not be executed (EACCES)"),
    program(1, "the program may not be executed (EPERM)"),
    program(8, "the program is for another kind of machine (ENOEXEC)"),
    program(20, "a part of its path is no folder (ENOTDIR)"),
    program(21, "it is a folder (EISDIR)"),
    program(26, "the program is being written (ETXTBSY)"),
    program(5, "its disk fails (EIO)"),
    program(40, "links lead in a circle (ELOOP)"),
    program(80, "its libraries are damaged (ELIBBAD)"),
    program(116, "its share's handle is stale (ESTALE)"),
    program(107, "its share's server program is gone (ENOTCONN)"),
    // Folders that are written to.
    folder(13, "the agent may not write there (EACCES)"),
    folder(1, "the agent may not write there (EPERM)"),
    folder(30, "the disk is mounted read-only (EROFS)"),
    folder(2, "the folder has vanished (ENOENT)"),
    folder(20, "a part of its path is no folder (ENOTDIR)"),
    folder(17, "a file is where a folder should be (EEXIST)"),
    folder(21, "a folder is where a file should be (EISDIR)"),
    folder(5, "its disk fails (EIO)"),
    folder(19, "its device is gone (ENODEV)"),
    folder(6, "its device is gone (ENXIO)"),
    folder(40, "links lead in a circle (ELOOP)"),
    folder(116, "its share's handle is stale (ESTALE)"),
    folder(107, "its share's server program is gone (ENOTCONN)"),
    folder(117, "the file system is damaged (EUCLEAN)"),
    // What the dynamic loader says, before the trainer can say anything.
    words("error while loading shared libraries", UnfitKind::LibtorchUnusable, "a library cannot be loaded"),
    words("symbol lookup error", UnfitKind::LibtorchUnusable, "libtorch is another version"),
    words("undefined symbol", UnfitKind::LibtorchUnusable, "libtorch is another version"),
    words("cannot open shared object file", UnfitKind::LibtorchUnusable, "a library is not there"),
    words("invalid elf header", UnfitKind::LibtorchUnusable, "a library is damaged"),
    words("file too short", UnfitKind::LibtorchUnusable, "a library is damaged"),
    words("cannot enable executable stack", UnfitKind::LibtorchUnusable, "the system refuses a library"),
    words("version `glibc", UnfitKind::LibtorchUnusable, "the system's C library is too old"),
    words("version `cxxabi", UnfitKind::LibtorchUnusable, "the system's C++ library is too old"),
    words("could not load library libcudnn", UnfitKind::LibtorchUnusable, "cuDNN cannot be loaded"),
    words("unable to load any of {libcudnn", UnfitKind::LibtorchUnusable, "cuDNN cannot be loaded"),
    words("cudnn_status_version_mismatch", UnfitKind::LibtorchUnusable, "cuDNN is another version"),
    words("cudnn_status_sublibrary", UnfitKind::LibtorchUnusable, "cuDNN cannot be loaded"),
    // What CUDA says when a GPU's context is broken: its errors 700 to 721, 214, 220 and 999. None of them is the job's:
    // the program is the same for every job. Where it is the program's after all, it fails on a second GPU, too.
    gpu("an illegal memory access was encountered", "a kernel read or wrote where it may not"),
    gpu("unspecified launch failure", "a kernel failed, and the driver does not say how"),
    gpu("device-side assert triggered", "a kernel met what it takes to be impossible"),
    gpu("the launch timed out and was terminated", "a kernel took longer than the driver allows"),
    gpu("an illegal instruction was encountered", "a kernel met an instruction that is none"),
    gpu("misaligned address", "a kernel read or wrote across a boundary"),
    gpu(
        "operation not supported on global/shared address space",
        "a kernel used an address of another space",
    ),
    gpu("invalid program counter", "a kernel left its code"),
    gpu("hardware stack error", "a kernel's stack is broken"),
    gpu("uncorrectable ecc error", "the GPU's memory has an error that it cannot correct"),
    gpu("uncorrectable nvlink error", "the link between GPUs has an error that it cannot correct"),
    gpu("over nvlink or a hardware error", "the GPU's hardware failed"),
    gpu("cuda error: unknown error", "the driver does not say what failed"),
    // What libtorch says of drivers and GPUs.
    words("no kernel image is available", UnfitKind::GpuUnsupported, "libtorch has no code for the GPU"),
    words("named symbol not found", UnfitKind::GpuUnsupported, "libtorch has no code for the GPU"),
    words("unsupported gpu architecture", UnfitKind::GpuUnsupported, "libtorch has no code for the GPU"),
    words("device kernel image is invalid", UnfitKind::GpuUnsupported, "libtorch has no code for the GPU"),
    words("driver version is insufficient", UnfitKind::DriverUnusable, "the driver is too old"),
    words("driver on your system is too old", UnfitKind::DriverUnusable, "the driver is too old"),
    words("unsupported toolchain", UnfitKind::DriverUnusable, "the driver is too old"),
    words("no cuda-capable device", UnfitKind::DriverUnusable, "the driver shows no GPU"),
    words("no nvidia driver", UnfitKind::DriverUnusable, "there is no driver"),
    words("cuda driver initialization failed", UnfitKind::DriverUnusable, "the driver does not start"),
    words("cuda unknown error", UnfitKind::DriverUnusable, "the driver does not start"),
    words("system not yet initialized", UnfitKind::DriverUnusable, "the fabric manager does not run"),
    words("system has unsupported display driver", UnfitKind::DriverUnusable, "driver and library differ"),
    words("forward compatibility was attempted", UnfitKind::DriverUnusable, "driver and library differ"),
    // What the system says inside of messages.
    words("too many open files", UnfitKind::OutOfResources, "no more open files"),
    words("resource temporarily unavailable", UnfitKind::OutOfResources, "no more threads or processes"),
    words("failed to spawn thread", UnfitKind::OutOfResources, "no more threads"),
    words("thread creation failed", UnfitKind::OutOfResources, "no more threads"),
    words("pthread_create failed", UnfitKind::OutOfResources, "no more threads"),
    words("cannot allocate memory", UnfitKind::OutOfResources, "no more memory for a process or a mapping"),
    words("read-only file system", UnfitKind::FolderUnwritable, "the disk is mounted read-only"),
    words("stale file handle", UnfitKind::PathUnreadable, "a share's handle is stale"),
    words(
        "transport endpoint is not connected",
        UnfitKind::PathUnreadable,
        "a share's server program is gone",
    ),
    // Codes and signals of a trainer that said nothing.
    Row {
        sign: Sign::Code(127),
        fault: Fault::Machine(UnfitKind::LibtorchUnusable),
        meaning: "the dynamic loader, or a shell, did not find what it needs",
    },
    Row {
        sign: Sign::Code(126),
        fault: Fault::Machine(UnfitKind::TrainerMissing),
        meaning: "a shell could not execute the program",
    },
    Row {
        sign: Sign::Signal(4),
        fault: Fault::Machine(UnfitKind::LibtorchUnusable),
        meaning: "the processor lacks an instruction that the program or libtorch needs (SIGILL)",
    },
];

/// Whose fault an error number is at a place; `None` where the table does not say.
pub fn of_errno(place: Place, errno: i32) -> Option<Row> {
    find(|sign| match sign {
        Sign::Errno(at, number) => at == place && number == errno,
        Sign::AnyErrno(number) => number == errno,
        Sign::Code(_) | Sign::Signal(_) | Sign::Words(_) => false,
    })
}

/// Whose fault an error of the system is at a place; `None` where the table does not say.
pub fn of_error(place: Place, error: &std::io::Error) -> Option<Row> {
    of_errno(place, error.raw_os_error()?)
}

/// Whose fault last words are; `None` where the table does not say.
pub fn of_words(text: &str) -> Option<Row> {
    let text = text.to_lowercase();
    find(|sign| matches!(sign, Sign::Words(words) if text.contains(words)))
}

/// Whether last words say that a GPU's context is broken: what the process does with that GPU from then on fails, too.
pub fn is_sticky(text: &str) -> bool {
    of_gpu(text).is_some()
}

/// What last words say of a GPU that failed; `None` where they do not.
pub fn of_gpu(text: &str) -> Option<Row> {
    let text = text.to_lowercase();
    find_row(|row| row.fault == Fault::Gpu && matches!(row.sign, Sign::Words(words) if text.contains(words)))
}

/// Whose fault an exit code is of a trainer that said nothing.
pub fn of_code(code: i32) -> Option<Row> {
    find(|sign| sign == Sign::Code(code))
}

/// Whose fault a signal is that ended a trainer that said nothing.
pub fn of_signal(signal: i32) -> Option<Row> {
    find(|sign| sign == Sign::Signal(signal))
}

/// The error number in a message of Rust's standard library, `… (os error 24)` or `Os { code: 24, …`.
pub fn errno_in(text: &str) -> Option<i32> {
    ["(os error ", "Os { code: "].iter().find_map(|mark| {
        let rest = &text[text.find(mark)? + mark.len()..];
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse().ok()
    })
}

fn find(matches: impl Fn(Sign) -> bool) -> Option<Row> {
    find_row(|row| matches(row.sign))
}

fn find_row(matches: impl Fn(&Row) -> bool) -> Option<Row> {
    TABLE.iter().find(|row| matches(row)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_own_sign_and_by_no_row_before_it() {
        for row in TABLE {
            let found = match row.sign {
                Sign::Errno(place, errno) => of_errno(place, errno),
                Sign::AnyErrno(errno) => of_errno(Place::Path, errno),
                Sign::Code(code) => of_code(code),
                Sign::Signal(signal) => of_signal(signal),
                Sign::Words(words) => of_words(&format!("trainer: {}: x", words.to_uppercase())),
            };
            assert_eq!(found.map(|found| found.fault), Some(row.fault), "{row:?}");
            assert!(!row.meaning.is_empty() && !row.meaning.ends_with('.'), "{row:?}");
        }
    }

    #[test]
    fn a_paths_errors_are_of_a_path_and_no_others_are() {
        for row in TABLE {
            let Fault::Machine(kind) = row.fault else { continue };
            let of_path =
                matches!(row.sign, Sign::Errno(Place::Path, _)) || kind == UnfitKind::PathUnreadable;
            assert_eq!(kind.is_of_path(), of_path, "{row:?}");
        }
    }

    #[test]
    fn what_the_table_does_not_know_is_nobodys_fault() {
        assert_eq!(of_errno(Place::Path, 9999), None);
        assert_eq!(of_words("thread 'main' panicked at 7"), None);
        assert_eq!((of_code(101), of_signal(11)), (None, None));
    }

    #[test]
    fn a_gpu_whose_context_is_broken_is_told_from_one_that_cannot_be_used() {
        for text in [
            "CUDA error: an illegal memory access was encountered",
            "CUDA error: unspecified launch failure",
            "CUDA error: device-side assert triggered",
            "CUDA error: uncorrectable ECC error encountered",
            "CUDA error: unknown error",
        ] {
            assert!(is_sticky(text), "{text}");
            let row = of_words(text).unwrap();
            assert_eq!((row.fault, row.lack()), (Fault::Gpu, None), "{text}");
        }
        // Whatever else is said beside it.
        assert!(is_sticky("driver on your system is too old; CUDA error: unspecified launch failure"));
        for text in [
            "CUDA error: out of memory",
            "CUDA error: no kernel image is available for execution on the device",
            "CUDA unknown error - this may be due to an incorrectly set up environment",
            "CUDA error: too many resources requested for launch",
        ] {
            assert!(!is_sticky(text), "{text}");
        }
    }

    #[test]
    fn error_numbers_are_read_out_of_messages() {
        assert_eq!(errno_in("cannot open: Too many open files (os error 24)"), Some(24));
        assert_eq!(errno_in(r#"Os { code: 11, kind: WouldBlock, message: "x" }"#), Some(11));
        assert_eq!(errno_in("no such thing"), None);
    }
}
