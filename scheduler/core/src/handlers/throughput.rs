//! What reports tell of throughput: speeds, sizes of data sets, and when jobs stop.

use trainyard_types::{Cache, JobId, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::output::Write;
use crate::policy::Change;
use crate::record::JobRecord;
use crate::throughput::{Observation, RunPart, ThroughputRecord, Workload};

impl Core {
    /// Takes in what a trainer told, after its job did.
    pub(crate) fn observe_throughput(
        &mut self,
        now: Time,
        id: JobId,
        observation: Observation,
        out: &mut Changes,
    ) {
        let Some(job) = self.jobs.get(id) else { return };
        match observation {
            Observation::Nothing => return,
            Observation::Progress => {}
            Observation::Images(images) => {
                if let Some((record, forgotten)) = self.throughput.count(&job.full_spec().train, images) {
                    out.write(Write::Throughput(record));
                    out.write_all(forgotten.map(Write::ForgetThroughput));
                }
            }
            Observation::Rate(rate, part) => {
                let device = job.live_attempt().map_or("", |attempt| attempt.device.as_str());
                let workload = Workload::from(&*job.full_spec());
                let record = self.throughput.rates.observe(workload, device, rate, part.weight());
                out.write_all(record.map(|record| Write::Throughput(ThroughputRecord::Rate(record))));
                if part == RunPart::SecondEpoch
                    && let Some(first) = cold_rate(job)
                {
                    let record = self.throughput.cold_cache.observe(first, rate);
                    out.write_all(record.map(|record| Write::Throughput(ThroughputRecord::Cold(record))));
                }
            }
        }
        self.tell_policy(now, &Change::Progress(id));
    }

    /// A job came to an end of its own: did it do all of its epochs?
    pub(crate) fn observe_end(&mut self, id: JobId, out: &mut Changes) {
        let Some(progress) = self.jobs.get(id).and_then(|job| job.progress.as_ref()) else { return };
        let share = f64::from(progress.epoch) / f64::from(progress.epochs.max(1));
        out.write(Write::Throughput(ThroughputRecord::Stops(self.throughput.early_stops.end(share))));
    }
}

/// Images a second of a live attempt's first epoch, if that filled the disk cache.
fn cold_rate(job: &JobRecord) -> Option<f64> {
    let attempt = job.live_attempt()?;
    let is_cold = attempt.id.number == 1 && !attempt.warm && job.spec.train.cache == Cache::Disk;
    let setup = attempt.setup.as_ref().filter(|setup| is_cold && setup.first_rate > 0.0)?;
    Some(setup.first_rate)
}
