//! What the host waits for, and what cuDNN and cuBLAS would choose.

use tch::{Device, Kind, Tensor};

use super::{GPU, alone, random};

#[test]
fn waits_of_the_host_are_counted() {
    let (gpu, _alone) = alone();
    let host = random(&[37, 53]);
    let (x, mask) = (host.to_device(GPU), host.gt(0.3).to_device(GPU));
    let value = Tensor::zeros([1], (Kind::Float, GPU));
    let waits = |work: &dyn Fn()| {
        gpu.reset();
        work();
        gpu.counts().waits
    };
    assert_eq!(waits(&|| drop((&x + &x).sum(Kind::Float))), 0);
    assert_eq!(waits(&|| drop(x.masked_fill(&mask, 3.0))), 0);
    assert_eq!(waits(&|| assert!(x.sum(Kind::Float).double_value(&[]).is_finite())), 1);
    assert_eq!(waits(&|| drop(x.to_device(Device::Cpu))), 1);
    assert_eq!(waits(&|| drop(host.to_device(GPU))), 1);
    assert_eq!(waits(&|| drop(mask.nonzero())), 1);
    assert_eq!(waits(&|| drop(x.masked_select(&mask))), 1);
    assert_eq!(waits(&|| drop(x.copy().index_put_(&[Some(&mask)], &value, false))), 1);
    assert_eq!(waits(&|| assert!(x.equal(&x.copy()))), 1);
}

#[test]
fn counts_are_of_the_phase_that_was_entered() {
    let (gpu, _alone) = alone();
    let x = random(&[8, 8]).to_device(GPU);
    gpu.reset();
    gpu.enter("forward");
    let y = x.mm(&x);
    gpu.enter("loss");
    let _ = y.sum(Kind::Float).double_value(&[]);
    gpu.enter("");
    let phases = gpu.counts_by_phase();
    assert_eq!((phases["forward"].operators, phases["forward"].waits, phases["loss"].waits), (1, 0, 1));
}

#[test]
fn searches_and_tf32_show_what_the_switches_mean() {
    let (gpu, _alone) = alone();
    let (images, kernel) = (random(&[1, 3, 8, 8]).to_device(GPU), random(&[4, 3, 3, 3]).to_device(GPU));
    let convolve =
        |kind| images.to_kind(kind).conv2d(&kernel.to_kind(kind), None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1);
    tch::Cuda::cudnn_set_benchmark(false);
    gpu.reset();
    drop((convolve(Kind::Float), convolve(Kind::Half)));
    let counts = gpu.counts();
    assert_eq!(
        (counts.searches, counts.tf32),
        (0, 1),
        "cuDNN takes TF32 for 32-bit floats unless it is told not to"
    );
    tch::Cuda::cudnn_set_benchmark(true);
    drop((convolve(Kind::Float), convolve(Kind::Float)));
    tch::Cuda::cudnn_set_benchmark(false);
    assert_eq!(gpu.counts().searches, 1, "a shape is searched once");
}
