//! How weights move: groups, schedule, optimisers, loss scaling, and the average that is kept of them.

pub mod amp;
pub mod auto;
pub mod ema;
pub mod groups;
pub mod optimizer;
pub mod schedule;

pub use self::amp::Scaler;
pub use self::ema::Ema;
pub use self::optimizer::{Optimizer, Rule};
pub use self::schedule::{Rates, Schedule};
