//! The list itself: each group with the reason for which it is refused.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

/// Refused whatever their arguments are.
const ALWAYS: &[c_long] = &[
    // Other processes: their memory, their descriptors, signals to them. `kill` and `tgkill` have a filter of their own.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kcmp,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    // The process group by which the agent ends a trainer.
    libc::SYS_setpgid,
    libc::SYS_setsid,
    // Memory, queues and semaphores that stay when a process has ended, and that others' processes may share.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    // What is mounted, and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_unshare,
    libc::SYS_setns,
    // Files past Landlock, which asks about paths: by handle; their owner, mode, times and attributes, for which a file that
    // is open for reading is enough; lengths by path; links that lead whoever reads them later; news of what others do.
    libc::SYS_open_by_handle_at,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SETXATTRAT,
    REMOVEXATTRAT,
    FILE_SETATTR,
    OPEN_TREE_ATTR,
    libc::SYS_utimensat,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_truncate,
    libc::SYS_symlinkat,
    libc::SYS_mknodat,
    // A local socket that libraries make for others gets nobody: whoever may connect to it is not confined.
    libc::SYS_accept,
    libc::SYS_accept4,
    // The kernel's parts in which faults are found most often, and that a trainer has no use for.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    // The machine itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    // Other users.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
];

/// What libc's crate does not name yet. From 424 on a call has the same number on every architecture.
const FCHMODAT2: c_long = 452;
const SETXATTRAT: c_long = 463;
const REMOVEXATTRAT: c_long = 466;
const OPEN_TREE_ATTR: c_long = 467;
const FILE_SETATTR: c_long = 469;

/// Older spellings, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const FORMER: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_inotify_init,
    libc::SYS_symlink,
    libc::SYS_mknod,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_nfsservctl,
    libc::SYS_lookup_dcookie,
];
#[cfg(not(target_arch = "x86_64"))]
const FORMER: &[c_long] = &[libc::SYS_nfsservctl, libc::SYS_lookup_dcookie];

/// Kinds of namespaces that `clone` makes. `CLONE_NEWTIME` is none of them: its bit is one of the signal's there.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// The bits of a socket's type that are its type.
const SOCKET_TYPE: u64 = 0xf;
/// `fcntl`: `F_SETSIG`, which signal, and `F_SETOWN_EX`, which process it goes to.
const F_SETSIG: u64 = 10;
const F_SETOWN_EX: u64 = 15;
/// `ioctl`: who gets a signal.
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;
/// `ioctl`: attributes of a file, as `FILE_SETATTR` sets them.
const FS_IOC_SETFLAGS: u64 = 0x4008_6602;
const FS_IOC_FSSETXATTR: u64 = 0x401c_5820;
/// What makes a new file: the bits of `open`'s flags. That of `O_TMPFILE` is the one without `O_DIRECTORY`.
const CREATES: [u64; 2] = [libc::O_CREAT as u64, (libc::O_TMPFILE & !libc::O_DIRECTORY) as u64];
/// Modes by which whoever runs a file becomes its owner, or one of its group.
const BECOMES: [u64; 2] = [libc::S_ISUID as u64, libc::S_ISGID as u64];

/// Each refused call with the arguments for which it is; without any, it always is.
pub fn calls() -> Result<BTreeMap<c_long, Vec<SeccompRule>>, BackendError> {
    let always = ALWAYS.iter().chain(FORMER).map(|call| (*call, Vec::new()));
    let mut refused: BTreeMap<c_long, Vec<SeccompRule>> = always.collect();
    let mut some = |call, rules: Vec<Result<SeccompRule, BackendError>>| -> Result<(), BackendError> {
        refused.insert(call, rules.into_iter().collect::<Result<_, _>>()?);
        Ok(())
    };
    // Threads only: a `clone` without that flag is a process.
    let thread = libc::CLONE_THREAD as u64;
    let mut clone = vec![rule(0, Dword, MaskedEq(thread), 0)];
    clone.extend(NAMESPACES.map(|flag| rule(0, Dword, MaskedEq(flag as u64), flag as u64)));
    some(libc::SYS_clone, clone)?;
    // No network, netlink or packets. Local sockets (which connect to nobody, see above) only of kinds whose messages go to
    // whom they are connected to, not to a path that each message names.
    let sockets = || {
        [libc::SOCK_DGRAM, libc::SOCK_RAW]
            .map(|kind| rule(1, Dword, MaskedEq(SOCKET_TYPE), kind as u64))
            .into_iter()
            .chain([rule(0, Dword, Ne, libc::AF_UNIX as u64)])
            .collect()
    };
    some(libc::SYS_socket, sockets())?;
    some(libc::SYS_socketpair, sockets())?;
    // A trainer dies with its agent.
    some(libc::SYS_prctl, vec![rule(0, Dword, Eq, libc::PR_SET_PDEATHSIG as u64)])?;
    // Limits of other processes.
    some(libc::SYS_prlimit64, vec![rule(0, Dword, Ne, 0)])?;
    // Signals by a descriptor, and keys typed into a terminal.
    let commands = [libc::F_SETOWN as u64, F_SETSIG, F_SETOWN_EX];
    some(libc::SYS_fcntl, commands.map(|command| rule(1, Dword, Eq, command)).into())?;
    let commands = [libc::TIOCSTI, libc::TIOCLINUX, FIOSETOWN, SIOCSPGRP, FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR];
    some(libc::SYS_ioctl, commands.map(|command| rule(1, Dword, Eq, command)).into())?;
    files(&mut some)?;
    Ok(refused)
}

/// Calls that make files, and the one that empties them.
fn files(
    some: &mut impl FnMut(c_long, Vec<Result<SeccompRule, BackendError>>) -> Result<(), BackendError>,
) -> Result<(), BackendError> {
    // Landlock of kernels before 6.2 lets a file be emptied that is opened for reading.
    let emptied = libc::O_TRUNC as u64 | libc::O_ACCMODE as u64;
    let empties = |flags| rule(flags, Dword, MaskedEq(emptied), libc::O_TRUNC as u64);
    // Of a program with such a mode another user of the machine would become the trainer's.
    let become_by = |mode: u8| BECOMES.map(|bit| rule(mode, Dword, MaskedEq(bit), bit));
    // Without one of the flags the mode is whatever stood in the register.
    let make_by = |flags: u8, mode: u8| {
        CREATES.into_iter().flat_map(move |made| {
            BECOMES.map(|bit| {
                SeccompRule::new(vec![
                    SeccompCondition::new(flags, Dword, MaskedEq(made), made)?,
                    SeccompCondition::new(mode, Dword, MaskedEq(bit), bit)?,
                ])
            })
        })
    };
    some(libc::SYS_openat, make_by(2, 3).chain([empties(2)]).collect())?;
    some(libc::SYS_mkdirat, become_by(2).into())?;
    #[cfg(target_arch = "x86_64")]
    {
        some(libc::SYS_open, make_by(1, 2).chain([empties(1)]).collect())?;
        some(libc::SYS_creat, become_by(1).into())?;
        some(libc::SYS_mkdir, become_by(1).into())?;
    }
    Ok(())
}

/// One condition on an argument, counted from 0.
fn rule(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, length, operator, value)?])
}
