//! What a machine must fetch counts as time where jobs are placed, and prefetching hides it.

use std::time::Duration;

use trainyard_scheduler_core::Policy;
use trainyard_sim::data_on_its_way::{DataSet, Lab, MachineSpec};
use trainyard_sim::rng::Rng;

/// `TRAINYARD_SIM_SEED=17` tries one.
fn seeds() -> Vec<u64> {
    let one = std::env::var("TRAINYARD_SIM_SEED").ok().map(|seed| seed.parse().expect("a number"));
    one.map_or_else(|| (0..40).collect(), |seed| vec![seed])
}

fn machine(model: &'static str, rate: f64, holds: &[usize]) -> MachineSpec {
    MachineSpec { model, rate, holds: holds.to_vec() }
}

const SLOW: usize = 0;
const FAST: usize = 1;

/// A slow GPU whose machine holds the data set, and a fast one whose machine does not.
fn two_gpus(rng: &mut Rng) -> Lab {
    let slow = 50.0 + rng.below(100) as f64;
    let fast = slow * (1.5 + rng.below(30) as f64 / 10.0);
    let bytes = (1 + rng.below(400)) << 30;
    Lab {
        policy: Policy::FinishTime,
        line: (20 + rng.below(200)) as f64 * 1e6,
        machines: vec![
            machine("NVIDIA GeForce RTX 3060", slow, &[0]),
            machine("NVIDIA GeForce RTX 4090", fast, &[]),
        ],
        data_sets: vec![DataSet { bytes, images: 2000 + rng.below(100_000) }],
        jobs: vec![(0, 10 + u32::try_from(rng.below(50)).unwrap_or(0))],
        prefetches: true,
    }
}

#[test]
fn a_slower_gpu_that_holds_the_data_takes_the_job_when_and_only_when_it_is_sooner_done() {
    let mut taken = [0, 0];
    for seed in seeds() {
        let lab = two_gpus(&mut Rng::new(seed));
        let (data, epochs) = lab.jobs[0];
        let slow = lab.training(SLOW, data, epochs).as_secs_f64();
        let fast = (lab.fetch(data) + lab.training(FAST, data, epochs)).as_secs_f64();
        let (runs, _) = lab.run();
        let sooner = if slow < fast { SLOW } else { FAST };
        println!("seed {seed}: {slow:.0} s where it is, {fast:.0} s on the faster one: {runs:?}");
        // What is learned is a mean, and the first seconds are nobody's.
        if (slow / fast).ln().abs() > 0.1 {
            assert_eq!(runs[0].machine, sooner, "seed {seed}");
            taken[sooner] += 1;
        }
    }
    assert!(seeds().len() == 1 || taken.iter().all(|count| *count > 3), "{taken:?}");
}

/// Some jobs in a row on one GPU, each with a data set of its own.
fn in_a_row(rng: &mut Rng, policy: Policy, prefetches: bool) -> Lab {
    let count = 3 + usize::try_from(rng.below(3)).unwrap_or(0);
    let data_set = |rng: &mut Rng| DataSet { bytes: (1 + rng.below(30)) << 30, images: 20_000 };
    Lab {
        policy,
        line: (80 + rng.below(100)) as f64 * 1e6,
        machines: vec![machine("NVIDIA GeForce RTX 4090", 100.0, &[])],
        data_sets: (0..count).map(|_| data_set(rng)).collect(),
        jobs: (0..count).map(|data| (data, 5)).collect(),
        prefetches,
    }
}

/// How long the GPU waited for data after the first job.
fn idle(lab: &Lab) -> (Duration, usize) {
    let (mut runs, prefetched) = lab.run();
    runs.sort_by_key(|run| run.placed);
    (runs[1..].iter().map(|run| run.trains.since(run.placed)).sum(), prefetched)
}

#[test]
fn prefetching_hides_the_fetch_of_the_next_job() {
    for seed in seeds() {
        for policy in Policy::ALL {
            let lab = |prefetches| in_a_row(&mut Rng::new(seed), policy, prefetches);
            let ((without, none), (with, told)) = (idle(&lab(false)), idle(&lab(true)));
            println!("seed {seed}, {}: idle {without:?}, prefetching {with:?}", policy.name());
            // A job trains for longer than any data set comes.
            assert_eq!((none, with), (0, Duration::ZERO), "seed {seed}");
            assert!(told > 0 && without > Duration::from_secs(10), "seed {seed}");
        }
    }
}
