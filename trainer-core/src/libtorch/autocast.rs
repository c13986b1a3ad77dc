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

    /// The type, if it is not 32-bit floats; and its number in libtorch (`c10/core/ScalarType.h`).
    const fn kind(self) -> Option<(Kind, c_int)> {
        match self {
            Self::Fp32 => None,
            Self::Fp16 => Some((Kind::Half, 5)),
            Self::Bf16 => Some((Kind::BFloat16, 15)),
        }
    }

    /// Runs `work` with layers in this precision on `device`; outside of it everything is as before, even
    /// when `work` panics.
    ///
    /// A call inside another one goes by its own precision, except that [`Precision::Fp32`] changes
    /// nothing.
    pub fn run<T>(self, device: Device, work: impl FnOnce() -> T) -> T {
        let Some((_, dtype)) = self.kind() else { return work() };
        let _on = match Autocast::enter(device, dtype) {
            Ok(on) => on,
            Err(error) => rethrow(&error),
        };
        work()
    }
}

/// Autocast is on for this thread while this lives.
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
