//! Each kind of bound, from what it looks like.

use trainyard_types::gpu::THROTTLE_REASONS;
use trainyard_types::{GpuUuid, Time};

use super::*;

fn sample(utilization: f64, memory: u64, throttle: &[&str]) -> Sample {
    Sample {
        time: Time(1),
        gpu: GpuUuid("GPU-1".into()),
        utilization_ratio: Some(utilization),
        memory_used_mib: Some(memory),
        power_watts: Some(400.0),
        temperature_celsius: Some(70),
        throttle_reasons: throttle.iter().map(ToString::to_string).collect(),
        ..Sample::default()
    }
}

fn phases(wait: f64, copy: f64) -> Phases {
    Phases { wait, copy, forward: 0.03, loss: 0.01, backward: 0.05, optimizer: 0.01 }
}

/// A job that keeps its GPU busy.
fn busy() -> Evidence {
    Evidence {
        on_gpu: true,
        images_per_second: 320.0,
        loader_wait_ratio: 0.01,
        phases: Some(phases(0.001, 0.001)),
        epoch: 3,
        epoch_seconds: Some(100.0),
        train_images: 29_000,
        batch_size: 32,
        workers: 8,
        cache: Some(Cache::Disk),
        mfu: Some(0.31),
        memory_total_mib: 24_000,
        samples: vec![sample(0.97, 20_000, &[]); 10],
        pcie_lanes: Some((16, 16)),
        ..Evidence::default()
    }
}

fn slow_loader(cache: Cache, epoch: u32) -> Evidence {
    let samples = vec![sample(0.4, 20_000, &[]); 10];
    Evidence { phases: Some(phases(0.1, 0.001)), cache: Some(cache), epoch, samples, ..busy() }
}

#[test]
fn each_kind_of_bound_is_told_by_what_it_looks_like() {
    let hot: Vec<Sample> = (0..10).map(|at| sample(0.9, 20_000, [&["thermal"][..], &[]][at % 2])).collect();
    let powered = vec![sample(0.99, 20_000, &["power"]); 10];
    let idle = vec![sample(0.5, 4000, &[]); 10];
    let cases: Vec<(&str, Evidence, Bound, &str)> = vec![
        ("nothing yet", Evidence::default(), Bound::Unknown, "Ask again once"),
        ("a busy GPU", busy(), Bound::Gpu, "Nothing holds the GPU up"),
        (
            "a CPU",
            Evidence { on_gpu: false, samples: vec![], ..busy() },
            Bound::Gpu,
            "The processor computes",
        ),
        ("at its power limit", Evidence { samples: powered, ..busy() }, Bound::Gpu, "Nothing holds"),
        ("few workers", slow_loader(Cache::Disk, 3), Bound::Loader, "Set `workers: 16` (it has 8)"),
        ("the first epoch", slow_loader(Cache::Disk, 1), Bound::Loader, "This is the first epoch"),
        (
            "a first epoch that was the last",
            Evidence { is_over: true, ..slow_loader(Cache::Disk, 1) },
            Bound::Loader,
            "Set `workers: 16` (it has 8)",
        ),
        ("no cache", slow_loader(Cache::None, 3), Bound::Disk, "Set `cache: disk`"),
        ("heat", Evidence { samples: hot, ..busy() }, Bound::Throttled, "Cool the GPU"),
        (
            "a narrow link",
            Evidence { pcie_lanes: Some((1, 16)), phases: Some(phases(0.0, 0.1)), ..busy() },
            Bound::Throttled,
            "Move the GPU to a slot",
        ),
        (
            "a narrow link that nobody feels",
            Evidence { pcie_lanes: Some((8, 16)), ..busy() },
            Bound::Gpu,
            "Nothing holds",
        ),
        (
            "a small batch of the user's",
            Evidence { samples: idle.clone(), batch_size: 4, batch_is_asked_for: true, ..busy() },
            Bound::BatchTooSmall,
            "Leave `batch` out (or set it to -1) instead of 4",
        ),
        (
            "a small batch of the agent's",
            Evidence { samples: idle, ..busy() },
            Bound::BatchTooSmall,
            "Set `batch` above 32, for example 64",
        ),
        (
            "few images",
            Evidence { train_images: 640, epoch_seconds: Some(10.0), ..busy() },
            Bound::DataTooSmall,
            "The data set is small: little of an epoch is training (20 %)",
        ),
    ];
    for (what, evidence, bound, first) in cases {
        let diagnosis = diagnose(&evidence);
        assert_eq!(diagnosis.bound, bound, "{what}: {diagnosis:?}");
        assert!(diagnosis.advice[0].starts_with(first), "{what}: {:?}", diagnosis.advice);
        assert!(!diagnosis.findings.is_empty(), "{what}");
    }
}

#[test]
fn nobody_is_told_to_ask_again_about_a_job_that_is_over() {
    let diagnosis = diagnose(&Evidence { is_over: true, ..Evidence::default() });
    assert_eq!(diagnosis.bound.headline(), "Not known: it ended too soon.");
    assert_eq!(diagnosis.findings, ["It ended before it had trained for long enough to say."]);
    assert_eq!(diagnosis.advice, [""; 0]);
    // What it has trained until then still tells something.
    assert_eq!(diagnose(&Evidence { is_over: true, ..busy() }).bound, Bound::Gpu);
}

#[test]
fn findings_are_sentences_with_figures() {
    let evidence = Evidence { phases: Some(phases(0.1, 0.0)), ..busy() };
    let diagnosis = diagnose(&evidence);
    assert_eq!(
        diagnosis.findings,
        [
            "It trains 320 images a second in batches of 32.",
            "A batch takes 200 ms: 50 % waiting for data, 25 % backward, 15 % forward, 5 % loss, 5 % optimiser, \
             0 % copying.",
            "Of each epoch 91 % is training; the rest is validation, checkpoints and starting up.",
            "The GPU was busy 97 % of the time, with 83 % of its memory in use, at 70 °C and 400 W.",
            "It gets 31 % of what the GPU can multiply at best.",
        ]
    );
    let figures: Vec<&str> = diagnosis.figures.keys().copied().collect();
    for figure in ["loader_wait_ratio", "utilization_ratio", "mfu", "step_seconds"] {
        assert!(figures.contains(&figure), "{figures:?}");
    }
}

#[test]
fn without_phases_the_ratio_that_is_always_told_will_do() {
    let evidence = Evidence { phases: None, loader_wait_ratio: 0.4, samples: vec![], ..busy() };
    let diagnosis = diagnose(&evidence);
    assert_eq!(diagnosis.bound, Bound::Loader);
    assert_eq!(diagnosis.findings[1], "40 % of its training time it waits for data.");
}

#[test]
fn of_all_that_agents_say_of_a_clock_heat_and_the_hardwares_protection_count_as_throttling() {
    let bounds = THROTTLE_REASONS.map(|reason| {
        let samples = vec![sample(0.9, 20_000, &[reason]); 10];
        (reason, diagnose(&Evidence { samples, ..busy() }).bound)
    });
    let throttled = bounds.iter().filter(|(_, bound)| *bound == Bound::Throttled);
    let throttled: Vec<&str> = throttled.map(|(reason, _)| *reason).collect();
    assert_eq!(throttled, ["hardware_slowdown", "thermal", "hardware_thermal", "power_brake"]);
    assert_eq!(bounds.iter().filter(|(_, bound)| *bound == Bound::Gpu).count(), 3, "{bounds:?}");
}
