//! A queue that a live cluster has been through, beside what another policy would have made of it.
//!
//! What is compared with is what happened; the other side is simulated, with the speeds that jobs showed and
//! without the faults that they met.

use std::collections::BTreeMap;

use super::parse::Table;
use super::{Case, Figures, ParseError, Schedule};

/// When each job of a case began and ended, in the case's order.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedRun {
    ends: Vec<(f64, f64)>,
}

/// A job that would have ended at another time. Times are in hours since its submission.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangedJob<'a> {
    pub id: &'a str,
    pub user: &'a str,
    /// The schedule as it was.
    pub was_h: f64,
    /// As it would have been.
    pub would_be_h: f64,
}

impl RecordedRun {
    /// Reads `ran.csv`, which has a row for each job of the case.
    ///
    /// # Errors
    /// A column or a job is missing, or a field cannot be read.
    pub fn parse(text: &str, case: &Case) -> Result<Self, ParseError> {
        let table = Table::new("ran.csv", text);
        let mut by_id = BTreeMap::new();
        for (line, row) in table.rows() {
            let number = |name| table.number(line, row, name, false);
            by_id.insert(table.text(row, "job_id")?, (number("start_s")?, number("end_s")?));
        }
        let of = |id: &str| {
            let missing = || ParseError::Job { file: "ran.csv", job: id.to_owned() };
            by_id.get(id).copied().ok_or_else(missing)
        };
        Ok(Self { ends: case.jobs.iter().map(|job| of(&job.id)).collect::<Result<_, _>>()? })
    }

    /// How good a schedule was.
    pub fn figures(&self, case: &Case) -> Figures {
        let spans: Vec<(f64, f64)> = case
            .jobs
            .iter()
            .zip(&self.ends)
            .map(|(job, (start, end))| (end - job.submit_s, start - job.submit_s))
            .collect();
        Figures::of(case, &spans, 0.0)
    }

    /// The jobs for which the schedule makes the largest difference, either way.
    pub fn changed<'a>(&self, case: &'a Case, schedule: &Schedule, most: usize) -> Vec<ChangedJob<'a>> {
        let mut ends = vec![0.0_f64; case.jobs.len()];
        for row in &schedule.rows {
            ends[row.job] = ends[row.job].max(row.end_ms as f64 / 1000.0);
        }
        let mut changed: Vec<ChangedJob<'_>> = case
            .jobs
            .iter()
            .zip(self.ends.iter().zip(&ends))
            .map(|(job, ((_, was), would_be))| ChangedJob {
                id: &job.id,
                user: &job.user,
                was_h: (was - job.submit_s) / 3600.0,
                would_be_h: (would_be - job.submit_s) / 3600.0,
            })
            .collect();
        let difference = |changed: &ChangedJob<'_>| (changed.would_be_h - changed.was_h).abs();
        changed.sort_by(|a, b| difference(b).total_cmp(&difference(a)));
        changed.truncate(most);
        changed
    }
}

#[cfg(test)]
mod tests {
    use trainyard_scheduler_core::{CoreConfig, Policy};

    use super::*;
    use crate::cases::drive;

    const CLUSTER: &str = "gpu_model,vram_gb,nodes,gpus_per_node\nrtx4090,24,1,1\n";
    const JOBS: &str = "job_id,user,submit_s,gpus,min_vram_gb,priority,work_units,ckpt_units,declared_units,\
                        job_kind,tput_rtx4090\n\
                        long,ada,0,1,0,0,720000,7200,720000,yolov8n-640,100\n\
                        short,bob,10,1,0,0,36000,7200,36000,yolov8n-640,100\n";

    #[test]
    fn a_short_job_that_waited_behind_a_long_one_would_have_ended_hours_earlier() {
        let case = Case::parse(CLUSTER, JOBS, 30.0).unwrap();
        // First come, first served: the short one begins when the long one is done.
        let ran = "job_id,start_s,end_s\nshort,7200,7560\nlong,0,7200\n";
        let ran = RecordedRun::parse(ran, &case).unwrap();
        let was = ran.figures(&case);
        assert!((was.mean_h - (7200.0 + 7550.0) / 7200.0).abs() < 1e-9, "{was:?}");
        assert!((was.longest_wait_h - 7190.0 / 3600.0).abs() < 1e-9, "{was:?}");
        let config = CoreConfig { policy: Policy::FinishTime, ..CoreConfig::default() };
        let schedule = drive(&case, config).unwrap();
        let changed = ran.changed(&case, &schedule, 1);
        assert_eq!((changed[0].id, changed[0].user), ("short", "bob"));
        assert!(changed[0].would_be_h < changed[0].was_h / 2.0, "{changed:?}");
        assert!(schedule.figures(&case).mean_h < was.mean_h);
    }

    #[test]
    fn a_job_without_a_row_is_named() {
        let case = Case::parse(CLUSTER, JOBS, 30.0).unwrap();
        let error = RecordedRun::parse("job_id,start_s,end_s\nlong,0,7200\n", &case).unwrap_err();
        assert_eq!(error.to_string(), "ran.csv has no row for job `short`");
    }
}
