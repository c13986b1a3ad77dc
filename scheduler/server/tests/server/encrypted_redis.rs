//! A Redis server that is encrypted and asks for a user and a password.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use trainyard_proto::pb;
use trainyard_scheduler::config::Config;
use trainyard_scheduler::server::{Server, StartError};
use trainyard_scheduler::tls::Authority;

use crate::support::{Scheduler, config, submission};

/// A server, killed when the test ends.
struct EncryptedRedis {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl Drop for EncryptedRedis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl EncryptedRedis {
    /// Knows the user `yard` with the password `hunter2`, and nobody else.
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(&dir.path().join("authority")).unwrap();
        let (chain, key) = authority.server_certificate(&["localhost".to_owned()]).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        for (name, text) in [("cert.pem", &chain), ("key.pem", &key)] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let folder = dir.path().display();
        let settings = format!(
            "port 0\ntls-port {port}\nbind 127.0.0.1 ::1\ntls-auth-clients no\ntls-cert-file {folder}/cert.pem\n\
             tls-key-file {folder}/key.pem\ntls-ca-cert-file {folder}/authority/ca.pem\ndir {folder}\nsave \"\"\n\
             appendonly yes\nappendfsync always\nuser default off\nuser yard on >hunter2 ~* &* +@all\n"
        );
        let file = dir.path().join("redis.conf");
        std::fs::write(&file, settings).unwrap();
        let child = Command::new("redis-server").arg(file).stdout(Stdio::null()).spawn().unwrap();
        Self { child, dir, port }
    }

    fn password_file(&self, password: &str, mode: u32) -> PathBuf {
        let file = self.dir.path().join("password");
        std::fs::write(&file, format!("{password}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn config(&self, own: &Path, password: PathBuf) -> Config {
        Config {
            redis_url: format!("rediss://yard@localhost:{}", self.port),
            redis_ca: Some(self.dir.path().join("authority/ca.pem")),
            redis_password_file: Some(password),
            ..config(own)
        }
    }
}

#[tokio::test]
async fn a_scheduler_keeps_its_jobs_there_with_its_password_in_a_file() {
    let redis = EncryptedRedis::start();
    let own = tempfile::tempdir().unwrap();
    let config = redis.config(own.path(), redis.password_file("hunter2", 0o600));
    let scheduler = Scheduler::start_with(own, config).await;
    let job = scheduler.submit(submission("")).await.unwrap();
    assert_eq!(scheduler.get(&job.id).await.id, job.id);
}

#[tokio::test]
async fn what_cannot_be_used_is_named() {
    let redis = EncryptedRedis::start();
    let own = tempfile::tempdir().unwrap();
    let told = async |config: Config| match Server::start(config).await {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it started"),
    };
    let open = redis.config(own.path(), redis.password_file("hunter2", 0o644));
    let text = told(open.clone()).await;
    assert!(text.contains("redis_password_file") && text.contains("chmod 600"), "{text}");
    redis.password_file("", 0o600);
    let text = told(open.clone()).await;
    assert!(text.contains("is empty"), "{text}");
    let missing = Config { redis_password_file: Some("/no/such".into()), ..open.clone() };
    let text = told(missing).await;
    assert!(text.contains("redis_password_file") && text.contains("/no/such"), "{text}");
    let plain = Config { redis_url: "redis://yard@localhost:1".into(), ..open.clone() };
    assert!(matches!(Server::start(plain).await, Err(StartError::Config(_))));
    let none = Config { redis_url: String::new(), ..open };
    let text = told(none).await;
    assert!(text.contains("redis_password_file: is set without `redis_url`"), "{text}");
}

#[tokio::test]
async fn a_server_of_another_authority_gets_no_password() {
    let redis = EncryptedRedis::start();
    let own = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    Authority::open(other.path()).unwrap();
    let mut config = redis.config(own.path(), redis.password_file("hunter2", 0o600));
    config.redis_ca = Some(other.path().join("ca.pem"));
    let scheduler = Scheduler::open(own, config).await;
    let refused = scheduler.submit(submission("")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert_eq!(
        scheduler.list(pb::ListJobsRequest::default()).await.unwrap_err().code(),
        tonic::Code::Unavailable
    );
}
