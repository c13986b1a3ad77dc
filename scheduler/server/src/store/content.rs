//! Versions of data sets and weights in Redis. Each change is one atomic step on a revision that its maker has seen.

use std::collections::HashMap;

use redis::Script;
use tracing::error;

use super::redis::RedisStore;
use super::{Pending, keys};
use crate::content_records::{ContentChange, ContentRecords, VersionRecord};

/// What there is of data sets and weights.
pub trait ContentStore: Send + Sync {
    /// Counts the changes.
    fn content_revision(&self) -> Pending<'_, u64>;

    /// All versions. What cannot be read is left out, and stays as it is.
    fn content(&self) -> Pending<'_, ContentRecords>;

    /// Makes changes, provided that nobody else made one since `revision`; `false`, with nothing done, otherwise.
    fn change_content<'a>(&'a self, revision: u64, changes: &'a [ContentChange]) -> Pending<'a, bool>;
}

/// The script of this file.
#[derive(Debug, Clone)]
pub struct ContentScript(Script);

impl Default for ContentScript {
    fn default() -> Self {
        Self(Script::new(include_str!("scripts/content.lua")))
    }
}

fn readable((field, text): (String, String)) -> Option<VersionRecord> {
    let parsed = serde_json::from_str(&text);
    parsed.inspect_err(|cause| error!(field, %cause, "version cannot be read, leaving it out")).ok()
}

impl ContentStore for RedisStore {
    fn content_revision(&self) -> Pending<'_, u64> {
        Box::pin(async move {
            let mut command = redis::cmd("GET");
            command.arg(keys::CONTENT_REVISION);
            Ok(self.reader().query::<Option<u64>>(&command).await?.unwrap_or(0))
        })
    }

    fn content(&self) -> Pending<'_, ContentRecords> {
        Box::pin(async move {
            let mut pipe = redis::pipe();
            pipe.atomic().cmd("GET").arg(keys::CONTENT_REVISION).cmd("HGETALL").arg(keys::CONTENT);
            let (revision, versions): (Option<u64>, HashMap<String, String>) =
                self.reader().pipe(&pipe).await?;
            let versions = versions.into_iter().filter_map(readable).collect();
            Ok(ContentRecords { revision: revision.unwrap_or(0), versions })
        })
    }

    fn change_content<'a>(&'a self, revision: u64, changes: &'a [ContentChange]) -> Pending<'a, bool> {
        Box::pin(async move {
            let mut call = self.content_script().0.prepare_invoke();
            call.key(keys::CONTENT).key(keys::CONTENT_REVISION).arg(revision);
            for change in changes {
                match change {
                    ContentChange::Put(record) => {
                        call.arg(record.field()).arg(serde_json::to_string(&**record)?)
                    }
                    ContentChange::Remove(record) => call.arg(record.field()).arg(""),
                };
            }
            Ok(self.writer().invoke(&call).await?)
        })
    }
}

#[cfg(test)]
mod twin {
    //! The same in memory, for tests.

    use super::*;
    use crate::store::memory::MemoryStore;

    impl ContentStore for MemoryStore {
        fn content_revision(&self) -> Pending<'_, u64> {
            let revision = self.content_state().revision;
            Box::pin(async move { Ok(revision) })
        }

        fn content(&self) -> Pending<'_, ContentRecords> {
            let records = self.content_state().clone();
            Box::pin(async move { Ok(records) })
        }

        fn change_content<'a>(&'a self, revision: u64, changes: &'a [ContentChange]) -> Pending<'a, bool> {
            let mut records = self.content_state();
            let is_seen = records.revision == revision;
            if is_seen {
                records.revision += 1;
                for change in changes {
                    let (ContentChange::Put(record) | ContentChange::Remove(record)) = change;
                    records.versions.retain(|known| known.field() != record.field());
                    if let ContentChange::Put(record) = change {
                        records.versions.push(VersionRecord::clone(record));
                    }
                }
            }
            Box::pin(async move { Ok(is_seen) })
        }
    }
}
