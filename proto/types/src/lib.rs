//! The plain data that every part of Trainyard speaks of: ids, specs, GPUs, and the contract between
//! the agent and the trainer.
//!
//! Must not know: gRPC, Redis, tokio, libtorch. Everything here parses and prints, nothing acts.

pub mod batch_ladder;
pub mod cuda_support;
pub mod data_check;
pub mod datasheet;
pub mod environment;
pub mod faults;
pub mod fit;
pub mod fitness;
pub mod gpu;
pub mod habit;
pub mod ids;
pub mod job;
pub mod labels;
pub mod model;
pub mod oom_words;
pub mod reference;
pub mod report;
pub mod size;
pub mod size_limit;
pub mod text;
pub mod time;
pub mod train;
pub mod trainer;
pub mod violation;

pub use data_check::{DataCheck, DataToCheck};
pub use fit::{FitKey, FitRecord};
pub use fitness::{DataRoot, Fitness, Prefetching, Unfit, UnfitKind};
pub use gpu::{DeviceKind, Gpu, GpuTelemetry, Inventory, Unavailable, UnavailableCause};
pub use ids::{AgentId, AttemptId, GpuUuid, JobGroupId, JobId, LeaderEpoch, ParseIdError, Session};
pub use job::{EndReason, JobSpec, JobState, Resources};
pub use model::ModelScale;
pub use reference::{Reference, ReferenceError};
pub use report::{
    Artifact, Assignment, BatchChosen, BatchLayer, Checkpoint, Ended, Fetching, Report, ReportBody, Slot,
    SlotReleased,
};
pub use size_limit::SizeLimit;
pub use time::Time;
pub use train::{Batch, Cache, Optimizer, TrainPatch, TrainSpec};
pub use violation::Violation;
