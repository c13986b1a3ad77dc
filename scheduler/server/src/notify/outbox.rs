//! What one webhook is still to be sent, in order: each notice until it is taken, or until the webhook has failed for too
//! long.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};
use trainyard_types::Time;
use uuid::Uuid;

use super::Notifier;
use super::call::CallFailed;
use crate::notice_records::{NoticeRecord, WebhookRecord, WebhookState};
use crate::store::StoreError;

/// Waits between two tries: the first, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Notices that are read at a time.
const AT_ONCE: usize = 100;

/// The notices that one webhook is still to be sent.
pub struct Outbox {
    pub notifier: Notifier,
    pub webhook: WebhookRecord,
    pub state: WebhookState,
    /// The cursor of the newest notice.
    pub newest: watch::Receiver<String>,
}

impl WebhookState {
    /// A notice is done with, as it was taken.
    pub fn taken(&mut self, cursor: &str, now: Time) {
        let cursor = cursor.to_owned();
        *self = Self { cursor, delivered: Some(now), ..Self::default() };
    }

    /// A call failed. After `give_up` of failures there is no other.
    pub fn failed(&mut self, failed: CallFailed, now: Time, give_up: Duration) {
        let since = *self.failing_since.get_or_insert(now);
        self.failures = self.failures.saturating_add(1);
        self.problem = failed.problem;
        if failed.is_gone || now.since(since) >= give_up {
            self.given_up = Some(now);
        }
    }

    /// How long to wait before the next try; the last digit of `random` spreads those that failed together.
    fn wait(&self, random: u8) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let wait = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
        wait.mul_f64(0.75 + f64::from(random) / 512.0)
    }
}

impl Outbox {
    /// Sends what there is and what comes. Ends when the webhook is given up, or the store is away.
    pub async fn send(mut self) {
        if let Err(error) = self.try_send().await {
            debug!(webhook = %self.webhook.id, %error, "notices cannot be read now, will try again");
        }
    }

    async fn try_send(&mut self) -> Result<(), StoreError> {
        loop {
            self.newest.borrow_and_update();
            let store = self.notifier.store.clone();
            let notices = store.notices(&self.state.cursor, AT_ONCE).await?;
            if notices.is_empty() {
                // Without a sender the leadership has ended.
                if self.newest.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            }
            let mut passed = false;
            for (cursor, notice) in notices {
                match notice.filter(|notice| self.webhook.wants(notice)) {
                    Some(notice) => {
                        self.deliver(&cursor, &notice).await?;
                        if self.state.given_up.is_some() {
                            return Ok(());
                        }
                        passed = false;
                    }
                    None => {
                        self.state.cursor = cursor;
                        passed = true;
                    }
                }
            }
            if passed {
                self.keep_state().await?;
            }
        }
    }

    /// Calls until the notice is taken, or the webhook is given up.
    async fn deliver(&mut self, cursor: &str, notice: &NoticeRecord) -> Result<(), StoreError> {
        loop {
            let called = self.notifier.messenger.call(&self.webhook, notice).await;
            let now = self.notifier.clock.now();
            let (webhook, user) = (self.webhook.id, &self.webhook.user);
            match called {
                Ok(()) => {
                    info!(%webhook, user, notice = notice.id(), "told");
                    self.state.taken(cursor, now);
                    return self.keep_state().await;
                }
                Err(failed) => {
                    debug!(%webhook, user, problem = failed.problem, "a webhook did not take a message");
                    self.state.failed(failed, now, self.notifier.give_up);
                    self.keep_state().await?;
                }
            }
            if self.state.given_up.is_some() {
                let problem = &self.state.problem;
                warn!(%webhook, user, problem, "a webhook failed for too long, it is called no more");
                return Ok(());
            }
            sleep(self.state.wait(Uuid::new_v4().as_bytes()[0])).await;
        }
    }

    async fn keep_state(&self) -> Result<(), StoreError> {
        self.notifier.store.put_webhook_state(self.webhook.id, &self.state).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(is_gone: bool) -> CallFailed {
        CallFailed { problem: "it answered 500".into(), is_gone }
    }

    #[test]
    fn a_webhook_is_given_up_after_failing_for_as_long_as_it_may_and_not_before() {
        let mut state = WebhookState { cursor: "1-0".into(), ..WebhookState::default() };
        let give_up = Duration::from_secs(60);
        for now in [0, 30_000, 59_999] {
            state.failed(failure(false), Time(now), give_up);
            assert_eq!((state.given_up, state.failing_since), (None, Some(Time(0))), "{now}");
        }
        state.failed(failure(false), Time(60_000), give_up);
        assert_eq!((state.given_up, state.failures, &*state.cursor), (Some(Time(60_000)), 4, "1-0"));
    }

    #[test]
    fn one_success_forgets_what_failed_before() {
        let mut state = WebhookState::default();
        state.failed(failure(false), Time(0), Duration::MAX);
        state.taken("2-0", Time(7));
        let expected =
            WebhookState { cursor: "2-0".into(), delivered: Some(Time(7)), ..WebhookState::default() };
        assert_eq!(state, expected);
    }

    #[test]
    fn a_webhook_that_says_it_is_gone_is_given_up_at_once() {
        let mut state = WebhookState::default();
        state.failed(failure(true), Time(5), Duration::MAX);
        assert_eq!(state.given_up, Some(Time(5)));
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let wait = |failures| WebhookState { failures, ..WebhookState::default() }.wait(128);
        assert_eq!([1, 2, 3, 50].map(|failures| wait(failures).as_millis()), [500, 1000, 2000, 300_000]);
    }
}
