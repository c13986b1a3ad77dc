//! A world of modelled agents, clients, network and store around the very scheduler core that runs live,
//! with faults drawn from one seed.
//!
//! Must not know: clocks, threads, I/O. One seed gives one run, whatever the machine.
//!
//! ```
//! let summary = trainyard_sim::simulate(&trainyard_sim::Options::new(7))?;
//! assert_eq!(summary.jobs, summary.succeeded + summary.failed + summary.cancelled);
//! # Ok::<(), trainyard_sim::Failure>(())
//! ```

pub mod cases;
mod client;
pub mod data_on_its_way;
mod driver;
pub mod engine;
pub mod fairness;
mod fault;
pub mod machine;
pub mod machine_fault;
mod network;
pub mod one_faulty_of_ten;
pub mod oracle;
pub mod orders;
pub mod rng;
pub mod store;
pub mod world;

pub use crate::oracle::Violation;
pub use crate::world::{Failure, Mutant, Options, Summary, simulate};
