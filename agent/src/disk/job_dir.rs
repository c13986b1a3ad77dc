//! A job's directory on this machine: shared by its attempts, so that a later one finds the checkpoints.
//!
//! ```text
//! DATA_DIR/jobs/JOB/spec.json         the TrainSpec for the trainer
//!                  /killed.json       what the trainer had when main memory ran out
//!                  /trainer.log       what trainers wrote, all attempts
//!                  /attempt-N.spool   reports that the scheduler does not have yet
//!                  /attempt-N.hand-in what it has trained and has not handed in yet
//!                  /run/              the run directory
//!                  /run/checkpoints/step-NNNNNNNN/
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use trainyard_files::{UNFINISHED, create_private_folder, write_atomically};
use trainyard_types::trainer::Finished;
use trainyard_types::{AttemptId, JobId};

use crate::host::loader_workers::HostOomRecord;

/// A job's directory, whether or not it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobDir(PathBuf);

impl JobDir {
    /// The directory of a job.
    pub fn new(data_dir: &Path, job: JobId) -> Self {
        Self(data_dir.join("jobs").join(job.to_string()))
    }

    /// Makes the directories, which nobody else may enter.
    ///
    /// # Errors
    /// The disk's error.
    pub fn create(&self) -> io::Result<()> {
        for folder in self.0.parent().into_iter().chain([&*self.0, &self.run()]) {
            create_private_folder(folder)?;
        }
        fs::create_dir_all(self.checkpoints())
    }

    /// Renames the whole directory, so that no attempt finds it and its files can be removed in the background. Returns the
    /// new name. [`remove_unfinished`] removes directories of such names, too.
    ///
    /// # Errors
    /// The disk's error.
    pub fn rename_for_removal(&self) -> io::Result<PathBuf> {
        let renamed = self.0.with_extension("gone");
        fs::rename(&self.0, &renamed)?;
        Ok(renamed)
    }

    /// The file of the TrainSpec.
    pub fn spec(&self) -> PathBuf {
        self.0.join("spec.json")
    }

    /// The file with the trainer's standard output and error.
    pub fn log(&self) -> PathBuf {
        self.0.join("trainer.log")
    }

    /// The run directory.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// The directory of all checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.run().join("checkpoints")
    }

    /// The directory of the checkpoint at `step`.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints().join(format!("step-{step:08}"))
    }

    /// What its trainer had when main memory ran out, if it did.
    pub fn host_oom(&self) -> Option<HostOomRecord> {
        serde_json::from_slice(&fs::read(self.0.join("killed.json")).ok()?).ok()
    }

    /// Remembers what its trainer had when main memory ran out.
    ///
    /// # Errors
    /// The disk's error.
    pub fn save_host_oom(&self, record: HostOomRecord) -> io::Result<()> {
        write_atomically(&self.0.join("killed.json"), &serde_json::to_vec(&record)?)
    }

    /// The file of an attempt's spool.
    pub fn spool(&self, number: u32) -> PathBuf {
        self.0.join(format!("attempt-{number}.spool"))
    }

    fn hand_in_file(&self, number: u32) -> PathBuf {
        self.0.join(format!("attempt-{number}.hand-in"))
    }

    /// What an attempt has not handed in yet, if it has trained to the end.
    pub fn hand_in(&self, number: u32) -> Option<Finished> {
        let mut kept: Value = serde_json::from_slice(&fs::read(self.hand_in_file(number)).ok()?).ok()?;
        // Former versions kept no metrics.
        kept.as_object_mut()?.entry("metrics").or_insert_with(|| Value::Object(Map::new()));
        serde_json::from_value(kept).ok()
    }

    /// Remembers what an attempt hands in, for the next process of the agent.
    ///
    /// # Errors
    /// The disk's error.
    pub fn save_hand_in(&self, number: u32, hand_in: &Finished) -> io::Result<()> {
        write_atomically(&self.hand_in_file(number), &serde_json::to_vec(hand_in)?)
    }

    /// Forgets what an attempt hands in.
    pub fn delete_hand_in(&self, number: u32) {
        // Mostly there is nothing to forget.
        let _none = fs::remove_file(self.hand_in_file(number));
    }

    /// The step of the newest checkpoint that is complete. A checkpoint gets its name when it is.
    pub fn newest_step(&self) -> Option<u64> {
        let names = fs::read_dir(self.checkpoints())
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).max()
    }
}

/// The directories of all jobs, and their run directories.
pub fn folders(data_dir: &Path) -> Vec<PathBuf> {
    let jobs = entries(&data_dir.join("jobs")).into_iter().filter(|path| path.is_dir());
    let with_run = |job: PathBuf| [job.join("run"), job].into_iter().filter(|path| path.is_dir());
    jobs.flat_map(with_run).collect()
}

/// Removes what a former agent or its trainers have left half-written: checkpoints, downloads, new versions of small
/// files.
pub fn remove_unfinished(data_dir: &Path) {
    let is_unfinished = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ends = |end: &str| name.ends_with(end);
        ends(UNFINISHED) || ends(".new") || ends(".tmp") || (name.starts_with('.') && ends(".download"))
    };
    for job in entries(&data_dir.join("jobs")) {
        let run = job.join("run");
        let is_gone = job.extension().is_some_and(|extension| extension == "gone");
        let places = [job.clone(), run.join("checkpoints"), run.join("weights"), run];
        let unfinished = places.iter().flat_map(|place| entries(place)).filter(|path| is_unfinished(path));
        let left: Vec<PathBuf> = if is_gone { vec![job] } else { unfinished.collect() };
        for path in left {
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(error) = gone {
                tracing::warn!(path = %path.display(), %error, "what was left half-written cannot be removed");
            }
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The attempts whose spools are still there, of former processes of the agent.
pub fn spooled_attempts(data_dir: &Path) -> Vec<AttemptId> {
    let mut found = Vec::new();
    let name = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
    for folder in entries(&data_dir.join("jobs")) {
        let job = name(&folder).and_then(|name| name.parse().ok());
        for file in job.iter().flat_map(|_| entries(&folder)) {
            let number = name(&file)
                .and_then(|name| name.strip_prefix("attempt-")?.strip_suffix(".spool")?.parse().ok());
            found.extend(job.zip(number).map(|(job, number)| AttemptId { job, number }));
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_newest_checkpoint_is_the_one_with_the_highest_step_and_a_final_name() {
        let folder = tempfile::tempdir().unwrap();
        let dir = JobDir::new(folder.path(), JobId(Uuid::from_u128(7)));
        assert_eq!(dir.newest_step(), None);
        dir.create().unwrap();
        for name in
            ["step-00000009", "step-00000100", ".step-00000200.tmp", "damaged-step-00000300", "step-x"]
        {
            fs::create_dir(dir.checkpoints().join(name)).unwrap();
        }
        assert_eq!(dir.newest_step(), Some(100));
        assert!(dir.checkpoint(100).is_dir());
    }

    #[test]
    fn nobody_else_enters_a_jobs_directory() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let dir = JobDir::new(folder.path(), JobId(Uuid::from_u128(7)));
        dir.create().unwrap();
        let jobs = folder.path().join("jobs");
        let found = folders(folder.path());
        assert_eq!(found, [dir.run(), dir.0]);
        for path in found.iter().chain([&jobs]) {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", path.display());
        }
    }

    #[test]
    fn unfinished_files_go_and_everything_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let dir = JobDir::new(folder.path(), JobId(Uuid::from_u128(7)));
        dir.create().unwrap();
        for name in [".step-00000002.tmp", ".step-00000003.download", "step-00000001"] {
            fs::create_dir(dir.checkpoints().join(name)).unwrap();
        }
        fs::write(dir.spool(1).with_extension("new"), "half").unwrap();
        fs::write(dir.spool(1), "whole").unwrap();
        fs::write(dir.run().join("results.tmp"), "half").unwrap();
        let over = JobDir::new(folder.path(), JobId(Uuid::from_u128(8)));
        over.create().unwrap();
        let renamed = over.rename_for_removal().unwrap();
        assert!(renamed.is_dir() && !over.run().exists());
        remove_unfinished(folder.path());
        assert!(!renamed.exists());
        assert_eq!(entries(&dir.checkpoints()), [dir.checkpoint(1)]);
        assert!(dir.spool(1).exists() && !dir.spool(1).with_extension("new").exists());
        assert!(!dir.run().join("results.tmp").exists());
    }

    #[test]
    fn what_is_handed_in_is_known_to_the_next_process_until_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let dir = JobDir::new(folder.path(), JobId(Uuid::from_u128(7)));
        dir.create().unwrap();
        let artifacts = vec!["weights/best.safetensors".into()];
        let hand_in = Finished { best_epoch: 3, metrics: [].into(), artifacts };
        dir.save_hand_in(2, &hand_in).unwrap();
        remove_unfinished(folder.path());
        assert_eq!((dir.hand_in(2), dir.hand_in(1)), (Some(hand_in.clone()), None));
        dir.delete_hand_in(2);
        assert_eq!(dir.hand_in(2), None);
        let former = r#"{"best_epoch":3,"artifacts":["weights/best.safetensors"]}"#;
        fs::write(
            folder.path().join(format!("jobs/{}/attempt-2.hand-in", JobId(Uuid::from_u128(7)))),
            former,
        )
        .unwrap();
        assert_eq!(dir.hand_in(2), Some(hand_in), "a former version kept no metrics");
    }

    #[test]
    fn spools_of_former_processes_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let job = JobId(Uuid::from_u128(7));
        let dir = JobDir::new(folder.path(), job);
        dir.create().unwrap();
        fs::write(dir.spool(2), "").unwrap();
        fs::write(dir.spec(), "").unwrap();
        fs::create_dir(folder.path().join("jobs/not-a-job")).unwrap();
        assert_eq!(spooled_attempts(folder.path()), [AttemptId { job, number: 2 }]);
    }
}
