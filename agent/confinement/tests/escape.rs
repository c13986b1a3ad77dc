//! Tries to get out of a confinement by each way, in a process of its own: this program again, which says how it went.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::CString;
use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use trainyard_confinement::{Confinement, Support, close_inherited_descriptors, machine};

/// What the inner process tries, and where.
const WAY: &str = "TRAINYARD_TEST_WAY_OUT";
const ANSWER: &str = "answer: ";

/// A job's folder, another job's, and data.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        for name in ["data", "own", "other", "outside"] {
            fs::create_dir(world.at(name)).unwrap();
            fs::write(world.at(name).join("file"), name).unwrap();
        }
        std::os::unix::fs::symlink(world.at("outside/file"), world.at("data/link")).unwrap();
        std::os::unix::fs::symlink(world.at("outside"), world.at("data/folder")).unwrap();
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn confinement(&self) -> Confinement {
        let program = std::env::current_exe().unwrap();
        let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"].map(PathBuf::from);
        let mut read = machine::reads(false);
        read.push(self.at("data"));
        Confinement {
            read,
            run: loader.into_iter().chain([program]).collect(),
            write: vec![self.at("own")],
            devices: machine::devices(false),
        }
    }

    /// What a confined process answers that tries `way` with `argument`.
    fn tries(&self, way: &str, argument: impl AsRef<Path>) -> String {
        tries_within(&self.confinement(), way, argument.as_ref())
    }
}

fn tries_within(confinement: &Confinement, way: &str, argument: &Path) -> String {
    let ready = confinement.ready().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "the_inner_process", "--nocapture", "--test-threads=1"])
        .env(WAY, format!("{way}={}", argument.display()))
        .stdin(Stdio::null());
    // SAFETY: both only make system calls.
    unsafe {
        command.pre_exec(move || {
            close_inherited_descriptors();
            ready.apply()
        });
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = text.lines().find_map(|line| Some(line.split_once(ANSWER)?.1.to_owned()));
    answer.unwrap_or_else(|| format!("{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// Whether this kernel's Landlock is of that version; says so where it is older.
fn has_landlock(version: u32) -> bool {
    let has = Support::of_kernel().landlock;
    if has < version {
        println!("not tried: this kernel's Landlock is of version {has}, and {version} is needed");
    }
    has >= version
}

#[test]
fn the_inner_process() {
    let Ok(way) = std::env::var(WAY) else { return };
    let (way, argument) = way.split_once('=').unwrap();
    let answer = match attempt(way, argument) {
        Ok(()) => "done".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(libc::EACCES) => "EACCES".to_owned(),
            Some(libc::EPERM) => "EPERM".to_owned(),
            Some(libc::ENOSYS) => "ENOSYS".to_owned(),
            Some(libc::EXDEV) => "EXDEV".to_owned(),
            Some(libc::ECONNREFUSED) => "ECONNREFUSED".to_owned(),
            _ => error.to_string(),
        },
    };
    println!("\n{ANSWER}{answer}");
}

fn call(number: libc::c_long, arguments: [i64; 4]) -> io::Result<()> {
    let [a, b, c, d] = arguments;
    // SAFETY: numbers, or pointers that the caller keeps; what the kernel would do is refused or harmless.
    match unsafe { libc::syscall(number, a, b, c, d) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn attempt(way: &str, argument: &str) -> io::Result<()> {
    let path = Path::new(argument);
    let name = CString::new(argument).unwrap();
    let pointer = name.as_ptr() as i64;
    let here = i64::from(libc::AT_FDCWD);
    match way {
        "read" => fs::read(path).map(drop),
        "list" => fs::read_dir(path).map(drop),
        "write" => fs::write(path, "mine"),
        "append" => fs::OpenOptions::new().append(true).open(path).map(drop),
        "remove" => fs::remove_file(path),
        "move here" => fs::rename(path, own(path).join("moved")),
        "hard link" => fs::hard_link(path, own(path).join("linked")),
        "symlink" => std::os::unix::fs::symlink("/etc/shadow", path),
        "fifo" => call(libc::SYS_mknodat, [here, pointer, i64::from(libc::S_IFIFO | 0o600), 0]),
        "chmod" => fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)),
        "truncate" => call(libc::SYS_truncate, [pointer, 0, 0, 0]),
        "empty by reading" => {
            call(libc::SYS_openat, [here, pointer, i64::from(libc::O_RDONLY | libc::O_TRUNC), 0])
        }
        "tcp" => TcpStream::connect(argument).map(drop),
        "tcp listen" => TcpListener::bind("127.0.0.1:0").map(drop),
        "udp" => UdpSocket::bind("127.0.0.1:0").map(drop),
        "netlink" => call(libc::SYS_socket, [libc::AF_NETLINK.into(), libc::SOCK_RAW.into(), 0, 0]),
        "unix" => UnixStream::connect(path).map(drop),
        "unix datagram" => UnixDatagram::unbound().map(drop),
        "unix pair" => UnixStream::pair().map(drop),
        "start" => Command::new("/bin/true").status().map(drop),
        "become" => Err(Command::new("/bin/true").exec()),
        "fork" => call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0]),
        "outlive the agent" => call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG.into(), 0, 0, 0]),
        "namespace" => call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0]),
        "call" => call(argument.parse().unwrap(), [0; 4]),
        "thread" => std::thread::Builder::new().spawn(|| ()).map(|thread| thread.join().unwrap()),
        "abort" => std::process::abort(),
        "own processors" => {
            // Where its folder is not allowed, the standard library says nothing of it.
            std::thread::available_parallelism().and_then(|_| fs::read("/proc/self/cgroup")).map(drop)
        }
        "descriptors" => {
            let open = fs::read_dir("/proc/self/fd")?.flatten().map(|entry| fs::read_link(entry.path()));
            // Standard input and output, and the folder that is being listed.
            let listed = PathBuf::from(format!("/proc/{}/fd", std::process::id()));
            let known = |path: &PathBuf| {
                let text = path.to_string_lossy();
                *path == listed || text == "/dev/null" || text.starts_with("pipe:")
            };
            let left: Vec<PathBuf> = open.flatten().filter(|path| !known(path)).collect();
            if left.is_empty() { Ok(()) } else { Err(io::Error::other(format!("{left:?}"))) }
        }
        _ if path.is_absolute() => touch_file(way, path, pointer),
        _ => touch_process(way, argument.parse().unwrap_or_else(|_| std::process::id().into())),
    }
}

fn touch_file(way: &str, path: &Path, pointer: i64) -> io::Result<()> {
    let here = i64::from(libc::AT_FDCWD);
    match way {
        // Raw: libc's `openat` takes the mode only with a flag that makes a file, as this does.
        "make for its owner" | "make for its group" | "make without a name for its owner" => {
            let bit = if way.contains("owner") { libc::S_ISUID } else { libc::S_ISGID };
            let flags = if way.contains("name") { libc::O_TMPFILE } else { libc::O_CREAT };
            let mode = i64::from(bit | 0o755);
            call(libc::SYS_openat, [here, pointer, i64::from(flags | libc::O_WRONLY), mode])
        }
        "folder for its group" => call(libc::SYS_mkdirat, [here, pointer, 0o2755, 0]),
        #[cfg(target_arch = "x86_64")]
        "formerly make" => {
            call(libc::SYS_open, [pointer, (libc::O_CREAT | libc::O_WRONLY).into(), 0o4755, 0])
        }
        #[cfg(target_arch = "x86_64")]
        "formerly create" => call(libc::SYS_creat, [pointer, 0o4755, 0, 0]),
        #[cfg(target_arch = "x86_64")]
        "formerly folder" => call(libc::SYS_mkdir, [pointer, 0o2755, 0, 0]),
        // What stands in the register of the mode where no file is made.
        "open with a stray mode" => call(libc::SYS_openat, [here, pointer, libc::O_RDONLY.into(), 0o7777]),
        "make for all to run" => {
            call(libc::SYS_openat, [here, pointer, (libc::O_CREAT | libc::O_WRONLY).into(), 0o1755])
        }
        "open and change its mode" => {
            fs::File::open(path)?.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        }
        "open and change its time" => fs::File::open(path)?.set_modified(std::time::SystemTime::UNIX_EPOCH),
        "change its time" => call(libc::SYS_utimensat, [here, pointer, 0, 0]),
        "open and change its attributes" => {
            let (file, none) = (fs::File::open(path)?, 0_i64);
            let attributes = &raw const none as i64;
            call(libc::SYS_ioctl, [file.as_raw_fd().into(), 0x4008_6602, attributes, 0])
        }
        "look around" => fs::metadata(path).map(drop),
        _ => touch_process(way, std::process::id().into()),
    }
}

fn touch_process(way: &str, pid: i64) -> io::Result<()> {
    match way {
        "ptrace" => call(libc::SYS_ptrace, [i64::from(libc::PTRACE_ATTACH), pid, 0, 0]),
        "memory" => fs::File::open(format!("/proc/{pid}/mem")).map(drop),
        "environment" => fs::read(format!("/proc/{pid}/environ")).map(drop),
        "signal" => call(libc::SYS_kill, [pid, 0, 0, 0]),
        "signal a thread" => call(libc::SYS_tgkill, [pid, pid, 0, 0]),
        "signal by a descriptor" => {
            call(libc::SYS_fcntl, [io::stdout().as_raw_fd().into(), libc::F_SETOWN.into(), pid, 0])
        }
        "limit" => call(libc::SYS_prlimit64, [pid, libc::RLIMIT_NOFILE.into(), 0, 0]),
        "join its group" => call(libc::SYS_setpgid, [0, pid, 0, 0]),
        _ => panic!("{way} is no way"),
    }
}

/// The folder that the process may write, from a path beside it.
fn own(path: &Path) -> PathBuf {
    path.parent().unwrap().parent().unwrap().join("own")
}

#[test]
fn what_is_described_can_be_done() {
    let world = World::new();
    for (way, name) in [
        ("read", "data/file"),
        ("list", "data"),
        ("write", "own/new"),
        ("append", "own/file"),
        ("remove", "own/file"),
        ("thread", ""),
        ("unix pair", ""),
        ("signal", "itself"),
        ("own processors", ""),
    ] {
        assert_eq!(world.tries(way, world.at(name)), "done", "{way} {name}");
    }
    assert_eq!(world.tries("write", "/dev/null"), "done");
    let aborted = world.tries("abort", "");
    assert!(aborted.starts_with("signal: 6"), "{aborted}");
}

#[test]
fn files_outside_cannot_be_read_by_any_name() {
    if !has_landlock(1) {
        return;
    }
    let world = World::new();
    let of_world = ["outside/file", "other/file", "data/../outside/file", "data/link", "data/folder/file"];
    let of_machine = ["/etc/shadow", "/proc/1/status", "/proc/self/root/etc/shadow"].map(PathBuf::from);
    for path in of_world.map(|name| world.at(name)).iter().chain(&of_machine) {
        assert_eq!(world.tries("read", path), "EACCES", "{}", path.display());
    }
    for name in ["other", "", "data/folder"] {
        assert_eq!(world.tries("list", world.at(name)), "EACCES", "{name}");
    }
}

#[test]
fn nothing_is_changed_outside_and_no_data() {
    if !has_landlock(1) {
        return;
    }
    let world = World::new();
    for folder in ["data", "outside", "other"] {
        let file = world.at(folder).join("file");
        for way in ["write", "append", "remove"] {
            assert_eq!(world.tries(way, &file), "EACCES", "{way} {folder}");
        }
        for way in ["chmod", "truncate", "empty by reading"] {
            assert_eq!(world.tries(way, &file), "EPERM", "{way} {folder}");
        }
        for way in ["move here", "hard link"] {
            // What may not be done to the file itself, or where it would gain rights.
            let answer = world.tries(way, &file);
            assert!(["EACCES", "EXDEV"].contains(&&*answer), "{way} {folder}: {answer}");
        }
        assert_eq!(fs::read_to_string(file).unwrap(), folder);
        assert_eq!(world.tries("write", world.at(folder).join("new")), "EACCES", "{folder}");
    }
}

#[test]
fn no_program_is_left_by_which_others_become_its_user() {
    let world = World::new();
    let ways = ["make for its owner", "make for its group", "folder for its group"];
    #[cfg(target_arch = "x86_64")]
    let ways = ways.into_iter().chain(["formerly make", "formerly create", "formerly folder"]);
    for way in ways {
        assert_eq!(world.tries(way, world.at("own/new")), "EPERM", "{way}");
        assert!(!world.at("own/new").exists(), "{way}");
    }
    assert_eq!(world.tries("make without a name for its owner", world.at("own")), "EPERM");
    assert_eq!(world.tries("make for all to run", world.at("own/new")), "done");
    assert_eq!(world.tries("open with a stray mode", world.at("own/new")), "done");
}

#[test]
fn modes_times_and_attributes_stay_whatever_may_be_opened() {
    let world = World::new();
    let ways = ["mode", "time", "attributes"].map(|what| format!("open and change its {what}"));
    for way in ways.iter().map(String::as_str).chain(["change its time"]) {
        for file in ["own/file", "data/file"] {
            assert_eq!(world.tries(way, world.at(file)), "EPERM", "{way} {file}");
        }
    }
    assert_eq!(world.tries("change its time", world.at("outside/file")), "EPERM");
    // What the document says: names, sizes and times can be seen.
    assert_eq!(world.tries("look around", world.at("outside/file")), "done");
}

#[test]
fn nothing_is_left_in_its_own_folder_that_leads_its_readers_elsewhere() {
    let world = World::new();
    for way in ["symlink", "fifo"] {
        assert_eq!(world.tries(way, world.at("own/new")), "EPERM", "{way}");
    }
}

#[test]
fn there_is_no_way_into_a_network_or_to_a_daemon() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for way in ["tcp", "tcp listen", "udp", "netlink", "unix datagram"] {
        assert_eq!(world.tries(way, &address), "EPERM", "{way}");
    }
    let _daemon = UnixListener::bind(world.at("own/daemon")).unwrap();
    assert_eq!(world.tries("unix", world.at("own/daemon")), "ECONNREFUSED");
}

#[test]
fn other_processes_are_out_of_reach() {
    let world = World::new();
    let parent = std::process::id().to_string();
    for way in ["ptrace", "signal", "signal a thread", "signal by a descriptor", "limit", "join its group"] {
        assert_eq!(world.tries(way, &parent), "EPERM", "{way}");
    }
    for way in ["memory", "environment"] {
        assert!(!has_landlock(1) || world.tries(way, &parent) == "EACCES", "{way}");
    }
}

#[test]
fn nothing_outlives_it() {
    let world = World::new();
    for way in ["fork", "start", "outlive the agent"] {
        assert_eq!(world.tries(way, ""), "EPERM", "{way}");
    }
    assert!(!has_landlock(1) || world.tries("become", "") == "EACCES", "another program");
}

#[test]
fn dangerous_calls_are_refused_and_newer_ones_unknown() {
    let world = World::new();
    let refused = [
        libc::SYS_mount,
        libc::SYS_pivot_root,
        libc::SYS_setns,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_kexec_load,
        libc::SYS_io_uring_setup,
        libc::SYS_process_vm_readv,
        libc::SYS_open_by_handle_at,
        libc::SYS_setuid,
        libc::SYS_setresgid,
        libc::SYS_shmget,
        libc::SYS_mq_open,
        libc::SYS_inotify_init1,
        libc::SYS_inotify_add_watch,
        libc::SYS_fanotify_init,
        libc::SYS_fanotify_mark,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_mknodat,
        libc::SYS_fchmodat,
        // `fchmodat2`.
        452,
    ];
    #[cfg(target_arch = "x86_64")]
    let refused = refused.into_iter().chain([
        libc::SYS_inotify_init,
        libc::SYS_utime,
        libc::SYS_utimes,
        libc::SYS_futimesat,
        libc::SYS_mknod,
        libc::SYS_chmod,
    ]);
    for number in refused {
        assert_eq!(world.tries("call", number.to_string()), "EPERM", "call {number}");
    }
    assert_eq!(world.tries("namespace", ""), "EPERM");
    // The last one is `getpid` of the x32 interface on x86-64, and no call at all elsewhere.
    for number in [libc::SYS_clone3, libc::SYS_openat2, 500, 0x4000_0027] {
        assert_eq!(world.tries("call", number.to_string()), "ENOSYS", "call {number}");
    }
}

#[test]
fn no_open_file_is_inherited() {
    let world = World::new();
    let open = fs::File::create(world.at("left open")).unwrap();
    // As a library may open one that knows nothing of other processes.
    // SAFETY: the descriptor is open.
    assert_eq!(unsafe { libc::fcntl(open.as_raw_fd(), libc::F_SETFD, 0) }, 0);
    assert_eq!(world.tries("descriptors", ""), "done");
}

#[test]
fn what_is_not_there_is_no_error() {
    let world = World::new();
    let mut confinement = world.confinement();
    confinement.read.push(world.at("nowhere"));
    confinement.write.push(world.at("nowhere/below"));
    assert_eq!(tries_within(&confinement, "read", &world.at("data/file")), "done");
}
