//! `trainyard-trainer check`: everything that is wrong with a data set, before a GPU waits for it.

use std::path::{Path, PathBuf};

use clap::Args;
use trainyard_data::check::{CheckOptions, Checked, check};
use trainyard_types::DataCheck;
use trainyard_types::text::clean_lines;
use trainyard_types::trainer::exit_code;

use super::data_file;
use crate::train::error::TrainError;
use crate::train::setup::cores;
use crate::train::{data_roots, unfit};

/// Look at every image and label of a data set, and tell every problem at once.
#[derive(Debug, Args)]
pub struct Check {
    /// The data set's data.yaml.
    data: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    submission: SubmissionCheck,
}

/// What an agent asks for when somebody submits a job.
#[derive(Debug, Args)]
struct SubmissionCheck {
    /// Look at what a training reads, and print the first problems as one line of JSON.
    #[arg(long, hide = true)]
    summary: bool,
    /// Every class counts as one.
    #[arg(long, hide = true, requires = "summary")]
    single_cls: bool,
    /// Share of the training images that is used.
    #[arg(long, hide = true, requires = "summary", default_value_t = 1.0)]
    fraction: f64,
    /// Directories that images may lie in; may be repeated.
    #[arg(long, hide = true, requires = "summary", value_name = "DIR")]
    data_root: Vec<PathBuf>,
}

impl SubmissionCheck {
    fn run(&self, data: &Path) -> DataCheck {
        let roots = &self.data_root;
        let options = CheckOptions {
            single_cls: self.single_cls,
            fraction: self.fraction,
            with_test: false,
            lists_first: true,
            allowed: &|folder| data_roots::is_allowed(folder, roots),
            ..CheckOptions::all(cores())
        };
        let Checked { report, failures, yaml, .. } = Checked::of(data, &options);
        let errors = failures.into_iter().map(|error| match &yaml {
            Some(yaml) => data_roots::refusal(error, yaml, roots),
            None => TrainError::Data(error),
        });
        let unfit = errors.into_iter().find_map(|error| unfit::unfit(&error));
        let check = DataCheck::new(&report.errors, &report.warnings, unfit)
            .counting(report.error_count as u64, report.warning_count as u64);
        DataCheck { has_data_yaml: yaml.is_some(), ..check }
    }
}

impl Check {
    /// Prints the report; the exit code says whether a training would begin.
    pub fn run(&self) -> i32 {
        // `check data=d.yaml`, as other commands have it.
        let keyed = self.data.to_str().and_then(|text| text.strip_prefix("data="));
        let data = keyed.filter(|_| !self.data.exists()).map_or(self.data.as_path(), Path::new);
        let data = match data_file(data) {
            Ok(data) => data,
            Err(error) => {
                super::complain(&error);
                return error.exit_code();
            }
        };
        if self.submission.summary {
            return print_summary(&self.submission.run(&data));
        }
        let report = check(&data, cores());
        let text = if self.json {
            serde_json::to_string_pretty(&report).expect("a report has no map with odd keys") + "\n"
        } else {
            // Class and file names are a stranger's.
            clean_lines(&report.to_string()) + "\n"
        };
        if let Err(error) = super::print(text) {
            super::complain(&error);
            return exit_code::INTERNAL;
        }
        if report.is_usable() { exit_code::DONE } else { exit_code::BAD_SPEC }
    }
}

/// Prints a line for the agent. What is wrong with the data set is in it, and not in the exit code.
fn print_summary(check: &DataCheck) -> i32 {
    let line = serde_json::to_string(check).expect("a summary has no map with odd keys") + "\n";
    match super::print(line) {
        Ok(()) => exit_code::DONE,
        Err(error) => {
            super::complain(&error);
            exit_code::INTERNAL
        }
    }
}
