//! `NotificationService`: webhooks by which people are told of their jobs.

use tonic::{Request, Response, Status};
use trainyard_proto::convert::job::timestamp;
use trainyard_proto::pb::{self, notification_service_server::NotificationService};
use trainyard_types::Violation;
use uuid::Uuid;

use super::about;
use super::jobs::user_of;
use super::status::ApiError;
use crate::access::Caller;
use crate::notice_records::{NoticeRecord, Occasion, WebhookKind, WebhookRecord, WebhookState};
use crate::notify::{Notifier, guessed_kind, is_acceptable, shortened};

/// Webhooks of one user at a time.
const MOST_WEBHOOKS: usize = 10;
const WEBHOOKS_HINT: &str = "`yard notify list` lists what there is";

/// The service of webhooks.
pub struct Notifications(pub Notifier);

const fn kind(kind: WebhookKind) -> pb::WebhookKind {
    match kind {
        WebhookKind::Slack => pb::WebhookKind::Slack,
        WebhookKind::Mattermost => pb::WebhookKind::Mattermost,
        WebhookKind::Discord => pb::WebhookKind::Discord,
        WebhookKind::Ntfy => pb::WebhookKind::Ntfy,
        WebhookKind::Json => pb::WebhookKind::Json,
    }
}

/// The kind that was asked for, if one was.
fn parse_kind(number: i32) -> Result<Option<WebhookKind>, Violation> {
    match pb::WebhookKind::try_from(number) {
        Ok(pb::WebhookKind::Unspecified) => Ok(None),
        Ok(pb::WebhookKind::Slack) => Ok(Some(WebhookKind::Slack)),
        Ok(pb::WebhookKind::Mattermost) => Ok(Some(WebhookKind::Mattermost)),
        Ok(pb::WebhookKind::Discord) => Ok(Some(WebhookKind::Discord)),
        Ok(pb::WebhookKind::Ntfy) => Ok(Some(WebhookKind::Ntfy)),
        Ok(pb::WebhookKind::Json) => Ok(Some(WebhookKind::Json)),
        Err(_) => {
            let text = format!("is {number}; use SLACK, MATTERMOST, DISCORD, NTFY or JSON, or leave it out");
            Err(Violation::new("kind", text))
        }
    }
}

const fn event(occasion: Occasion) -> pb::NotificationEvent {
    match occasion {
        Occasion::Ended => pb::NotificationEvent::JobEnded,
        Occasion::Failed => pb::NotificationEvent::JobFailed,
        Occasion::Waiting => pb::NotificationEvent::JobWaiting,
    }
}

/// What to tell of; everything, where nothing is named.
fn parse_events(numbers: &[i32]) -> Result<Vec<Occasion>, Violation> {
    let mut wanted = Vec::new();
    for (at, number) in numbers.iter().enumerate() {
        let occasion = match pb::NotificationEvent::try_from(*number) {
            Ok(pb::NotificationEvent::JobEnded) => Occasion::Ended,
            Ok(pb::NotificationEvent::JobFailed) => Occasion::Failed,
            Ok(pb::NotificationEvent::JobWaiting) => Occasion::Waiting,
            Ok(pb::NotificationEvent::Unspecified) | Err(_) => {
                let text = format!("is {number}; use JOB_ENDED, JOB_FAILED or JOB_WAITING");
                return Err(Violation::new(format!("events[{at}]"), text));
            }
        };
        if !wanted.contains(&occasion) {
            wanted.push(occasion);
        }
    }
    if wanted.is_empty() {
        wanted = vec![Occasion::Ended, Occasion::Failed, Occasion::Waiting];
    }
    Ok(wanted)
}

/// A webhook without what lets others post there.
fn shown(record: &WebhookRecord, state: &WebhookState) -> pb::Webhook {
    pb::Webhook {
        id: record.id.to_string(),
        user: record.user.clone(),
        url: shortened(&record.url),
        kind: kind(record.kind).into(),
        events: record.on.iter().map(|occasion| event(*occasion).into()).collect(),
        create_time: Some(timestamp(record.created)),
        delivered_time: state.delivered.map(timestamp),
        failures: state.failures,
        problem: state.problem.clone(),
        given_up_time: state.given_up.map(timestamp),
    }
}

/// A webhook as the audit names it.
fn described(record: &WebhookRecord) -> String {
    format!("webhook {} of {} at {}", record.id, record.user, shortened(&record.url))
}

impl Notifications {
    /// A webhook that the caller may change, by the start of its id.
    async fn find(&self, id: &str, caller: &Caller) -> Result<(WebhookRecord, WebhookState), ApiError> {
        let start = id.trim().to_lowercase();
        if start.is_empty() {
            return Err(ApiError::field("id", format!("is missing; {WEBHOOKS_HINT}")));
        }
        let mut found = self.0.store.webhooks().await?;
        found.retain(|(record, _)| {
            record.id.to_string().starts_with(&start) && caller.may_change([record.user.as_str()]).is_ok()
        });
        if found.len() > 1 {
            let text = format!("`{start}` begins the ids of {} webhooks; give more of it", found.len());
            return Err(ApiError::field("id", text));
        }
        // What is others' is not told apart from what is not there.
        found.pop().ok_or(ApiError::NotFound { kind: "webhook", name: start, hint: WEBHOOKS_HINT })
    }

    fn parse(&self, request: &pb::CreateWebhookRequest, user: String) -> Result<WebhookRecord, ApiError> {
        let mut found = Vec::new();
        let url = is_acceptable(&request.url, self.0.messenger.allows_local());
        let url = url.map_err(|problem| found.push(Violation::new("url", problem))).ok();
        let wanted = parse_kind(request.kind).map_err(|wrong| found.push(wrong)).ok();
        let on = parse_events(&request.events).map_err(|wrong| found.push(wrong)).ok();
        match (url, wanted, on) {
            (Some(url), Some(wanted), Some(on)) => Ok(WebhookRecord {
                id: Uuid::now_v7(),
                user,
                kind: wanted.unwrap_or_else(|| guessed_kind(&url)),
                url: url.into(),
                on,
                secret: format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()),
                created: self.0.clock.now(),
            }),
            _ => Err(ApiError::Invalid(found)),
        }
    }
}

#[tonic::async_trait]
impl NotificationService for Notifications {
    async fn create_webhook(
        &self,
        request: Request<pb::CreateWebhookRequest>,
    ) -> Result<Response<pb::CreateWebhookResponse>, Status> {
        let user = user_of(request.metadata())?;
        let record = self.parse(&request.into_inner(), user)?;
        if !self.0.store.put_webhook(&record, MOST_WEBHOOKS).await.map_err(ApiError::from)? {
            let text = format!(
                "is one too many: `{}` has {MOST_WEBHOOKS} webhooks; remove one with `yard notify rm ID`",
                record.user
            );
            return Err(ApiError::field("url", text).into());
        }
        let webhook = Some(shown(&record, &WebhookState::default()));
        let target = described(&record);
        Ok(about(pb::CreateWebhookResponse { secret: record.secret, webhook }, target))
    }

    async fn list_webhooks(
        &self,
        request: Request<pb::ListWebhooksRequest>,
    ) -> Result<Response<pb::ListWebhooksResponse>, Status> {
        let caller = Caller::of(&request);
        let mut found = self.0.store.webhooks().await.map_err(ApiError::from)?;
        found.retain(|(record, _)| caller.may_change([record.user.as_str()]).is_ok());
        found.sort_by_key(|(record, _)| (record.created, record.id));
        let webhooks = found.iter().map(|(record, state)| shown(record, state)).collect();
        Ok(Response::new(pb::ListWebhooksResponse { webhooks }))
    }

    async fn delete_webhook(
        &self,
        request: Request<pb::DeleteWebhookRequest>,
    ) -> Result<Response<pb::Webhook>, Status> {
        let caller = Caller::of(&request);
        let (record, state) = self.find(&request.into_inner().id, &caller).await?;
        self.0.store.remove_webhook(&record).await.map_err(ApiError::from)?;
        Ok(about(shown(&record, &state), described(&record)))
    }

    async fn test_webhook(
        &self,
        request: Request<pb::TestWebhookRequest>,
    ) -> Result<Response<pb::TestWebhookResponse>, Status> {
        let caller = Caller::of(&request);
        let (record, mut state) = self.find(&request.into_inner().id, &caller).await?;
        let now = self.0.clock.now();
        let called = self.0.messenger.call(&record, &NoticeRecord::test(&record.user, now)).await;
        let target = described(&record);
        let problem = match called {
            Ok(()) => {
                // While it is called, how that goes is written by who calls it.
                if state.given_up.is_some() {
                    let cursor = self.0.store.newest_notice().await.map_err(ApiError::from)?;
                    state = WebhookState { cursor, delivered: Some(now), ..WebhookState::default() };
                    self.0.store.put_webhook_state(record.id, &state).await.map_err(ApiError::from)?;
                }
                String::new()
            }
            Err(failed) => failed.problem,
        };
        Ok(about(pb::TestWebhookResponse { webhook: Some(shown(&record, &state)), problem }, target))
    }
}
