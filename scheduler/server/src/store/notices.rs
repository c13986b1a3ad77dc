//! Webhooks in Redis, and what they are called for: a stream that a commit appends to, with a cursor for each webhook.

use std::collections::{BTreeMap, HashMap};

use redis::Script;
use tracing::warn;
use trainyard_scheduler_core::{EventBody, JobRecord, Write};
use trainyard_types::{JobId, Time};
use uuid::Uuid;

use super::redis::RedisStore;
use super::{Pending, keys, stream_id};
use crate::notice_records::{NoticeRecord, WebhookRecord, WebhookState};

/// Notices that are kept, about. A webhook that is further behind loses the oldest.
pub(super) const KEPT: usize = 20_000;

/// Id, and its fields with their values.
type StreamEntry = (String, Vec<(String, Vec<u8>)>);

/// Webhooks, notices, and which jobs wait. What is written here does not depend on who leads: of two that believe so
/// both may call a webhook, and neither passes over a notice that was not taken.
pub trait NoticeStore: Send + Sync {
    /// All webhooks. What cannot be read is left out.
    fn webhooks(&self) -> Pending<'_, Vec<(WebhookRecord, WebhookState)>>;

    /// Keeps a webhook, which is called for what comes from now on; `false`, with nothing done, where its user has
    /// `most` already.
    fn put_webhook<'a>(&'a self, webhook: &'a WebhookRecord, most: usize) -> Pending<'a, bool>;

    /// Forgets a webhook.
    fn remove_webhook<'a>(&'a self, webhook: &'a WebhookRecord) -> Pending<'a, ()>;

    /// Keeps how the calls of a webhook go, unless that was removed.
    fn put_webhook_state<'a>(&'a self, id: Uuid, state: &'a WebhookState) -> Pending<'a, ()>;

    /// The newest notice's cursor.
    fn newest_notice(&self) -> Pending<'_, String>;

    /// Notices after a cursor, oldest first, at most `limit`; those that cannot be read are `None`.
    fn notices<'a>(
        &'a self,
        after: &'a str,
        limit: usize,
    ) -> Pending<'a, Vec<(String, Option<NoticeRecord>)>>;

    /// Jobs whose wait is watched, and when it is too long; `None` where that was told.
    fn waits(&self) -> Pending<'_, HashMap<JobId, Option<Time>>>;

    /// Watches the wait of jobs, and watches that of others no more.
    fn change_waits<'a>(&'a self, watched: &'a [(JobId, Time)], over: &'a [JobId]) -> Pending<'a, ()>;

    /// Adds a notice of a wait, and that it was told.
    fn tell_wait<'a>(&'a self, notice: &'a NoticeRecord) -> Pending<'a, ()>;
}

/// The notices of a batch of writes: the ends of jobs.
pub(super) fn notices_of(writes: &[Write]) -> Vec<NoticeRecord> {
    let is_final = |body: &EventBody| matches!(body, EventBody::State { state, .. } if state.is_final());
    let ends = writes.iter().filter_map(|write| match write {
        Write::JobEvents { job, events } if events.iter().any(|event| is_final(&event.body)) => {
            Some((job, events))
        }
        _ => None,
    });
    let ends: Vec<_> = ends.collect();
    if ends.is_empty() {
        return Vec::new();
    }
    let jobs = writes.iter().filter_map(|write| match write {
        Write::Job(record) => Some((record.id, &**record)),
        _ => None,
    });
    let jobs: BTreeMap<JobId, &JobRecord> = jobs.collect();
    let told = ends.into_iter().filter_map(|(job, events)| Some((jobs.get(job)?, events)));
    told.flat_map(|(job, events)| events.iter().filter_map(|event| NoticeRecord::of(job, event))).collect()
}

/// The scripts of this file.
#[derive(Debug, Clone)]
pub struct NoticeScripts {
    put: Script,
    remove: Script,
    state: Script,
}

impl Default for NoticeScripts {
    fn default() -> Self {
        Self {
            put: Script::new(include_str!("scripts/put_webhook.lua")),
            remove: Script::new(include_str!("scripts/remove_webhook.lua")),
            state: Script::new(include_str!("scripts/webhook_state.lua")),
        }
    }
}

fn readable(
    id: &str,
    record: &str,
    states: &HashMap<String, String>,
) -> Option<(WebhookRecord, WebhookState)> {
    let parsed = serde_json::from_str(record);
    let record = parsed.inspect_err(|cause| warn!(id, %cause, "webhook cannot be read, leaving it out")).ok();
    // One whose state cannot be read begins with the oldest notice: twice is better than never.
    let state = states.get(id).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    Some((record?, state))
}

impl NoticeStore for RedisStore {
    fn webhooks(&self) -> Pending<'_, Vec<(WebhookRecord, WebhookState)>> {
        Box::pin(async move {
            let mut pipe = redis::pipe();
            pipe.atomic().cmd("HGETALL").arg(keys::WEBHOOKS).cmd("HGETALL").arg(keys::WEBHOOK_STATES);
            let (records, states): (HashMap<String, String>, HashMap<String, String>) =
                self.reader().pipe(&pipe).await?;
            Ok(records.iter().filter_map(|(id, record)| readable(id, record, &states)).collect())
        })
    }

    fn put_webhook<'a>(&'a self, webhook: &'a WebhookRecord, most: usize) -> Pending<'a, bool> {
        Box::pin(async move {
            let mut call = self.notice_scripts().put.prepare_invoke();
            call.key(keys::WEBHOOKS).key(keys::WEBHOOK_STATES).key(keys::WEBHOOK_USERS).key(keys::NOTICES);
            call.arg(webhook.id.to_string()).arg(serde_json::to_string(webhook)?);
            call.arg(&webhook.user).arg(most);
            Ok(self.writer().invoke(&call).await?)
        })
    }

    fn remove_webhook<'a>(&'a self, webhook: &'a WebhookRecord) -> Pending<'a, ()> {
        Box::pin(async move {
            let mut call = self.notice_scripts().remove.prepare_invoke();
            call.key(keys::WEBHOOKS).key(keys::WEBHOOK_STATES).key(keys::WEBHOOK_USERS);
            call.arg(webhook.id.to_string()).arg(&webhook.user);
            self.writer().invoke::<bool>(&call).await?;
            Ok(())
        })
    }

    fn put_webhook_state<'a>(&'a self, id: Uuid, state: &'a WebhookState) -> Pending<'a, ()> {
        Box::pin(async move {
            let mut call = self.notice_scripts().state.prepare_invoke();
            call.key(keys::WEBHOOKS).key(keys::WEBHOOK_STATES);
            call.arg(id.to_string()).arg(serde_json::to_string(state)?);
            self.writer().invoke::<bool>(&call).await?;
            Ok(())
        })
    }

    fn newest_notice(&self) -> Pending<'_, String> {
        Box::pin(async move {
            let mut command = redis::cmd("XREVRANGE");
            command.arg(keys::NOTICES).arg("+").arg("-").arg("COUNT").arg(1);
            let entries: Vec<StreamEntry> = self.reader().query(&command).await?;
            Ok(entries.into_iter().next().map_or_else(|| "0-0".to_owned(), |(id, _)| id))
        })
    }

    fn notices<'a>(
        &'a self,
        after: &'a str,
        limit: usize,
    ) -> Pending<'a, Vec<(String, Option<NoticeRecord>)>> {
        Box::pin(async move {
            let mut command = redis::cmd("XRANGE");
            command.arg(keys::NOTICES);
            if after.is_empty() {
                command.arg("-")
            } else {
                command.arg(stream_id::after(after))
            };
            command.arg("+").arg("COUNT").arg(limit);
            let entries: Vec<StreamEntry> = self.reader().query(&command).await?;
            let read = |(id, fields): StreamEntry| {
                let bytes = fields.first().map_or(&[][..], |(_, bytes)| bytes);
                let parsed = serde_json::from_slice(bytes);
                let record =
                    parsed.inspect_err(|cause| warn!(id, %cause, "notice cannot be read, leaving it out"));
                (id, record.ok())
            };
            Ok(entries.into_iter().map(read).collect())
        })
    }

    fn waits(&self) -> Pending<'_, HashMap<JobId, Option<Time>>> {
        Box::pin(async move {
            let mut command = redis::cmd("HGETALL");
            command.arg(keys::WAITS);
            let stored: HashMap<String, String> = self.reader().query(&command).await?;
            let read = |(job, due): (String, String)| Some((job.parse().ok()?, due.parse().ok().map(Time)));
            Ok(stored.into_iter().filter_map(read).collect())
        })
    }

    fn change_waits<'a>(&'a self, watched: &'a [(JobId, Time)], over: &'a [JobId]) -> Pending<'a, ()> {
        Box::pin(async move {
            if watched.is_empty() && over.is_empty() {
                return Ok(());
            }
            let mut pipe = redis::pipe();
            for (job, due) in watched {
                pipe.cmd("HSET").arg(keys::WAITS).arg(job.to_string()).arg(due.0).ignore();
            }
            for job in over {
                pipe.cmd("HDEL").arg(keys::WAITS).arg(job.to_string()).ignore();
            }
            Ok(self.writer().pipe(&pipe).await?)
        })
    }

    fn tell_wait<'a>(&'a self, notice: &'a NoticeRecord) -> Pending<'a, ()> {
        Box::pin(async move {
            let mut pipe = redis::pipe();
            pipe.atomic().cmd("XADD").arg(keys::NOTICES).arg("MAXLEN").arg("~").arg(KEPT);
            pipe.arg("*").arg("n").arg(serde_json::to_string(notice)?).ignore();
            pipe.cmd("HSET").arg(keys::WAITS).arg(notice.job.to_string()).arg("told").ignore();
            Ok(self.writer().pipe(&pipe).await?)
        })
    }
}

#[cfg(test)]
#[path = "notices_twin.rs"]
pub(super) mod twin;
