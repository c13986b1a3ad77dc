//! What libtorch was built for: its version, its CUDA, and the GPUs that it has code for.

use serde::Serialize;

use super::shim;

/// What an agent wants to know before it offers a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Build {
    /// `2.13.0`.
    pub version: String,
    /// Whether there is an NVIDIA driver; without one libtorch does not tell the rest.
    pub driver: bool,
    /// The CUDA version it was built for, such as `13.0`.
    pub cuda: Option<String>,
    /// `sm_90`: code for such GPUs; `compute_120`: intermediate code for such GPUs and newer ones.
    pub architectures: Vec<String>,
    /// Why its CUDA half does not load; empty when it does.
    pub problem: String,
}

/// Asks libtorch. `loaded` is what [`load_cuda`](super::load_cuda) returned.
pub fn build(loaded: &Result<(), String>) -> Build {
    let config = shim::text_from(|out| {
        // SAFETY: `out` can be written.
        unsafe { shim::ty_config(out) }
    });
    let driver = super::has_nvidia_driver();
    let problem = loaded.as_ref().err().cloned().unwrap_or_default();
    Build { driver, problem, ..parse(&config.unwrap_or_default()) }
}

/// Reads libtorch's own description of itself.
fn parse(config: &str) -> Build {
    let after = |start: &str| {
        let line = config
            .lines()
            .find_map(|line| line.trim().strip_prefix("- ").unwrap_or(line).strip_prefix(start));
        line.map(|rest| rest.trim().to_owned())
    };
    let flags = after("NVCC architecture flags:").unwrap_or_default();
    let named = flags.split([';', ' ', ',']).filter_map(|flag| flag.strip_prefix("code="));
    let version = config.split_once("TORCH_VERSION=").map(|(_, rest)| rest);
    let end = |text: &str| text.split([',', ' ']).next().unwrap_or_default().to_owned();
    Build {
        version: version.map(end).unwrap_or_default(),
        cuda: after("CUDA Runtime"),
        architectures: named.map(str::to_owned).collect(),
        ..Build::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_with_cuda_names_what_it_has_code_for() {
        let config = "PyTorch built with:\n  - GCC 13.3\n  - CUDA Runtime 12.8\n  - NVCC architecture flags: \
                      -gencode;arch=compute_75,code=sm_75;-gencode;arch=compute_120,code=sm_120;-gencode;\
                      arch=compute_120,code=compute_120\n  - Build settings: CUDA_VERSION=12.8, \
                      TORCH_VERSION=2.13.0, USE_CUDA=ON, \n";
        let found = parse(config);
        assert_eq!((found.version.as_str(), found.cuda.as_deref()), ("2.13.0", Some("12.8")));
        assert_eq!(found.architectures, ["sm_75", "sm_120", "compute_120"]);
    }

    #[test]
    fn this_machines_libtorch_tells_its_version() {
        let found = build(&Ok(()));
        assert!(found.version.starts_with("2."), "{found:?}");
    }
}
