//! What a policy made of a case: which attempt ran where and when, whether that is possible, and how good it is.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::cases::{Case, CaseJob};

/// One attempt of a schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRow {
    pub job: usize,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// `MODEL-INDEX`.
    pub node: String,
    /// The GPUs' model.
    pub gpu_model: String,
    /// In milliseconds since the case began.
    pub start_ms: u64,
    /// When it ended, in milliseconds.
    pub end_ms: u64,
    /// Work that was kept.
    pub work_done: f64,
}

/// All attempts, by their ends.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Schedule {
    /// One row for each attempt.
    pub rows: Vec<ScheduleRow>,
}

/// A schedule that cannot have happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// More GPUs in use than there are.
    #[error("{used} GPUs of {node} are in use at {at_ms} ms")]
    Capacity {
        node: String,
        /// GPUs in use.
        used: u32,
        at_ms: u64,
    },
    /// A job on a GPU that cannot run it, or on a machine that does not exist.
    #[error("job {job} cannot run on {node}")]
    Place { job: String, node: String },
    /// Attempts that overlap, are misnumbered, begin before the job came, or go on after its end.
    #[error("attempt {attempt} of job {job} is out of order")]
    Order { job: String, attempt: u32 },
    /// More work than the time allows, or none that a checkpoint holds.
    #[error("attempt {attempt} of job {job} keeps {work} of work")]
    Work {
        job: String,
        attempt: u32,
        /// The amount, rounded.
        work: u64,
    },
    /// A job that never ended.
    #[error("job {0} is not finished")]
    Unfinished(String),
}

/// How good a schedule is. Times are in hours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// From submission to end, on average.
    pub mean_h: f64,
    /// Ninety-five of a hundred jobs are done within this.
    pub p95_h: f64,
    /// Hours within which ninety-nine of a hundred jobs were done.
    pub p99_h: f64,
    /// Jain's index of the users' mean slowdowns, against each job alone on its best GPU.
    pub jain: f64,
    /// The worst user's mean slowdown over the mean.
    pub worst_user: f64,
    /// Attempts beyond the first, for each job.
    pub restarts: f64,
    /// The longest that a job spent off any GPU.
    pub longest_wait_h: f64,
}

impl Schedule {
    /// As the checker reads it.
    pub fn csv(&self, case: &Case) -> String {
        let mut text = "job_id,attempt,node,gpu_model,start_s,end_s,work_done\n".to_owned();
        for row in &self.rows {
            let id = &case.jobs[row.job].id;
            let ScheduleRow { attempt, node, gpu_model, start_ms, end_ms, work_done, .. } = row;
            let (start, end) = (*start_ms as f64 / 1000.0, *end_ms as f64 / 1000.0);
            let line = writeln!(text, "{id},{attempt},{node},{gpu_model},{start:.3},{end:.3},{work_done}");
            line.expect("a String takes all that is written");
        }
        text
    }

    /// The attempts of each job, in order.
    fn by_job<'a>(&'a self, case: &Case) -> Vec<Vec<&'a ScheduleRow>> {
        let mut of = vec![Vec::new(); case.jobs.len()];
        for row in &self.rows {
            of[row.job].push(row);
        }
        for rows in &mut of {
            rows.sort_by_key(|row| row.start_ms);
        }
        of
    }

    /// Whether it can have happened.
    ///
    /// # Errors
    /// The schedule cannot have happened.
    pub fn check(&self, case: &Case) -> Result<(), ScheduleError> {
        let mut changes: BTreeMap<(&str, u64, bool), i64> = BTreeMap::new();
        for row in &self.rows {
            let job = &case.jobs[row.job];
            let nodes = case.cluster.iter().find(|nodes| nodes.gpu_model == row.gpu_model);
            let index = row.node.strip_prefix(&row.gpu_model).and_then(|rest| rest.strip_prefix('-'));
            let exists = nodes
                .zip(index.and_then(|index| index.parse::<u32>().ok()))
                .is_some_and(|(nodes, index)| index < nodes.nodes);
            if !exists || !job.rates.contains_key(&row.gpu_model) {
                return Err(ScheduleError::Place { job: job.id.clone(), node: row.node.clone() });
            }
            // What ends makes room for what begins at the same time.
            *changes.entry((&row.node, row.start_ms, true)).or_default() += i64::from(job.gpus);
            *changes.entry((&row.node, row.end_ms, false)).or_default() -= i64::from(job.gpus);
        }
        let mut used: BTreeMap<&str, i64> = BTreeMap::new();
        for ((node, at_ms, _), change) in changes {
            let now = used.entry(node).or_default();
            *now += change;
            let has = case
                .cluster
                .iter()
                .find(|nodes| node.strip_prefix(&nodes.gpu_model).is_some_and(|rest| rest.starts_with('-')));
            if *now > has.map_or(0, |nodes| i64::from(nodes.gpus_per_node)) {
                let used = u32::try_from(*now).unwrap_or(u32::MAX);
                return Err(ScheduleError::Capacity { node: node.to_owned(), used, at_ms });
            }
        }
        for (job, rows) in case.jobs.iter().zip(self.by_job(case)) {
            check_job(job, &rows, case.restart_s)?;
        }
        Ok(())
    }

    /// How good it is; every job is finished.
    pub fn figures(&self, case: &Case) -> Figures {
        let spans: Vec<(f64, f64)> = case
            .jobs
            .iter()
            .zip(self.by_job(case))
            .map(|(job, rows)| {
                let end = rows.last().map_or(0.0, |row| row.end_ms as f64 / 1000.0);
                let ran: f64 = rows.iter().map(|row| (row.end_ms - row.start_ms) as f64 / 1000.0).sum();
                (end - job.submit_s, end - job.submit_s - ran)
            })
            .collect();
        let jobs = case.jobs.len().max(1) as f64;
        Figures::of(case, &spans, (self.rows.len() as f64 - jobs) / jobs)
    }
}

impl Figures {
    /// From how long each job took from its submission to its end, and how long it was on no GPU, in seconds.
    pub(super) fn of(case: &Case, spans: &[(f64, f64)], restarts: f64) -> Self {
        let (mut hours, mut slowdowns, mut longest) = (Vec::new(), Vec::new(), 0.0_f64);
        let mut users: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for (job, &(span, waited)) in case.jobs.iter().zip(spans) {
            let best = job.rates.values().copied().fold(0.0, f64::max);
            let slowdown = (span / (job.work_units / best).max(60.0)).max(1.0);
            hours.push(span / 3600.0);
            slowdowns.push(slowdown);
            longest = longest.max(waited / 3600.0);
            let (sum, count) = users.entry(&job.user).or_default();
            (*sum, *count) = (*sum + slowdown, *count + 1.0);
        }
        let means: Vec<f64> = users.values().map(|(sum, count)| sum / count).collect();
        let squares: f64 = means.iter().map(|mean| mean * mean).sum();
        let jobs = hours.len().max(1) as f64;
        let mean_h = hours.iter().sum::<f64>() / jobs;
        hours.sort_by(f64::total_cmp);
        Self {
            mean_h,
            p95_h: quantile(&hours, 0.95),
            p99_h: quantile(&hours, 0.99),
            jain: means.iter().sum::<f64>().powi(2) / (means.len().max(1) as f64 * squares),
            worst_user: means.iter().copied().fold(0.0, f64::max) / (slowdowns.iter().sum::<f64>() / jobs),
            restarts,
            longest_wait_h: longest,
        }
    }
}

fn check_job(job: &CaseJob, rows: &[&ScheduleRow], restart_s: f64) -> Result<(), ScheduleError> {
    let (mut done, mut free_at) = (0.0, job.submit_s * 1000.0);
    for (index, row) in rows.iter().enumerate() {
        let attempt = row.attempt;
        let is_over = done >= job.work_units * (1.0 - 1e-6);
        let is_next = usize::try_from(attempt) == Ok(index + 1);
        // A time is written in whole milliseconds.
        if is_over || !is_next || (row.start_ms as f64) < free_at - 1.0 || row.end_ms < row.start_ms {
            return Err(ScheduleError::Order { job: job.id.clone(), attempt });
        }
        free_at = row.end_ms as f64;
        let warm = if index == 0 { 0.0 } else { restart_s };
        let span = ((row.end_ms - row.start_ms) as f64 / 1000.0 - warm).max(0.0);
        let rate = job.rates.get(&row.gpu_model).copied().unwrap_or(0.0);
        done += row.work_done;
        let checkpoints = done / job.ckpt_units;
        let is_kept = done >= job.work_units * (1.0 - 1e-6)
            || (checkpoints - checkpoints.round()).abs() < 1e-4 * checkpoints.max(1.0).sqrt();
        if row.work_done > span * rate * (1.0 + 1e-6) + rate * 2e-3 || row.work_done < 0.0 || !is_kept {
            let work = row.work_done.max(0.0) as u64;
            return Err(ScheduleError::Work { job: job.id.clone(), attempt, work });
        }
    }
    if done >= job.work_units * (1.0 - 1e-6) {
        Ok(())
    } else {
        Err(ScheduleError::Unfinished(job.id.clone()))
    }
}

/// Between the two nearest values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = sorted.len().saturating_sub(1) as f64 * share;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    match (sorted.get(below), sorted.get(above)) {
        (Some(low), Some(high)) => low + (high - low) * (at - at.floor()),
        _ => 0.0,
    }
}
