//! Nobody reads what the agent says any more: it works on, and is quiet.

use trainyard_types::{EndReason, Slot};

use crate::stub::{Stub, World, attempt};

#[tokio::test]
async fn an_agent_whose_log_nobody_reads_trains_its_jobs() {
    let world = World::new("started\nfinish\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent_unheard(&stub);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), Slot::Cpu(0), None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed);
}
