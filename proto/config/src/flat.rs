//! Tables of configuration as flat lists of dotted keys, which is how they are checked and printed.

use config::{ConfigError, Map, Source, Value, ValueKind};
use serde::Serialize;

use crate::LoadError;

/// One source's values under dotted keys, sorted.
#[derive(Debug, Clone)]
pub struct Layer(pub Vec<(String, Value)>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.iter().cloned().collect())
    }
}

impl Layer {
    /// Flattens `tables` and says that all of it comes from `origin`.
    pub fn from_tables(tables: Map<String, Value>, origin: &str) -> Self {
        let mut layer = Self::from_value(Value::new(None, ValueKind::Table(tables)));
        for (_, value) in &mut layer.0 {
            *value = Value::new(Some(&origin.to_owned()), unrounded(value.kind.clone()));
        }
        layer
    }

    /// Flattens `value` and keeps the origins that it has.
    pub fn from_value(value: Value) -> Self {
        let mut flat = Vec::new();
        flatten("", value, &mut flat);
        flat.sort_by(|a, b| a.0.cmp(&b.0));
        Self(flat)
    }
}

/// Numbers with a point as texts, as the environment has them: `config` rounds a number for an integer, and refuses a text.
fn unrounded(kind: ValueKind) -> ValueKind {
    match kind {
        ValueKind::Float(number) => number.to_string().into(),
        ValueKind::Array(items) => {
            let item = |item: Value| {
                let origin = item.origin().map(str::to_owned);
                Value::new(origin.as_ref(), unrounded(item.kind))
            };
            ValueKind::Array(items.into_iter().map(item).collect())
        }
        other => other,
    }
}

fn flatten(prefix: &str, value: Value, flat: &mut Vec<(String, Value)>) {
    match value.kind {
        ValueKind::Table(table) if prefix.is_empty() || !table.is_empty() => {
            for (key, value) in table {
                let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                flatten(&key, value, flat);
            }
        }
        _ => flat.push((prefix.to_owned(), value)),
    }
}

/// Every key that a program has, with its default.
pub fn defaults<T: Serialize>(defaults: &T) -> Result<Layer, LoadError> {
    let origin = "default".to_owned();
    let flat = json(defaults)?;
    Ok(Layer(flat.into_iter().map(|(key, value)| (key, from_json(&origin, value))).collect()))
}

/// The keys whose values are lists.
pub fn lists<T: Serialize>(defaults: &T) -> Result<Vec<String>, LoadError> {
    Ok(json(defaults)?.into_iter().filter(|(_, value)| value.is_array()).map(|(key, _)| key).collect())
}

/// A configuration as dotted keys and JSON values, in the order of the struct's fields where JSON keeps it.
pub fn json<T: Serialize>(config: &T) -> Result<Vec<(String, serde_json::Value)>, LoadError> {
    fn walk(prefix: &str, value: serde_json::Value, flat: &mut Vec<(String, serde_json::Value)>) {
        match value {
            serde_json::Value::Object(table) if !table.is_empty() => {
                for (key, value) in table {
                    let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                    walk(&key, value, flat);
                }
            }
            value => flat.push((prefix.to_owned(), value)),
        }
    }
    let value = serde_json::to_value(config).map_err(|error| LoadError::Defaults(error.to_string()))?;
    if !value.is_object() {
        return Err(LoadError::Defaults(value.to_string()));
    }
    let mut flat = Vec::new();
    walk("", value, &mut flat);
    Ok(flat)
}

fn from_json(origin: &String, value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => ValueKind::Nil,
        serde_json::Value::Bool(value) => value.into(),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(real)) => real.into(),
            (None, None) => number.to_string().into(),
        },
        serde_json::Value::String(text) => text.into(),
        serde_json::Value::Array(items) => {
            ValueKind::Array(items.into_iter().map(|item| from_json(origin, item)).collect())
        }
        serde_json::Value::Object(table) => {
            ValueKind::Table(table.into_iter().map(|(key, value)| (key, from_json(origin, value))).collect())
        }
    };
    Value::new(Some(origin), kind)
}
