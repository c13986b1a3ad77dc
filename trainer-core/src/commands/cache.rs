//! `trainyard-trainer cache`: what the disk cache holds, and how to be rid of it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use trainyard_types::trainer::exit_code;

use crate::data::disk_cache::admin::{self, CacheFile};
use crate::train::setup::default_cache;

/// Look after cached images.
#[derive(Debug, Args)]
pub struct Cache {
    /// The cache's directory, if it is not the user's own.
    #[arg(long, global = true)]
    cache_dir: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List what is cached, the latest used first.
    Ls,
    /// Remove what is cached. A training that uses it keeps it until its end.
    Rm {
        /// Beginnings of keys, as `ls` shows them.
        #[arg(required_unless_present = "all")]
        keys: Vec<String>,
        /// Remove everything.
        #[arg(long, conflicts_with = "keys")]
        all: bool,
    },
    /// Read every cached image, and compare checksums.
    Verify {
        /// Beginnings of keys; everything without one.
        keys: Vec<String>,
    },
}

impl Cache {
    /// Does it, and gives the exit code.
    pub fn run(&self) -> i32 {
        match self.act() {
            Ok(()) => exit_code::DONE,
            Err(message) => {
                eprintln!("error: {message}");
                exit_code::BAD_SPEC
            }
        }
    }

    /// Does it; the error is for the user.
    fn act(&self) -> Result<(), String> {
        let directory = self.cache_dir.clone().unwrap_or_else(|| default_cache(".".as_ref()));
        let files = admin::list(&directory);
        match &self.action {
            Action::Ls => {
                println!("{:<32} {:>5} {:>17} {:>9}  data set", "key", "imgsz", "images", "MiB");
                files.iter().for_each(show);
            }
            Action::Rm { keys, all } => {
                if *all {
                    admin::remove_labels(&directory)
                        .map_err(|error| format!("{}: {error}", directory.display()))?;
                }
                let chosen = if *all { files } else { choose(files, keys)? };
                for file in &chosen {
                    admin::remove(file).map_err(|error| format!("{}: {error}", file.path.display()))?;
                    println!("removed {}", file.key);
                }
            }
            Action::Verify { keys } => {
                let chosen = if keys.is_empty() { files } else { choose(files, keys)? };
                let mut damaged = 0;
                for file in &chosen {
                    let found =
                        admin::verify(file).map_err(|error| format!("{}: {error}", file.path.display()))?;
                    println!(
                        "{} {} good, {} empty, {} damaged",
                        file.key, found.good, found.empty, found.bad
                    );
                    damaged += found.bad;
                }
                if damaged > 0 {
                    return Err(format!(
                        "{damaged} cached images are damaged; the next training makes them again, or remove \
                         the file with `cache rm`"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn show(file: &CacheFile) {
    let mebibytes = file.disk_bytes >> 20;
    match &file.header {
        Some(header) => {
            let images = format!("{} of {}", file.filled, header.images);
            println!("{:<32} {:>5} {images:>17} {mebibytes:>9}  {}", file.key, header.imgsz, header.name);
        }
        None => println!("{:<32} damaged {mebibytes:>25}", file.key),
    }
}

fn choose(files: Vec<CacheFile>, keys: &[String]) -> Result<Vec<CacheFile>, String> {
    if let Some(key) = keys.iter().find(|key| !files.iter().any(|file| file.key.starts_with(key.as_str()))) {
        return Err(format!("nothing is cached under `{key}`; `cache ls` shows the keys"));
    }
    Ok(files.into_iter().filter(|file| keys.iter().any(|key| file.key.starts_with(key.as_str()))).collect())
}
