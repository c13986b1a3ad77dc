//! The NVIDIA driver of this machine: whether there is one, and what it says of itself and of its GPUs.
//!
//! Asked without libtorch, which tells nothing where it sees no GPU, and by name, as most machines have no driver.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::path::Path;
use std::sync::OnceLock;

use libloading::Library;
use trainyard_types::cuda_support::{Driver, Version};

/// The driver's library, where the loader finds it or where Windows' Linux has it.
const LIBRARIES: [&str; 2] = ["libcuda.so.1", WSL_LIBRARY];
/// Under WSL2 the driver is Windows' own: a library, and a device for all of Windows' GPUs.
const WSL_LIBRARY: &str = "/usr/lib/wsl/lib/libcuda.so.1";
/// Said by the kernel's module, whether or not it has made its device files already.
const MODULE: &str = "proc/driver/nvidia/version";

/// Whether this machine has an NVIDIA driver that a program may use, as its device files show.
pub fn has_nvidia_driver() -> bool {
    is_usable(Path::new("/"))
}

fn is_usable(root: &Path) -> bool {
    let is_there = |path: &str| root.join(path.trim_start_matches('/')).exists();
    is_there("dev/nvidiactl") || (is_there("dev/dxg") && is_there(WSL_LIBRARY))
}

/// Whether the kernel has loaded a driver. In a container that got no GPU it has, too.
pub fn is_loaded() -> bool {
    Path::new("/").join(MODULE).exists()
}

/// The driver; `None` where there is none. One whose library answers is there, whatever its device files are.
pub fn driver() -> Option<Driver> {
    let cuda = library().and_then(Libcuda::cuda);
    let is_there = cuda.is_some() || has_nvidia_driver();
    is_there.then(|| Driver { version: version(Path::new("/")), cuda })
}

/// The version that the kernel's module tells; empty where it does not.
fn version(root: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let module = read("sys/module/nvidia/version");
    let texts = [module, read(MODULE)];
    // `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue …`
    let mut words = texts.iter().flat_map(|text| text.split_whitespace());
    let is_version = |word: &&str| {
        word.contains('.') && word.split('.').all(|part| !part.is_empty() && part.parse::<u32>().is_ok())
    };
    words.find(is_version).unwrap_or_default().to_owned()
}

/// Why the driver shows no GPU, in its own words; `None` where it is content, or does not tell.
pub fn complaint() -> Option<String> {
    library()?.start().err()
}

/// The model and the compute capability of the GPU that CUDA counts as `index`.
pub fn gpu(index: usize) -> Option<(String, Version)> {
    library()?.gpu(c_int::try_from(index).ok()?)
}

/// The driver's library.
struct Libcuda(Library);

/// It is loaded once and for good.
fn library() -> Option<&'static Libcuda> {
    static LIBRARY: OnceLock<Option<Libcuda>> = OnceLock::new();
    let load = || {
        // SAFETY: the library's initialisers are the driver's own, made to be run at load time.
        LIBRARIES.iter().find_map(|name| unsafe { Library::new(*name) }.ok()).map(Libcuda)
    };
    LIBRARY.get_or_init(load).as_ref()
}

/// CUDA's `CUresult`; 0 is success.
type Status = c_uint;

impl Libcuda {
    fn cuda(&self) -> Option<Version> {
        // SAFETY: the driver's documented signature.
        let ask = unsafe { self.0.get::<unsafe extern "C" fn(*mut c_int) -> Status>("cuDriverGetVersion") };
        let mut version = 0;
        // SAFETY: `version` can be written during the call, which needs no initialisation.
        let status = unsafe { ask.ok()?(&raw mut version) };
        let version = u32::try_from(version).ok().filter(|version| status == 0 && *version > 0)?;
        Some((version / 1000, version % 1000 / 10))
    }

    /// Initialises the driver, which may be done again; the error is in its own words.
    fn start(&self) -> Result<(), String> {
        // SAFETY: the driver's documented signature.
        let init = unsafe { self.0.get::<unsafe extern "C" fn(c_uint) -> Status>("cuInit") };
        // SAFETY: takes a number that must be 0.
        match init.map(|init| unsafe { init(0) }) {
            Ok(0) => Ok(()),
            Ok(status) => Err(self.words(status)),
            Err(error) => Err(error.to_string()),
        }
    }

    fn words(&self, status: Status) -> String {
        type Ask = unsafe extern "C" fn(Status, *mut *const c_char) -> Status;
        let number = || format!("CUDA's error {status}");
        // SAFETY: the driver's documented signature.
        let Ok(ask) = (unsafe { self.0.get::<Ask>("cuGetErrorString") }) else { return number() };
        let mut text = std::ptr::null();
        // SAFETY: `text` can be written during the call; what it points to afterwards is the driver's for good.
        if unsafe { ask(status, &raw mut text) } != 0 || text.is_null() {
            return number();
        }
        // SAFETY: a text of the driver's that ends in a zero.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    fn gpu(&self, index: c_int) -> Option<(String, Version)> {
        type Find = unsafe extern "C" fn(*mut c_int, c_int) -> Status;
        type Name = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Status;
        type Ask = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> Status;
        const MAJOR: c_int = 75;
        const MINOR: c_int = 76;
        self.start().ok()?;
        // SAFETY: the driver's documented signatures.
        let (find, name, ask) = unsafe {
            let find = self.0.get::<Find>("cuDeviceGet").ok()?;
            (
                find,
                self.0.get::<Name>("cuDeviceGetName").ok()?,
                self.0.get::<Ask>("cuDeviceGetAttribute").ok()?,
            )
        };
        let mut device = 0;
        // SAFETY: `device` can be written during the call.
        if unsafe { find(&raw mut device, index) } != 0 {
            return None;
        }
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: `value` can be written during the call; the device is one that the driver gave.
            let status = unsafe { ask(&raw mut value, which, device) };
            u32::try_from(value).ok().filter(|_| status == 0)
        };
        let capability = (attribute(MAJOR)?, attribute(MINOR)?);
        let mut text = [0 as c_char; 128];
        // SAFETY: so many bytes of `text` can be written; the driver ends them with a zero.
        let status = unsafe { name(text.as_mut_ptr(), 128, device) };
        if status != 0 {
            return None;
        }
        text[127] = 0;
        // SAFETY: it ends in a zero, at the latest in the last byte.
        let model = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned();
        Some((model, capability))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_driver_is_there_by_its_device_file_or_under_wsl_by_windows_device_and_library() {
        let usable = |files: &[(&str, &str)]| is_usable(machine(files).path());
        assert!(usable(&[("dev/nvidiactl", "")]));
        assert!(usable(&[("dev/dxg", ""), (WSL_LIBRARY, "")]));
        assert!(!usable(&[]));
        assert!(!usable(&[("dev/dxg", "")]), "Windows has no NVIDIA driver");
        assert!(!usable(&[(MODULE, "")]), "a container that got no GPU");
    }

    #[test]
    fn the_version_is_read_as_either_file_of_the_module_has_it() {
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC version: \
                    gcc 12.2.0";
        let closed =
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024";
        for (path, text, expected) in [
            (MODULE, open, "580.95.05"),
            (MODULE, closed, "535.183.01"),
            ("sys/module/nvidia/version", "570.124.06\n", "570.124.06"),
            ("etc/os-release", "12.5", ""),
        ] {
            assert_eq!(version(machine(&[(path, text)]).path()), expected);
        }
    }

    #[test]
    fn a_machine_without_a_driver_is_asked_in_vain_and_nothing_breaks() {
        if !has_nvidia_driver() && library().is_none() {
            assert_eq!((driver(), complaint(), gpu(0)), (None, None, None));
        }
    }
}
