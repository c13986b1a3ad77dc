//! An epoch's numbers, for scripts and for TensorBoard: results.csv and the event file.

use std::path::{Path, PathBuf};

use crate::checkpoint::Row;
use crate::report::results_csv::{self, ResultsCsv};
use crate::report::tensorboard::{EventFile, Scalars};
use crate::train::error::TrainError;

/// Name of the file with one row per epoch.
pub const RESULTS: &str = "results.csv";

/// Both files of a run.
#[derive(Debug)]
pub struct Tables {
    run_dir: PathBuf,
    /// When the run began, pauses left out: seconds since 1970.
    began: f64,
    /// `None` after a row could not be written: then all are written anew.
    files: Option<(ResultsCsv, EventFile)>,
}

impl Tables {
    /// Makes the files hold exactly `rows`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn start(run_dir: &Path, began: f64, rows: &[Row]) -> Result<Self, TrainError> {
        let files = Some(write_all(run_dir, began, rows)?);
        Ok(Self { run_dir: run_dir.to_owned(), began, files })
    }

    /// Adds the last one of `rows`, or all that could not be written before.
    ///
    /// # Errors
    /// When the files cannot be written; the next call makes good for it.
    pub fn append(&mut self, rows: &[Row]) -> Result<(), TrainError> {
        let Some((at, row)) = rows.iter().enumerate().next_back() else { return Ok(()) };
        let Some((results, scalars)) = self.files.take() else { return self.complete(rows) };
        let added = results.append(&csv_row(at, row));
        let added = added.and_then(|()| scalars.append(&scalars_of(at, row, self.began)));
        added.map_err(TrainError::io(&self.run_dir))?;
        self.files = Some((results, scalars));
        Ok(())
    }

    /// Writes all of `rows` if some could not be written before.
    ///
    /// # Errors
    /// When they still cannot.
    pub fn complete(&mut self, rows: &[Row]) -> Result<(), TrainError> {
        if self.files.is_none() {
            self.files = Some(write_all(&self.run_dir, self.began, rows)?);
        }
        Ok(())
    }
}

fn write_all(run_dir: &Path, began: f64, rows: &[Row]) -> Result<(ResultsCsv, EventFile), TrainError> {
    let path = run_dir.join(RESULTS);
    let results = ResultsCsv::open(&path, 0).and_then(|file| {
        rows.iter().enumerate().try_for_each(|(at, row)| file.append(&csv_row(at, row)))?;
        Ok(file)
    });
    let scalars: Vec<Scalars<'_>> =
        rows.iter().enumerate().map(|(at, row)| scalars_of(at, row, began)).collect();
    let events = EventFile::start(run_dir, began, &scalars);
    Ok((results.map_err(TrainError::io(path))?, events.map_err(TrainError::io(run_dir))?))
}

/// The epoch with index `at`, from 1.
fn number(at: usize) -> u32 {
    u32::try_from(at + 1).unwrap_or(u32::MAX)
}

fn csv_row(at: usize, row: &Row) -> results_csv::Row {
    results_csv::Row { epoch: number(at), seconds: row.seconds, metrics: row.metrics.clone() }
}

fn scalars_of(at: usize, row: &Row, began: f64) -> Scalars<'_> {
    Scalars { epoch: number(at), wall_time: began + row.seconds, metrics: &row.metrics }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    #[test]
    fn rows_that_could_not_be_written_are_written_with_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<Row> =
            (1..=3).map(|at| Row { seconds: f64::from(at), metrics: BTreeMap::new() }).collect();
        let mut tables = Tables::start(folder.path(), 0.0, &rows[..1]).unwrap();
        let path = folder.path().join(RESULTS);
        let before = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(tables.append(&rows[..2]).is_err());
        fs::write(&path, before).unwrap();
        tables.append(&rows).unwrap();
        tables.complete(&rows).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 4);
    }
}
