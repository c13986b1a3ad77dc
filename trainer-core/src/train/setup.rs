//! From a spec to a checked data set and a run directory, before anything is trained.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tch::Device;
use trainyard_data::LoaderConfig;
use trainyard_data::cache::disk::{CacheDir, Limits, is_inside};
use trainyard_data::dataset::listing::folder_of;
use trainyard_data::dataset::notes::unseen_classes;
use trainyard_data::{
    AugmentConfig, CacheMode, DataYaml, Dataset, ImageStore, OpenOptions, RamBudget, Split, TrainLoader,
    ValConfig, ValLoader, WorkerCount, cache,
};
use trainyard_types::trainer::{Activity, LogLevel};
use trainyard_types::{Batch, Cache, TrainSpec, Violation};

use super::error::TrainError;
use super::locked_pixels::pixel_memory;
use super::memory::ProbeWhen;
use super::monitoring::control::Control;
use super::precision::{self, GivenUp};
use super::{data_roots, stored};
use crate::activity;
use crate::checkpoint::{FOLDER, Identity};
use crate::events::Events;
use crate::libtorch::Precision;
use crate::loss::Gains;
use crate::optim::auto;

/// What a run is asked to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// The training spec.
    pub spec: TrainSpec,
    /// The run directory: where everything goes.
    pub run_dir: PathBuf,
    /// Where decoded images are kept; `None` chooses.
    pub cache_dir: Option<PathBuf>,
    /// How large that directory may grow.
    pub cache_limits: Limits,
    /// Bytes of memory for decoded images, where the spec wants them there; `None` chooses.
    pub cache_ram_bytes: Option<u64>,
    /// The device to train on.
    pub device: Device,
    /// Images per batch, instead of the spec's.
    pub batch_size: Option<u32>,
    /// Goes on from the newest checkpoint, if there is one.
    pub resume: bool,
    /// Where images may lie; empty means anywhere.
    pub data_roots: Vec<PathBuf>,
    /// Whether the data set is one of the cluster's store, which has all its files in the folder of its data.yaml.
    pub is_stored: bool,
    /// What layers compute in where `amp` lets them have 16 bits; `None` chooses by device.
    pub amp: Option<Precision>,
    /// When memory is measured before the first step.
    pub probe_memory: ProbeWhen,
    /// Where an agent writes what it asks of the run: lines of JSON.
    pub control: Option<Arc<fs::File>>,
}

/// Images per batch when nobody says: an agent knows its GPU and says.
const DEFAULT_BATCH: u32 = 16;
/// Batches that may be ready before they are needed, but no more than there are workers.
const PREFETCH: usize = 4;

impl Options {
    /// Images per batch to begin with: as many as fit, or as `bn_group` wants everywhere.
    ///
    /// # Errors
    /// [`TrainError::BnGroup`] where fewer fit than that; [`TrainError::Spec`] for a share of memory.
    pub fn first_batch_size(&self) -> Result<u32, TrainError> {
        let bn_group = self.spec.bn_group;
        let batch_size = match (self.batch_size, self.spec.batch) {
            (Some(size), _) | (None, Batch::Size(size)) => size.max(1),
            (None, Batch::Auto) => DEFAULT_BATCH.max(bn_group),
            (None, Batch::Share(share)) => {
                let text = format!(
                    "is {share}, a share of the GPU's memory, which agents turn into a batch size; the trainer alone \
                     takes -1 or a whole number, or --batch-size beside it"
                );
                return Err(TrainError::Spec(vec![Violation::new("batch", text)]));
            }
        };
        match bn_group {
            0 => Ok(batch_size),
            _ if bn_group <= batch_size => Ok(bn_group),
            _ => Err(TrainError::BnGroup { bn_group, batch_size }),
        }
    }

    /// Where checkpoints go.
    pub fn checkpoints(&self) -> PathBuf {
        self.run_dir.join(FOLDER)
    }
}

/// A run that is ready to begin.
#[derive(Debug)]
pub struct Setup {
    /// What the run was asked to do.
    pub options: Options,
    /// The spec with what its `optimizer` stands for: see [`auto::resolve`].
    pub resolved: TrainSpec,
    /// Class names by id.
    pub names: Vec<String>,
    /// Training images.
    pub train: Arc<ImageStore>,
    /// Validation images.
    pub val: Arc<ImageStore>,
    /// What makes checkpoints this run's.
    pub identity: Identity,
    /// Threads that load images; an agent may change their number.
    pub worker_count: WorkerCount,
    /// What an agent asks of the run.
    pub control: Control,
}

impl Setup {
    /// Checks the spec, opens the data set, and makes the run directory. Warnings go to `events`.
    ///
    /// # Errors
    /// See [`TrainError`]; nothing is written for a wrong spec or wrong data.
    pub fn new(mut options: Options, events: &mut Events) -> Result<Self, TrainError> {
        let violations = options.spec.violations();
        if !violations.is_empty() {
            return Err(TrainError::Spec(violations));
        }
        activity::at(Activity::Scan);
        let yaml = DataYaml::read(&options.spec.data)?;
        for note in &yaml.notes {
            events.log(LogLevel::Warning, format!("{}: {note}", yaml.file.display()));
        }
        let own = options.cache_dir.take_if(|directory| is_inside(directory, yaml.folder()));
        let known = cache_dir(&options);
        if let Some(own) = own {
            let warning = format!(
                "the cache folder `{}` lies in the data set's own, where nothing is written; using `{}`",
                own.display(),
                known.display()
            );
            events.log(LogLevel::Warning, warning);
        }
        let spec = &options.spec;
        let open = OpenOptions { fraction: spec.fraction, single_cls: spec.single_cls, threads: cores() };
        let own_folder = options.is_stored.then(|| vec![folder_of(&yaml.file).to_owned()]);
        let roots = own_folder.as_ref().unwrap_or(&options.data_roots);
        let told = |error| if options.is_stored { stored::everywhere(error) } else { error };
        if options.is_stored {
            stored::check_entries(&yaml, roots).map_err(told)?;
        }
        let train = open_split(&yaml, Split::Train, &open, Some(&known), roots, events).map_err(told)?;
        let open = OpenOptions { fraction: 1.0, ..open };
        let val = open_split(&yaml, Split::Val, &open, Some(&known), roots, events).map_err(told)?;
        // Not before it is sure that folders may be told of.
        train.require_label_files(&yaml)?;
        if let Some(warning) = unseen_classes(&train.names, &train.report) {
            events.log(LogLevel::Warning, warning);
        }
        if !options.resume && options.checkpoints().exists() {
            return Err(TrainError::Occupied(options.run_dir));
        }
        fs::create_dir_all(&options.run_dir).map_err(TrainError::io(&options.run_dir))?;
        let classes = u32::try_from(train.names.len()).unwrap_or(u32::MAX);
        let resolved = auto::resolve(spec, train.images.len() as u64, classes);
        let identity = identity(&resolved, &train, &val);
        let size = spec.imgsz as usize;
        let names = train.names.clone();
        // One for both stores.
        let budget = RamBudget::new(options.cache_ram_bytes.unwrap_or_else(cache::ram_budget::default_bytes));
        let store = |dataset: Dataset| {
            Arc::new(ImageStore::new(Arc::new(dataset), size, cache_mode(&options, &budget)))
        };
        // No more than there are cores, however many the spec wishes.
        let worker_count = WorkerCount::new((spec.workers as usize).min(cores()));
        let control = Control::listen(options.control.clone(), &worker_count, cores());
        Ok(Self {
            resolved,
            names,
            train: store(train),
            val: store(val),
            identity,
            worker_count,
            control,
            options,
        })
    }

    /// The spec as it was given.
    pub const fn spec(&self) -> &TrainSpec {
        &self.options.spec
    }

    /// What the losses are multiplied by.
    pub const fn gains(&self) -> Gains {
        let spec = &self.options.spec;
        Gains { boxes: spec.box_gain, classes: spec.cls, distribution: spec.dfl }
    }

    /// Precisions faster than 32 bits to train in, the one to prefer first; none where that is not wished for.
    pub fn candidates(&self, given_up: GivenUp) -> Vec<Precision> {
        match self.options.amp {
            _ if !self.spec().amp => Vec::new(),
            Some(Precision::Fp32) => Vec::new(),
            Some(precision) => given_up.left(&[precision]),
            None => given_up.left(precision::candidates(self.options.device)),
        }
    }

    /// Threads that load, as far as it is known now.
    pub fn workers(&self) -> usize {
        self.worker_count.wanted()
    }

    /// Training batches.
    pub fn train_loader(&self) -> TrainLoader {
        let spec = self.spec();
        let config = LoaderConfig {
            imgsz: spec.imgsz as usize,
            workers: self.workers(),
            prefetch: PREFETCH,
            seed: spec.seed,
            augment: AugmentConfig::from(spec),
        };
        TrainLoader::new(Arc::clone(&self.train), config)
            .with_worker_count(&self.worker_count)
            .with_memory(pixel_memory(self.options.device))
    }

    /// Validation batches, twice as large as training ones: no gradients are kept.
    pub fn val_loader(&self, batch_size: u32) -> ValLoader {
        let config = ValConfig {
            imgsz: self.spec().imgsz as usize,
            batch_size: 2 * batch_size as usize,
            workers: self.workers(),
            prefetch: PREFETCH,
        };
        ValLoader::new(Arc::clone(&self.val), config)
            .with_worker_count(&self.worker_count)
            .with_memory(pixel_memory(self.options.device))
    }

    /// The files that hold every image decoded, training's and validation's; none while one is missing.
    pub fn cached_files(&self) -> Vec<PathBuf> {
        let files = [&self.train, &self.val].map(|store| store.cached_file());
        files.into_iter().collect::<Option<_>>().unwrap_or_default()
    }

    /// Passes the loaders' warnings on.
    pub fn report_warnings(&self, events: &mut Events) {
        for warning in self.train.take_warnings().into_iter().chain(self.val.take_warnings()) {
            events.log(LogLevel::Warning, warning);
        }
    }
}

/// What makes checkpoints this run's. `spec`: with its optimiser resolved.
fn identity(spec: &TrainSpec, train: &Dataset, val: &Dataset) -> Identity {
    let [images_digest, labels_digest] = digests(train);
    let [val_digest, val_labels_digest] = digests(val);
    Identity {
        images_digest,
        labels_digest,
        val_digest,
        val_labels_digest,
        imgsz: Some(spec.imgsz),
        nbs: Some(spec.nbs),
        optimizer: Some(spec.optimizer),
        ..Identity::new(spec.model, train.names.clone(), train.images.len() as u64, spec.seed)
    }
}

/// Digests of a data set's images, by names and sizes, and of their objects.
fn digests(dataset: &Dataset) -> [String; 2] {
    let (mut images, mut labels) = (Sha256::new(), Sha256::new());
    for item in dataset.images.iter() {
        // Not the folders: another machine may have the data set elsewhere.
        images.update(item.path.file_name().unwrap_or_default().as_encoded_bytes());
        for side in [item.width, item.height] {
            images.update((side as u64).to_le_bytes());
        }
        for label in item.labels {
            labels.update(label.class.to_le_bytes());
            label.cxcywh.iter().for_each(|number| labels.update(number.to_le_bytes()));
        }
        labels.update([0xff]);
    }
    [images, labels].map(|digest| hex::encode(digest.finalize()))
}

/// Opens a split and reports what its check found, which may be known from `cache`.
///
/// # Errors
/// The data set is wrong, or cannot be read.
pub fn open_split(
    yaml: &DataYaml,
    split: Split,
    options: &OpenOptions,
    cache: Option<&Path>,
    roots: &[PathBuf],
    events: &mut Events,
) -> Result<Dataset, TrainError> {
    let allowed = |folder: &Path| data_roots::is_allowed(folder, roots);
    let dataset = Dataset::open_within(yaml, split, options, cache, &allowed)
        .map_err(|error| data_roots::refusal(error, yaml, roots))?;
    events.log(LogLevel::Info, format!("{}: {}", split.key(), dataset.report));
    for warning in dataset.report.warnings() {
        events.log(LogLevel::Warning, warning);
    }
    for remark in &dataset.notes {
        events.log(LogLevel::Warning, format!("{}: {remark}", split.key()));
    }
    Ok(dataset)
}

/// Threads that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn cache_mode(options: &Options, budget: &RamBudget) -> CacheMode {
    let place = || CacheDir { directory: cache_dir(options), limits: options.cache_limits };
    match options.spec.cache {
        Cache::None => CacheMode::None,
        // What memory has no room for is decoded once, too.
        Cache::Ram => CacheMode::Ram { budget: budget.clone(), overflow: Some(place()) },
        Cache::Disk => CacheMode::Disk(place()),
    }
}

fn cache_dir(options: &Options) -> PathBuf {
    options.cache_dir.clone().unwrap_or_else(|| default_cache(&options.run_dir))
}

/// The user's cache folder, so that runs share it; without one, a folder of the run.
pub fn default_cache(run_dir: &Path) -> PathBuf {
    // An empty variable names no folder.
    let folder = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    base.map_or_else(|| run_dir.join("cache"), |base| base.join("trainyard/images"))
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;
    use trainyard_types::trainer::TrainerEvent;

    use super::*;
    use crate::test_data::TestData;

    fn options(data: &TestData, run_dir: PathBuf, cache_dir: PathBuf) -> Options {
        Options {
            spec: TrainSpec { workers: 1, ..TrainSpec::new(ModelScale::N, data.path("data.yaml")) },
            run_dir,
            cache_dir: Some(cache_dir),
            cache_limits: Limits::DEFAULT,
            cache_ram_bytes: None,
            device: Device::Cpu,
            amp: None,
            batch_size: None,
            resume: false,
            data_roots: Vec::new(),
            is_stored: false,
            probe_memory: ProbeWhen::Auto,
            control: None,
        }
    }

    #[test]
    fn nothing_is_cached_in_the_data_sets_own_folder() {
        let data = TestData::new(2, 1);
        let elsewhere = tempfile::tempdir().unwrap();
        let set_up = |cache_dir: PathBuf| {
            let options = options(&data, elsewhere.path().join("run"), cache_dir);
            let mut events = Events::recording();
            let setup = Setup::new(options, &mut events).unwrap();
            (setup.options.cache_dir, format!("{:?}", events.recorded()))
        };
        let (used, events) = set_up(data.path("cache"));
        assert_eq!(used, None);
        assert!(events.contains("lies in the data set's own, where nothing is written"), "{events}");
        let (used, events) = set_up(elsewhere.path().join("cache"));
        assert_eq!(used, Some(elsewhere.path().join("cache")));
        assert!(!events.contains("data set's own"), "{events}");
    }

    #[test]
    fn what_is_odd_in_a_data_set_is_told_once_as_warnings_also_when_it_is_known_from_before() {
        let data = TestData::new(4, 2);
        std::fs::remove_dir_all(data.path("labels/val")).unwrap();
        std::fs::remove_file(data.path("labels/train/003.txt")).unwrap();
        data.write("labels/train/001.txt", b"1 .1 .1 .2 .1 .2 .2 .1 .2\n");
        data.write("data.yaml", b"path: C:\\set\ntrain: images/train\nval: images/val\nnames: [a, b]\n");
        crate::test_data::settle(&data.path("labels/train/001.txt"));
        let elsewhere = tempfile::tempdir().unwrap();
        let told = || {
            let options = options(&data, elsewhere.path().join("run"), elsewhere.path().join("cache"));
            let mut events = Events::recording();
            Setup::new(options, &mut events).unwrap();
            let warnings = events.recorded().iter().filter_map(|event| match event {
                TrainerEvent::Log(log) if log.level == LogLevel::Warning => Some(log.message.clone()),
                _ => None,
            });
            warnings.collect::<Vec<_>>()
        };
        let first = told();
        for part in [
            "`path: C:\\set` is a Windows path",
            "train: 1 label rows have four corners",
            "train: 1 of 4 images without a label file",
            "val: 2 of 2 images without a label file",
            "val: the validation images have no objects at all",
        ] {
            assert_eq!(first.iter().filter(|text| text.contains(part)).count(), 1, "{part}: {first:?}");
        }
        assert_eq!(first.len(), 5, "{first:?}");
        assert_eq!(told(), first);
    }
}
