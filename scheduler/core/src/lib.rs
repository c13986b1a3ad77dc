//! The scheduler as a pure state machine: events in, writes and commands out.
//!
//! Must not know: clocks, randomness, I/O, async, logging. Time and new ids are arguments. The live
//! server and the simulator are two drivers of this one [`Core`].

mod advertised;
mod again;
pub mod agent;
mod attempt;
pub mod availability;
pub mod batch;
mod changes;
mod clocks;
pub mod config;
pub mod core;
mod duplicates;
mod estimate;
pub mod event;
mod fitness;
mod handing_in;
mod index;
pub mod invariants;
pub mod job;
pub mod learned;
mod limits;
pub mod list;
mod orders;
pub mod output;
mod placing;
pub mod policy;
pub mod queue;
mod quick_ends;
pub mod ranked;
pub mod record;
mod retention;
pub mod retry;
pub mod setbacks;
pub mod share;
pub mod sight;
pub mod slots;
mod spans;
pub mod tally;
pub mod waiting;

pub use crate::agent::{AgentState, AgentView};
pub use crate::availability::Closed;
pub use crate::batch::{Axis, BatchRecord, Content, StoredBatch, Sweep};
pub use crate::config::{CoreConfig, UserLimits};
pub use crate::core::{Core, Stored};
pub use crate::event::{Condition, Event, Hello};
pub use crate::learned::{LearnedRecord, Rate, Workload};
pub use crate::list::{Filter, Listed};
pub use crate::output::{Accepted, Command, Output, Refusal, Subject, Write};
pub use crate::policy::Policy;
pub use crate::record::{
    AgentRecord, AttemptRecord, Choice, ChoiceOption, Drain, Estimate, EventBody, EventRecord, JobRecord,
    Progress, Pulse, Released, Setup, Shut, Standing, Submission,
};
pub use crate::share::UserRecord;
pub use crate::waiting::Waiting;
