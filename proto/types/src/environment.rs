//! Which variables of its own environment a program hands on to those that it starts: what they need, not what
//! its caller happens to have. A locale that is not installed, forwarded by ssh, ends Redis; a token is nobody's
//! business but of the program that it was given to.

/// What any program needs to be found and loaded, and to know the time of day.
const SYSTEM: [&str; 3] = ["PATH", "TMPDIR", "TZ"];
/// The loader's and the C library's.
const SYSTEM_PREFIXES: [&str; 3] = ["LD_", "MALLOC_", "GLIBC_"];
/// Where a trainer's caches lie, what it says when it fails, and what it computes in.
const TRAINER: [&str; 5] = ["HOME", "XDG_CACHE_HOME", "RUST_BACKTRACE", "RUST_LOG", "TRAINYARD_AMP"];
/// Of the driver, of libtorch and of the libraries that it computes with, and faults for tests.
const TRAINER_PREFIXES: [&str; 17] = [
    "CUDA",
    "CUDNN_",
    "CUBLAS",
    "NCCL_",
    "NVIDIA_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "DNNL_",
    "ONEDNN_",
    "TORCH",
    "PYTORCH_",
    "ATEN_",
    "C10_",
    "TRAINYARD_TEST_",
];
/// Of our own services: configuration, and the stand-in for a driver that demonstrations use.
const SERVICE_PREFIXES: [&str; 3] = ["TRAINYARD_", "XDG_", "FAKE_NVML_"];

/// The kind of program that is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Child {
    /// The private Redis server.
    Redis,
    /// A trainer, which gets the GPU of its attempt.
    Trainer,
    /// A scheduler or an agent, which start the others.
    Service,
}

impl Child {
    /// Whether the variable `name` is handed on.
    pub fn needs(self, name: &str) -> bool {
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let system = SYSTEM.contains(&name) || begins(&SYSTEM_PREFIXES);
        let trainer = || TRAINER.contains(&name) || begins(&TRAINER_PREFIXES);
        match self {
            Self::Redis => system,
            Self::Trainer => system || trainer(),
            Self::Service => system || trainer() || begins(&SERVICE_PREFIXES),
        }
    }

    /// Of `variables`, those that are handed on. A name that is no text is none that anybody needs.
    pub fn environment<K: AsRef<std::ffi::OsStr>, V>(
        self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> impl Iterator<Item = (K, V)> {
        variables
            .into_iter()
            .filter(move |(name, _)| name.as_ref().to_str().is_some_and(|name| self.needs(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_child_gets_what_it_needs_and_none_the_callers_locale_session_or_secrets() {
        let handed_on = |child: Child| {
            let all = [
                "PATH",
                "LC_ALL",
                "LANG",
                "SSH_CONNECTION",
                "YARD_TOKEN",
                "LD_LIBRARY_PATH",
                "HOME",
                "OMP_NUM_THREADS",
                "CUDA_VISIBLE_DEVICES",
                "PYTORCH_CUDA_ALLOC_CONF",
                "TRAINYARD_AGENT__TOKEN",
                "PYTHONPATH",
            ];
            let found = child.environment(all.map(|name| (name, ())));
            found.map(|(name, ())| name).collect::<Vec<_>>()
        };
        assert_eq!(handed_on(Child::Redis), ["PATH", "LD_LIBRARY_PATH"]);
        let trainer = [
            "PATH",
            "LD_LIBRARY_PATH",
            "HOME",
            "OMP_NUM_THREADS",
            "CUDA_VISIBLE_DEVICES",
            "PYTORCH_CUDA_ALLOC_CONF",
        ];
        assert_eq!(handed_on(Child::Trainer), trainer);
        assert_eq!(handed_on(Child::Service), [&trainer[..], &["TRAINYARD_AGENT__TOKEN"]].concat());
    }
}
