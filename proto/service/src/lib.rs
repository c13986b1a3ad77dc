//! What an installed program has to do with the system around it: it tells the service manager how it is, reads its
//! configuration anew when it is asked to, and prints its manual.
//!
//! Must not know: what the programs do.

mod command_line;
pub mod installed;
mod log_filter;
mod manager;
mod manual;

pub use command_line::{parse, try_parse_from};
pub use log_filter::LogFilter;
pub use manager::{ServiceManager, Watchdog};
pub use manual::Manual;
