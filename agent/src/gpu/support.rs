//! Whether driver and libtorch have code for a GPU; found at start rather than by the first job.

use serde::Deserialize;
use trainyard_types::Gpu;

/// What `trainyard-trainer info --libtorch` tells.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Libtorch {
    /// libtorch's version, such as `2.13.0`.
    pub version: String,
    /// Whether libtorch sees an NVIDIA driver; without one it does not tell the rest.
    #[serde(default)]
    pub driver: bool,
    /// The CUDA that libtorch was built with, such as `13.0`; `None` without one.
    #[serde(default)]
    pub cuda: Option<String>,
    /// What libtorch has code for: `sm_90`, and `compute_120` for GPUs of that kind and newer ones.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// Why its CUDA half does not load; empty when it does.
    #[serde(default)]
    pub problem: String,
}

/// A capability as `sm_120` has it: 12.0 is 120.
fn number(capability: (u32, u32)) -> u32 {
    capability.0 * 10 + capability.1
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

impl Libtorch {
    /// Whether there is code that runs on `capability`: binaries run on later GPUs of the same major
    /// version, intermediate code on all later ones.
    fn runs_on(&self, capability: (u32, u32)) -> bool {
        self.architectures.iter().any(|architecture| {
            // `sm_90a` is for that GPU alone.
            let parse =
                |text: &str| text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).parse::<u32>().ok();
            if let Some(sm) = architecture.strip_prefix("sm_").and_then(parse) {
                sm / 10 == capability.0 && sm <= number(capability)
            } else {
                let ptx = architecture.strip_prefix("compute_").and_then(parse);
                ptx.is_some_and(|ptx| ptx <= number(capability))
            }
        })
    }
}

/// Why jobs cannot use `gpu` whatever happens, in one sentence; `driver_cuda` is the newest CUDA that the driver
/// runs. What is not known is no reason.
pub fn unsupported(gpu: &Gpu, driver_cuda: Option<(u32, u32)>, libtorch: &Libtorch) -> Option<String> {
    let version = &libtorch.version;
    if !libtorch.driver {
        return None;
    }
    if !libtorch.problem.is_empty() {
        return Some(format!(
            "libtorch {version} cannot use GPUs here: {}; install libtorch with CUDA and restart the agent",
            libtorch.problem
        ));
    }
    let Some(cuda) = &libtorch.cuda else {
        return Some(format!(
            "libtorch {version} is built without CUDA; install libtorch with CUDA and restart the agent"
        ));
    };
    if let (Some(driver), Some(built)) = (driver_cuda, parse_version(cuda))
        && driver.0 < built.0
    {
        return Some(format!(
            "the driver runs CUDA up to {}.{}, and libtorch {version} needs CUDA {cuda}; install a newer driver",
            driver.0, driver.1
        ));
    }
    let capability = gpu.compute_capability?;
    if libtorch.architectures.is_empty() || libtorch.runs_on(capability) {
        return None;
    }
    let sm = number(capability);
    // RTX 50xx came with CUDA 12.8; what CUDA 13 dropped is older than 7.5.
    let advice = match sm {
        120.. => "install libtorch for CUDA 12.8 or newer",
        0..75 => "install libtorch for CUDA 12.6",
        _ => "install another build of libtorch",
    };
    Some(format!(
        "{} has compute capability {}.{} (sm_{sm}), and libtorch {version} for CUDA {cuda} has code for {} only; {advice}",
        gpu.model,
        capability.0,
        capability.1,
        libtorch.architectures.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use trainyard_types::GpuUuid;

    use super::*;

    fn gpu(capability: (u32, u32)) -> Gpu {
        Gpu {
            uuid: GpuUuid("GPU-1".into()),
            index: 0,
            model: "NVIDIA GeForce RTX 5070".into(),
            memory_total_mib: 12227,
            compute_capability: Some(capability),
        }
    }

    fn libtorch(cuda: &str, architectures: &[&str]) -> Libtorch {
        Libtorch {
            version: "2.13.0".into(),
            driver: true,
            cuda: Some(cuda.into()),
            architectures: architectures.iter().map(ToString::to_string).collect(),
            problem: String::new(),
        }
    }

    #[test]
    fn binaries_run_on_later_gpus_of_their_family_and_intermediate_code_on_all_later_ones() {
        let old = libtorch("12.6", &["sm_50", "sm_80", "sm_86", "sm_90"]);
        for (capability, runs) in [((8, 9), true), ((9, 0), true), ((12, 0), false), ((7, 5), false)] {
            assert_eq!(unsupported(&gpu(capability), Some((13, 0)), &old).is_none(), runs, "{capability:?}");
        }
        let new = libtorch("13.0", &["sm_75", "sm_120", "compute_120"]);
        assert_eq!(unsupported(&gpu((12, 1)), Some((13, 0)), &new), None);
        assert_eq!(unsupported(&gpu((13, 0)), Some((13, 0)), &new), None);
    }

    #[test]
    fn a_5070_with_an_old_libtorch_is_told_what_to_install() {
        let why = unsupported(&gpu((12, 0)), Some((12, 8)), &libtorch("12.6", &["sm_90"])).unwrap();
        assert_eq!(
            why,
            "NVIDIA GeForce RTX 5070 has compute capability 12.0 (sm_120), and libtorch 2.13.0 for CUDA 12.6 has \
             code for sm_90 only; install libtorch for CUDA 12.8 or newer"
        );
    }

    #[test]
    fn an_old_driver_and_a_libtorch_without_cuda_are_named() {
        let new = libtorch("13.0", &["sm_120"]);
        let why = unsupported(&gpu((12, 0)), Some((12, 4)), &new).unwrap();
        assert!(why.contains("up to 12.4") && why.contains("CUDA 13.0"), "{why}");
        // Within a major version any driver will do.
        assert_eq!(unsupported(&gpu((12, 0)), Some((13, 0)), &libtorch("13.2", &["sm_120"])), None);
        let bare = Libtorch { version: "2.13.0".into(), driver: true, ..Libtorch::default() };
        assert!(unsupported(&gpu((12, 0)), None, &bare).unwrap().contains("without CUDA"));
        let blind = Libtorch { driver: false, ..bare };
        assert_eq!(unsupported(&gpu((12, 0)), None, &blind), None);
    }
}
