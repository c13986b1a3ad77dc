//! Writes as what a commit sets and removes: the last word on each record counts.

use std::collections::BTreeMap;

use redis::ScriptInvocation;
use trainyard_scheduler_core::{EventRecord, JobRecord, StoredJobGroup, Write};
use trainyard_types::JobId;

use super::notices::notices_of;
use super::{StoreError, keys};
use crate::notice_records::NoticeRecord;

/// The hashes, in the order of the script's keys, whose first is the leader epoch.
pub const HASHES: [&str; 8] = [
    keys::JOBS,
    keys::SPECS,
    keys::PULSES,
    keys::AGENTS,
    keys::USERS,
    keys::BATCHES,
    keys::FORGOTTEN,
    keys::LEARNED,
];

/// What a commit writes, by key.
#[derive(Default)]
pub struct WriteSet<'a> {
    /// Of several writes of a job the last one counts, and builds on what the first one built on.
    jobs: BTreeMap<JobId, (u64, &'a JobRecord)>,
    /// Hash and field to the new value, or to nothing when it is removed.
    fields: BTreeMap<(&'static str, String), Option<Vec<u8>>>,
    /// `None` removes the stream.
    streams: BTreeMap<JobId, Option<Vec<&'a EventRecord>>>,
    /// Kept for those users who want to be told.
    notices: Vec<NoticeRecord>,
}

impl<'a> WriteSet<'a> {
    /// Takes `writes` together.
    ///
    /// # Errors
    /// A record cannot be encoded.
    pub fn of(writes: &'a [Write]) -> Result<Self, StoreError> {
        let mut set = Self { notices: notices_of(writes), ..Self::default() };
        for write in writes {
            set.take(write)?;
        }
        Ok(set)
    }

    fn take(&mut self, write: &'a Write) -> Result<(), StoreError> {
        match write {
            Write::JobGroup(record) => {
                let json = serde_json::to_vec(&StoredJobGroup::from(&**record))?;
                self.set(keys::BATCHES, record.id.to_string(), Some(json));
            }
            Write::Job(record) => self.job(record)?,
            Write::Progress(progress) => {
                self.set(keys::PULSES, progress.job.to_string(), Some(serde_json::to_vec(progress)?));
            }
            Write::Agent(record) => {
                self.set(keys::AGENTS, record.id.to_string(), Some(serde_json::to_vec(record)?));
            }
            Write::User(record) => {
                self.set(keys::USERS, record.name.clone(), Some(serde_json::to_vec(record)?));
            }
            Write::JobEvents { job, events } => {
                self.streams
                    .entry(*job)
                    .or_insert_with(|| Some(Vec::new()))
                    .get_or_insert_default()
                    .extend(events);
            }
            Write::Forget { job, group } => {
                let field = job.to_string();
                self.jobs.remove(job);
                for hash in [keys::JOBS, keys::SPECS, keys::PULSES] {
                    self.set(hash, field.clone(), None);
                }
                if group.is_some() {
                    self.set(keys::FORGOTTEN, field, Some(Vec::new()));
                }
                self.streams.insert(*job, None);
            }
            Write::ForgetJobGroup(record) => {
                self.set(keys::BATCHES, record.id.to_string(), None);
                for job in record.ids() {
                    self.set(keys::FORGOTTEN, job.to_string(), None);
                }
            }
            Write::Throughput(record) => {
                self.set(keys::LEARNED, record.key(), Some(serde_json::to_vec(record)?));
            }
            Write::ForgetThroughput(key) => self.set(keys::LEARNED, key.clone(), None),
            Write::ForgetAgent(id) => self.set(keys::AGENTS, id.to_string(), None),
            Write::ForgetUser(name) => self.set(keys::USERS, name.clone(), None),
        }
        Ok(())
    }

    fn job(&mut self, record: &'a JobRecord) -> Result<(), StoreError> {
        let built_on = record.revision.saturating_sub(1);
        let entry = self.jobs.entry(record.id).or_insert((built_on, record));
        let is_first = std::ptr::eq(entry.1, record);
        if !is_first && entry.1.revision != built_on {
            let (job, stored, expected) = (record.id.to_string(), entry.1.revision, built_on);
            return Err(StoreError::Conflict { job, stored, expected });
        }
        entry.1 = record;
        if built_on == 0 && record.group.is_none() {
            let json = serde_json::to_vec(&record.submission())?;
            self.set(keys::SPECS, record.id.to_string(), Some(json));
        }
        if record.state.is_final() {
            self.set(keys::PULSES, record.id.to_string(), None);
        }
        Ok(())
    }

    fn set(&mut self, hash: &'static str, field: String, value: Option<Vec<u8>>) {
        self.fields.insert((hash, field), value);
    }

    /// Adds keys and arguments as `commit.lua` describes them, from the hashes on.
    ///
    /// # Errors
    /// A record cannot be encoded.
    pub fn write(&self, call: &mut ScriptInvocation<'_>) -> Result<(), StoreError> {
        for hash in HASHES {
            call.key(hash);
        }
        call.arg(self.jobs.len());
        for (id, (built_on, record)) in &self.jobs {
            let json = serde_json::to_string(&record.status_record())?;
            call.arg(id.to_string()).arg(*built_on).arg(format!("{} {json}", record.revision));
        }
        // The first of the hashes is the second key, counted from one.
        let place = |hash: &str| HASHES.iter().position(|known| *known == hash).unwrap_or(0) + 2;
        let removed = self.fields.values().filter(|value| value.is_none()).count();
        call.arg(self.fields.len() - removed);
        for ((hash, field), value) in &self.fields {
            if let Some(value) = value {
                call.arg(place(hash)).arg(field).arg(value.as_slice());
            }
        }
        call.arg(removed);
        for ((hash, field), _) in self.fields.iter().filter(|(_, value)| value.is_none()) {
            call.arg(place(hash)).arg(field);
        }
        call.key(keys::WEBHOOK_USERS).key(keys::NOTICES).arg(self.notices.len());
        for notice in &self.notices {
            call.arg(&notice.user).arg(serde_json::to_vec(notice)?);
        }
        for (job, events) in &self.streams {
            call.key(keys::events(*job));
            let Some(events) = events else {
                call.arg("remove");
                continue;
            };
            call.arg(events.len());
            for event in events {
                call.arg(event.cursor).arg(serde_json::to_vec(event)?);
            }
        }
        Ok(())
    }
}
