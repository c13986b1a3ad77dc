//! What the queue means for people: who has had how much, and what would become of a job that is not queued yet.

use std::cmp::Reverse;

use trainyard_proto::convert::job::{duration, timestamp};
use trainyard_proto::pb;
use trainyard_scheduler_core::{Plan, PlanOption, UserShare};
use trainyard_types::{Batch, JobSpec, TrainSpec};

use super::words;
use crate::access::Caller;
use crate::driver::StateView;

/// The shares of all users whom a caller sees.
pub fn shares(state: &StateView<'_>, caller: &Caller) -> pb::ListUserSharesResponse {
    let mut all = state.core.user_shares(state.now);
    let sum: f64 = all.iter().map(|share| share.gpu_time.as_secs_f64()).sum();
    all.retain(|share| caller.sees(&share.name));
    all.sort_by_key(|share| Reverse(share.gpu_time));
    pb::ListUserSharesResponse { users: all.iter().map(|share| shown(share, sum)).collect() }
}

/// A user's share for people; `sum` is the GPU-time of all users, in seconds.
fn shown(share: &UserShare, sum: f64) -> pb::UserShare {
    let UserShare { name, gpu_time, weight, penalty, queued_jobs, gpus, cpu_slots } = share;
    pb::UserShare {
        user: name.clone(),
        gpu_time: Some(duration(*gpu_time)),
        share: if sum > 0.0 { gpu_time.as_secs_f64() / sum } else { 0.0 },
        weight: *weight,
        penalty: *penalty,
        queued_jobs: u32::try_from(*queued_jobs).unwrap_or(u32::MAX),
        gpus: *gpus,
        cpu_slots: *cpu_slots,
    }
}

/// What would become of a user's job if it were submitted now.
pub fn plan(state: &StateView<'_>, user: &str, spec: JobSpec) -> pb::Plan {
    let train = spec.train.clone();
    let Plan { options, start, end, waiting_for } = state.core.plan(state.now, user, spec);
    let shown = |option: PlanOption| pb::PlanOption {
        batch_size: batch_size(state, &train, &option.device),
        device: option.device,
        free: option.free,
        total: option.total,
        waits: option.waits.map(duration),
        takes: option.takes.map(duration),
        measured: option.measured,
    };
    pb::Plan {
        options: options.into_iter().map(shown).collect(),
        start_time: start.map(timestamp),
        end_time: end.map(timestamp),
        waiting_sentence: words::waiting(&waiting_for),
    }
}

/// The batch size that a run is expected to have on a device: the one that was asked for, or the largest that such a run
/// was measured with; 0 while none is known.
fn batch_size(state: &StateView<'_>, train: &TrainSpec, device: &str) -> u32 {
    if let Batch::Size(asked) = train.batch {
        return asked;
    }
    if matches!(train.batch, Batch::Share(_)) {
        return 0;
    }
    let records = state.core.agents().flat_map(|agent| agent.fit_records());
    let is_such = |record: &&trainyard_types::FitRecord| {
        let key = &record.key;
        key.device == device
            && (key.model, key.imgsz, key.multi_scale) == (train.model, train.imgsz, train.multi_scale)
            && (key.precision != "fp32") == train.amp
    };
    records.filter(is_such).map(|record| record.batch_size).max().unwrap_or(0)
}
