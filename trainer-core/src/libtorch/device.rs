//! Which device a name means, and why it cannot be used.

use std::ffi::OsString;

use tch::Device;
use trainyard_types::UnfitKind;
use trainyard_types::cuda_support::{Driver, LibtorchBuild, Unusable};

use super::build::build;
use super::driver;

/// Names the GPUs that a program may use, to CUDA.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not `cpu`, `cuda`, `cuda:N` or `N`.
    #[error("device `{0}` is unknown; use cpu, or one GPU such as cuda:0")]
    Unknown(String),
    /// Driver, libtorch and GPU do not go together.
    #[error("device `{device}` cannot be used: {why}; or use `--device cpu`")]
    Unusable {
        /// The device that was asked for.
        device: String,
        /// What does not go together.
        why: Box<Unusable>,
    },
    /// Somebody has hidden it from this program.
    #[error(
        "device `{device}` is not there: `CUDA_VISIBLE_DEVICES` is `{visible}`, which leaves {count} GPUs to this \
         program; unset it, or set it to GPUs that `nvidia-smi -L` lists, or use `--device cpu`"
    )]
    Hidden {
        /// The device that was asked for.
        device: String,
        /// The variable's value.
        visible: String,
        /// GPUs that are left.
        count: i64,
    },
    /// There are fewer GPUs.
    #[error(
        "device `{device}` is not there: libtorch sees {count} GPUs{}; see what `nvidia-smi` says, or use `--device cpu`",
        complaint.as_deref().map(|words| format!(", and the driver says: {words}")).unwrap_or_default()
    )]
    Absent {
        /// The device that was asked for.
        device: String,
        /// GPUs that there are.
        count: i64,
        /// The driver's words, if it has any.
        complaint: Option<String>,
    },
}

impl DeviceError {
    /// What the machine lacks, if that is why.
    pub fn lack(&self) -> Option<UnfitKind> {
        match self {
            Self::Unknown(_) => None,
            Self::Unusable { why, .. } => Some(why.kind()),
            Self::Hidden { .. } | Self::Absent { .. } => Some(UnfitKind::DriverUnusable),
        }
    }
}

/// In which order CUDA counts GPUs.
const ORDER: &str = "CUDA_DEVICE_ORDER";

/// Has CUDA count GPUs as nvidia-smi does, unless the user wants another order. Must come before CUDA is loaded.
///
/// # Safety
/// No other thread may run yet.
pub unsafe fn order_by_bus() {
    if let Some(order) = missing_order(|name| std::env::var_os(name)) {
        // SAFETY: there is one thread, as the caller promises.
        unsafe { std::env::set_var(ORDER, order) };
    }
}

/// The order to ask CUDA for, by the variables that are set.
fn missing_order(variable: impl Fn(&str) -> Option<OsString>) -> Option<&'static str> {
    variable(ORDER).is_none().then_some("PCI_BUS_ID")
}

/// The device of that name; `cuda`, `gpu` and `0` are `cuda:0`. `loaded` is what [`load_cuda`](super::load_cuda)
/// returned.
///
/// # Errors
/// It cannot be used.
pub fn device(name: &str, loaded: &Result<(), String>) -> Result<Device, DeviceError> {
    let index = match name.trim().to_ascii_lowercase().as_str() {
        "cpu" => return Ok(Device::Cpu),
        "cuda" | "gpu" => 0,
        other => {
            let index = other.strip_prefix("cuda:").unwrap_or(other).parse();
            index.map_err(|_| DeviceError::Unknown(name.to_owned()))?
        }
    };
    let count = if loaded.is_ok() { tch::Cuda::device_count() } else { 0 };
    let build = build(loaded);
    if i64::try_from(index).is_ok_and(|index| index < count) {
        let (model, capability) = driver::gpu(index).unzip();
        let checked = build.check_gpu(&model.unwrap_or_default(), capability);
        let unusable = |why| DeviceError::Unusable { device: name.to_owned(), why: Box::new(why) };
        return checked.map(|()| Device::Cuda(index)).map_err(unusable);
    }
    let visible = std::env::var_os(VISIBLE).map(|value| value.to_string_lossy().into_owned());
    let found = Found { count, driver: driver::driver(), visible, complaint: driver::complaint() };
    Err(found.why_absent(name, &build))
}

/// What there is instead of a GPU that was asked for.
struct Found {
    /// GPUs that libtorch sees.
    count: i64,
    driver: Option<Driver>,
    /// The value of [`VISIBLE`], if it has one.
    visible: Option<String>,
    /// The driver's words, if it has any.
    complaint: Option<String>,
}

impl Found {
    /// Why a GPU is not there. The gravest reason comes first: the others follow from it.
    fn why_absent(self, name: &str, build: &LibtorchBuild) -> DeviceError {
        let (device, count) = (name.to_owned(), self.count);
        // Where libtorch sees some, it goes together with the driver.
        let checked = if count > 0 { Ok(()) } else { build.check_driver(self.driver.as_ref()) };
        match (checked, self.visible) {
            (Err(why), _) => DeviceError::Unusable { device, why: Box::new(why) },
            (Ok(()), Some(visible)) => DeviceError::Hidden { device, visible, count },
            (Ok(()), None) => DeviceError::Absent { device, count, complaint: self.complaint },
        }
    }
}

/// The name of the device that is used where nobody names one: a GPU where there is a driver, or else the CPU.
pub fn default_name(loaded: &Result<(), String>) -> &'static str {
    // Where the driver is loaded but has made no device files yet, CUDA has it make them.
    let shows_gpu = || driver::is_loaded() && loaded.is_ok() && tch::Cuda::device_count() > 0;
    if driver::has_nvidia_driver() || shows_gpu() { "cuda:0" } else { "cpu" }
}

/// `cpu`, `cuda:0`: the inverse of [`device`].
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Cpu | Device::Mps | Device::Vulkan => "cpu".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: &str = "580.95.05";

    fn build() -> LibtorchBuild {
        LibtorchBuild { version: "2.13.0".into(), cuda: Some("13.0".into()), ..LibtorchBuild::default() }
    }

    fn found(version: &str) -> Found {
        let driver = Some(Driver { version: version.into(), cuda: None });
        Found { count: 0, driver, visible: None, complaint: None }
    }

    #[test]
    fn gpus_are_counted_as_nvidia_smi_counts_them_unless_the_user_wants_another_order() {
        assert_eq!(missing_order(|_| None), Some("PCI_BUS_ID"));
        assert_eq!(missing_order(|name| (name == ORDER).then(|| "FASTEST_FIRST".into())), None);
    }

    #[test]
    fn names_mean_devices_and_a_gpu_without_libtorchs_other_half_is_a_hard_error() {
        let none = Err("no such file".to_owned());
        let error = device("cuda:0", &none).unwrap_err();
        assert!(error.to_string().contains("--device cpu"), "{error}");
        assert_eq!(device("tpu", &Ok(())), Err(DeviceError::Unknown("tpu".into())));
        assert_eq!(device("cpu", &none), Ok(Device::Cpu));
    }

    #[test]
    fn no_driver_an_old_one_and_a_libtorch_without_cuda_are_different_reasons_with_different_ways_out() {
        let none = Found { driver: None, ..found("") }.why_absent("cuda:0", &build());
        assert_eq!(
            none.to_string(),
            "device `cuda:0` cannot be used: there is no NVIDIA driver here; install driver 580 or newer; or use \
             `--device cpu`"
        );
        // What the wrong driver brings about is not blamed, nor is what the user has set.
        let old = Found { visible: Some("0".into()), ..found("535.183.01") };
        let half = LibtorchBuild { problem: "libcudnn.so.9: no such file".into(), ..build() };
        let told = old.why_absent("cuda:0", &half).to_string();
        assert!(told.contains("NVIDIA driver 535.183.01 is too old"), "{told}");
        let told = found(DRIVER).why_absent("cuda:0", &half).to_string();
        assert!(told.contains("libcudnn.so.9: no such file"), "{told}");
        let bare = LibtorchBuild { cuda: None, ..build() };
        let told = found(DRIVER).why_absent("cuda:0", &bare);
        assert!(told.to_string().contains("is built without CUDA"), "{told}");
        assert_eq!(told.lack(), Some(UnfitKind::LibtorchUnusable));
    }

    #[test]
    fn gpus_that_the_user_has_hidden_are_named_by_the_variable() {
        for visible in ["", "GPU-no-such"] {
            let hidden = Found { visible: Some(visible.into()), ..found(DRIVER) };
            let told = hidden.why_absent("cuda:0", &build()).to_string();
            assert!(told.contains(&format!("`CUDA_VISIBLE_DEVICES` is `{visible}`")), "{told}");
        }
        let some = Found { visible: Some("0,1".into()), count: 2, ..found(DRIVER) };
        assert!(some.why_absent("cuda:2", &build()).to_string().contains("leaves 2 GPUs"));
    }

    #[test]
    fn a_driver_that_shows_no_gpu_is_quoted() {
        let complaint = Some("no CUDA-capable device is detected".to_owned());
        let told = Found { complaint, ..found(DRIVER) }.why_absent("cuda:0", &build());
        assert!(told.to_string().contains("0 GPUs, and the driver says: no CUDA-capable"), "{told}");
        assert_eq!(told.lack(), Some(UnfitKind::DriverUnusable));
        let few = Found { count: 2, ..found(DRIVER) }.why_absent("cuda:2", &build());
        assert!(few.to_string().contains("sees 2 GPUs; see"), "{few}");
    }
}
