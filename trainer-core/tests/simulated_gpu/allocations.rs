//! Memory that runs out at each allocation of a step, one after the other.

use trainyard_trainer::libtorch::{self, Precision, catch};
use trainyard_trainer::optim::Rule;
use trainyard_trainer::train::upload::Uploader;

use super::steps::{state, train, weights};
use super::{GPU, alone};

/// So many of the allocations fail; all of them would take minutes.
const TRIES: i64 = 25;

fn allocated() -> u64 {
    libtorch::memory_stats(GPU).unwrap().allocated_bytes
}

#[test]
fn each_allocation_of_a_step_may_fail_and_the_next_try_does_the_same() {
    let (gpu, _alone) = alone();
    let uploader = Uploader::new(GPU, Precision::Fp32);
    let once = |nth: i64| {
        let mut state = state(GPU, Rule::Sgd, Precision::Fp32);
        gpu.reset();
        gpu.fail_at(nth);
        let done = catch(|| train(&mut state, &uploader, 1));
        gpu.fail_at(0);
        done.map(|()| state)
    };
    let expected = weights(&once(0).unwrap());
    let total = gpu.counts().allocations;
    let before = allocated();
    for nth in (1..=total).step_by(usize::try_from(total / TRIES).unwrap()) {
        let error = once(nth).unwrap_err();
        assert!(error.message.contains("CUDA out of memory"), "allocation {nth}: {error}");
        // The thread of the backward pass may hold the last of its tensors for a moment more.
        while allocated() > before {
            std::thread::yield_now();
        }
    }
    for ((name, expected), (_, found)) in expected.iter().zip(&weights(&once(0).unwrap())) {
        assert!(expected.equal(found), "{name}");
    }
}
