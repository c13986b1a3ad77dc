//! Webhooks and notices in memory, for tests.

use std::collections::{BTreeMap, HashMap};

use trainyard_types::{JobId, Time};
use uuid::Uuid;

use super::NoticeStore;
use crate::notice_records::{NoticeRecord, WebhookRecord, WebhookState};
use crate::store::memory::MemoryStore;
use crate::store::{Pending, StoreError};

/// What the store keeps in memory for notifications: webhooks, notices that are not told yet, and jobs that wait.
#[derive(Debug, Default)]
pub struct NoticeState {
    webhooks: BTreeMap<Uuid, (WebhookRecord, WebhookState)>,
    notices: Vec<NoticeRecord>,
    waits: HashMap<JobId, Option<Time>>,
}

impl NoticeState {
    /// Adds those whose users have webhooks.
    pub fn add(&mut self, notices: Vec<NoticeRecord>) {
        let wanted =
            |notice: &NoticeRecord| self.webhooks.values().any(|(known, _)| known.user == notice.user);
        let wanted: Vec<_> = notices.into_iter().filter(wanted).collect();
        self.notices.extend(wanted);
    }

    fn newest(&self) -> String {
        cursor(self.notices.len())
    }
}

fn cursor(at: usize) -> String {
    format!("{at:08}-0")
}

fn done<'a, T: Send + 'a>(value: T) -> Pending<'a, T> {
    Box::pin(async move { Ok::<_, StoreError>(value) })
}

impl NoticeStore for MemoryStore {
    fn webhooks(&self) -> Pending<'_, Vec<(WebhookRecord, WebhookState)>> {
        done(self.notice_state().webhooks.values().cloned().collect())
    }

    fn put_webhook<'a>(&'a self, webhook: &'a WebhookRecord, most: usize) -> Pending<'a, bool> {
        let mut state = self.notice_state();
        let has_room = state.webhooks.values().filter(|(known, _)| known.user == webhook.user).count() < most;
        if has_room {
            let calls = WebhookState { cursor: state.newest(), ..WebhookState::default() };
            state.webhooks.insert(webhook.id, (webhook.clone(), calls));
        }
        done(has_room)
    }

    fn remove_webhook<'a>(&'a self, webhook: &'a WebhookRecord) -> Pending<'a, ()> {
        self.notice_state().webhooks.remove(&webhook.id);
        done(())
    }

    fn put_webhook_state<'a>(&'a self, id: Uuid, state: &'a WebhookState) -> Pending<'a, ()> {
        if let Some((_, known)) = self.notice_state().webhooks.get_mut(&id) {
            *known = state.clone();
        }
        done(())
    }

    fn newest_notice(&self) -> Pending<'_, String> {
        done(self.notice_state().newest())
    }

    fn notices<'a>(
        &'a self,
        after: &'a str,
        limit: usize,
    ) -> Pending<'a, Vec<(String, Option<NoticeRecord>)>> {
        let state = self.notice_state();
        let numbered =
            state.notices.iter().enumerate().map(|(at, notice)| (cursor(at + 1), Some(notice.clone())));
        done(numbered.filter(|(at, _)| at.as_str() > after).take(limit).collect())
    }

    fn waits(&self) -> Pending<'_, HashMap<JobId, Option<Time>>> {
        done(self.notice_state().waits.clone())
    }

    fn change_waits<'a>(&'a self, watched: &'a [(JobId, Time)], over: &'a [JobId]) -> Pending<'a, ()> {
        let waits = &mut self.notice_state().waits;
        waits.extend(watched.iter().map(|(job, due)| (*job, Some(*due))));
        waits.retain(|job, _| !over.contains(job));
        done(())
    }

    fn tell_wait<'a>(&'a self, notice: &'a NoticeRecord) -> Pending<'a, ()> {
        let mut state = self.notice_state();
        state.notices.push(notice.clone());
        state.waits.insert(notice.job, None);
        done(())
    }
}
