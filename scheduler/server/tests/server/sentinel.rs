//! A Redis with a replica and a sentinel: its master dies, and nothing that was acknowledged is lost.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tonic::Code;
use trainyard_proto::pb;
use trainyard_scheduler::config::Config;

use crate::support::{Scheduler, config, log, started, submission};

/// A server, killed when the test ends.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &Path, name: &str, settings: &str, more: &[&str]) -> Server {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dir = dir.join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("redis.conf");
    let text = format!("port {port}\nbind 127.0.0.1\ndir {}\nlogfile redis.log\n{settings}\n", dir.display());
    std::fs::write(&file, text).unwrap();
    let child = Command::new("redis-server").arg(file).args(more).stdout(Stdio::null()).spawn().unwrap();
    Server { child, port }
}

impl Server {
    fn redis(dir: &Path, name: &str, master: Option<u16>) -> Self {
        let replicaof = master.map_or(String::new(), |port| format!("replicaof 127.0.0.1 {port}\n"));
        let durable = "appendonly yes\nappendfsync always\nsave \"\"\nrepl-diskless-sync-delay 0\n\
                       repl-ping-replica-period 1\n";
        spawn(dir, name, &format!("{durable}{replicaof}"), &[])
    }

    fn sentinel(dir: &Path, master: u16) -> Self {
        let settings = format!(
            "sentinel monitor lab 127.0.0.1 {master} 1\nsentinel down-after-milliseconds lab 500\n\
             sentinel failover-timeout lab 2000\n"
        );
        spawn(dir, "sentinel", &settings, &["--sentinel"])
    }

    /// Waits until the server answers a command with a line that contains `wanted`.
    fn says(&self, command: &[&str], wanted: &str) {
        loop {
            let output =
                Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(command).output();
            if String::from_utf8_lossy(&output.unwrap().stdout).contains(wanted) {
                return;
            }
        }
    }
}

/// A job that no agent here has a slot for.
fn queued(id: &str) -> pb::SubmitJobRequest {
    let mut request = submission(id);
    request.spec.as_mut().unwrap().resources = None;
    request
}

/// Submits until the first failure, and kills `master` on the way; the names that were acknowledged, and the
/// one that was not.
async fn submit_until_it_fails(scheduler: &Scheduler, master: Server) -> (BTreeSet<String>, String) {
    let (mut acknowledged, mut master) = (BTreeSet::new(), Some(master));
    for number in 0.. {
        let id = format!("job-{number}");
        if number == 50 {
            drop(master.take());
        }
        match scheduler.submit(queued(&id)).await {
            Ok(_) => drop(acknowledged.insert(id)),
            // Before its end a slow machine may keep the replica waiting for too long.
            Err(_) if master.is_some() => {
                while scheduler.submit(queued(&id)).await.is_err() {}
                acknowledged.insert(id);
            }
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                return (acknowledged, id);
            }
        }
    }
    unreachable!("it submits until it fails")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_loses_nothing_that_was_acknowledged_and_stops_no_job() {
    let dir = tempfile::tempdir().unwrap();
    let master = Server::redis(dir.path(), "master", None);
    master.says(&["ping"], "PONG");
    let replica = Server::redis(dir.path(), "replica", Some(master.port));
    replica.says(&["info", "replication"], "master_link_status:up");
    let sentinel = Server::sentinel(dir.path(), master.port);
    sentinel.says(&["sentinel", "replicas", "lab"], &replica.port.to_string());

    let own = tempfile::tempdir().unwrap();
    // The first sentinel of the list is not there.
    let config = Config {
        redis_url: format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/lab", sentinel.port),
        redis_replicas: 1,
        // A machine that is slow for a while must not depose the one scheduler.
        leader_lease: Duration::from_secs(30),
        ..config(own.path())
    };
    let scheduler = Scheduler::start_with(own, config).await;
    let mut agent = scheduler.agent(1, &[]).await;
    let running = scheduler.submit(submission("running")).await.unwrap().id;
    let attempt = agent.assigned().await.attempt;
    agent.report_acked(&attempt, 1, started()).await;

    let (mut acknowledged, unknown) = submit_until_it_fails(&scheduler, master).await;
    // The promoted replica has none of its own: it must get one before anything can be written.
    replica.says(&["info", "replication"], "role:master");
    let refused = scheduler.submit(queued(&unknown)).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    let next = Server::redis(dir.path(), "next", Some(replica.port));
    next.says(&["info", "replication"], "master_link_status:up");
    while scheduler.submit(queued(&unknown)).await.is_err() {}
    acknowledged.extend([unknown, "running".to_owned()]);

    let request = pb::ListJobsRequest { page_size: 1000, ..Default::default() };
    let mut agent = scheduler.agent(1, std::slice::from_ref(&attempt)).await;
    agent.report_acked(&attempt, 2, log("trained on")).await;
    let job = scheduler.get(&running).await;
    assert_eq!((job.state(), job.attempts.len()), (pb::JobState::Running, 1));
    let jobs = scheduler.list(request).await.unwrap().jobs;
    assert!(acknowledged.len() > 50);
    assert_eq!(jobs.len(), acknowledged.len());
}
