//! The scheduler as a pure state machine: events in, writes and commands out.
//!
//! Must not know: clocks, randomness, I/O, async, logging. Time and new ids are arguments. The live
//! server and the simulator are two drivers of this one [`Core`].

pub mod agent;
mod attempt;
mod changes;
pub mod config;
pub mod core;
pub mod event;
pub mod invariants;
pub mod job;
pub mod output;
pub mod placement;
pub mod queue;
pub mod record;
pub mod retry;
pub mod slots;
pub mod waiting;

pub use crate::agent::{AgentState, AgentView};
pub use crate::config::CoreConfig;
pub use crate::core::Core;
pub use crate::event::{Event, Hello};
pub use crate::output::{Accepted, Command, Output, Refusal, Write};
pub use crate::record::{AgentRecord, AttemptRecord, EventBody, EventRecord, JobRecord, Progress};
pub use crate::waiting::Waiting;
