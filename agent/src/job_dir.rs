//! A job's directory on this machine: shared by its attempts, so that a later one finds the checkpoints.
//!
//! ```text
//! DATA_DIR/jobs/JOB/spec.json         what the trainer is told
//!                  /killed.json       how main memory once ran out
//!                  /trainer.log       what it said, all attempts
//!                  /attempt-N.spool   reports that the scheduler does not have yet
//!                  /attempt-N.hand-in what it has trained and has not handed in yet
//!                  /run/              the run directory
//!                  /run/checkpoints/step-NNNNNNNN/
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use trainyard_types::trainer::Finished;
use trainyard_types::{AttemptId, JobId};

use crate::disk;
use crate::host::loading::Killed;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobDir(PathBuf);

impl JobDir {
    /// Of a job, whether or not it exists.
    pub fn new(data_dir: &Path, job: JobId) -> Self {
        Self(data_dir.join("jobs").join(job.to_string()))
    }

    /// Makes the directories.
    ///
    /// # Errors
    /// The disk's.
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(self.checkpoints())
    }

    /// Gives the whole directory a name under which nobody looks for it, so that it can be removed at leisure.
    /// Returns that name; [`remove_drafts`] knows it, too.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_apart(&self) -> io::Result<PathBuf> {
        let apart = self.0.with_extension("gone");
        fs::rename(&self.0, &apart)?;
        Ok(apart)
    }

    /// The TrainSpec.
    pub fn spec(&self) -> PathBuf {
        self.0.join("spec.json")
    }

    /// The trainer's standard output and error.
    pub fn log(&self) -> PathBuf {
        self.0.join("trainer.log")
    }

    /// The run directory.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// Where checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.run().join("checkpoints")
    }

    /// The directory of the checkpoint at `step`.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints().join(format!("step-{step:08}"))
    }

    /// How its trainer was killed for want of main memory, if it was.
    pub fn killed(&self) -> Option<Killed> {
        serde_json::from_slice(&fs::read(self.0.join("killed.json")).ok()?).ok()
    }

    /// Notes how its trainer was killed, for the next one.
    ///
    /// # Errors
    /// The disk's.
    pub fn note_kill(&self, killed: Killed) -> io::Result<()> {
        disk::replace(&self.0.join("killed.json"), &serde_json::to_vec(&killed)?)
    }

    /// An attempt's reports.
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
    /// The disk's.
    pub fn keep_hand_in(&self, number: u32, hand_in: &Finished) -> io::Result<()> {
        disk::replace(&self.hand_in_file(number), &serde_json::to_vec(hand_in)?)
    }

    /// Nothing is handed in any more.
    pub fn drop_hand_in(&self, number: u32) {
        // Mostly there is none.
        let _none = fs::remove_file(self.hand_in_file(number));
    }

    /// The step of the newest checkpoint that is complete. (It gets its name when it is.)
    pub fn newest_step(&self) -> Option<u64> {
        let names = fs::read_dir(self.checkpoints())
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).max()
    }
}

/// Removes what a former agent or its trainers have left half-written: drafts of checkpoints, downloads, new
/// versions of small files.
pub fn remove_drafts(data_dir: &Path) {
    let is_draft = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ends = |end: &str| name.ends_with(end);
        ends(".new") || ends(".tmp") || (name.starts_with('.') && ends(".download"))
    };
    for job in entries(&data_dir.join("jobs")) {
        let run = job.join("run");
        let is_gone = job.extension().is_some_and(|extension| extension == "gone");
        let places = [job.clone(), run.join("checkpoints"), run.join("weights"), run];
        let drafts = places.iter().flat_map(|place| entries(place)).filter(|path| is_draft(path));
        let left: Vec<PathBuf> = if is_gone { vec![job] } else { drafts.collect() };
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

/// The attempts of former agent processes whose spools are still there.
pub fn spooled(data_dir: &Path) -> Vec<AttemptId> {
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
    fn drafts_go_and_everything_else_stays() {
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
        let apart = over.set_apart().unwrap();
        assert!(apart.is_dir() && !over.run().exists());
        remove_drafts(folder.path());
        assert!(!apart.exists());
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
        dir.keep_hand_in(2, &hand_in).unwrap();
        remove_drafts(folder.path());
        assert_eq!((dir.hand_in(2), dir.hand_in(1)), (Some(hand_in.clone()), None));
        dir.drop_hand_in(2);
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
        assert_eq!(spooled(folder.path()), [AttemptId { job, number: 2 }]);
    }
}
