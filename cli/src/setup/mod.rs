//! A service of systemd: what there is on this machine, what follows from it, and the doing.
//!
//! Must not know: the programs. It has their units and configurations, which the packages have as well.

pub mod execute;
pub mod machine;
pub mod plan;
pub mod unit;
