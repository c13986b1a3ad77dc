//! Copies beside the computation, done as late as they may be.

use tch::{Device, Kind, Tensor};
use trainyard_trainer::libtorch::copies::{Copier, pinned};

use super::{GPU, alone};

#[test]
fn a_copy_aside_is_there_for_whoever_waits_for_its_event() {
    let (gpu, _alone) = alone();
    let mut locked = pinned(1 << 16).unwrap();
    locked.copy_(&Tensor::arange(1 << 16, (Kind::Int64, Device::Cpu)).remainder(251));
    let copier = Copier::new(GPU).unwrap();
    gpu.reset();
    for _ in 0..3 {
        let sent = copier.send(&[&locked]).unwrap();
        let there = copier.receive(sent).unwrap().remove(0);
        let used = &there + 1;
        let counts = gpu.counts();
        assert_eq!((counts.waits, counts.staged), (0, 0), "{counts:?}");
        assert!((used.to_device(Device::Cpu) - 1).equal(&locked));
        drop(there);
        gpu.reset();
    }
    assert_eq!(gpu.counts().hazards, 0);
}

#[test]
fn bytes_that_the_host_changes_too_early_arrive_changed() {
    let (_gpu, _alone) = alone();
    let mut locked = pinned(1024).unwrap();
    locked.copy_(&Tensor::ones([1024], (Kind::Uint8, Device::Cpu)));
    let copier = Copier::new(GPU).unwrap();
    let sent = copier.send(&[&locked]).unwrap();
    let _ = locked.fill_(7);
    let there = copier.receive(sent).unwrap().remove(0);
    assert_eq!(there.to_device(Device::Cpu).max().int64_value(&[]), 7);
}
