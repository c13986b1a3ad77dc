//! The table of rates.

use trainyard_types::ModelScale;

use super::*;

const GPU: &str = "NVIDIA GeForce RTX 4090";
const OTHER: &str = "NVIDIA GeForce RTX 5070";

fn workload(model: ModelScale) -> Workload {
    Workload { model, imgsz: 640, amp: true, gpus: 1 }
}

fn near(rate: f64, expected: f64, share: f64) -> bool {
    (rate / expected - 1.0).abs() < share
}

#[test]
fn what_was_measured_replaces_the_data_sheet_at_once() {
    let mut rates = Rates::default();
    let guess = rates.estimate(&workload(ModelScale::S), GPU);
    rates.observe(workload(ModelScale::S), GPU, 100.0, 1.0);
    let known = rates.estimate(&workload(ModelScale::S), GPU);
    assert!(near(known.images_per_second, 100.0, 1e-9) && known.spread < guess.spread, "{known:?} {guess:?}");
}

#[test]
fn one_wild_value_moves_little_and_a_lasting_change_is_followed() {
    let mut rates = Rates::default();
    let n = workload(ModelScale::N);
    for _ in 0..20 {
        rates.observe(n, GPU, 100.0, 1.0);
    }
    rates.observe(n, GPU, 1.0, 1.0);
    assert!(near(rates.estimate(&n, GPU).images_per_second, 100.0, 0.02));
    for _ in 0..100 {
        rates.observe(n, GPU, 60.0, 1.0);
    }
    assert!(near(rates.estimate(&n, GPU).images_per_second, 60.0, 0.02));
}

#[test]
fn a_slow_start_is_made_up_for_by_the_first_epochs() {
    let mut rates = Rates::default();
    let n = workload(ModelScale::N);
    for (rate, part) in [(4.0, RunPart::Steps), (30.0, RunPart::FirstEpoch), (48.0, RunPart::SecondEpoch)] {
        rates.observe(n, GPU, rate, part.weight());
    }
    assert!(near(rates.estimate(&n, GPU).images_per_second, 48.0, 0.2), "{:?}", rates.estimate(&n, GPU));
}

#[test]
fn a_gpu_that_is_slow_for_others_is_expected_to_be_slow_here() {
    let mut rates = Rates::default();
    let ratio = |rates: &Rates, model| {
        let of = |device| rates.estimate(&workload(model), device).images_per_second;
        of(GPU) / of(OTHER)
    };
    let sheet = ratio(&rates, ModelScale::M);
    for model in [ModelScale::N, ModelScale::S] {
        let fast = rates.estimate(&workload(model), GPU).images_per_second;
        rates.observe(workload(model), GPU, fast, 1.0);
        rates.observe(workload(model), OTHER, fast / (4.0 * ratio(&Rates::default(), model)), 1.0);
    }
    // Two workloads on which it is four times as slow as its data sheet says, against a doubt of one quarter.
    let learned = ratio(&rates, ModelScale::M);
    assert!(learned / sheet > 3.0, "{learned} {sheet}");
}

#[test]
fn a_workload_seen_on_one_gpu_is_known_by_size_on_the_others() {
    let mut rates = Rates::default();
    let x = workload(ModelScale::X);
    let before = rates.estimate(&x, OTHER).images_per_second;
    let fast = rates.estimate(&x, GPU).images_per_second;
    rates.observe(x, GPU, fast / 100.0, 1.0);
    let after = rates.estimate(&x, OTHER);
    assert!(near(after.images_per_second, before / 100.0, 0.05), "{after:?} {before}");
    assert!(after.spread < 2.0 && after.seen == 0.0);
}

#[test]
fn what_is_stored_reads_back_and_little_is_written() {
    let mut rates = Rates::default();
    let mut written = Vec::new();
    for step in 0..1000 {
        let rate = 100.0 + f64::from(step % 3);
        written.extend(rates.observe(workload(ModelScale::L), GPU, rate, 1.0));
    }
    assert!(written.len() <= 6, "{}", written.len());
    let mut again = Throughput::default();
    for record in written {
        let record = ThroughputRecord::Rate(record);
        let text = serde_json::to_string(&record).unwrap();
        let read: ThroughputRecord = serde_json::from_str(&text).unwrap();
        assert_eq!((read.key(), &read), (record.key(), &record));
        again.load(vec![read]);
    }
    let of = |rates: &Rates| rates.estimate(&workload(ModelScale::L), GPU).images_per_second;
    assert!(near(of(&again.rates), of(&rates), 0.05));
}
