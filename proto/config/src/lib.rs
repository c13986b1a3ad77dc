//! How every program of Trainyard gets its configuration: defaults, then a TOML file, then the
//! environment, then flags; a key that does not exist is an error that names the nearest one.
//!
//! Must not know: which keys there are. A program describes them with a struct whose `Default` holds
//! every default.
//!
//! ```
//! #[derive(serde::Serialize, serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config { listen: String, token: Option<String> }
//! impl Default for Config {
//!     fn default() -> Self { Self { listen: "127.0.0.1:7433".into(), token: None } }
//! }
//! let config = trainyard_config::Sources::new("TRAINYARD_SCHEDULER")
//!     .environment([("TRAINYARD_SCHEDULER__TOKEN".to_owned(), "s3cret".to_owned())])
//!     .flag("listen", Some("0.0.0.0:7433"))
//!     .secret("token")
//!     .load::<Config>()?;
//! assert_eq!(config.value.listen, "0.0.0.0:7433");
//! assert!(config.to_string().contains("environment TRAINYARD_SCHEDULER__TOKEN"));
//! assert!(!config.to_string().contains("s3cret"));
//! # Ok::<(), trainyard_config::LoadError>(())
//! ```

mod flat;
mod mask;
mod print;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use config::{FileFormat, Source as _, Value, ValueKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use trainyard_types::text::{self, TextError};

use flat::Layer;
pub use mask::{masked, masked_text};
pub use print::{Effective, Setting};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A key that the program does not have.
    #[error("unknown key `{key}` in {place}; did you mean `{nearest}`? The keys are: {known}")]
    UnknownKey {
        /// As it was written.
        key: String,
        /// File, or variable.
        place: String,
        /// The most similar key.
        nearest: String,
        /// All keys, separated by commas.
        known: String,
    },
    /// The file cannot be read.
    #[error("{} cannot be read: {why}", file.display())]
    Unreadable {
        file: PathBuf,
        /// Why; as in the others no `source`, since the programs tell those, too.
        why: std::io::Error,
    },
    /// The file is no text.
    #[error("{}", why.in_file(file.display()))]
    Text { file: PathBuf, why: TextError },
    /// The file is no TOML.
    #[error("{}: {why}", file.display())]
    Syntax {
        file: PathBuf,
        /// Why, with the line that is wrong; without its secrets.
        why: String,
    },
    /// A value has the wrong type.
    #[error("{why}")]
    Read {
        /// The reader's error, without secrets.
        why: String,
    },
    /// A list in a variable that is written as in a file, and is none.
    #[error(
        "`{value}` is no list ({why}) for key `{key}` in environment {variable}; write `[\"a\", \"b\"]`, or the items with \
         commas between them and no bracket in front"
    )]
    List {
        key: String,
        variable: String,
        /// The value, without secrets.
        value: String,
        why: String,
    },
    /// A value that the program cannot use.
    #[error("{problem} for key `{key}` in {place}")]
    Value {
        /// The path of the key, with dots between its parts.
        key: String,
        /// `file PATH`, `environment VARIABLE` or `flag --NAME`.
        place: String,
        /// What is wrong, with the value.
        problem: String,
    },
    /// The defaults do not serialise as a table: a bug of the program.
    #[error("the defaults are no table of keys and values: {0}")]
    Defaults(String),
}

impl From<config::ConfigError> for LoadError {
    fn from(why: config::ConfigError) -> Self {
        Self::Read { why: told(&why) }
    }
}

/// An error in its words. They repeat values, of which some are secret.
fn told(error: &config::ConfigError) -> String {
    masked_text(&error.to_string())
}

/// The items of a list in an environment variable.
///
/// # Errors
/// It begins as a list in a file does, and is none.
fn items(text: &str) -> Result<Vec<String>, serde_json::Error> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text);
    }
    Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
}

/// Where a program's configuration comes from; later calls of [`Sources::flag`] win over earlier ones.
#[derive(Debug)]
pub struct Sources {
    prefix: String,
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
    flags: Vec<(String, ValueKind)>,
    secrets: Vec<String>,
}

impl Sources {
    /// `prefix` of environment variables, without the two underscores: `TRAINYARD_AGENT` reads
    /// `TRAINYARD_AGENT__NAME` as `name` and `TRAINYARD_AGENT__LEASE__TTL` as `lease.ttl`.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            file: None,
            environment: Vec::new(),
            flags: Vec::new(),
            secrets: Vec::new(),
        }
    }

    /// A TOML file, which must exist if it is given.
    #[must_use]
    pub fn file(mut self, path: Option<&Path>) -> Self {
        self.file = path.map(Path::to_owned);
        self
    }

    /// Environment variables; those without the prefix, and empty ones, are ignored. Lists are separated by
    /// commas, or written as in a file: `["a", "b"]`.
    #[must_use]
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// The environment of this process. Variables that are not UTF-8 are ignored.
    #[must_use]
    pub fn process_environment(self) -> Self {
        let text = |pair: (std::ffi::OsString, std::ffi::OsString)| {
            Some((pair.0.into_string().ok()?, pair.1.into_string().ok()?))
        };
        self.environment(std::env::vars_os().filter_map(text))
    }

    /// A value from the command line for `key`; `None` leaves the lower layers' value.
    #[must_use]
    pub fn flag(mut self, key: &str, value: Option<impl Into<ValueKind>>) -> Self {
        if let Some(value) = value {
            self.flags.push((key.to_owned(), value.into()));
        }
        self
    }

    /// A key whose value is never printed. (Passwords inside URLs, and `KEY=VALUE` of keys that are called like secrets,
    /// are masked without this.)
    #[must_use]
    pub fn secret(mut self, key: &str) -> Self {
        self.secrets.push(key.to_owned());
        self
    }

    /// Puts the layers together.
    ///
    /// # Errors
    /// A key that `T` does not have, a file that cannot be read, a value of the wrong type; each names
    /// the key and the file or variable.
    pub fn load<T: Default + Serialize + DeserializeOwned>(self) -> Result<Effective<T>, LoadError> {
        let defaults = flat::defaults(&T::default())?;
        let known: Vec<String> = defaults.0.iter().map(|(key, _)| key.clone()).collect();
        let mut builder = config::Config::builder().add_source(defaults);
        if let Some(path) = &self.file {
            let file = config::File::from_str(&read(path)?, FileFormat::Toml);
            let tables =
                file.collect().map_err(|why| LoadError::Syntax { file: path.clone(), why: told(&why) })?;
            let layer = Layer::from_tables(tables, &format!("file {}", path.display()));
            for (key, _) in &layer.0 {
                check_known(key, key, &known, &format!("{}", path.display()))?;
            }
            builder = builder.add_source(layer);
        }
        builder = builder.add_source(self.environment_layer(&known, &T::default())?);
        let flags = self.flags.iter().map(|(key, kind)| {
            let flag = format!("flag --{}", key.replace(['_', '.'], "-"));
            (key.clone(), Value::new(Some(&flag), kind.clone()))
        });
        let built = builder.add_source(Layer(flags.collect())).build()?;
        let origins = Layer::from_value(built.cache.clone());
        let value: T = built.try_deserialize().map_err(|error| with_place(error, &origins))?;
        print::effective(value, &origins, &self.secrets)
    }

    fn environment_layer<T: Serialize>(&self, known: &[String], defaults: &T) -> Result<Layer, LoadError> {
        let start = format!("{}__", self.prefix);
        let lists = flat::lists(defaults)?;
        let mut layer = Layer(Vec::new());
        for (variable, text) in &self.environment {
            let Some(rest) = variable.strip_prefix(&start) else { continue };
            // Scripts and units unset a variable by `NAME=`.
            if text.is_empty() {
                continue;
            }
            let key = rest.to_lowercase().replace("__", ".");
            check_known(&key, variable, known, "the environment")?;
            let origin = format!("environment {variable}");
            let kind = if lists.contains(&key) {
                let items = items(text).map_err(|why| LoadError::List {
                    key: key.clone(),
                    variable: variable.clone(),
                    value: masked_text(text),
                    why: why.to_string(),
                })?;
                ValueKind::Array(items.into_iter().map(|item| Value::new(Some(&origin), item)).collect())
            } else {
                text.as_str().into()
            };
            layer.0.push((key, Value::new(Some(&origin), kind)));
        }
        Ok(layer)
    }
}

/// The text of a file.
fn read(file: &Path) -> Result<String, LoadError> {
    let bytes = std::fs::read(file).map_err(|why| LoadError::Unreadable { file: file.to_owned(), why })?;
    let text = text::decode(&bytes).map_err(|why| LoadError::Text { file: file.to_owned(), why })?;
    Ok(text.into_owned())
}

/// Adds where the value came from, which errors of a type's own parser (a duration's, say) do not tell.
fn with_place(error: config::ConfigError, origins: &Layer) -> LoadError {
    let (config::ConfigError::At { key: Some(key), .. } | config::ConfigError::Type { key: Some(key), .. }) =
        &error
    else {
        return error.into();
    };
    let Some((key, value)) = origins.0.iter().find(|(other, _)| other == key) else { return error.into() };
    let text = told(&error);
    let mut problem = text.split(" for key `").next().unwrap_or(&text).to_owned();
    let no_integer = problem.strip_prefix("invalid type: string \"");
    if let Some(text) = no_integer.and_then(|rest| rest.strip_suffix("\", expected an integer")) {
        problem = format!("`{text}` is no whole number, and nothing is rounded; write one, such as 20,");
    }
    if problem.ends_with("expected a duration") {
        problem.push_str(", such as \"30s\", \"90m\" or \"1h 30m\"");
    }
    LoadError::Value { key: key.clone(), place: value.origin().unwrap_or("default").to_owned(), problem }
}

/// Refuses a key that is not `known`; `written` is how the user spelled it.
fn check_known(key: &str, written: &str, known: &[String], place: &str) -> Result<(), LoadError> {
    // A map's own keys are free: `labels.rack` belongs to `labels`.
    let belongs = |known: &String| {
        key == known || key.strip_prefix(known.as_str()).is_some_and(|rest| rest.starts_with('.'))
    };
    if known.iter().any(belongs) {
        return Ok(());
    }
    let distance = |known: &&String| strsim::damerau_levenshtein(key, known);
    let nearest = known.iter().min_by_key(distance).cloned().unwrap_or_default();
    Err(LoadError::UnknownKey {
        key: written.to_owned(),
        place: place.to_owned(),
        nearest,
        known: known.join(", "),
    })
}
