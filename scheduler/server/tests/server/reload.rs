//! What SIGHUP, which `systemctl reload` sends, has the program read again.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::transport::Endpoint;
use trainyard_access::Trust;
use trainyard_scheduler::tls::Authority;

/// A scheduler with a certificate of files, killed when the test ends.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start(dir: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-scheduler"));
        for (key, value) in [("LISTEN", "127.0.0.1:0"), ("SECURITY", "on")] {
            command.env(format!("TRAINYARD_SCHEDULER__{key}"), value);
        }
        for (key, name) in [("DATA_DIR", "data"), ("TLS_CERT", "cert.pem"), ("TLS_KEY", "key.pem")] {
            command.env(format!("TRAINYARD_SCHEDULER__{key}"), dir.join(name));
        }
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.by_ref().find_map(|line| {
            let (_, rest) = line.split_once("listening address=")?;
            Some(rest.split(' ').next().unwrap().to_owned())
        });
        // Read on, so that the log never fills its pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.expect("it says where it listens") }
    }

    /// Whether this authority vouches for what is shown.
    async fn is_vouched_for_by(&self, authority: &Path) -> bool {
        let connector = Trust::none().authorities(authority).unwrap().connector().unwrap();
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap();
        endpoint.connect_with_connector(connector).await.is_ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Writes a certificate of an authority of its own, and that one's into the file that is returned.
fn certify(dir: &Path, name: &str) -> PathBuf {
    let authority = Authority::open(&dir.join(name)).unwrap();
    let (chain, key) = authority.server_certificate(&["127.0.0.1".to_owned()]).unwrap();
    fs::write(dir.join("cert.pem"), chain).unwrap();
    trainyard_files::write_private(&dir.join("key.pem"), key.as_bytes(), |_| {}).unwrap();
    let file = dir.join(format!("{name}.pem"));
    fs::write(&file, authority.pem()).unwrap();
    file
}

#[tokio::test]
async fn a_certificate_that_is_replaced_on_disk_is_shown_after_sighup_even_if_its_files_are_as_old() {
    let dir = tempfile::tempdir().unwrap();
    let first = certify(dir.path(), "first");
    let process = Process::start(dir.path());
    assert!(process.is_vouched_for_by(&first).await);

    let files = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
    let times = files.each_ref().map(|file| fs::metadata(file).unwrap().modified().unwrap());
    let second = certify(dir.path(), "second");
    for (file, time) in files.iter().zip(times) {
        File::options().append(true).open(file).unwrap().set_modified(time).unwrap();
    }
    assert!(!process.is_vouched_for_by(&second).await);
    kill(Pid::from_raw(process.child.id().try_into().unwrap()), Signal::SIGHUP).unwrap();
    while !process.is_vouched_for_by(&second).await {}
    assert!(!process.is_vouched_for_by(&first).await);
}
