//! How weights move: groups, schedule, SGD, loss scaling, and the average that is kept of them.

pub mod amp;
pub mod ema;
pub mod groups;
pub mod schedule;
pub mod sgd;

pub use self::amp::Scaler;
pub use self::ema::Ema;
pub use self::schedule::{Rates, Schedule};
pub use self::sgd::Sgd;
