//! `trainyard-trainer check`: everything that is wrong with a data set, before a GPU waits for it.

use std::path::{Path, PathBuf};

use clap::Args;
use trainyard_data::check::check;
use trainyard_types::text::clean_lines;
use trainyard_types::trainer::exit_code;

use super::data_file;
use crate::train::setup::cores;

/// Look at every image and label of a data set, and tell every problem at once.
#[derive(Debug, Args)]
pub struct Check {
    /// The data set's data.yaml.
    data: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
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
