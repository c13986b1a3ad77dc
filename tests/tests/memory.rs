//! Memory runs out on a whole cluster, with the real trainer and libtorch's own words: the job goes on with less,
//! its user is told once, and the next job knows.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use trainyard_proto::pb;
use trainyard_proto::pb::job_event::Event;
use trainyard_tests::cluster::Cluster;
use trainyard_tests::jobs::{assert_gapless, epoch_end, tiny};

const EPOCHS: u32 = 3;

/// A job whose batch size the agent chooses.
fn auto(data: &std::path::Path) -> pb::JobSpec {
    let mut spec = tiny(data, EPOCHS);
    spec.train.as_mut().unwrap().batch = Some(-1.0);
    spec
}

/// How often its user was told that memory ran out.
fn told(events: &[pb::JobEvent]) -> usize {
    let ran_out = |event: &&pb::JobEvent| match &event.event {
        Some(Event::LogLine(line)) => {
            line.level() == pb::log_line::Level::Warning && line.message.contains("in the card's memory")
        }
        _ => false,
    };
    events.iter().filter(ran_out).count()
}

fn trained(events: &[pb::JobEvent]) -> Vec<u32> {
    events.iter().filter_map(epoch_end).collect()
}

#[tokio::test]
async fn wherever_memory_runs_out_the_job_goes_on_with_less_and_the_next_one_knows() {
    let cluster = Cluster::start().await.unwrap();
    let data = cluster.demo_data("shapes", 32, 8, 64).await.unwrap();
    // Batches of 16 images, what a CPU slot begins with, fail: in the first forward pass, in the middle of an
    // epoch, in validation.
    for (name, fault) in [("first", "16@forward"), ("later", "16@backward:3"), ("checked", "8@validation")] {
        let agent =
            cluster.start_agent_with(name, 1, &[("TRAINYARD_TEST_OOM_AT_BATCH", fault)]).await.unwrap();
        let job = cluster.submit(auto(&data)).await.unwrap();
        let (state, events) = cluster.watch_to_end(&job).await.unwrap();
        let done = cluster.job(&job).await.unwrap();
        assert_eq!(state, pb::JobState::Succeeded, "{fault}: {done:?}");
        assert_eq!(done.attempts.len(), 1, "{fault}: in the same process: {:?}", done.attempts);
        assert_gapless(&events);
        assert_eq!(trained(&events), (1..=EPOCHS).collect::<Vec<_>>(), "{fault}");
        assert_eq!(told(&events), 1, "{fault}: {events:?}");
        let chosen = done.attempts[0].batch_chosen.clone().unwrap();
        assert_eq!((chosen.batch_size, chosen.layers[0].name.as_str()), (16, "table"), "{fault}");

        let again = cluster.submit(auto(&data)).await.unwrap();
        let (state, events) = cluster.watch_to_end(&again).await.unwrap();
        let done = cluster.job(&again).await.unwrap();
        assert_eq!(state, pb::JobState::Succeeded, "{fault}: {done:?}");
        let chosen = done.attempts[0].batch_chosen.clone().unwrap();
        if fault.ends_with("validation") {
            assert_eq!(chosen.batch_size, 16, "training had room: {chosen:?}");
        } else {
            assert_eq!((chosen.batch_size, told(&events)), (12, 0), "{fault}: {chosen:?}");
        }
        agent.terminate().unwrap();
    }
}
