//! Whether driver and libtorch have code for a GPU; found at start rather than by the first job.

use trainyard_types::Gpu;
use trainyard_types::cuda_support::{Driver, LibtorchBuild};

/// Why jobs cannot use `gpu` whatever happens, in one sentence. What is not known is no reason.
pub fn unsupported(gpu: &Gpu, driver: &Driver, libtorch: &LibtorchBuild) -> Option<String> {
    // NVML shows a GPU that the trainer does not see: what it says of CUDA is of another machine, as in tests.
    if !libtorch.driver {
        return None;
    }
    let checked = libtorch.check_driver(Some(driver));
    let why = checked.and_then(|()| libtorch.check_gpu(&gpu.model, gpu.compute_capability)).err()?;
    Some(format!("{why}; then restart the agent"))
}

#[cfg(test)]
mod tests {
    use trainyard_types::GpuUuid;

    use super::*;

    #[test]
    fn an_old_driver_is_named_by_its_version_and_a_gpu_that_the_trainer_does_not_see_is_taken_as_it_is() {
        let gpu = Gpu {
            uuid: GpuUuid("GPU-1".into()),
            index: 0,
            model: "NVIDIA GeForce RTX 4090".into(),
            memory_total_mib: 24_564,
            compute_capability: Some((8, 9)),
        };
        let libtorch = LibtorchBuild {
            version: "2.13.0".into(),
            driver: true,
            cuda: Some("13.0".into()),
            architectures: vec!["sm_86".into(), "sm_90".into()],
            problem: String::new(),
        };
        let driver = |version: &str, cuda| Driver { version: version.into(), cuda: Some(cuda) };
        let old = driver("535.183.01", (12, 2));
        let why = unsupported(&gpu, &old, &libtorch).unwrap();
        assert!(why.starts_with("NVIDIA driver 535.183.01, which runs CUDA up to 12.2, is too old"), "{why}");
        assert!(why.ends_with("; then restart the agent"), "{why}");
        let new = driver("580.95.05", (13, 0));
        assert_eq!(unsupported(&gpu, &new, &libtorch), None);
        let newer = Gpu { compute_capability: Some((12, 0)), ..gpu.clone() };
        assert!(unsupported(&newer, &new, &libtorch).unwrap().contains("sm_120"));
        let blind = LibtorchBuild { driver: false, ..libtorch };
        assert_eq!(unsupported(&gpu, &old, &blind), None);
    }
}
