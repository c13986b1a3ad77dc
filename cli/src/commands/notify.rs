//! `yard notify`: webhooks by which people are told of their jobs.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use trainyard_proto::pb;

use crate::commands::Context;
use crate::failure::{Exit, Failure};
use crate::proto_json::to_json;
use crate::{render, terminal};

/// Be told when a job ends, fails, or waits for too long
#[derive(Debug, Args)]
pub struct NotifyCommand {
    #[command(subcommand)]
    order: NotifyOrder,
}

/// The orders about webhooks.
#[derive(Debug, Subcommand)]
enum NotifyOrder {
    Add(Add),
    List(List),
    Test(Test),
    Rm(Remove),
}

/// Have a webhook called for your jobs
///
/// The secret that its calls are signed with is printed once, and not shown again.
#[derive(Debug, Args)]
struct Add {
    /// The webhook's address, as Slack, Mattermost or Discord give it, or `https://ntfy.sh/TOPIC`
    url: String,
    /// The form of its messages [default: guessed from the URL]
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// What to be told of, separated by commas [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WHAT")]
    on: Vec<Occasion>,
}

/// The form of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Slack,
    Mattermost,
    Discord,
    Ntfy,
    /// Every field, for programs
    Json,
}

/// The events of jobs that a webhook is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Occasion {
    /// A job is over, whatever the way
    Ended,
    /// A job failed
    Failed,
    /// A job waits for longer than was expected
    Waiting,
}

impl From<Kind> for pb::WebhookKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Slack => Self::Slack,
            Kind::Mattermost => Self::Mattermost,
            Kind::Discord => Self::Discord,
            Kind::Ntfy => Self::Ntfy,
            Kind::Json => Self::Json,
        }
    }
}

impl From<Occasion> for pb::NotificationEvent {
    fn from(occasion: Occasion) -> Self {
        match occasion {
            Occasion::Ended => Self::JobEnded,
            Occasion::Failed => Self::JobFailed,
            Occasion::Waiting => Self::JobWaiting,
        }
    }
}

/// List webhooks and how their calls go: your own, or all for an admin
#[derive(Debug, Args)]
struct List {}

/// Call a webhook now, with a message that says so
///
/// One that was given up is called again from then on, if it takes the message.
#[derive(Debug, Args)]
struct Test {
    /// The webhook's id, or the beginning of it
    id: String,
}

/// Have a webhook called no more
#[derive(Debug, Args)]
struct Remove {
    /// The webhook's id, or the beginning of it
    id: String,
}

impl NotifyCommand {
    /// Carries out the order.
    ///
    /// # Errors
    /// The scheduler refuses, or cannot be reached; a webhook does not take a message.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.order {
            NotifyOrder::Add(add) => add.run(context).await,
            NotifyOrder::List(List {}) => list(context).await,
            NotifyOrder::Test(Test { id }) => test(context, id).await,
            NotifyOrder::Rm(Remove { id }) => remove(context, id).await,
        }
    }
}

impl Add {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let kind = self.kind.map_or(pb::WebhookKind::Unspecified, pb::WebhookKind::from);
        let events = self.on.into_iter().map(|occasion| pb::NotificationEvent::from(occasion).into());
        let request = pb::CreateWebhookRequest { url: self.url, kind: kind.into(), events: events.collect() };
        // A second call would make a second webhook.
        let call = || async { context.client.notifications().create_webhook(request.clone()).await };
        let made = context.client.once(call).await?;
        if !context.output.for_people() {
            return context.output.document(&to_json("CreateWebhookResponse", &made));
        }
        let webhook = made.webhook.unwrap_or_default();
        let id = terminal::clean(&webhook.id);
        context.output.line(&id)?;
        terminal::message(&format!(
            "a webhook of the kind {} is called from now on; `yard notify test {id}` tries it",
            render::webhook::kind(webhook.kind())
        ));
        terminal::message(&format!(
            "its calls are signed with the secret {}, which is not shown again",
            terminal::clean(&made.secret)
        ));
        Ok(())
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let call = || async { context.client.notifications().list_webhooks(pb::ListWebhooksRequest {}).await };
    let webhooks = context.client.retrying(call).await?.webhooks;
    if !context.output.for_people() {
        let webhooks: Vec<_> = webhooks.iter().map(|webhook| to_json("Webhook", webhook)).collect();
        return context.output.list(&json!({ "webhooks": webhooks }), "webhooks");
    }
    if webhooks.is_empty() {
        terminal::message("no webhooks; `yard notify add URL` adds one");
        return Ok(());
    }
    context.output.line(&render::webhook::webhooks(context.output, &webhooks))
}

async fn test(context: &Context, id: String) -> Result<(), Failure> {
    let request = pb::TestWebhookRequest { id };
    let call = || async { context.client.notifications().test_webhook(request.clone()).await };
    let tested = context.client.once(call).await?;
    if !context.output.for_people() {
        context.output.document(&to_json("TestWebhookResponse", &tested))?;
    }
    let webhook = tested.webhook.unwrap_or_default();
    let shown = format!("webhook {} at {}", terminal::clean(&webhook.id), terminal::clean(&webhook.url));
    if !tested.problem.is_empty() {
        let problem = terminal::clean(&tested.problem);
        let failure = Failure::new(Exit::Failed, format!("{shown} did not take the message: {problem}"));
        return Err(failure.hint("look whether its address still counts where you got it"));
    }
    if context.output.for_people() {
        context.output.line(&format!("{shown} took the message"))?;
    }
    Ok(())
}

async fn remove(context: &Context, id: String) -> Result<(), Failure> {
    let request = pb::DeleteWebhookRequest { id };
    let call = || async { context.client.notifications().delete_webhook(request.clone()).await };
    let webhook = context.client.once(call).await?;
    if !context.output.for_people() {
        return context.output.document(&to_json("Webhook", &webhook));
    }
    let (id, url) = (terminal::clean(&webhook.id), terminal::clean(&webhook.url));
    context.output.line(&format!("webhook {id} at {url} is called no more"))
}
