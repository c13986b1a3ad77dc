//! Memory that runs out, in libtorch's own allocator.

use simulated_gpu::OperatorFault;
use tch::{Device, Kind, Tensor};

use super::{GPU, SECOND, alone, random, words};

const MIB: u64 = 1 << 20;

fn bytes_on(device: Device, mib: u64) -> Tensor {
    Tensor::zeros([(mib * MIB) as i64], (Kind::Uint8, device))
}

#[test]
fn a_gpu_that_is_full_says_so_in_the_allocators_words_and_has_room_again() {
    let (gpu, _alone) = alone();
    gpu.set_capacity(1, 256 * MIB);
    {
        let held = bytes_on(SECOND, 100);
        let text = words(|| held.to_kind(Kind::Float));
        assert!(
            text.contains(
                "CUDA out of memory. Tried to allocate 400.00 MiB. GPU 1 has a total capacity of 256.00 MiB"
            ),
            "{text}"
        );
        // In the middle of a kernel, too.
        let (images, kernel) = (
            Tensor::zeros([1, 3, 1024, 1024], (Kind::Float, SECOND)),
            random(&[64, 3, 3, 3]).to_device(SECOND),
        );
        let text = words(|| images.conv2d(&kernel, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1));
        assert!(text.contains("CUDA out of memory"), "{text}");
    }
    drop(bytes_on(SECOND, 200));
    gpu.set_capacity(1, 1024 * MIB);
}

#[test]
fn memory_of_other_processes_is_not_there() {
    let (gpu, _alone) = alone();
    // More than the allocator has kept of other tests.
    gpu.set_foreign(1, 1000 * MIB);
    let text = words(|| bytes_on(SECOND, 600));
    assert!(text.contains("CUDA out of memory"), "{text}");
    gpu.set_foreign(1, 0);
    drop(bytes_on(SECOND, 600));
}

#[test]
fn each_allocation_of_a_chain_of_operators_may_fail_once() {
    let (gpu, _alone) = alone();
    let (a, b) = (random(&[64, 64]).to_device(GPU), random(&[64, 64]).to_device(GPU));
    let chain = || (a.mm(&b).silu() + 1.0).softmax(1, Kind::Float);
    let expected = chain();
    gpu.reset();
    drop(chain());
    let total = gpu.counts().allocations;
    assert!(total >= 4);
    for nth in 1..=total {
        gpu.fail_at(nth);
        let text = words(chain);
        assert!(text.contains("CUDA out of memory"), "allocation {nth}: {text}");
    }
    assert!(chain().equal(&expected));
}

#[test]
fn an_operator_fails_with_the_words_of_a_library() {
    let (gpu, _alone) = alone();
    let (images, kernel) = (random(&[1, 3, 8, 8]).to_device(GPU), random(&[4, 3, 3, 3]).to_device(GPU));
    let convolve = || images.conv2d(&kernel, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1);
    let message = "FIND was unable to find an engine to execute this computation".to_owned();
    gpu.set_fault(&OperatorFault { operator: "aten::convolution".into(), nth: 2, sticky: 0, message });
    let first = convolve();
    let text = words(convolve);
    assert!(text.contains("unable to find an engine"), "{text}");
    assert!(convolve().equal(&first));
}
