//! `trainyard-trainer cache`: what the disk cache holds, and how to be rid of it.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use trainyard_console as console;
use trainyard_data::cache::disk::CacheDir;
use trainyard_data::cache::disk::directory::{self, CacheFile};
use trainyard_types::trainer::exit_code;

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
        /// Keys, as `ls` shows them, or as much of each as no other key begins with.
        #[arg(required_unless_present = "all")]
        keys: Vec<String>,
        /// Remove everything.
        #[arg(long, conflicts_with = "keys")]
        all: bool,
    },
    /// Read every cached image, and compare checksums.
    Verify {
        /// Keys, or as much of each as no other key begins with; everything without one.
        keys: Vec<String>,
    },
}

impl Cache {
    /// Runs the command; returns the exit code.
    pub fn run(&self) -> i32 {
        match self.run_action() {
            Ok(()) => exit_code::DONE,
            Err(message) => {
                super::complain(&message);
                exit_code::BAD_SPEC
            }
        }
    }

    /// Runs the command; the error is for the user.
    fn run_action(&self) -> Result<(), String> {
        let directory = self.cache_dir.clone().unwrap_or_else(|| default_cache(".".as_ref()));
        let files = directory::list(&directory);
        match &self.action {
            Action::Ls => {
                let mut lines = vec![format!(
                    "{:<32} {:>5} {:>17} {:>9} {:>7}  data set",
                    "key", "imgsz", "images", "MiB", "unused"
                )];
                lines.extend(files.iter().map(row));
                let total = files.iter().map(|file| file.disk_bytes >> 20).sum::<u64>();
                let quota = directory::quota(&CacheDir::from(directory)).map_or_else(String::new, |quota| {
                    format!("; unless a training says otherwise, {} may be taken", quota >> 20)
                });
                lines.push(format!("{} caches, {total} MiB{quota}", files.len()));
                console::line(lines.join("\n")).map_err(|error| print_error(&error))?;
            }
            Action::Rm { keys, all } => {
                if *all {
                    directory::remove_labels(&directory)
                        .map_err(|error| format!("{}: {error}", directory.display()))?;
                }
                let chosen = if *all { files } else { choose(files, keys)? };
                let mut printed = Ok(());
                for file in &chosen {
                    directory::remove(file).map_err(|error| format!("{}: {error}", file.path.display()))?;
                    printed = printed.and(console::line(format_args!("removed {}", file.key)));
                }
                printed.map_err(|error| print_error(&error))?;
            }
            Action::Verify { keys } => {
                let chosen = if keys.is_empty() { files } else { choose(files, keys)? };
                let (mut damaged, mut printed) = (0, Ok(()));
                for file in &chosen {
                    let found = directory::verify(file)
                        .map_err(|error| format!("{}: {error}", file.path.display()))?;
                    let line = format!(
                        "{} {} good, {} empty, {} damaged",
                        file.key, found.good, found.empty, found.bad
                    );
                    printed = printed.and(console::line(line));
                    damaged += found.bad;
                }
                if damaged > 0 {
                    return Err(format!(
                        "{damaged} cached images are damaged; the next training makes them again, or remove \
                         the file with `cache rm`"
                    ));
                }
                printed.map_err(|error| print_error(&error))?;
            }
        }
        Ok(())
    }
}

/// What is said of a list that standard output does not take.
fn print_error(error: &io::Error) -> String {
    format!("standard output: {error}")
}

fn row(file: &CacheFile) -> String {
    let mebibytes = file.disk_bytes >> 20;
    let unused = rounded_time(SystemTime::now().duration_since(file.used).unwrap_or_default());
    match &file.header {
        Some(header) => {
            let images = format!("{} of {}", file.filled, header.images);
            format!(
                "{:<32} {:>5} {images:>17} {mebibytes:>9} {unused:>7}  {}",
                file.key, header.imgsz, header.name
            )
        }
        None => format!("{:<32} damaged {mebibytes:>25} {unused:>7}", file.key),
    }
}

/// A time as people say it.
fn rounded_time(time: Duration) -> String {
    match time.as_secs() / 60 {
        minutes if minutes < 60 => format!("{minutes} min"),
        minutes if minutes < 48 * 60 => format!("{} h", minutes / 60),
        minutes => format!("{} d", minutes / (24 * 60)),
    }
}

/// The file that each of `keys` means; the error is for the user.
fn choose(files: Vec<CacheFile>, keys: &[String]) -> Result<Vec<CacheFile>, String> {
    let mut meant = vec![false; files.len()];
    for key in keys {
        let found: Vec<usize> =
            (0..files.len()).filter(|at| files[*at].key.starts_with(key.as_str())).collect();
        match found[..] {
            _ if key.is_empty() => {
                return Err("an empty key means no cache; `cache ls` shows the keys".to_owned());
            }
            [] => return Err(format!("nothing is cached under `{key}`; `cache ls` shows the keys")),
            [one] => meant[one] = true,
            _ => {
                let all: Vec<&str> = found.iter().map(|at| files[*at].key.as_str()).collect();
                let all = all.join(", ");
                return Err(format!("`{key}` may be any of {all}; give more of the key that is meant"));
            }
        }
    }
    Ok(files.into_iter().zip(meant).filter_map(|(file, meant)| meant.then_some(file)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(keys: &[&str]) -> Result<Vec<String>, String> {
        let file = |key: &str| CacheFile {
            key: key.to_owned(),
            path: PathBuf::new(),
            header: None,
            filled: 0,
            disk_bytes: 0,
            used: SystemTime::UNIX_EPOCH,
        };
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let files = ["abc1", "abd2", "fff3"].map(file).into();
        Ok(choose(files, &keys)?.into_iter().map(|file| file.key).collect())
    }

    #[test]
    fn a_key_means_one_cache_or_nothing_is_done() {
        assert_eq!(chosen(&["abd", "f", "fff3"]).unwrap(), ["abd2", "fff3"]);
        assert!(chosen(&["f", ""]).unwrap_err().starts_with("an empty key means no cache"));
        assert_eq!(
            chosen(&["ab"]).unwrap_err(),
            "`ab` may be any of abc1, abd2; give more of the key that is meant"
        );
        assert!(chosen(&["abcd"]).unwrap_err().starts_with("nothing is cached under `abcd`"));
    }

    #[test]
    fn times_are_told_in_one_unit() {
        let told = |minutes: u64| rounded_time(Duration::from_secs(60 * minutes + 59));
        assert_eq!([told(0), told(59), told(60), told(2879)], ["0 min", "59 min", "1 h", "47 h"]);
        assert_eq!(told(2880), "2 d");
    }
}
