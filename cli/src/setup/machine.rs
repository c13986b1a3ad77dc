//! What setting up a service needs to know of this machine.

use std::env;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, statfs};
use nix::unistd::{Uid, User};

use crate::failure::Failure;

/// NFS, and SMB in its versions, as statfs(2) numbers them.
const SHARES: [i64; 4] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42];

/// Whose service it is to be, and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Root sets up a service of the machine; a user with this home directory one of their own.
    pub home: Option<PathBuf>,
    /// The folder of the programs.
    pub programs: PathBuf,
    /// The folder of a user's configuration.
    pub configuration: PathBuf,
    /// A user's data, below which each program has a folder.
    pub data: PathBuf,
    /// `redis-server`, where it is found.
    pub redis: Option<PathBuf>,
    /// The system's users that are there already, of those that services have.
    pub users: Vec<String>,
    /// Files that are there already.
    pub present: Vec<PathBuf>,
    /// Whether the folder of the data is on another machine.
    pub data_on_share: bool,
    /// Whether the user's own service manager can be told anything; root needs none.
    pub has_user_manager: bool,
}

impl Machine {
    /// The machine that this process runs on.
    ///
    /// # Errors
    /// It has no systemd, or the user has no home directory.
    pub fn here() -> Result<Self, Failure> {
        if !Path::new("/run/systemd/system").is_dir() {
            let hint = "run `trainyard-agent` or `trainyard-scheduler` by what starts services here; in a container \
                        that is its own command";
            return Err(Failure::local("this machine was not started by systemd").hint(hint));
        }
        let own = env::current_exe()?;
        let programs = own.parent().unwrap_or(Path::new("/")).to_owned();
        let home = if Uid::effective().is_root() {
            None
        } else {
            let missing = || Failure::local("there is no home directory for the service of a user");
            Some(env::home_dir().filter(|home| home.is_absolute()).ok_or_else(missing)?)
        };
        let below_home = |name: &str| home.as_deref().unwrap_or(Path::new("/")).join(name);
        let (configuration, data) = match home {
            None => ("/etc/trainyard".into(), "/var/lib/trainyard".into()),
            Some(_) => (below_home(".config/trainyard"), below_home(".local/share/trainyard")),
        };
        let units =
            ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"].map(PathBuf::from);
        let units = units.into_iter().chain([below_home(".config/systemd/user")]);
        let named = |folder: PathBuf| {
            ["trainyard-agent.service", "trainyard-scheduler.service"].map(|name| folder.join(name))
        };
        let files = units
            .flat_map(named)
            .chain(["agent.toml", "scheduler.toml"].map(|name| configuration.join(name)));
        let programs_of = ["trainyard-agent", "trainyard-scheduler", "trainyard-trainer"];
        let files = files.chain(programs_of.map(|name| programs.join(name)));
        let users = ["trainyard", "trainyard-scheduler"].map(str::to_owned).into_iter();
        Ok(Self {
            redis: find_redis(),
            users: users.filter(|name| matches!(User::from_name(name), Ok(Some(_)))).collect(),
            present: files.filter(|file| file.exists()).collect(),
            data_on_share: is_on_share(&data),
            has_user_manager: has_user_manager(),
            home,
            programs,
            configuration,
            data,
        })
    }

    /// Whether a file is there.
    pub fn has(&self, file: &Path) -> bool {
        self.present.iter().any(|present| present == file)
    }
}

/// Whether `systemctl --user` finds the user's manager, which a login brings and `su` or `sudo -u` do not.
fn has_user_manager() -> bool {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let folder = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
    let is_there = |name: &str| folder.as_ref().is_some_and(|folder| folder.join(name).exists());
    is_there("systemd/private") || is_there("bus") || variable("DBUS_SESSION_BUS_ADDRESS").is_some()
}

fn find_redis() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders =
        env::split_paths(&path).chain(["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from));
    folders.map(|folder| folder.join("redis-server")).find(|file| file.is_file())
}

fn is_on_share(folder: &Path) -> bool {
    let found = folder.ancestors().find_map(|folder| statfs(folder).ok());
    found.is_some_and(|found| {
        let FsType(number) = found.filesystem_type();
        SHARES.contains(&number)
    })
}
