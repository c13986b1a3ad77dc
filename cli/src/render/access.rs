//! Tokens and the audit for people.

use trainyard_proto::pb;

use super::{TextTable, cell, time};
use crate::output::Output;
use crate::terminal::clean;

/// A role as it is written on the command line.
pub fn role(role: pb::AccessRole) -> String {
    match role {
        pb::AccessRole::Unspecified => "-".to_owned(),
        role => role.as_str_name().to_lowercase(),
    }
}

/// Tokens, without their secrets.
pub fn tokens(output: Output, tokens: &[pb::TokenInfo]) -> String {
    let heads = ["ID", "USER", "ROLE", "CREATED", "EXPIRES", "USES LEFT", "MADE BY"];
    let mut table = TextTable::new(output, &heads, 1).right(5..6);
    for token in tokens {
        let is_agents = token.role() == pb::AccessRole::Agent;
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        table.row(vec![
            cell(&token.id),
            cell(or_dash(&token.user)),
            cell(role(token.role())),
            cell(time(token.create_time.as_ref())),
            cell(time(token.expire_time.as_ref())),
            cell(if is_agents { token.uses_left.to_string() } else { "-".to_owned() }),
            cell(or_dash(&token.created_by)),
        ]);
    }
    table.text()
}

/// `2026-11-30T19:37:00Z ada JobService/CancelJob 019a… OK from 10.0.0.7`
pub fn audit_line(event: &pb::AuditEvent) -> String {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { clean(text) };
    let words = [&event.caller, &event.action, &event.target, &event.outcome].map(|text| or_dash(text));
    format!("{} {} from {}", time(event.time.as_ref()), words.join(" "), or_dash(&event.address))
}
