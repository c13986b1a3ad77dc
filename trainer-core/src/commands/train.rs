//! `train`: from the command line to a run, and from its end to an exit code.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use clap::builder::BoolishValueParser;
use serde_json::{Map, Value};
use signal_hook::consts::{SIGINT, SIGTERM};
use trainyard_data::cache::disk::Limits;
use trainyard_types::text::{self, clean_lines};
use trainyard_types::trainer::{TrainerEvent, exit_code};
use trainyard_types::{TrainSpec, Violation};

use super::spec_args::SpecArgs;
use super::{data_file, device};
use crate::events::{Events, inherited};
use crate::libtorch::{self, Precision, TorchError};
use crate::train::error::TrainError;
use crate::train::memory::ProbeWhen;
use crate::train::session::RunEnd;
use crate::train::setup::Options;
use crate::train::train;

/// Train a model.
#[derive(Debug, Args)]
pub struct Train {
    /// The data.yaml without its flag, or the folder that it lies in.
    #[arg(value_name = "DATA", conflicts_with = "data", hide = true)]
    data_set: Option<String>,
    /// A training spec as JSON; flags override it.
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    /// Where weights, results and checkpoints go. Default: the first free runs/train, runs/train2 ….
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// With --name instead of --run-dir: the folder of the run directory. Default: runs.
    #[arg(long, value_name = "DIR", conflicts_with = "run_dir")]
    project: Option<PathBuf>,
    /// The run directory's name in --project; with a number if there is one already. Default: train.
    #[arg(long, conflicts_with = "run_dir")]
    name: Option<String>,
    /// Take the run directory of that name though it is there already.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, value_parser = BoolishValueParser::new(), conflicts_with = "run_dir")]
    exist_ok: bool,
    /// As YOLOv5 has it: weights to begin with, and the model if they are named after it.
    #[arg(long, value_name = "FILE", hide = true)]
    weights: Option<String>,
    /// Where decoded images are kept between epochs and runs. Default: the user's cache folder.
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// GiB that this folder may take at most, for all data sets; those used longest ago go first. Default: half
    /// of its disk.
    #[arg(long, value_name = "N")]
    cache_quota_gib: Option<u32>,
    /// GiB of the folder's disk that stay free. Default: a twentieth of it, at most 10.
    #[arg(long, value_name = "N")]
    cache_floor_gib: Option<u32>,
    /// GiB of memory for decoded images with `--cache ram`. Default: a quarter of what is free, or of what the
    /// process's control groups allow.
    #[arg(long, value_name = "N")]
    cache_ram_gib: Option<u32>,
    /// Write one JSON object a line on this file descriptor.
    #[arg(long, value_name = "N")]
    events_fd: Option<RawFd>,
    /// Read what an agent asks of the run from this file descriptor, one JSON object a line.
    #[arg(long, value_name = "N")]
    control_fd: Option<RawFd>,
    /// Measure before the first step what it needs of the device's memory. auto: on a GPU.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    measure_memory: ProbeWhen,
    /// cpu or cuda:0. Default: a GPU if the machine has a driver for one.
    #[arg(long)]
    device: Option<String>,
    /// Images per forward pass, as an agent has chosen; overrides the spec's `batch`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch_size: Option<u32>,
    /// Go on from the newest checkpoint in the run directory, or start if there is none.
    #[arg(long, requires = "run_dir")]
    resume: bool,
    /// A directory that images may lie in; repeat for more. Default: anywhere.
    #[arg(long = "data-root", value_name = "DIR")]
    data_roots: Vec<PathBuf>,
    /// The data set is one of a cluster's store, which has all its files in the folder of its data.yaml.
    #[arg(long, hide = true)]
    stored: bool,
    #[command(flatten)]
    fields: SpecArgs,
}

impl Train {
    /// Trains; returns the exit code. `cuda` is what [`libtorch::load_cuda`] returned.
    pub fn run(self, cuda: &Result<(), String>) -> i32 {
        let mut events = match Events::new(self.events_fd) {
            Ok(events) => events,
            Err(error) => {
                super::complain(&error);
                return exit_code::BAD_SPEC;
            }
        };
        events.report_activity();
        let control = match self.control_fd.map(|fd| inherited("control-fd", fd)).transpose() {
            Ok(file) => file.map(Arc::new),
            Err(error) => {
                super::complain(&error);
                return exit_code::BAD_SPEC;
            }
        };
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // A second Ctrl-C ends the process at once; a second SIGTERM is the agent's business.
            if signal == SIGINT {
                let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop));
            }
            if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
                super::complain(&format_args!("signal {signal} cannot be handled: {error}"));
                return exit_code::INTERNAL;
            }
        }
        let shared = Mutex::new(events.share());
        libtorch::last_words::set(Box::new(move |error| {
            leave_gpu(&mut shared.lock().unwrap_or_else(PoisonError::into_inner), error);
        }));
        libtorch::use_all_cores();
        libtorch::keep_freed_memory();
        let result = libtorch::catch_panic(|| {
            let options = Options { control, ..self.options(cuda)? };
            libtorch::tune(options.spec.deterministic, !options.spec.amp)?;
            train(options, &mut events, &stop)
        });
        match result.unwrap_or_else(|text| Err(TrainError::Bug(text))) {
            Ok(RunEnd::Finished) => exit_code::DONE,
            Ok(RunEnd::Stopped) => {
                events.print("stopped; --resume goes on from the checkpoint");
                exit_code::STOPPED
            }
            Err(TrainError::Torch(error)) if error.is_sticky() => leave_gpu(&mut events, &error),
            Err(error) => tell_failure(&mut events, &error),
        }
    }

    fn options(mut self, cuda: &Result<(), String>) -> Result<Options, TrainError> {
        let base = self.spec.as_deref().map(read_spec).transpose()?.unwrap_or_default();
        if let Some(weights) = &self.weights {
            self.fields.set_weights(weights);
        }
        if let Some(data) = &self.data_set {
            self.fields.set_data(data);
        }
        let spec = self.fields.merged_over(base).map_err(TrainError::Spec)?;
        let data = data_file(&spec.data)?;
        let data = std::path::absolute(&data).map_err(TrainError::io(&data))?;
        let pretrained = match spec.pretrained.as_path() {
            path if path.as_os_str().is_empty() => PathBuf::new(),
            path => std::path::absolute(path).map_err(TrainError::io(path))?,
        };
        let spec = TrainSpec { data, pretrained, ..spec };
        let run_dir = self.run_dir.unwrap_or_else(|| {
            let (project, name) = (self.project.unwrap_or_else(|| "runs".into()), self.name);
            let name = name.as_deref().unwrap_or("train");
            if self.exist_ok { project.join(name) } else { first_free(&project, name) }
        });
        Ok(Options {
            spec,
            run_dir,
            cache_dir: self.cache_dir,
            cache_limits: Limits::from_gib(self.cache_quota_gib, self.cache_floor_gib),
            cache_ram_bytes: self.cache_ram_gib.map(|gib| u64::from(gib) << 30),
            device: device(self.device.as_deref(), cuda)?,
            batch_size: self.batch_size,
            resume: self.resume,
            data_roots: self.data_roots,
            is_stored: self.stored,
            amp: amp()?,
            probe_memory: self.measure_memory,
            control: None,
        })
    }
}

/// Tells why the run cannot go on; returns the exit code.
fn tell_failure(events: &mut Events, error: &TrainError) -> i32 {
    events.print(&clean_lines(&format!("error: {error}")));
    events.emit(TrainerEvent::Failed(error.failed()));
    error.exit_code()
}

/// Tells that the GPU's context is broken, and ends the process before anything on that GPU is dropped.
fn leave_gpu(events: &mut Events, error: &TorchError) -> ! {
    let message = format!(
        "{error}; nothing more can be computed on this GPU in this process; --resume goes on from the newest checkpoint"
    );
    let code = tell_failure(events, &TrainError::Torch(TorchError { message }));
    libtorch::last_words::end_at_once(code)
}

/// What layers are to compute in, if somebody wants to compare: `TRAINYARD_AMP`.
fn amp() -> Result<Option<Precision>, TrainError> {
    let Some(text) = std::env::var_os("TRAINYARD_AMP").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let known = [Precision::Fp16, Precision::Bf16];
    let found = known.into_iter().find(|precision| text == precision.name());
    let wrong = || format!("`TRAINYARD_AMP` is {}; use fp16 or bf16", text.to_string_lossy());
    found.map(Some).ok_or_else(|| TrainError::Spec(vec![Violation::new("amp", wrong())]))
}

fn read_spec(path: &Path) -> Result<Map<String, Value>, TrainError> {
    let wrong = |text| TrainError::Spec(vec![Violation::new("spec", text)]);
    let bytes =
        std::fs::read(path).map_err(|error| wrong(format!("{} cannot be read: {error}", path.display())))?;
    let text = text::decode(&bytes).map_err(|error| wrong(error.in_file(path.display())))?;
    serde_json::from_str(&text)
        .map_err(|error| wrong(format!("{} is not a JSON object: {error}", path.display())))
}

/// `name`, `name2`, `name3` …: the first that is not in `parent`.
pub fn first_free(parent: &Path, name: &str) -> PathBuf {
    let number = |at: u32| if at == 1 { name.to_owned() } else { format!("{name}{at}") };
    let free = (1..u32::MAX).map(|at| parent.join(number(at))).find(|path| !path.exists());
    free.unwrap_or_else(|| parent.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_text_as_users_write_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("spec.json");
        let read = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            read_spec(&file).map(|fields| fields.len()).map_err(|error| error.to_string())
        };
        assert_eq!(read("\u{feff}{\r  \"epochs\": 3,\r  \"name\": \"é\"\r}\r".as_bytes()), Ok(2));
        let wide: Vec<u8> = "{\"epochs\": 3}".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert!(read(&wide).unwrap_err().contains("spec.json: is UTF-16 text; save it as UTF-8"));
        let error = read(b"{\r\n\"name\": \"\xE9\"}").unwrap_err();
        assert!(error.contains("spec.json:2: byte 10 of the line, 0xE9, is not UTF-8"), "{error}");
    }
}
