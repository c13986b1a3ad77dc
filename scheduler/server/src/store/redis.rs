//! The store in Redis: every change is one atomic script that checks who leads.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{ConnectionAddr, RedisError, Script};
use serde::de::DeserializeOwned;
use tracing::{error, warn};
use trainyard_scheduler_core::{AgentRecord, EventRecord, JobRecord, Write};
use trainyard_types::{AgentId, JobId, LeaderEpoch};
use uuid::Uuid;

use super::{Campaign, Loaded, Pending, SCHEMA, Store, StoreError, keys};

/// How long one call may take; a busy server needs more than the client's own half second.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// Fields per step when a hash is read.
const SCAN_COUNT: usize = 500;

/// Id, and its fields with their values.
type StreamEntry = (String, Vec<(String, Vec<u8>)>);

/// Redis, by URL or at the socket of an embedded server.
#[derive(Debug, Clone)]
pub struct RedisStore {
    /// Carries the writes.
    writer: ConnectionManager,
    /// Carries what watchers read, so that a long history does not hold up a commit.
    reader: ConnectionManager,
    campaign: Script,
    commit: Script,
    quarantine: Script,
    /// Longest event stream of a job, roughly.
    event_history: usize,
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl RedisStore {
    /// A store at `url`: `redis://[user:password@]host[:port]/[db]`, or `unix:///path/to/socket`.
    /// Connects when it is first used.
    ///
    /// # Errors
    /// The URL is none.
    pub fn at_url(url: &str, event_history: usize) -> Result<Self, StoreError> {
        Self::new(redis::Client::open(url)?, event_history)
    }

    /// A store at a Unix socket, whose path need not survive being written as a URL.
    ///
    /// # Errors
    /// Never, as it stands.
    pub fn at_socket(path: &Path, event_history: usize) -> Result<Self, StoreError> {
        Self::new(redis::Client::open(ConnectionAddr::Unix(path.to_owned()))?, event_history)
    }

    fn new(client: redis::Client, event_history: usize) -> Result<Self, StoreError> {
        // One attempt at a time: the caller decides how to wait, and others learn quickly that it failed.
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_connection_timeout(Some(CONNECTION_TIMEOUT))
            .set_number_of_retries(0);
        Ok(Self {
            writer: ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?,
            reader: ConnectionManager::new_lazy_with_config(client, config)?,
            campaign: Script::new(include_str!("scripts/campaign.lua")),
            commit: Script::new(include_str!("scripts/commit.lua")),
            quarantine: Script::new(include_str!("scripts/quarantine.lua")),
            event_history,
        })
    }

    /// Whether the server answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(redis::cmd("PING").exec_async(&mut self.writer.clone()).await?)
    }

    /// What is weaker in the server's settings than "an acknowledged write is on disk"; `None` if nothing
    /// is, or if the server does not tell (managed ones often refuse).
    pub async fn weakness(&self) -> Option<String> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("append*");
        let settings: BTreeMap<String, String> = command.query_async(&mut self.writer.clone()).await.ok()?;
        let get = |key: &str| settings.get(key).map_or("unknown", String::as_str);
        let (appendonly, appendfsync) = (get("appendonly"), get("appendfsync"));
        (appendonly != "yes" || appendfsync != "always")
            .then(|| format!("appendonly is {appendonly} and appendfsync is {appendfsync}"))
    }

    /// All fields of a hash. No other scheduler writes meanwhile without fencing this one.
    async fn hash(&self, key: &str) -> Result<BTreeMap<String, String>, StoreError> {
        let mut found = BTreeMap::new();
        let mut cursor = 0_u64;
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(key).arg(cursor).arg("COUNT").arg(SCAN_COUNT);
            let (next, fields): (u64, Vec<(String, Vec<u8>)>) =
                command.query_async(&mut self.writer.clone()).await?;
            // What is no UTF-8 is no record either, and is quarantined as one that cannot be read.
            let text = |(field, value): (String, Vec<u8>)| (field, String::from_utf8_lossy(&value).into());
            found.extend(fields.into_iter().map(text));
            if next == 0 {
                return Ok(found);
            }
            cursor = next;
        }
    }

    /// The records of a hash; what `parse` refuses is set aside.
    async fn records<T>(
        &self,
        leader: LeaderEpoch,
        key: &'static str,
        parse: impl Fn(&str, &str) -> Result<T, String>,
        quarantined: &mut Vec<String>,
    ) -> Result<Vec<T>, StoreError> {
        let mut records = Vec::new();
        for (field, value) in self.hash(key).await? {
            match parse(&field, &value) {
                Ok(record) => records.push(record),
                Err(cause) => {
                    error!(key, field, cause, "record cannot be read, setting it aside");
                    self.set_aside(leader, key, &field).await?;
                    quarantined.push(format!("{key} {field}"));
                }
            }
        }
        Ok(records)
    }

    async fn set_aside(&self, leader: LeaderEpoch, key: &str, field: &str) -> Result<(), StoreError> {
        let mut call = self.quarantine.prepare_invoke();
        call.key(keys::LEADER_EPOCH).key(key).key(keys::QUARANTINE).arg(leader.0).arg(field);
        let answer: Vec<String> = call.invoke_async(&mut self.writer.clone()).await?;
        read_answer(&answer, leader).map(|_| ())
    }

    async fn read_events(
        &self,
        job: JobId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<EventRecord>, StoreError> {
        let key = keys::events(job);
        let mut command = redis::cmd("XRANGE");
        command.arg(&key).arg(format!("({after}-0")).arg("+").arg("COUNT").arg(limit);
        let entries: Vec<StreamEntry> = command.query_async(&mut self.reader.clone()).await?;
        let read = |(id, fields): StreamEntry| {
            let bytes = fields.first().map_or(&[][..], |(_, bytes)| bytes);
            serde_json::from_slice(bytes)
                .inspect_err(|cause| warn!(key, id, %cause, "event cannot be read, leaving it out"))
                .ok()
        };
        Ok(entries.into_iter().filter_map(read).collect())
    }
}

impl Store for RedisStore {
    fn campaign(&self, instance: Uuid, how: Campaign) -> Pending<'_, LeaderEpoch> {
        Box::pin(async move {
            let mut call = self.campaign.prepare_invoke();
            call.key(keys::SCHEMA).key(keys::LEADER_EPOCH).key(keys::LEADER);
            let how = if how == Campaign::Take { "take" } else { "renew" };
            call.arg(SCHEMA).arg(instance.to_string()).arg(how);
            let answer: Vec<String> = call.invoke_async(&mut self.writer.clone()).await?;
            let epoch = read_answer(&answer, LeaderEpoch(0))?;
            epoch.and_then(|epoch| epoch.parse().ok()).map(LeaderEpoch).ok_or_else(|| unexpected(&answer))
        })
    }

    fn load(&self, leader: LeaderEpoch) -> Pending<'_, Loaded> {
        Box::pin(async move {
            let mut quarantined = Vec::new();
            let jobs = self.records(leader, keys::JOBS, parse_job, &mut quarantined).await?;
            let agents = self.records(leader, keys::AGENTS, parse_agent, &mut quarantined).await?;
            Ok(Loaded { jobs, agents, quarantined })
        })
    }

    fn commit<'a>(&'a self, leader: LeaderEpoch, writes: &'a [Write]) -> Pending<'a, ()> {
        Box::pin(async move {
            let batch = Batch::of(writes);
            let mut call = self.commit.prepare_invoke();
            call.key(keys::LEADER_EPOCH).key(keys::JOBS).key(keys::AGENTS);
            call.arg(leader.0).arg(self.event_history).arg(batch.jobs.len());
            for (id, (built_on, record)) in &batch.jobs {
                let json = serde_json::to_string(record)?;
                call.arg(id.to_string()).arg(*built_on).arg(format!("{} {json}", record.revision));
            }
            call.arg(batch.agents.len());
            for (id, record) in &batch.agents {
                call.arg(id.to_string()).arg(serde_json::to_vec(record)?);
            }
            for (job, events) in &batch.events {
                call.key(keys::events(*job)).arg(events.len());
                for event in events {
                    call.arg(event.cursor).arg(serde_json::to_vec(event)?);
                }
            }
            let answer: Vec<String> = call.invoke_async(&mut self.writer.clone()).await?;
            read_answer(&answer, leader).map(|_| ())
        })
    }

    fn events(&self, job: JobId, after: u64, limit: usize) -> Pending<'_, Vec<EventRecord>> {
        Box::pin(self.read_events(job, after, limit))
    }
}

/// A batch with one entry a record: of several writes of a job, the last one counts, and builds on what
/// the first one built on.
#[derive(Default)]
struct Batch<'a> {
    jobs: BTreeMap<JobId, (u64, &'a JobRecord)>,
    agents: BTreeMap<AgentId, &'a AgentRecord>,
    events: BTreeMap<JobId, Vec<&'a EventRecord>>,
}

impl<'a> Batch<'a> {
    fn of(writes: &'a [Write]) -> Self {
        let mut batch = Self::default();
        for write in writes {
            match write {
                Write::Job(record) => {
                    let built_on = record.revision.saturating_sub(1);
                    batch.jobs.entry(record.id).or_insert((built_on, record)).1 = record;
                }
                Write::Agent(record) => {
                    batch.agents.insert(record.id, record);
                }
                Write::JobEvents { job, events } => batch.events.entry(*job).or_default().extend(events),
            }
        }
        batch
    }
}

/// What a script said: its value, or why it did nothing.
fn read_answer(answer: &[String], ours: LeaderEpoch) -> Result<Option<&str>, StoreError> {
    let number = |text: &String| text.parse().unwrap_or(0);
    match answer {
        [word] if word == "ok" => Ok(None),
        [word, value] if word == "ok" => Ok(Some(value)),
        [word, epoch] if word == "fenced" => {
            Err(StoreError::Fenced { ours, current: LeaderEpoch(number(epoch)) })
        }
        [word, found] if word == "schema" => Err(StoreError::Schema { found: found.clone() }),
        [word, job, stored, expected] if word == "conflict" => {
            Err(StoreError::Conflict { job: job.clone(), stored: number(stored), expected: number(expected) })
        }
        _ => Err(unexpected(answer)),
    }
}

fn unexpected(answer: &[String]) -> StoreError {
    StoreError::Unavailable(format!("a script answered {answer:?}"))
}

fn parse_json<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// A job's record must be stored under its own id and revision.
fn parse_job(field: &str, value: &str) -> Result<JobRecord, String> {
    let (revision, json) = value.split_once(' ').ok_or("has no revision")?;
    let record: JobRecord = parse_json(json)?;
    let fits = record.id.to_string() == field && record.revision.to_string() == revision;
    if fits { Ok(record) } else { Err(format!("is job {} at revision {}", record.id, record.revision)) }
}

fn parse_agent(field: &str, value: &str) -> Result<AgentRecord, String> {
    let record: AgentRecord = parse_json(value)?;
    if record.id.to_string() == field { Ok(record) } else { Err(format!("is agent {}", record.id)) }
}
