//! What every store must do about webhooks and what they are called for, run on both of them.

use trainyard_scheduler_core::{EventBody, EventRecord, JobRecord, Write};
use trainyard_types::{JobState, Time};
use uuid::Uuid;

use super::conformance::{PrivateRedis, conformance, job, lead, write};
use super::memory::MemoryStore;
use super::{NoticeStore, Store, keys};
use crate::notice_records::{NoticeRecord, Occasion, WebhookKind, WebhookRecord, WebhookState};

trait Both: Store + NoticeStore {}
impl<T: Store + NoticeStore> Both for T {}

fn webhook(id: u128, user: &str) -> WebhookRecord {
    WebhookRecord {
        id: Uuid::from_u128(id),
        user: user.into(),
        url: "https://ntfy.sh/cells".into(),
        kind: WebhookKind::Ntfy,
        on: vec![Occasion::Ended],
        secret: "s".into(),
        created: Time(1),
    }
}

/// A job that was just cancelled.
fn cancelled() -> (JobRecord, [Write; 3]) {
    let first = job();
    let ended = JobRecord { revision: 2, state: JobState::Cancelled, ..first.clone() };
    let body = EventBody::State { state: JobState::Cancelled, reason: "cancelled by its user".into() };
    let event = EventRecord { cursor: 2, time: Time(9), attempt: 0, body };
    let events = Write::JobEvents { job: first.id, events: vec![event] };
    (ended.clone(), [write(&first), write(&ended), events])
}

async fn ends_of_jobs_are_kept_for_users_with_webhooks_only(store: &dyn Both) {
    let leader = lead(store).await;
    let (_, unwatched) = cancelled();
    store.commit(leader, &unwatched).await.unwrap();
    assert_eq!(store.notices("", 10).await.unwrap(), []);
    let ada = webhook(1, "ada");
    assert!(store.put_webhook(&ada, 1).await.unwrap());
    let (job, writes) = cancelled();
    store.commit(leader, &writes).await.unwrap();
    let kept = store.notices("", 10).await.unwrap();
    let [(cursor, Some(notice))] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!((notice.job, notice.cursor, notice.event()), (job.id, 2, "ended"));
    assert_eq!(store.newest_notice().await.unwrap(), *cursor);
    assert_eq!(store.notices(cursor, 10).await.unwrap(), []);
    store.remove_webhook(&ada).await.unwrap();
    store.commit(leader, &cancelled().1).await.unwrap();
    assert_eq!(store.notices(cursor, 10).await.unwrap(), []);
}

async fn a_user_has_so_many_webhooks_and_each_begins_with_what_comes_next(store: &dyn Both) {
    let leader = lead(store).await;
    let (first, second) = (webhook(1, "ada"), webhook(2, "ada"));
    assert!(store.put_webhook(&first, 2).await.unwrap());
    store.commit(leader, &cancelled().1).await.unwrap();
    assert!(store.put_webhook(&second, 2).await.unwrap());
    assert!(!store.put_webhook(&webhook(3, "ada"), 2).await.unwrap());
    assert!(store.put_webhook(&webhook(4, "bob"), 2).await.unwrap());
    let mut found = store.webhooks().await.unwrap();
    found.sort_by_key(|(webhook, _)| webhook.id);
    let left = |at: usize| found[at].1.cursor.clone();
    assert_eq!(found[0].0, first);
    assert_eq!(store.notices(&left(0), 10).await.unwrap().len(), 1);
    assert_eq!(store.notices(&left(1), 10).await.unwrap(), []);
    store.remove_webhook(&first).await.unwrap();
    store.remove_webhook(&first).await.unwrap();
    assert!(store.put_webhook(&webhook(5, "ada"), 2).await.unwrap());
    assert!(!store.put_webhook(&webhook(6, "ada"), 2).await.unwrap());
}

async fn a_state_is_kept_unless_its_webhook_is_gone(store: &dyn Both) {
    let ada = webhook(1, "ada");
    store.put_webhook(&ada, 9).await.unwrap();
    let state = WebhookState {
        cursor: "7-1".into(),
        failures: 3,
        failing_since: Some(Time(4)),
        problem: "it answered 500".into(),
        delivered: Some(Time(2)),
        given_up: Some(Time(8)),
    };
    store.put_webhook_state(ada.id, &state).await.unwrap();
    assert_eq!(store.webhooks().await.unwrap(), [(ada.clone(), state.clone())]);
    store.remove_webhook(&ada).await.unwrap();
    store.put_webhook_state(ada.id, &state).await.unwrap();
    store.put_webhook(&ada, 9).await.unwrap();
    assert_eq!(store.webhooks().await.unwrap()[0].1.given_up, None);
}

async fn a_wait_is_told_once(store: &dyn Both) {
    let (one, other) = (job(), job());
    store.change_waits(&[], &[]).await.unwrap();
    store.change_waits(&[(one.id, Time(7)), (other.id, Time(8))], &[]).await.unwrap();
    assert_eq!(store.waits().await.unwrap(), [(one.id, Some(Time(7))), (other.id, Some(Time(8)))].into());
    let notice = NoticeRecord::waiting(&one, "busy", Time(9));
    store.tell_wait(&notice).await.unwrap();
    let told = store.notices("", 10).await.unwrap();
    assert_eq!(told.into_iter().map(|(_, notice)| notice).collect::<Vec<_>>(), [Some(notice)]);
    store.change_waits(&[], &[other.id]).await.unwrap();
    assert_eq!(store.waits().await.unwrap(), [(one.id, None)].into());
}

conformance!(
    ends_of_jobs_are_kept_for_users_with_webhooks_only,
    a_user_has_so_many_webhooks_and_each_begins_with_what_comes_next,
    a_state_is_kept_unless_its_webhook_is_gone,
    a_wait_is_told_once
);

#[tokio::test]
async fn keys_that_hold_something_else_hold_up_no_commit() {
    let redis = PrivateRedis::start();
    let store = redis.store();
    let leader = lead(&store).await;
    store.put_webhook(&webhook(1, "ada"), 1).await.unwrap();
    let _: String = redis.run(&["SET", keys::NOTICES, "x"]).await;
    store.commit(leader, &cancelled().1).await.unwrap();
    assert_eq!(store.notices("", 10).await.unwrap().len(), 1);
    let _: String = redis.run(&["SET", keys::WEBHOOK_USERS, "x"]).await;
    store.commit(leader, &cancelled().1).await.unwrap();
}
