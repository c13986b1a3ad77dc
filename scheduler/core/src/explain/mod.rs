//! Why something is as it is, in words for people. Nothing is decided here.

pub(crate) mod availability;
pub(crate) mod estimates;
pub(crate) mod notices;
pub(crate) mod paths;
pub(crate) mod plan;
pub(crate) mod waiting;
