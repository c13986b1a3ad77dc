//! What a run leaves for people to look at: results.csv, args.yaml, TensorBoard's events, pictures.

pub mod args_yaml;
pub mod draw;
pub mod pictures;
pub mod plots;
pub mod results_csv;
pub mod tensorboard;
