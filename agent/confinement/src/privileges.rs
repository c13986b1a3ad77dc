//! What a trainer that is started by root does not take along.

use std::io;

/// Numbers of capabilities (capabilities(7)) that root's trainers keep: data sets and the agent's own folders may
/// belong to others (`CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH`, `CAP_FOWNER`), and memory that a GPU reads is locked
/// (`CAP_IPC_LOCK`).
const KEPT: [libc::c_ulong; 4] = [1, 2, 3, 14];

/// More than the kernel knows; it says so for those that are none.
const CAPABILITIES: libc::c_ulong = 64;

/// No `exec` gives privileges any more, and root's next one gives only [`KEPT`].
pub fn drop_all() -> io::Result<()> {
    for capability in (0..CAPABILITIES).filter(|capability| !KEPT.contains(capability)) {
        // Others than root may not do so, and have none to lose: what a file gives is refused by the line below.
        // SAFETY: the call takes numbers.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    // SAFETY: the call takes numbers.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
