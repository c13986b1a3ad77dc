//! Whether an NVIDIA driver, a libtorch and a GPU go together. The agent asks before it offers a GPU, and the trainer
//! where it finds none; both say the same.

use serde::{Deserialize, Serialize};

use crate::fitness::UnfitKind;

/// A version of CUDA or a GPU's compute capability: major, minor.
pub type Version = (u32, u32);

/// What libtorch was built for: what `trainyard-trainer info --libtorch` prints.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LibtorchBuild {
    /// `2.13.0`.
    pub version: String,
    /// Whether the trainer sees an NVIDIA driver.
    #[serde(default)]
    pub driver: bool,
    /// The CUDA version it was built for, such as `13.0`; `None` without CUDA.
    #[serde(default)]
    pub cuda: Option<String>,
    /// `sm_90`: code for such GPUs; `compute_120`: intermediate code for such GPUs and newer ones.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// Why its CUDA half does not load; empty when it does.
    #[serde(default)]
    pub problem: String,
}

/// An NVIDIA driver, as far as it tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Driver {
    /// `580.95.05`; empty where nobody tells.
    pub version: String,
    /// The newest CUDA that it runs.
    pub cuda: Option<Version>,
}

/// Why libtorch cannot compute on a GPU, each with the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is no driver.
    #[error("there is no NVIDIA driver here; install {}", driver_for(*.0))]
    NoDriver(Option<Version>),
    /// The driver is older than libtorch's CUDA.
    #[error(
        "{} is too old for libtorch {libtorch}, which needs CUDA {cuda}; install {}, or libtorch for an older CUDA",
        in_words(driver),
        driver_for(parse_version(cuda))
    )]
    DriverTooOld {
        /// The driver.
        driver: Driver,
        /// libtorch's version.
        libtorch: String,
        /// libtorch's CUDA.
        cuda: String,
    },
    /// libtorch has no CUDA half.
    #[error("libtorch {0} is built without CUDA; install libtorch with CUDA")]
    WithoutCuda(String),
    /// libtorch's CUDA half does not load.
    #[error(
        "libtorch {libtorch} cannot use GPUs here: {problem}; install libtorch with CUDA, and all of its libraries"
    )]
    NotLoaded {
        /// libtorch's version.
        libtorch: String,
        /// The dynamic linker's words.
        problem: String,
    },
    /// libtorch has no code for the GPU.
    #[error(
        "{gpu} has compute capability {}.{} (sm_{}), and libtorch {libtorch} for CUDA {cuda} has code for {} only; {}",
        capability.0, capability.1, number(*capability), architectures.join(", "), build_for(*capability)
    )]
    NoCode {
        /// The GPU's model.
        gpu: String,
        /// Its compute capability.
        capability: Version,
        /// libtorch's version.
        libtorch: String,
        /// libtorch's CUDA.
        cuda: String,
        /// What libtorch has code for.
        architectures: Vec<String>,
    },
}

impl Unusable {
    /// What the machine lacks.
    pub const fn kind(&self) -> UnfitKind {
        match self {
            Self::NoDriver(_) | Self::DriverTooOld { .. } => UnfitKind::DriverUnusable,
            Self::WithoutCuda(_) | Self::NotLoaded { .. } => UnfitKind::LibtorchUnusable,
            Self::NoCode { .. } => UnfitKind::GpuUnsupported,
        }
    }
}

impl LibtorchBuild {
    /// Whether it can use GPUs through `driver`. What is not known is no reason against it.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check_driver(&self, driver: Option<&Driver>) -> Result<(), Unusable> {
        let libtorch = self.version.clone();
        let built = self.cuda.as_deref().and_then(parse_version);
        let Some(driver) = driver else { return Err(Unusable::NoDriver(built)) };
        // A driver that is too old comes first: then the other half is often not even installed.
        if let (Some(cuda), Some(built)) = (&self.cuda, built)
            && driver.is_older_than(built)
        {
            return Err(Unusable::DriverTooOld { driver: driver.clone(), libtorch, cuda: cuda.clone() });
        }
        if self.cuda.is_none() {
            return Err(Unusable::WithoutCuda(libtorch));
        }
        if !self.problem.is_empty() {
            return Err(Unusable::NotLoaded { libtorch, problem: self.problem.clone() });
        }
        Ok(())
    }

    /// Whether it has code for a GPU. What is not known is no reason against it.
    ///
    /// # Errors
    /// It has none.
    pub fn check_gpu(&self, gpu: &str, capability: Option<Version>) -> Result<(), Unusable> {
        match capability {
            Some(capability) if !self.architectures.is_empty() && !self.runs_on(capability) => {
                Err(Unusable::NoCode {
                    gpu: gpu.to_owned(),
                    capability,
                    libtorch: self.version.clone(),
                    cuda: self.cuda.clone().unwrap_or_default(),
                    architectures: self.architectures.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Whether there is code that runs on `capability`: binaries run on later GPUs of the same major
    /// version, intermediate code on all later ones.
    fn runs_on(&self, capability: Version) -> bool {
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

impl Driver {
    /// Whether it cannot run what was built for `cuda`. Within a major version any driver will do.
    fn is_older_than(&self, cuda: Version) -> bool {
        match (self.cuda, self.major(), least_driver(cuda)) {
            (Some(runs), ..) => runs.0 < cuda.0,
            (None, Some(major), Some(least)) => major < least,
            _ => false,
        }
    }

    fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }
}

/// The major version of the oldest driver that runs a CUDA, after NVIDIA's table of minor version compatibility.
pub const fn least_driver(cuda: Version) -> Option<u32> {
    match cuda.0 {
        11 => Some(450),
        12 => Some(525),
        13 => Some(580),
        _ => None,
    }
}

/// Reads `13.0` or `12.8.1`.
pub fn parse_version(text: &str) -> Option<Version> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

/// A capability as `sm_120` has it: 12.0 is 120.
const fn number(capability: Version) -> u32 {
    capability.0 * 10 + capability.1
}

fn driver_for(cuda: Option<Version>) -> String {
    match cuda.and_then(least_driver) {
        Some(least) => format!("driver {least} or newer"),
        None => "a newer driver".to_owned(),
    }
}

fn in_words(Driver { version, cuda }: &Driver) -> String {
    let driver =
        if version.is_empty() { "the NVIDIA driver".to_owned() } else { format!("NVIDIA driver {version}") };
    match cuda {
        Some((major, minor)) => format!("{driver}, which runs CUDA up to {major}.{minor},"),
        None => driver,
    }
}

/// Which libtorch has code for a GPU: RTX 50xx came with CUDA 12.8; what CUDA 13 dropped is older than 7.5.
const fn build_for(capability: Version) -> &'static str {
    match number(capability) {
        120.. => "install libtorch for CUDA 12.8 or newer, which needs driver 570 or newer",
        0..75 => "install libtorch for CUDA 12.6",
        _ => "install another build of libtorch",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(cuda: &str, architectures: &[&str]) -> LibtorchBuild {
        LibtorchBuild {
            version: "2.13.0".into(),
            driver: true,
            cuda: Some(cuda.into()),
            architectures: architectures.iter().map(ToString::to_string).collect(),
            problem: String::new(),
        }
    }

    fn driver(version: &str, cuda: Option<Version>) -> Driver {
        Driver { version: version.into(), cuda }
    }

    #[test]
    fn binaries_run_on_later_gpus_of_their_family_and_intermediate_code_on_all_later_ones() {
        let runs = |build: &LibtorchBuild, capability| build.check_gpu("x", Some(capability)).is_ok();
        let old = build("12.6", &["sm_50", "sm_80", "sm_86", "sm_90"]);
        for (capability, expected) in [((8, 9), true), ((9, 0), true), ((12, 0), false), ((7, 5), false)] {
            assert_eq!(runs(&old, capability), expected, "{capability:?}");
        }
        let new = build("13.0", &["sm_75", "sm_120", "compute_120"]);
        assert!(runs(&new, (12, 1)) && runs(&new, (13, 0)));
        assert_eq!(new.check_gpu("x", None), Ok(()));
        assert_eq!(build("13.0", &[]).check_gpu("x", Some((3, 5))), Ok(()));
    }

    #[test]
    fn each_reason_names_itself_and_the_way_out() {
        let new = build("13.0", &["sm_75", "sm_120"]);
        let old = driver("535.183.01", Some((12, 2)));
        let told = |build: &LibtorchBuild, driver: Option<&Driver>| {
            build.check_driver(driver).unwrap_err().to_string()
        };
        assert_eq!(told(&new, None), "there is no NVIDIA driver here; install driver 580 or newer");
        assert_eq!(
            told(&new, Some(&old)),
            "NVIDIA driver 535.183.01, which runs CUDA up to 12.2, is too old for libtorch 2.13.0, which needs CUDA \
             13.0; install driver 580 or newer, or libtorch for an older CUDA"
        );
        let bare = LibtorchBuild { cuda: None, ..new.clone() };
        let none = "libtorch 2.13.0 is built without CUDA; install libtorch with CUDA";
        assert_eq!(told(&bare, Some(&old)), none);
        let half = LibtorchBuild { problem: "libcudnn.so.9: no such file".into(), ..new };
        assert!(told(&half, Some(&driver("580.95.05", None))).contains("libcudnn.so.9"));
        assert!(told(&half, Some(&old)).contains("too old"), "the libraries alone would not help");
        let why = build("12.6", &["sm_90"]).check_gpu("NVIDIA GeForce RTX 5070", Some((12, 0))).unwrap_err();
        assert_eq!(
            why.to_string(),
            "NVIDIA GeForce RTX 5070 has compute capability 12.0 (sm_120), and libtorch 2.13.0 for CUDA 12.6 has \
             code for sm_90 only; install libtorch for CUDA 12.8 or newer, which needs driver 570 or newer"
        );
        assert_eq!(why.kind(), UnfitKind::GpuUnsupported);
    }

    #[test]
    fn a_driver_is_judged_by_its_cuda_or_else_by_its_version() {
        let runs = |cuda: &str, version: &str, runs| {
            build(cuda, &[]).check_driver(Some(&driver(version, runs))).is_ok()
        };
        assert!(runs("13.2", "580.65.06", Some((13, 0))), "within a major version any driver will do");
        assert!(runs("12.8", "525.60.13", None) && !runs("12.8", "520.61.05", None));
        assert!(runs("13.0", "580.65.06", None) && !runs("13.0", "575.51.03", None));
        assert!(!runs("13.0", "", Some((12, 9))));
        assert!(runs("13.0", "", None) && runs("99.0", "1.0", None), "what is not known is no reason");
    }
}
