//! The effective configuration for a person: each value with where it came from, secrets masked.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde::Serialize;
use serde_json::Value;

use crate::LoadError;
use crate::flat::{self, Layer};
use crate::mask::{MASK, masked};

/// A configuration and where each of its values came from. `Display` prints one `key = value  # source`
/// a line, which is valid TOML again but for masked secrets and unset keys.
#[derive(Debug, Clone)]
pub struct Effective<T> {
    /// What the program uses.
    pub value: T,
    /// One entry a key, sorted; secrets are masked already.
    pub settings: Vec<Setting>,
}

/// One effective value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The path of the key, with dots between its parts.
    pub key: String,
    /// JSON, which TOML reads the same for what configurations hold; `None` when unset.
    pub value: Option<String>,
    /// `default`, `file PATH`, `environment VARIABLE` or `flag --NAME`.
    pub source: String,
    /// Of the value as it is, masked or not.
    digest: u64,
}

impl<T> Effective<T> {
    /// The keys whose values are others in `newer`, sorted.
    pub fn changed(&self, newer: &Self) -> Vec<String> {
        let is_new = |setting: &&Setting| {
            let old = self.settings.iter().find(|old| old.key == setting.key);
            old.is_none_or(|old| old.digest != setting.digest)
        };
        newer.settings.iter().filter(is_new).map(|setting| setting.key.clone()).collect()
    }
}

/// Pairs what the program uses with the origins of the layers' values.
pub fn effective<T: Serialize>(
    value: T,
    origins: &Layer,
    secrets: &[String],
) -> Result<Effective<T>, LoadError> {
    let settings = flat::json(&value)?.into_iter().map(|(key, json)| {
        let origin = origins.0.iter().find(|(other, _)| *other == key).and_then(|(_, value)| value.origin());
        let source = origin.unwrap_or("default").to_owned();
        let mut hasher = DefaultHasher::new();
        json.to_string().hash(&mut hasher);
        let digest = hasher.finish();
        let value = match json {
            Value::Null => None,
            _ if secrets.contains(&key) => Some(format!("\"{MASK}\"")),
            json => Some(without_secrets(json).to_string()),
        };
        Setting { key, value, source, digest }
    });
    let mut settings: Vec<Setting> = settings.collect();
    settings.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(Effective { value, settings })
}

/// A value whose texts, and those in it, have no secrets.
fn without_secrets(value: Value) -> Value {
    match value {
        Value::String(text) => masked(&text).into(),
        Value::Array(items) => items.into_iter().map(without_secrets).collect(),
        // Keys of their own: what is below a map is flattened.
        other => other,
    }
}

impl<T> fmt::Display for Effective<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<(String, &str)> = self.settings.iter().map(line).collect();
        let width = lines.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0).min(60);
        for (text, source) in lines {
            writeln!(f, "{text:width$}  # {source}")?;
        }
        Ok(())
    }
}

fn line(setting: &Setting) -> (String, &str) {
    let text = match &setting.value {
        Some(value) => format!("{} = {value}", setting.key),
        None => format!("# {} is not set", setting.key),
    };
    (text, &setting.source)
}
