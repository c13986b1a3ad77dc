//! What a run leaves for people to read: results.csv, args.yaml, pictures with boxes.

pub mod args_yaml;
pub mod draw;
pub mod results_csv;
