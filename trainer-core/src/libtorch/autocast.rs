//! Layers in 16 bits: which type, and the switch for a piece of work.

use std::ffi::c_int;
use std::marker::PhantomData;

use tch::{Device, Kind};

use super::shim;
use super::{TorchError, rethrow};

/// What layers compute in. Weights, losses and statistics are 32-bit floats whatever this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    Fp32,
    /// 16-bit floats of 11 bits' precision and little range: gradients need a [`crate::optim::Scaler`].
    Fp16,
    /// 16-bit floats of 8 bits' precision and the range of 32-bit ones.
    Bf16,
}

impl Precision {
    /// The name that people use: fp32, fp16 or bf16.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
        }
    }

    /// The type.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Fp32 => Kind::Float,
            Self::Fp16 => Kind::Half,
            Self::Bf16 => Kind::BFloat16,
        }
    }

    /// The type's number in libtorch (`c10/core/ScalarType.h`), if it is not 32-bit floats.
    const fn number(self) -> Option<c_int> {
        match self {
            Self::Fp32 => None,
            Self::Fp16 => Some(5),
            Self::Bf16 => Some(15),
        }
    }

    /// Runs `work` with layers in this precision on `device`; outside of it everything is as before, even
    /// when `work` panics.
    ///
    /// A call inside another one goes by its own precision, except that [`Precision::Fp32`] changes
    /// nothing.
    pub fn run<T>(self, device: Device, work: impl FnOnce() -> T) -> T {
        let Some(dtype) = self.number() else { return work() };
        with_autocast(device, dtype, work)
    }
}

/// Runs `work` on tensors of `device` as they are, whatever [`Precision::run`] is around it: for what only moves values.
/// Some of that autocast does in 32 bits, to the same values in twice the memory.
pub fn as_they_are<T>(device: Device, work: impl FnOnce() -> T) -> T {
    with_autocast(device, OFF, work)
}

/// No type at all.
const OFF: c_int = -1;

fn with_autocast<T>(device: Device, dtype: c_int, work: impl FnOnce() -> T) -> T {
    let _until_then = Autocast::enter(device, dtype).unwrap_or_else(|error| rethrow(&error));
    work()
}

/// Autocast is on, or off, for this thread while this lives.
struct Autocast {
    cuda: c_int,
    before: shim::AutocastState,
    /// The switch is the thread's: it must be put back there.
    _here: PhantomData<*const ()>,
}

impl Autocast {
    fn enter(device: Device, dtype: c_int) -> Result<Self, TorchError> {
        let cuda = c_int::from(matches!(device, Device::Cuda(_)));
        let mut before = shim::AutocastState::default();
        // SAFETY: `before` can be written during the call; the answer is its own.
        unsafe { shim::check(shim::ty_autocast_enter(cuda, dtype, &raw mut before)) }?;
        Ok(Self { cuda, before, _here: PhantomData })
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: `before` is what the counterpart has written.
        let left = unsafe { shim::check(shim::ty_autocast_leave(self.cuda, &raw const self.before)) };
        // Switching back allocates nothing and touches no device.
        debug_assert_eq!(left, Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use super::*;
    use crate::libtorch::catch;

    const CPU: Device = Device::Cpu;

    fn kind_of_a_product() -> Kind {
        let tensor = Tensor::ones([2, 2], (Kind::Float, CPU));
        tensor.matmul(&tensor).kind()
    }

    #[test]
    fn work_runs_in_its_precision_and_nothing_else_does() {
        assert_eq!(Precision::Bf16.run(CPU, kind_of_a_product), Kind::BFloat16);
        assert_eq!(kind_of_a_product(), Kind::Float);
        assert_eq!(Precision::Fp32.run(CPU, kind_of_a_product), Kind::Float);
    }

    #[test]
    fn one_precision_inside_another_gives_way_to_it_again() {
        let found =
            Precision::Bf16.run(CPU, || (Precision::Fp16.run(CPU, kind_of_a_product), kind_of_a_product()));
        assert_eq!(found, (Kind::Half, Kind::BFloat16));
        assert_eq!(kind_of_a_product(), Kind::Float);
    }

    #[test]
    fn what_only_moves_values_takes_them_as_they_are() {
        let found = Precision::Bf16.run(CPU, || (as_they_are(CPU, kind_of_a_product), kind_of_a_product()));
        assert_eq!(found, (Kind::Float, Kind::BFloat16));
        assert_eq!(as_they_are(CPU, || Precision::Bf16.run(CPU, kind_of_a_product)), Kind::BFloat16);
    }

    #[test]
    fn an_exception_leaves_nothing_in_16_bits() {
        let failed = catch(|| Precision::Bf16.run(CPU, || Tensor::ones([2], (Kind::Float, CPU)).view([3])));
        assert!(failed.is_err());
        assert_eq!(kind_of_a_product(), Kind::Float);
    }

    #[test]
    fn another_thread_stays_as_it_is() {
        let there = Precision::Bf16.run(CPU, || std::thread::spawn(kind_of_a_product).join().unwrap());
        assert_eq!(there, Kind::Float);
    }
}
