//! Nobody reads what the agent says any more: it works on, and is quiet.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, reason = "tests; not all of the stub is used")]

mod stub;

use stub::{Stub, World, attempt};
use trainyard_types::{EndReason, Slot};

#[tokio::test]
async fn an_agent_whose_log_nobody_reads_trains_its_jobs() {
    let world = World::new("started\nfinish\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent_unheard(&stub);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), Slot::Cpu(0), None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed);
}
