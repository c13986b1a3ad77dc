//! `yard priority` and `yard queue`.

use trainyard_proto::pb;
use trainyard_proto::pb::JobState::Queued;

use crate::fake::{ID, Script, Server, code, job, stderr, stdout};

const OTHER: &str = "019ab3c4-1f2f-7000-8000-000000000002";
const THIRD: &str = "019ab3c4-1f30-7000-8000-000000000003";
#[test]
fn a_priority_is_set_and_the_queue_shows_who_goes_first_and_who_has_had_most() {
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let early = pb::Job { estimated_start_time: at(4_102_444_800), ..job(THIRD, Queued) };
    let late = pb::Job { estimated_start_time: at(4_102_448_400), ..job(OTHER, Queued) };
    let server = Server::start(Script { jobs: vec![job(ID, Queued), late, early], ..Default::default() });
    let output = server.yard(&["priority", ID, "-7"]);
    assert_eq!((code(&output), stdout(&output)), (0, format!("{ID}\n")), "{output:?}");
    assert!(stderr(&output).contains("its priority is -7; it is number 1 of the queue"), "{output:?}");
    assert_eq!(server.script.lock().unwrap().jobs[0].spec.as_ref().unwrap().priority, -7);
    assert_eq!(code(&server.yard(&["priority", ID, "high"])), 2);
    let text = stdout(&server.yard(&["queue"]));
    let (jobs, users) = text.split_once("\n\n").unwrap();
    let lines = jobs.lines().skip(1).collect::<Vec<_>>();
    for (line, id) in lines.iter().zip([THIRD, OTHER, ID]) {
        assert!(line.starts_with(&id[..8]), "{text}");
    }
    assert!(users.contains("ada") && users.contains("75 %"), "{users}");
    let json: serde_json::Value =
        serde_json::from_slice(&server.yard(&["queue", "-o", "json"]).stdout).unwrap();
    assert_eq!((json["jobs"].as_array().unwrap().len(), &json["users"][0]["share"]), (3, &0.75.into()));
}
