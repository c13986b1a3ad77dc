//! A real server that speaks S3, as a member of the cluster: SeaweedFS, which the set-up has installed.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::members::{Member, member};
use super::net::Node;

/// Its key and secret; it refuses others.
const KEY: &str = "labkey";
const SECRET: &str = "labsecret";
const BUCKET: &str = "lab";
/// How long its start may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// A server takes another port for each of its own, so much higher.
const TWIN: u16 = 10_000;

/// The server, with one bucket.
#[derive(Debug)]
pub struct ObjectStore {
    /// What can be killed, cut off and started again.
    pub member: Member,
    dir: PathBuf,
    ports: [u16; 4],
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/seaweedfs/weed")
}

/// Ports that are free with their twins, below those that the system gives to connections. Its sockets lie in a folder
/// that all servers of this machine share.
fn free_ports() -> [u16; 4] {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let first = 10_000 + rand::random_range(0..3_000) * 4;
        let ports = [first, first + 1, first + 2, first + 3];
        if ports.iter().all(|port| is_free(*port) && is_free(*port + TWIN)) {
            return ports;
        }
    }
}

impl ObjectStore {
    /// Returns once its bucket is there.
    pub(super) fn start(node: Node, dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir.join("data"))?;
        let identity = serde_json::json!({
            "name": "lab",
            "credentials": [{ "accessKey": KEY, "secretKey": SECRET }],
            "actions": ["Admin", "Read", "Write", "List"],
        });
        let config = dir.join("s3.json");
        std::fs::write(&config, serde_json::json!({ "identities": [identity] }).to_string())?;
        let ports @ [s3, master, volume, filer] = free_ports();
        let arguments = [
            "server".to_owned(),
            format!("-ip={}", node.ip),
            format!("-ip.bind={}", node.ip),
            format!("-dir={}", dir.join("data").display()),
            "-s3".to_owned(),
            format!("-s3.config={}", config.display()),
            format!("-s3.port={s3}"),
            format!("-master.port={master}"),
            format!("-volume.port={volume}"),
            format!("-filer.port={filer}"),
            "-volume.max=64".to_owned(),
            "-master.volumeSizeLimitMB=64".to_owned(),
        ];
        let mut member = member("object-store", node, program(), dir).with_arguments(arguments);
        member.start().context("run `make setup`")?;
        let store = Self { member, dir: dir.to_owned(), ports };
        let deadline = Instant::now() + PATIENCE;
        while !store.lists("s3.bucket.create -name lab\ns3.bucket.list\n")?.contains(BUCKET) {
            ensure!(Instant::now() < deadline, "the object store does not start");
        }
        Ok(store)
    }

    /// What its shell answers.
    fn lists(&self, words: &str) -> Result<String> {
        let mut command = self.member.node.command(&program());
        let master = format!("-master={}:{}", self.member.node.ip, self.ports[1]);
        command.args(["shell", &master]).current_dir(&self.dir);
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        shell.stdin.take().context("its standard input")?.write_all(words.as_bytes())?;
        Ok(String::from_utf8_lossy(&shell.wait_with_output()?.stdout).into_owned())
    }

    /// What a scheduler must know, as variables of its environment.
    pub(super) fn settings(&self) -> [(&'static str, String); 4] {
        let options = [
            format!("endpoint=http://{}:{}", self.member.node.ip, self.ports[0]),
            "allow_http=true".to_owned(),
            "region=us-east-1".to_owned(),
        ];
        [
            ("TRAINYARD_SCHEDULER__BLOB_URL", format!("s3://{BUCKET}/trainyard")),
            ("TRAINYARD_SCHEDULER__BLOB_OPTIONS", options.join(",")),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }

    /// How many packs and manifests of data sets it keeps.
    ///
    /// # Errors
    /// It does not answer.
    pub fn objects(&self) -> Result<usize> {
        let mut objects = 0;
        for folder in ["packs", "manifests"] {
            let listed = self.lists(&format!("fs.ls /buckets/{BUCKET}/trainyard/content/{folder}\n"))?;
            objects += listed.lines().filter(|line| line.trim_start_matches("> ").len() > 30).count();
        }
        Ok(objects)
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        // It has ended or ends now; its sockets stay in the machine's folder, whatever it is told.
        let _ = self.member.kill();
        for port in self.ports {
            for name in ["filer-grpc", "filer", "s3-grpc", "s3", "master", "volume"] {
                for port in [port, port + TWIN] {
                    let _ = std::fs::remove_file(format!("/tmp/seaweedfs-{name}-{port}.sock"));
                }
            }
        }
    }
}
