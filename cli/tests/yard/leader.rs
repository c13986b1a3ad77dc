//! Several servers, of which the first stands by or is gone: what only the leader knows is asked of it.

use std::process::Output;

use trainyard_proto::pb;
use trainyard_proto::pb::JobState::Queued;

use crate::fake::{ID, Script, Server, code, command, job, stdout};

const STORED: &str = "only the leader knows";
const KNOWN: &str = "waits for the only GPU that fits; it is busy";

fn waits(reason: &str) -> Vec<pb::Job> {
    let estimated_start_time =
        (reason == KNOWN).then_some(prost_types::Timestamp { seconds: 4_102_444_800, nanos: 0 });
    vec![pb::Job {
        waiting_for: reason.into(),
        waiting_sentence: reason.into(),
        estimated_start_time,
        ..job(ID, Queued)
    }]
}

fn url(server: &Server) -> String {
    format!("http://{}", server.address)
}

/// A leader, and a standby that names a leader at this address.
fn pair(named: impl FnOnce(&Server) -> String) -> (Server, Server) {
    let leader = Server::start(Script { jobs: waits(KNOWN), ..Default::default() });
    let named = Some(named(&leader));
    let standby = Server::start(Script { jobs: waits(STORED), leader: named, ..Default::default() });
    (standby, leader)
}

fn yard(servers: &str, arguments: &[&str]) -> Output {
    let any = "127.0.0.1:1".parse().unwrap();
    let output = command(any, arguments).env("YARD_SERVER", servers).output().unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    output
}

/// An address at which nobody listens.
fn gone() -> String {
    let (address, _) = Server::start(Script::default()).kill();
    format!("http://{address}")
}

#[test]
fn the_page_is_the_leaders_whichever_server_is_named_first() {
    let (standby, leader) = pair(url);
    let page = |servers: &str, arguments: &[&str]| stdout(&yard(servers, arguments));
    let all = format!("{},{}", url(&standby), url(&leader));
    for servers in [all.as_str(), &url(&standby), &format!("{},{}", gone(), url(&standby))] {
        assert_eq!(page(servers, &["open", "--print"]), format!("{}/\n", url(&leader)), "{servers}");
        let of_job = page(servers, &["open", "--print", &ID[..8]]);
        assert_eq!(of_job, format!("{}/jobs/{ID}\n", url(&leader)), "{servers}");
    }
    // Whoever has no token yet logs in there.
    let refused = tonic::Status::unauthenticated("who are you?");
    leader.script.lock().unwrap().refuse = Some((String::new(), refused));
    assert_eq!(page(&url(&leader), &["open", "--print"]), format!("{}/\n", url(&leader)));
    let dead = command(gone().trim_start_matches("http://").parse().unwrap(), &["open", "--print"]);
    assert_eq!(code(&{ dead }.output().unwrap()), 3);
}

#[test]
fn why_a_job_waits_is_asked_of_the_leader() {
    let (standby, leader) = pair(url);
    let all = format!("{},{}", url(&standby), url(&leader));
    for arguments in [&["jobs", "-o", "json"][..], &["queue", "-o", "json"], &["job", ID, "-o", "json"]] {
        for servers in [all.as_str(), &url(&standby)] {
            let text = stdout(&yard(servers, arguments));
            assert!(text.contains(KNOWN) && !text.contains(STORED), "{arguments:?}: {text}");
        }
    }
}

#[test]
fn a_leader_that_is_named_by_what_is_known_in_its_cluster_alone_is_found_among_the_servers() {
    let nobody = gone();
    let (standby, leader) = pair(|_| nobody.clone());
    let all = format!("{},{}", url(&standby), url(&leader));
    assert!(stdout(&yard(&all, &["job", ID])).contains(KNOWN));
    // Where there is none, what is stored is told.
    assert!(stdout(&yard(&url(&standby), &["job", ID])).contains(STORED));
    assert!(stdout(&yard(&url(&standby), &["jobs", "-o", "json"])).contains(STORED));
    assert_eq!(stdout(&yard(&url(&standby), &["open", "--print"])), format!("{}/\n", url(&standby)));
}
