//! What libtorch was built for: its version, its CUDA, and the GPUs that it has code for.

use trainyard_types::cuda_support::LibtorchBuild;

use super::shim;

/// Asks libtorch. `loaded` is what [`load_cuda`](super::load_cuda) returned.
pub fn build(loaded: &Result<(), String>) -> LibtorchBuild {
    let config = shim::text_from(|out| {
        // SAFETY: `out` can be written.
        unsafe { shim::ty_config(out) }
    });
    let driver = super::driver::has_nvidia_driver();
    let problem = loaded.as_ref().err().cloned().unwrap_or_default();
    LibtorchBuild { driver, problem, ..parse(&config.unwrap_or_default()) }
}

/// Reads libtorch's own description of itself. Lines of its own tell of CUDA only where there is a GPU that works; the
/// settings that it was built with always do.
fn parse(config: &str) -> LibtorchBuild {
    let setting = |name: &str| {
        let (_, rest) = config.split_once(name)?;
        let value = rest.split([',', ' ', '\n']).next()?;
        (!value.is_empty()).then(|| value.to_owned())
    };
    // `-gencode arch=compute_75,code=sm_75`, or `code=[compute_120,sm_120]`.
    let codes = config.split("code=").skip(1).flat_map(|rest| match rest.strip_prefix('[') {
        Some(list) => list.split(']').next().unwrap_or_default().split(',').collect(),
        None => vec![rest.split([',', ';', ' ', '\n']).next().unwrap_or_default()],
    });
    let mut architectures: Vec<String> = Vec::new();
    for code in codes {
        if !architectures.iter().any(|known| known == code) {
            architectures.push(code.to_owned());
        }
    }
    LibtorchBuild {
        version: setting("TORCH_VERSION=").unwrap_or_default(),
        cuda: setting("CUDA_VERSION="),
        architectures,
        ..LibtorchBuild::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_with_cuda_names_what_it_has_code_for() {
        let config = "PyTorch built with:\n  - GCC 13.3\n  - CUDA Runtime 12.8\n  - NVCC architecture flags: \
                      -gencode;arch=compute_75,code=sm_75;-gencode;arch=compute_120,code=sm_120;-gencode;\
                      arch=compute_120,code=compute_120\n  - Build settings: CUDA_FLAGS= -DX -gencode \
                      arch=compute_75,code=sm_75 -gencode arch=compute_120,code=[compute_120,sm_120], \
                      CUDA_VERSION=12.8, TORCH_VERSION=2.13.0, USE_CUDA=ON, \n";
        let found = parse(config);
        assert_eq!((found.version.as_str(), found.cuda.as_deref()), ("2.13.0", Some("12.8")));
        assert_eq!(found.architectures, ["sm_75", "sm_120", "compute_120"]);
    }

    #[test]
    fn a_build_with_cuda_says_so_where_no_gpu_works() {
        let config = "PyTorch built with:\n  - GCC 13.3\n  - Build settings: CUDA_FLAGS= -Xfatbin -gencode \
                      arch=compute_75,code=sm_75 -gencode arch=compute_120,code=sm_120 --threads 2, \
                      CUDA_VERSION=13.0, CUDNN_VERSION=9.20.0, TORCH_VERSION=2.13.0, USE_CUDA=1, \n";
        let found = parse(config);
        assert_eq!(found.cuda.as_deref(), Some("13.0"));
        assert_eq!(found.architectures, ["sm_75", "sm_120"]);
        let bare = parse("PyTorch built with:\n  - Build settings: TORCH_VERSION=2.13.0, USE_CUDA=0, \n");
        assert_eq!((bare.version.as_str(), bare.cuda, bare.architectures), ("2.13.0", None, Vec::new()));
    }

    #[test]
    fn this_machines_libtorch_tells_its_version() {
        let found = build(&Ok(()));
        assert!(found.version.starts_with("2."), "{found:?}");
    }
}
