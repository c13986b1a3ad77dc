//! Memory runs out on a whole cluster, with the real trainer and libtorch's own words: the job goes on with less,
//! its user is told once, and the next job knows.

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
            line.level() == pb::log_line::Level::Warning && line.message.contains("in the GPU's memory")
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

/// Batches of 16, then of 12, fail after they have fitted: the second time a new process has to go on, whose first
/// batches are the 8 that this one told.
const TWICE: &str = "16@backward:3,12@backward:4";

/// With `bn_group` batches stay as they are, and every process finds twice that they do not fit any more.
const TWICE_THE_SAME: &str = "8@backward:3!,8@backward:5!";

#[tokio::test]
async fn what_fitted_and_fails_twice_goes_on_in_a_new_process_with_the_batch_that_was_told() {
    let cluster = Cluster::start().await.unwrap();
    let data = cluster.demo_data("shapes", 32, 8, 64).await.unwrap();
    for (name, fault, bn_group, changes) in
        [("smaller", TWICE, 0, vec![(16, 12), (12, 8)]), ("the-same", TWICE_THE_SAME, 8, vec![(8, 8); 2])]
    {
        let agent =
            cluster.start_agent_with(name, 1, &[("TRAINYARD_TEST_OOM_AT_BATCH", fault)]).await.unwrap();
        let mut spec = auto(&data);
        let train = spec.train.as_mut().unwrap();
        // Every batch is an optimiser step, as it is not in warm-up: what has stepped has fitted.
        (train.nbs, train.bn_group, train.warmup_epochs) = (Some(8), Some(bn_group), Some(0.0));
        let job = cluster.submit(spec).await.unwrap();
        let (state, events) = cluster.watch_to_end(&job).await.unwrap();
        let done = cluster.job(&job).await.unwrap();
        assert_eq!(state, pb::JobState::Succeeded, "{fault}: {done:?}");
        assert_eq!(done.attempts.len(), 1, "{fault}: {:?}", done.attempts);
        assert_gapless(&events);
        assert_eq!(trained(&events), (1..=EPOCHS).collect::<Vec<_>>(), "{fault}");
        let told = steps(&events);
        assert!(told.len() >= changes.len() && told.starts_with(&changes), "{fault}: {told:?}");
        assert!(told.iter().all(|change| changes.contains(change)), "{fault}: {told:?}");
        let log = std::fs::read_to_string(cluster.path(&format!("{name}.log"))).unwrap();
        assert!(log.matches("trainer started").count() > 1, "{fault}: {log}");
        agent.terminate().unwrap();
    }
}

/// The batch sizes of which its user was told that memory ran out, and those that followed.
fn steps(events: &[pb::JobEvent]) -> Vec<(u32, u32)> {
    let number = |text: &str, before: &str| -> Option<u32> {
        let (_, rest) = text.split_once(before)?;
        rest.split(' ').next()?.parse().ok()
    };
    let step = |event: &pb::JobEvent| match &event.event {
        Some(Event::LogLine(line)) => {
            let to = number(&line.message, "going on with ");
            Some((number(&line.message, "batch ")?, to.or(number(&line.message, "once more with "))?))
        }
        _ => None,
    };
    events.iter().filter_map(step).collect()
}

#[tokio::test]
async fn where_not_even_one_image_fits_the_job_fails_and_says_once_what_would() {
    let cluster = Cluster::start().await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    let _agent = cluster.start_agent_with("small", 1, &[("TRAINYARD_TEST_OOM_AT_BATCH", "1")]).await.unwrap();
    let job = cluster.submit(auto(&data)).await.unwrap();
    let (state, _) = cluster.watch_to_end(&job).await.unwrap();
    let done = cluster.job(&job).await.unwrap();
    assert_eq!(state, pb::JobState::Failed, "{done:?}");
    let [attempt] = &done.attempts[..] else { panic!("{done:?}") };
    assert_eq!(attempt.end_reason(), pb::attempt::EndReason::GpuOom);
    let told = &attempt.message;
    assert!(told.starts_with("the GPU's memory is too small even for batch 1: CUDA out of memory"), "{told}");
    assert_eq!(told.matches("fit: ").count(), 1, "one advice: {told}");
    assert!(told.contains("; what would fit: ") && told.contains("a GPU with "), "{told}");
}

#[tokio::test]
async fn a_share_of_the_memory_becomes_a_batch_and_what_was_decoded_is_noted() {
    let cluster = Cluster::start().await.unwrap();
    let data = cluster.demo_data("shapes", 16, 8, 64).await.unwrap();
    let _agent = cluster.start_agent("half", 1).await.unwrap();
    let mut spec = tiny(&data, 2);
    spec.train.as_mut().unwrap().batch = Some(0.7);
    let job = cluster.submit(spec).await.unwrap();
    let (state, events) = cluster.watch_to_end(&job).await.unwrap();
    let done = cluster.job(&job).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "{done:?}");
    let chosen = done.attempts[0].batch_chosen.clone().unwrap();
    assert_eq!(chosen.layers[0].name, "asked for");
    assert!(chosen.layers[0].reason.starts_with("0.7 of the memory"), "{chosen:?}");
    let told = format!("Auto batch size: {} (based on 0.7 of CPU, ", chosen.batch_size);
    assert!(format!("{events:?}").contains(&told), "{told}: {events:?}");

    let noted = std::fs::read_to_string(cluster.path("half").join("cached.json")).unwrap();
    let noted: serde_json::Value = serde_json::from_str(&noted).unwrap();
    assert_eq!((&noted[0]["data"], &noted[0]["imgsz"]), (&data.display().to_string().into(), &64.into()));
    let files: Vec<&str> =
        noted[0]["files"].as_array().unwrap().iter().filter_map(|file| file.as_str()).collect();
    assert_eq!(files.len(), 2, "training's and validation's: {noted}");
    assert!(files.iter().all(|file| std::path::Path::new(file).is_file()), "{noted}");
}
