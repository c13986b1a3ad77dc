//! Tokens, enrolled agents and the audit in Redis. Every scheduler may write them: each change is one atomic step,
//! and what it says does not depend on who leads.

use std::collections::HashMap;

use redis::Script;
use serde::de::DeserializeOwned;
use tracing::warn;
use trainyard_access::TokenId;
use trainyard_types::AgentId;

use super::redis::RedisStore;
use super::{Pending, keys, stream_id};
use crate::access_records::{AccessRecords, AuditRecord, EnrolledAgent, TokenRecord};

/// Audit events that are kept, about.
const AUDIT_EVENTS: usize = 20_000;

/// Id, and its fields with their values.
type StreamEntry = (String, Vec<(String, Vec<u8>)>);

/// Who may use the cluster, and who did what.
pub trait AccessStore: Send + Sync {
    /// Counts the changes of tokens and agents.
    fn access_revision(&self) -> Pending<'_, u64>;

    /// All tokens and agents. What cannot be read is left out, and so gives nobody access.
    fn access(&self) -> Pending<'_, AccessRecords>;

    /// Keeps the first tokens of a cluster, unless it has had any.
    fn put_first_tokens<'a>(&'a self, tokens: &'a [TokenRecord]) -> Pending<'a, bool>;

    /// Keeps a token, or a new state of it.
    fn put_token<'a>(&'a self, token: &'a TokenRecord) -> Pending<'a, ()>;

    /// Forgets a token.
    fn remove_token(&self, id: TokenId) -> Pending<'_, ()>;

    /// Counts one use of a token down and keeps the agent that joined with it; `false`, with nothing done, where no
    /// use is left.
    fn enrol<'a>(&'a self, token: TokenId, agent: &'a EnrolledAgent) -> Pending<'a, bool>;

    /// Keeps a new state of an agent.
    fn put_enrolled<'a>(&'a self, agent: &'a EnrolledAgent) -> Pending<'a, ()>;

    /// Forgets that an agent has joined.
    fn remove_enrolled(&self, id: AgentId) -> Pending<'_, ()>;

    /// Appends to the audit.
    fn append_audit<'a>(&'a self, records: &'a [AuditRecord]) -> Pending<'a, ()>;

    /// Audit events after one, oldest first, with what names each; without `after`, the newest.
    fn audit<'a>(&'a self, after: Option<&'a str>, limit: usize) -> Pending<'a, Vec<(String, AuditRecord)>>;
}

/// The scripts of this file.
#[derive(Debug, Clone)]
pub struct AccessScripts {
    enrol: Script,
    first_tokens: Script,
}

impl Default for AccessScripts {
    fn default() -> Self {
        Self {
            enrol: Script::new(include_str!("scripts/enrol.lua")),
            first_tokens: Script::new(include_str!("scripts/first_tokens.lua")),
        }
    }
}

/// A change of a hash, counted.
fn change(command: &str, key: &str, arguments: &[&str]) -> redis::Pipeline {
    let mut pipe = redis::pipe();
    pipe.atomic().cmd(command).arg(key).arg(arguments).ignore();
    pipe.cmd("INCR").arg(keys::ACCESS_REVISION).ignore();
    pipe
}

fn readable<T: DeserializeOwned>(key: &str, stored: HashMap<String, String>) -> Vec<T> {
    let parse = |(field, text): (String, String)| {
        let parsed = serde_json::from_str(&text);
        parsed
            .inspect_err(|cause| warn!(key, field, %cause, "record cannot be read, it gives no access"))
            .ok()
    };
    stored.into_iter().filter_map(parse).collect()
}

impl AccessStore for RedisStore {
    fn access_revision(&self) -> Pending<'_, u64> {
        Box::pin(async move {
            let mut command = redis::cmd("GET");
            command.arg(keys::ACCESS_REVISION);
            Ok(self.reader().query::<Option<u64>>(&command).await?.unwrap_or(0))
        })
    }

    fn access(&self) -> Pending<'_, AccessRecords> {
        Box::pin(async move {
            let mut pipe = redis::pipe();
            pipe.atomic().cmd("GET").arg(keys::ACCESS_REVISION);
            pipe.cmd("HGETALL").arg(keys::TOKENS).cmd("HGETALL").arg(keys::ENROLLED);
            type Answer = (Option<u64>, HashMap<String, String>, HashMap<String, String>);
            let (revision, tokens, agents): Answer = self.reader().pipe(&pipe).await?;
            let (tokens, agents) = (readable(keys::TOKENS, tokens), readable(keys::ENROLLED, agents));
            Ok(AccessRecords { revision: revision.unwrap_or(0), tokens, agents })
        })
    }

    fn put_first_tokens<'a>(&'a self, tokens: &'a [TokenRecord]) -> Pending<'a, bool> {
        Box::pin(async move {
            let mut call = self.access_scripts().first_tokens.prepare_invoke();
            call.key(keys::TOKENS).key(keys::ACCESS_REVISION);
            for token in tokens {
                call.arg(token.id.to_string()).arg(serde_json::to_string(token)?);
            }
            Ok(self.writer().invoke(&call).await?)
        })
    }

    fn put_token<'a>(&'a self, token: &'a TokenRecord) -> Pending<'a, ()> {
        Box::pin(async move {
            let text = serde_json::to_string(token)?;
            let pipe = change("HSET", keys::TOKENS, &[&token.id.to_string(), &text]);
            Ok(self.writer().pipe(&pipe).await?)
        })
    }

    fn remove_token(&self, id: TokenId) -> Pending<'_, ()> {
        Box::pin(async move {
            let pipe = change("HDEL", keys::TOKENS, &[&id.to_string()]);
            Ok(self.writer().pipe(&pipe).await?)
        })
    }

    fn enrol<'a>(&'a self, token: TokenId, agent: &'a EnrolledAgent) -> Pending<'a, bool> {
        Box::pin(async move {
            let mut call = self.access_scripts().enrol.prepare_invoke();
            call.key(keys::TOKENS).key(keys::ENROLLED).key(keys::ACCESS_REVISION);
            call.arg(token.to_string()).arg(agent.id.to_string()).arg(serde_json::to_string(agent)?);
            Ok(self.writer().invoke(&call).await?)
        })
    }

    fn put_enrolled<'a>(&'a self, agent: &'a EnrolledAgent) -> Pending<'a, ()> {
        Box::pin(async move {
            let text = serde_json::to_string(agent)?;
            let pipe = change("HSET", keys::ENROLLED, &[&agent.id.to_string(), &text]);
            Ok(self.writer().pipe(&pipe).await?)
        })
    }

    fn remove_enrolled(&self, id: AgentId) -> Pending<'_, ()> {
        Box::pin(async move {
            let pipe = change("HDEL", keys::ENROLLED, &[&id.to_string()]);
            Ok(self.writer().pipe(&pipe).await?)
        })
    }

    fn append_audit<'a>(&'a self, records: &'a [AuditRecord]) -> Pending<'a, ()> {
        Box::pin(async move {
            let mut pipe = redis::pipe();
            for record in records {
                let text = serde_json::to_string(record)?;
                let entry = pipe.cmd("XADD").arg(keys::AUDIT).arg("MAXLEN").arg("~").arg(AUDIT_EVENTS);
                entry.arg("*").arg("e").arg(text).ignore();
            }
            Ok(self.telemetry_link().pipe(&pipe).await?)
        })
    }

    fn audit<'a>(&'a self, after: Option<&'a str>, limit: usize) -> Pending<'a, Vec<(String, AuditRecord)>> {
        Box::pin(async move {
            let mut command = redis::cmd(if after.is_some() { "XRANGE" } else { "XREVRANGE" });
            command.arg(keys::AUDIT);
            match after {
                Some(cursor) => command.arg(stream_id::after(cursor)).arg("+"),
                None => command.arg("+").arg("-"),
            };
            command.arg("COUNT").arg(limit);
            let mut entries: Vec<StreamEntry> = self.reader().query(&command).await?;
            if after.is_none() {
                entries.reverse();
            }
            let read = |(id, fields): StreamEntry| {
                let bytes = fields.first().map_or(&[][..], |(_, bytes)| bytes);
                let parsed = serde_json::from_slice(bytes);
                let record = parsed
                    .inspect_err(|cause| warn!(id, %cause, "audit event cannot be read, leaving it out"))
                    .ok()?;
                Some((id, record))
            };
            Ok(entries.into_iter().filter_map(read).collect())
        })
    }
}

#[cfg(test)]
mod twin {
    //! The same in memory, for tests.

    use super::*;
    use crate::store::StoreError;
    use crate::store::memory::MemoryStore;

    fn done<'a, T: Send + 'a>(value: T) -> Pending<'a, T> {
        Box::pin(async move { Ok::<_, StoreError>(value) })
    }

    impl AccessStore for MemoryStore {
        fn access_revision(&self) -> Pending<'_, u64> {
            done(self.access_state().0.revision)
        }

        fn access(&self) -> Pending<'_, AccessRecords> {
            done(self.access_state().0.clone())
        }

        fn put_first_tokens<'a>(&'a self, tokens: &'a [TokenRecord]) -> Pending<'a, bool> {
            let records = &mut self.access_state().0;
            let is_first = records.revision == 0;
            if is_first {
                records.revision += 1;
                records.tokens = tokens.to_vec();
            }
            done(is_first)
        }

        fn put_token<'a>(&'a self, token: &'a TokenRecord) -> Pending<'a, ()> {
            let records = &mut self.access_state().0;
            records.tokens.retain(|known| known.id != token.id);
            records.tokens.push(token.clone());
            records.revision += 1;
            done(())
        }

        fn remove_token(&self, id: TokenId) -> Pending<'_, ()> {
            let records = &mut self.access_state().0;
            records.tokens.retain(|known| known.id != id);
            records.revision += 1;
            done(())
        }

        fn enrol<'a>(&'a self, token: TokenId, agent: &'a EnrolledAgent) -> Pending<'a, bool> {
            let records = &mut self.access_state().0;
            let left = records.tokens.iter_mut().find(|known| known.id == token && known.uses_left > 0);
            let Some(left) = left else { return done(false) };
            left.uses_left -= 1;
            records.agents.retain(|known| known.id != agent.id);
            records.agents.push(agent.clone());
            records.revision += 1;
            done(true)
        }

        fn put_enrolled<'a>(&'a self, agent: &'a EnrolledAgent) -> Pending<'a, ()> {
            let records = &mut self.access_state().0;
            records.agents.retain(|known| known.id != agent.id);
            records.agents.push(agent.clone());
            records.revision += 1;
            done(())
        }

        fn remove_enrolled(&self, id: AgentId) -> Pending<'_, ()> {
            let records = &mut self.access_state().0;
            records.agents.retain(|known| known.id != id);
            records.revision += 1;
            done(())
        }

        fn append_audit<'a>(&'a self, records: &'a [AuditRecord]) -> Pending<'a, ()> {
            self.access_state().1.extend_from_slice(records);
            done(())
        }

        fn audit<'a>(
            &'a self,
            after: Option<&'a str>,
            limit: usize,
        ) -> Pending<'a, Vec<(String, AuditRecord)>> {
            let events = &self.access_state().1;
            let numbered = events.iter().enumerate().map(|(at, event)| (format!("{at:08}-0"), event.clone()));
            let found = match after {
                Some(after) => numbered.filter(|(at, _)| at.as_str() > after).take(limit).collect(),
                None => numbered.skip(events.len().saturating_sub(limit)).collect(),
            };
            done(found)
        }
    }
}
