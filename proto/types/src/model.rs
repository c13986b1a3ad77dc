//! The five sizes of YOLOv8.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::ParseIdError;

/// A scale of the YOLOv8 detector, from nano to extra large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ModelScale {
    /// Nano, `yolov8n`.
    N,
    /// Small, `yolov8s`.
    S,
    /// Medium, `yolov8m`.
    M,
    /// Large, `yolov8l`.
    L,
    /// Extra large, `yolov8x`.
    X,
}

impl ModelScale {
    /// Every scale, the smallest first.
    pub const ALL: [Self; 5] = [Self::N, Self::S, Self::M, Self::L, Self::X];

    /// `yolov8n` and so on.
    pub const fn name(self) -> &'static str {
        match self {
            Self::N => "yolov8n",
            Self::S => "yolov8s",
            Self::M => "yolov8m",
            Self::L => "yolov8l",
            Self::X => "yolov8x",
        }
    }
}

impl fmt::Display for ModelScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ModelScale {
    type Err = ParseIdError;

    /// Takes `yolov8s` and, as users type it, `yolov8s.yaml`.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let name = text.strip_suffix(".yaml").unwrap_or(text);
        Self::ALL.into_iter().find(|scale| scale.name() == name).ok_or_else(|| ParseIdError {
            text: text.to_owned(),
            expected: "a model (one of yolov8n, yolov8s, yolov8m, yolov8l, yolov8x)",
        })
    }
}

impl TryFrom<String> for ModelScale {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl From<ModelScale> for String {
    fn from(scale: ModelScale) -> Self {
        scale.name().to_owned()
    }
}
