//! Files, devices, TCP and signals: what Landlock holds.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, Scope,
};

use crate::Confinement;

/// What is asked for; of that, a kernel gives what it knows. A newer one is taken when tests have run on it.
const ABI: ABI = ABI::V6;

/// A set of rules in the kernel, which no thread has taken yet; `None` where the kernel has no Landlock.
pub fn ruleset(confinement: &Confinement) -> Result<Option<OwnedFd>, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // No links: whoever reads a trainer's folders later, outside of its confinement, would follow them. No sockets, pipes or
    // devices either, on which the same would wait.
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let device = read | AccessFs::WriteFile | AccessFs::IoctlDev;
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI))?
        .handle_access(AccessNet::from_all(ABI))?
        .scope(Scope::from_all(ABI))?
        .create()?;
    let kinds = [
        (&confinement.read, read),
        (&confinement.run, read | AccessFs::Execute),
        (&confinement.write, write),
        (&confinement.devices, device),
    ];
    let mut each = kinds.into_iter().flat_map(|(paths, access)| paths.iter().map(move |path| (path, access)));
    Ok(each.try_fold(ruleset, |ruleset, (path, access)| add(ruleset, path, access))?.into())
}

/// Allows `access` at `path` and below, if it is there.
fn add(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(ruleset) };
    // Rights over what is in a folder are refused for a file.
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(ABI) };
    ruleset.add_rule(PathBeneath::new(opened, access))
}

/// Landlock's rule on a path, as the kernel takes it (`struct landlock_path_beneath_attr`).
#[repr(C, packed)]
struct BeneathAttribute {
    allowed_access: u64,
    parent_fd: i32,
}

const RULE_PATH_BENEATH: u32 = 1;

/// Makes `ruleset` the calling thread's. Allocates nothing.
pub fn enforce(ruleset: &OwnedFd) -> io::Result<()> {
    // Only the thread itself knows its own folder in /proc, which the standard libraries read (its processors, its memory).
    // SAFETY: a path with its zero.
    let own =
        unsafe { libc::open(c"/proc/self".as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) };
    if own >= 0 {
        // The rule is on the folder's inode, which the kernel makes anew when it is short of memory and nobody has the folder
        // open. This descriptor ends with `exec`: from then on it is `own_folder` that keeps it.
        let allowed_access = (AccessFs::ReadFile | AccessFs::ReadDir).bits();
        let rule = BeneathAttribute { allowed_access, parent_fd: own };
        let rule: *const BeneathAttribute = &raw const rule;
        // SAFETY: the kernel reads the rule, which lives as long as the call.
        let added = unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), RULE_PATH_BENEATH, rule, 0)
        };
        if added != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: the call takes numbers.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The folder of process `pid` in /proc, open; `None` where there is none. What a confined process may read of itself it
/// may for as long as somebody keeps this.
pub fn own_folder(pid: u32) -> Option<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(format!("/proc/{pid}"))
        .ok()
}

const CREATE_RULESET_VERSION: libc::c_uint = 1;

/// The version of the kernel's Landlock; 0 without.
pub fn version() -> u32 {
    let nothing = std::ptr::null::<c_void>();
    // SAFETY: with this flag the call takes no pointer.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, CREATE_RULESET_VERSION) };
    u32::try_from(version).unwrap_or(0)
}
