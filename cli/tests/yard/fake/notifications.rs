//! The fake's word on webhooks.

use tonic::{Request, Response, Status};
use trainyard_proto::pb;
use trainyard_proto::pb::notification_service_server::NotificationService;

use super::Fake;

/// One that works, or has failed for too long.
fn webhook(id: &str, given_up: bool) -> pb::Webhook {
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    pb::Webhook {
        id: id.into(),
        user: "ada".into(),
        url: "https://hooks.slack.com/…Xy2z".into(),
        kind: pb::WebhookKind::Slack.into(),
        events: vec![pb::NotificationEvent::JobFailed.into()],
        create_time: time(1_700_000_000),
        delivered_time: time(1_700_000_100).filter(|_| !given_up),
        failures: u32::from(given_up) * 9,
        problem: if given_up { "it answered \u{1b}404 Not Found".into() } else { String::new() },
        given_up_time: time(1_700_000_200).filter(|_| given_up),
    }
}

#[tonic::async_trait]
impl NotificationService for Fake {
    async fn create_webhook(
        &self,
        request: Request<pb::CreateWebhookRequest>,
    ) -> Result<Response<pb::CreateWebhookResponse>, Status> {
        self.note(request);
        let webhook = Some(webhook(super::ID, false));
        Ok(Response::new(pb::CreateWebhookResponse { secret: "5ec2e7".into(), webhook }))
    }

    async fn list_webhooks(
        &self,
        request: Request<pb::ListWebhooksRequest>,
    ) -> Result<Response<pb::ListWebhooksResponse>, Status> {
        self.note(request);
        let other = "019ab3c4-ffff-7000-8000-000000000002";
        let webhooks = vec![webhook(super::ID, false), webhook(other, true)];
        Ok(Response::new(pb::ListWebhooksResponse { webhooks }))
    }

    async fn delete_webhook(
        &self,
        request: Request<pb::DeleteWebhookRequest>,
    ) -> Result<Response<pb::Webhook>, Status> {
        self.note(request);
        Ok(Response::new(webhook(super::ID, false)))
    }

    async fn test_webhook(
        &self,
        request: Request<pb::TestWebhookRequest>,
    ) -> Result<Response<pb::TestWebhookResponse>, Status> {
        let is_dead = self.note(request).id == "dead";
        let webhook = webhook(super::ID, is_dead);
        let problem = webhook.problem.clone();
        Ok(Response::new(pb::TestWebhookResponse { webhook: Some(webhook), problem }))
    }
}
