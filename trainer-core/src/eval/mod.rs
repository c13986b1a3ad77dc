//! From decoded predictions to detections, and from detections to mAP. Knows nothing of tensors.

pub mod ap;
pub mod confusion;
pub mod logit_scores;
pub mod map;
pub mod nms;

pub use self::confusion::Confusion;
pub use self::logit_scores::LogitScores;
pub use self::map::{ClassMetrics, Evaluator, Metrics};
pub use self::nms::{Detection, NmsConfig, suppress, suppress_logits};
