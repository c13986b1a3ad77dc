//! Recorded and generated queues of a whole cluster, to judge policies by: read, driven through the very core
//! that the server runs, and checked.
//!
//! Must not know files; texts come in and go out.

mod drive;
mod parse;
mod replay;
mod schedule;

pub use self::drive::{DriveError, drive};
pub use self::parse::{Case, CaseJob, Nodes, ParseError};
pub use self::replay::{ChangedJob, RecordedRun};
pub use self::schedule::{Figures, Schedule, ScheduleError, ScheduleRow};
