//! Webhooks for people.

use trainyard_proto::pb;

use super::{TextTable, cell, short, short_length, time};
use crate::output::Output;

/// A kind as it is written on the command line.
pub fn kind(kind: pb::WebhookKind) -> String {
    match kind {
        pb::WebhookKind::Unspecified => "-".to_owned(),
        kind => kind.as_str_name().to_lowercase(),
    }
}

/// What a webhook is called for, as it is written on the command line.
fn occasions(webhook: &pb::Webhook) -> String {
    let names = webhook.events().map(|event| event.as_str_name().trim_start_matches("JOB_").to_lowercase());
    names.collect::<Vec<_>>().join(",")
}

/// A webhook's last calls in words: whether they were taken, and since when not.
fn health(webhook: &pb::Webhook) -> String {
    let problem = &webhook.problem;
    match (&webhook.given_up_time, webhook.failures) {
        (Some(since), _) => {
            format!("given up at {} ({problem}); `yard notify test` has it called again", time(Some(since)))
        }
        (None, 0) => match &webhook.delivered_time {
            Some(at) => format!("last told at {}", time(Some(at))),
            None => "fine, not called yet".to_owned(),
        },
        (None, failures) => {
            let calls = if failures == 1 { "1 call".to_owned() } else { format!("{failures} calls") };
            format!("{calls} failed ({problem}); tries again")
        }
    }
}

/// Webhooks, without what lets others post there.
pub fn webhooks(output: Output, webhooks: &[pb::Webhook]) -> String {
    let mut table = TextTable::new(output, &["ID", "USER", "KIND", "ON", "URL", "HOW IT GOES"], 5);
    let length = short_length(webhooks.iter().map(|webhook| webhook.id.as_str()));
    for webhook in webhooks {
        table.row(vec![
            cell(short(&webhook.id, length)),
            cell(&webhook.user),
            cell(kind(webhook.kind())),
            cell(occasions(webhook)),
            cell(&webhook.url),
            cell(health(webhook)),
        ]);
    }
    table.text()
}
