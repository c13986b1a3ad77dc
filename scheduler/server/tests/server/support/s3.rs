//! A real server that speaks S3: SeaweedFS, which the set-up has installed.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

/// Its key and secret; it refuses others.
pub const KEY: &str = "labkey";
pub const SECRET: &str = "labsecret";
const BUCKET: &str = "lab";
/// A server takes another port for each of its own, so much higher.
const TWIN: u16 = 10_000;

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/seaweedfs/weed")
}

/// Ports that are free with their twins, below those that the system gives to connections.
fn free_ports() -> [u16; 4] {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let drawn = Uuid::new_v4().as_u128();
        let first = 10_000 + u16::try_from(drawn % 3_000).unwrap() * 4;
        let ports = [first, first + 1, first + 2, first + 3];
        if ports.iter().all(|port| is_free(*port) && is_free(*port + TWIN)) {
            return ports;
        }
    }
}

/// One server at a time: each takes a processor while it starts.
static TURN: Mutex<()> = Mutex::const_new(());

/// The server with one bucket, killed when the test ends.
pub struct S3 {
    dir: TempDir,
    ports: [u16; 4],
    child: Child,
    _turn: MutexGuard<'static, ()>,
}

impl S3 {
    /// Returns once the bucket is there.
    pub async fn start() -> Self {
        let turn = TURN.lock().await;
        tokio::task::spawn_blocking(|| Self::start_in_turn(turn)).await.unwrap()
    }

    fn start_in_turn(turn: MutexGuard<'static, ()>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = serde_json::json!({
            "name": "lab",
            "credentials": [{ "accessKey": KEY, "secretKey": SECRET }],
            "actions": ["Admin", "Read", "Write", "List"],
        });
        let config = serde_json::json!({ "identities": [identity] });
        std::fs::write(dir.path().join("s3.json"), config.to_string()).unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let ports = free_ports();
        let child = Self::spawn(dir.path(), ports);
        let mut server = Self { dir, ports, child, _turn: turn };
        server.answers();
        let mut shell = Command::new(program())
            .args(["shell", &format!("-master=127.0.0.1:{}", ports[1])])
            .current_dir(server.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let words = format!("s3.bucket.create -name {BUCKET}\n");
        shell.stdin.take().unwrap().write_all(words.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
        server
    }

    fn spawn(dir: &Path, [s3, master, volume, filer]: [u16; 4]) -> Child {
        let program = program();
        let started = Command::new(&program)
            .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir=data", "-s3", "-s3.config=s3.json"])
            .args([format!("-s3.port={s3}"), format!("-master.port={master}")])
            .args([format!("-volume.port={volume}"), format!("-filer.port={filer}")])
            .args(["-volume.max=64", "-master.volumeSizeLimitMB=64"])
            .current_dir(dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        started.unwrap_or_else(|cause| panic!("{}: {cause}; run `make setup`", program.display()))
    }

    fn answers(&mut self) {
        for port in self.ports {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(self.child.try_wait().unwrap().is_none(), "it has ended");
            }
        }
        // Its master knows a volume to write to.
        while !self.assigns() {}
    }

    fn assigns(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.ports[1])) else { return false };
        let _ = stream.write_all(b"GET /dir/assign HTTP/1.0\r\n\r\n");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).is_ok() && answer.contains("\"fid\"")
    }

    pub fn url(&self) -> String {
        format!("s3://{BUCKET}/trainyard")
    }

    /// Options of a client; `secret` is its own to know.
    pub fn options(&self, secret: &str) -> Vec<String> {
        vec![
            format!("endpoint=http://127.0.0.1:{}", self.ports[0]),
            "allow_http=true".to_owned(),
            "region=us-east-1".to_owned(),
            format!("access_key_id={KEY}"),
            format!("secret_access_key={secret}"),
        ]
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The same server again, with what it has on its disk.
    pub fn start_again(&mut self) {
        self.child = Self::spawn(self.dir.path(), self.ports);
        self.answers();
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its sockets are in the machine's folder, whatever it is told.
        for port in self.ports {
            for name in ["filer-grpc", "filer", "s3-grpc", "s3", "master", "volume"] {
                for port in [port, port + TWIN] {
                    let _ = std::fs::remove_file(format!("/tmp/seaweedfs-{name}-{port}.sock"));
                }
            }
        }
    }
}
