//! The scheduler as a pure state machine: events in, writes and commands out.
//!
//! Must not know: clocks, randomness, I/O, async, logging. Time and new ids are arguments. The live
//! server and the simulator are two drivers of this one [`Core`].

mod changes;
pub mod config;
mod duration;
pub mod engine;
pub mod event;
mod explain;
mod gpu_name;
mod handlers;
pub mod invariants;
pub mod list;
pub mod output;
pub mod policy;
mod query;
pub mod record;
pub mod retry;
mod state;
pub mod throughput;

pub use crate::config::{CoreConfig, UserLimits};
pub use crate::engine::{Core, Stored};
pub use crate::event::{AgentStatus, Event, Hello};
pub use crate::explain::plan::Plan;
pub use crate::explain::waiting::Waiting;
pub use crate::list::{Filter, Listed};
pub use crate::output::{Accepted, Command, Output, Refusal, Subject, Write};
pub use crate::policy::{PlanOption, Policy};
pub use crate::query::{Absent, DataCheckers, UserShare};
pub use crate::record::{
    AgentRecord, AttemptRecord, Choice, ChoiceOption, Drain, Estimate, EventBody, EventRecord, JobRecord,
    JobStatusRecord, Progress, ProgressRecord, Released, Setup, Shut, Submission,
};
pub use crate::state::agents::agent::{AgentState, AgentView};
pub use crate::state::agents::availability::Closed;
pub use crate::state::counters::Counters;
pub use crate::state::fair_share::{STAKE, UserRecord};
pub use crate::state::job_group::{Axis, Content, JobGroupRecord, SWEEP_LABEL, StoredJobGroup, Sweep};
pub use crate::state::prefetches::PrefetchKind;
pub use crate::throughput::{DataRecord, Rate, ThroughputRecord, Workload};
