//! System calls that a confined process may not make: what seccomp holds.
//!
//! It is a list of what is refused, not of what is allowed: what libtorch, the driver's libraries and libc call differs
//! by version, and a list of that would end trainings after an update. Calls newer than this list are answered as an older
//! kernel would (`ENOSYS`), so that the list stays whole.
//!
//! A refused call returns an error (`EPERM`) and the process goes on. Libraries try calls and do without, and a job that is
//! killed cannot say why. Only the calls of another architecture kill: their numbers mean something else.
//!
//! No process is started: the trainer needs threads alone. So nothing of it is left when it ends, wherever it might have
//! placed itself, and a shell is of no use to whoever gets one. `exec` itself has to stay, as it comes after the filter.

mod refused;

use std::collections::BTreeMap;
use std::io;

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS,
};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter, sock_filter};

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// From this number on, calls are newer than the list (Linux 6.17). Those of the x32 interface have higher ones, too.
const FIRST_UNKNOWN: u32 = 470;

/// Filters that only need to be enforced. The kernel asks all of them, and takes the strictest answer.
#[derive(Debug)]
pub struct Filters {
    refused: Vec<BpfProgram>,
}

/// Compiles the filters.
///
/// # Errors
/// A rule is none, or too long. That would be the same everywhere.
pub fn filters() -> Result<Filters, BackendError> {
    let errors = [
        (libc::EPERM, refused::calls()?),
        // Their arguments lie in memory, which a filter cannot read. libc knows what to call instead.
        (libc::ENOSYS, BTreeMap::from([(libc::SYS_clone3, vec![]), (libc::SYS_openat2, vec![])])),
        // As where nobody listens: a driver's library that asks for a daemon goes on without.
        (libc::ECONNREFUSED, BTreeMap::from([(libc::SYS_connect, vec![])])),
    ];
    let compile = |(errno, rules)| {
        let refuse = SeccompAction::Errno(errno as u32);
        SeccompFilter::new(rules, SeccompAction::Allow, refuse, std::env::consts::ARCH.try_into()?)?
            .try_into()
    };
    Ok(Filters { refused: errors.into_iter().map(compile).collect::<Result<_, BackendError>>()? })
}

impl Filters {
    /// Makes the filters the calling thread's. Allocates nothing.
    pub fn enforce(&self) -> io::Result<()> {
        for program in &self.refused {
            install(program)?;
        }
        install(&guard(std::process::id()))
    }
}

/// What the compiler of filters has no words for: calls that are newer than the list, and signals to others than `own`, the
/// process itself. It may send itself some, as libc's `abort` does.
fn guard(own: u32) -> [sock_filter; 12] {
    // Offsets in `struct seccomp_data`: the call, the architecture, the lower half of the first argument.
    const CALL: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    const ARGUMENT: u32 = 16;
    let load = |from| sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: from };
    let jump = |test: u32, k, jt, jf| sock_filter { code: (BPF_JMP | test | BPF_K) as u16, jt, jf, k };
    let answer = |k| sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k };
    let refuse = |errno: i32| answer(SECCOMP_RET_ERRNO | errno as u32);
    [
        load(ARCHITECTURE),
        jump(BPF_JEQ, AUDIT_ARCH, 1, 0),
        answer(SECCOMP_RET_KILL_PROCESS),
        load(CALL),
        jump(BPF_JGE, FIRST_UNKNOWN, 5, 0),
        jump(BPF_JEQ, libc::SYS_tgkill as u32, 1, 0),
        jump(BPF_JEQ, libc::SYS_kill as u32, 0, 4),
        load(ARGUMENT),
        jump(BPF_JEQ, own, 2, 0),
        refuse(libc::EPERM),
        refuse(libc::ENOSYS),
        answer(SECCOMP_RET_ALLOW),
    ]
}

fn install(program: &[sock_filter]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        length: libc::c_ushort,
        first: *const sock_filter,
    }
    // A program has at most 4096 instructions: the compiler sees to it.
    let program = Program { length: program.len() as libc::c_ushort, first: program.as_ptr() };
    // SAFETY: the kernel copies the program, which lives as long as the call.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the kernel can filter calls.
pub fn are_filtered() -> bool {
    let action = SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads the action, which lives as long as the call.
    let known =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    known == 0
}
