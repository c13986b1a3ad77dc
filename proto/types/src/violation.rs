//! One bad field of a request.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Names a field, says what is wrong with its value and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Path from the root of the message, `spec.train.epochs`.
    pub field: String,
    /// A sentence for a person: the value, what is wrong, the way out.
    pub description: String,
}

impl Violation {
    /// `field` relative to the message that is being checked.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }

    /// The same violation, seen from the message that holds this one as `prefix`.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        self.field = format!("{prefix}.{}", self.field);
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.description)
    }
}
