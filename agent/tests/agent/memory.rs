//! What an agent learns of memory, and what it does when a trainer has none left: its process against a
//! scheduler that a test controls, with shell scripts for trainers.

use std::fs;

use trainyard_proto::pb;
use trainyard_types::trainer::TrainerEvent;
use trainyard_types::{BatchChosen, EndReason, Report, ReportBody, Slot};

use crate::stub::{Stub, World, attempt};

const CPU: Slot = Slot::Cpu(0);

fn chosen(reports: &[Report]) -> &BatchChosen {
    let chosen = reports.iter().find_map(|report| match &report.body {
        ReportBody::BatchChosen(chosen) => Some(chosen),
        _ => None,
    });
    chosen.unwrap_or_else(|| panic!("no batch size was chosen: {reports:?}"))
}

#[tokio::test]
async fn what_ran_out_of_memory_is_told_and_the_next_jobs_first_guess_is_right() {
    let world = World::new(
        r#"started
tell '"type":"memory","batch_size":'"$batch"',"fixed_mib":90,"step_peak_mib":250,"densest_objects":3,"validation_peak_mib":120'
if [ "$batch" -gt 12 ]; then tell '"type":"batch_size","from":16,"to":12,"message":"16 does not fit"'; fi
finish
"#,
    );
    let mut stub = Stub::start().await;
    let agent = world.agent(&stub, &[]);
    assert_eq!(stub.hello().await.fit_records, []);
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let (reports, ended) = stub.reports_to_the_end(1).await;
    assert_eq!(ended.reason, EndReason::Completed, "{}", world.log());
    let first = chosen(&reports);
    let layers: Vec<(&str, u32)> =
        first.layers.iter().map(|layer| (layer.name.as_str(), layer.batch_size)).collect();
    assert_eq!(layers[0], ("table", 16));
    assert_eq!(
        layers.iter().map(|layer| layer.0).collect::<Vec<_>>()[1..],
        ["model", "memory free now", "fit record"]
    );
    assert!(first.layers.iter().all(|layer| !layer.reason.is_empty()), "{first:?}");
    assert!(world.log().contains("Batch size by table: 16 (CPU slot)"), "{}", world.log());

    while stub.fit_records.iter().all(|record| record.failed_batch_size.is_none()) {
        stub.heartbeat().await;
    }
    let record = stub.fit_records.last().unwrap().clone();
    assert_eq!(
        (record.model.as_str(), record.device.as_str(), record.precision.as_str(), record.batch_size),
        ("yolov8n", "CPU", "fp32", 16)
    );
    assert_eq!((record.fixed_mib, record.per_image_mib, record.failed_batch_size), (90, 10.0, Some(16)));

    stub.assign(attempt(2), &world.data(), CPU, None).await;
    let (reports, _) = stub.reports_to_the_end(1).await;
    let second = chosen(&reports);
    assert_eq!(second.batch_size, 12);
    assert!(second.layers[3].reason.contains("16 images ran out of memory"), "{second:?}");
    // It survives the agent, and a new session is told all of it.
    drop(agent);
    let _agent = world.agent(&stub, &[]);
    assert_eq!(stub.hello().await.fit_records.len(), 1);
}

#[tokio::test]
async fn a_trainer_that_the_gpus_memory_ended_goes_on_with_less_in_a_new_process() {
    let world = World::new(
        r#"started
if [ "$batch" -gt 8 ]; then echo 'libtorch failed: CUDA out of memory. Tried to allocate' >&2; exit 70; fi
log "on with $batch"
finish
"#,
    );
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let (reports, ended) = stub.reports_to_the_end(1).await;
    assert_eq!(ended.reason, EndReason::Completed, "{}", world.log());
    let steps: Vec<(u32, u32)> = reports
        .iter()
        .filter_map(|report| match &report.body {
            ReportBody::Trainer(TrainerEvent::BatchSize(changed)) => Some((changed.from, changed.to)),
            _ => None,
        })
        .collect();
    assert_eq!(steps, [(16, 12), (12, 8)], "each step is told once");
    assert!(format!("{reports:?}").contains("on with 8"));
}

/// Tells an epoch, and that the file `cache` in the test's folder has all images.
const CACHES: &str = r#"tell '"type":"epoch","epoch":1,"epochs":1,"seconds":1.0,"images_per_second":1.0,"loader_wait_ratio":0.0,"best":true,"metrics":{},"cached":["'"$run/../../../../cache"'"]'
finish
"#;

#[tokio::test]
async fn a_data_set_that_is_decoded_is_told_as_long_as_its_files_are_there() {
    let world = World::new(CACHES);
    fs::write(world.path("cache"), "pixels").unwrap();
    let mut stub = Stub::start().await;
    let agent = world.agent(&stub, &[]);
    assert_eq!(stub.hello().await.cached_data, []);
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let decoded = |heartbeat: &pb::Heartbeat| {
        heartbeat.cached_data.iter().map(|data| (data.data.clone(), data.imgsz)).collect::<Vec<_>>()
    };
    let wanted = [(world.data().display().to_string(), 640)];
    stub.heartbeat_with(|heartbeat| decoded(heartbeat) == wanted).await;
    drop(agent);
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.heartbeat_with(|heartbeat| decoded(heartbeat) == wanted).await;
    fs::remove_file(world.path("cache")).unwrap();
    stub.heartbeat_with(|heartbeat| heartbeat.cached_data.is_empty()).await;
}

#[tokio::test]
async fn when_main_memory_runs_out_a_running_trainer_is_asked_for_half_its_workers() {
    let world = World::new(
        "log ready\nread -r line < \"/proc/self/fd/$control\"\nlog \"asked $(echo $line | tr -d '\"')\"\nfinish\n",
    );
    // As far as memory goes, any folder with a control group's files is one.
    let group = world.path("group");
    fs::create_dir(&group).unwrap();
    let holds = |mib: u64| fs::write(group.join("memory.current"), format!("{}\n", mib << 20)).unwrap();
    fs::write(group.join("memory.max"), format!("{}\n", 64_u64 << 30)).unwrap();
    fs::write(group.join("memory.pressure"), "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n").unwrap();
    holds(0);
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &["--cgroup", group.to_str().unwrap()]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let workers: u32 = stub.log_line("  - Workers: ").await.parse().unwrap();
    stub.log_line("ready").await;
    holds((64 << 10) - 100);
    let told = stub.log_line("main memory runs out: ").await;
    assert_eq!(told, format!("{workers} -> {} loader workers", workers / 2));
    assert_eq!(stub.log_line("asked ").await, format!("{{type:workers,workers:{}}}", workers / 2));
}
