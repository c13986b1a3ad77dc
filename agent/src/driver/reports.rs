//! The spools of all attempts: reports are written to the disk, sent from there, and removed when the scheduler has
//! stored them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{error, info, warn};
use trainyard_proto::pb;
use trainyard_proto::pb::agent_message::Message as ToScheduler;
use trainyard_types::{AttemptId, JobId, ReportBody, Time};

use crate::disk::job_dir::JobDir;
use crate::message::agent_message;
use crate::report::spool::pending::PendingReports;
use crate::report::spool::{Spool, SpoolError};

/// How soon a report that the disk refused is tried again.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The reports that the scheduler has not stored yet.
pub struct Reports {
    data_dir: PathBuf,
    /// Bytes that the spool of one attempt may take.
    quota_bytes: u64,
    /// Where reports are sent; `None` while there is no scheduler.
    out: Option<mpsc::Sender<pb::AgentMessage>>,
    spools: BTreeMap<AttemptId, Spool>,
    /// Attempts whose spool cannot be opened; it is tried again and again.
    unopened: BTreeSet<AttemptId>,
    /// Reports that the disk refused.
    pending: PendingReports,
}

impl Reports {
    /// The reports of an agent that has none.
    pub fn new(data_dir: PathBuf, quota_bytes: u64) -> Self {
        Self {
            data_dir,
            quota_bytes,
            out: None,
            spools: BTreeMap::new(),
            unopened: BTreeSet::new(),
            pending: PendingReports::default(),
        }
    }

    fn job_dir(&self, attempt: AttemptId) -> JobDir {
        JobDir::new(&self.data_dir, attempt.job)
    }

    fn open(&self, attempt: AttemptId) -> Result<Spool, SpoolError> {
        Spool::open(&self.job_dir(attempt).spool(attempt.number), attempt, self.quota_bytes)
    }

    /// Takes over the spool of a former process. Returns whether the attempt's end is in it, as far as is known.
    pub fn recover(&mut self, attempt: AttemptId) -> bool {
        match self.open(attempt) {
            Ok(spool) => {
                let ended = spool.has_ended();
                self.spools.insert(attempt, spool);
                ended
            }
            Err(error) => {
                error!(%attempt, %error, "cannot open a spool; it is tried again");
                self.unopened.insert(attempt);
                true // Whether it is there is seen when the spool can be read.
            }
        }
    }

    /// Sends reports into `out` from now on, beginning with those that the scheduler has not stored.
    pub fn connect(&mut self, out: mpsc::Sender<pb::AgentMessage>) {
        self.out = Some(out);
        self.spools.values_mut().for_each(Spool::rewind);
    }

    /// Sends nothing until the next connection.
    pub fn disconnect(&mut self) {
        self.out = None;
    }

    /// Writes a report to its spool; one that the disk refuses waits.
    pub fn write(&mut self, attempt: AttemptId, time: Time, body: ReportBody) {
        if let ReportBody::Ended(ended) = &body {
            info!(%attempt, reason = %ended.reason, told = ended.message, "attempt ended");
        }
        // A later report stays behind those that wait.
        let waits = self.pending.waits(attempt);
        let written = if waits { Ok(()) } else { self.try_write(attempt, time, body.clone()) };
        if let Err(error) = &written {
            error!(%attempt, %error, "cannot write a report; it is tried again");
        }
        if waits || written.is_err() {
            self.pending.push(attempt, time, body);
        }
    }

    fn try_write(&mut self, attempt: AttemptId, time: Time, body: ReportBody) -> Result<(), SpoolError> {
        if let Some(spool) = self.spools.get_mut(&attempt) {
            return spool.append(time, body);
        }
        // Where this fails, opening the spool fails.
        let _made = self.job_dir(attempt).create();
        let mut spool = self.open(attempt)?;
        let appended = spool.append(time, body);
        self.unopened.remove(&attempt);
        self.spools.insert(attempt, spool);
        appended
    }

    /// Whether something must be tried again.
    pub fn must_retry(&self) -> bool {
        !self.pending.is_empty() || !self.unopened.is_empty()
    }

    /// Tries again what the disk refused. Returns the attempts whose spool can be read again and has no end.
    pub fn retry(&mut self) -> Vec<AttemptId> {
        let mut reopened = Vec::new();
        for attempt in self.unopened.clone() {
            if let Ok(spool) = self.open(attempt) {
                info!(%attempt, "a spool can be read again");
                self.unopened.remove(&attempt);
                self.spools.insert(attempt, spool);
                reopened.push(attempt);
            }
        }
        for (attempt, time, body) in self.pending.take() {
            self.write(attempt, time, body);
        }
        let has_end = |attempt: &AttemptId| self.spools.get(attempt).is_some_and(Spool::has_ended);
        reopened.retain(|attempt| !has_end(attempt) && !self.pending.waits(*attempt));
        reopened
    }

    /// Takes that the scheduler has stored the reports of `attempt` up to `sequence`. Returns whether these are all.
    pub fn acked(&mut self, attempt: AttemptId, sequence: u64) -> bool {
        let Some(spool) = self.spools.get_mut(&attempt) else { return false };
        if let Err(error) = spool.ack(sequence) {
            warn!(%attempt, %error, "cannot trim a spool");
        }
        spool.is_acked()
    }

    /// Whether reports of a job are not stored by the scheduler.
    pub fn needs(&self, job: JobId) -> bool {
        self.spools.keys().chain(&self.unopened).any(|attempt| attempt.job == job)
    }

    /// Deletes the reports of an attempt.
    pub fn delete(&mut self, attempt: AttemptId) {
        self.pending.forget(attempt);
        if self.unopened.remove(&attempt)
            && let Err(error) = std::fs::remove_file(self.job_dir(attempt).spool(attempt.number))
        {
            warn!(%attempt, %error, "cannot delete a spool");
        }
        if let Some(spool) = self.spools.remove(&attempt)
            && let Err(error) = spool.delete()
        {
            warn!(%attempt, %error, "cannot delete a spool");
        }
    }

    /// A place in the connection's queue. Waits for ever while there is nothing to send, or no scheduler. The future
    /// borrows nothing, so that the driver may go on while it waits.
    pub fn next_permit(
        &self,
    ) -> impl Future<Output = Option<mpsc::OwnedPermit<pb::AgentMessage>>> + Send + use<> {
        let out = self.out.clone().filter(|_| self.spools.values().any(Spool::has_unsent));
        async move {
            match out {
                Some(out) => out.reserve_owned().await.ok(),
                None => std::future::pending().await,
            }
        }
    }

    /// Sends one report; without a permit the connection has ended.
    pub fn send_one(&mut self, permit: Option<mpsc::OwnedPermit<pb::AgentMessage>>) {
        let Some(permit) = permit else {
            self.out = None; // That the connection has ended is in the driver's inbox, too.
            return;
        };
        let Some((attempt, spool)) = self.spools.iter_mut().find(|(_, spool)| spool.has_unsent()) else {
            return;
        };
        match spool.next_unsent() {
            Ok(Some(report)) => {
                permit.send(agent_message(ToScheduler::Report((&report).into())));
            }
            Ok(None) => {}
            Err(error) => {
                // Without the disk nothing can be told of this attempt; the scheduler's lease still holds.
                error!(%attempt, %error, "cannot read a spool; it is opened again");
                let attempt = *attempt;
                self.spools.remove(&attempt);
                self.unopened.insert(attempt);
            }
        }
    }
}
