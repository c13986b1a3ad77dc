//! The store in Redis: every change is one atomic script that checks who leads.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use redis::{ConnectionAddr, RedisError, Script, ScriptInvocation};
use tracing::{error, info, warn};
use trainyard_scheduler_core::{EventRecord, Write};
use trainyard_types::{AgentId, JobId, LeaderEpoch, Time};
use uuid::Uuid;

use super::access::AccessScripts;
use super::content::ContentScript;
use super::link::{Link, RedisAddress, Source};
use super::notices::{self, NoticeScripts};
use super::records::{
    Parts, parse_agent, parse_forgotten, parse_group, parse_progress, parse_status, parse_submission,
    parse_throughput, parse_user,
};
use super::writes::WriteSet;
use super::{Campaigned, Candidate, Loaded, Pending, SCHEMA, Store, StoreError, keys, stream_id};
use crate::sample::{AgentSamples, Resolution, Sample};

/// How long a write may take to reach the replicas that it waits for.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(2);
/// How many times as many events a stream may hold as are to stay there, while they cannot be archived: then the
/// oldest are lost, so that a full disk does not take Redis' memory, too.
const STREAM_FACTOR: usize = 4;
/// Fields per step when a hash is read.
const SCAN_COUNT: usize = 2000;

/// Id, and its fields with their values.
type StreamEntry = (String, Vec<(String, Vec<u8>)>);

/// How a store is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedisOptions {
    /// Events of a job beyond which the oldest are to be archived elsewhere.
    pub event_history: usize,
    /// Replicas that must have a write before it counts.
    pub replicas: usize,
}

/// Redis, by URL or at the socket of an embedded server.
#[derive(Debug, Clone)]
pub struct RedisStore {
    /// The connection that carries the writes.
    writer: Link,
    /// Carries what watchers read, so that a long history does not hold up a commit.
    reader: Link,
    /// Carries what GPUs did, so that it does not hold up a commit.
    telemetry: Link,
    /// Carries the lease, so that a commit that waits for replicas does not hold it up.
    leases: Link,
    campaign: Script,
    renew: Script,
    resign: Script,
    commit: Script,
    trim: Script,
    quarantine: Script,
    record: Script,
    access: AccessScripts,
    content: ContentScript,
    notices: NoticeScripts,
    /// From schema 1 to 2, and so on.
    migrations: Vec<Script>,
    options: RedisOptions,
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl RedisStore {
    /// A store at a server, which is connected to when it is first used.
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn at(address: &RedisAddress, options: RedisOptions) -> Result<Self, StoreError> {
        Ok(Self::new(Source::parse(address)?, options))
    }

    /// A store at a Unix socket, whose path need not survive being written as a URL.
    ///
    /// # Errors
    /// Never, as it stands.
    pub fn at_socket(path: &Path, options: RedisOptions) -> Result<Self, StoreError> {
        let client = redis::Client::open(ConnectionAddr::Unix(path.to_owned()))?;
        Ok(Self::new(Source::Server(client.into()), options))
    }

    fn new(source: Source, options: RedisOptions) -> Self {
        Self {
            writer: Link::new(source.clone()),
            reader: Link::new(source.clone()),
            telemetry: Link::new(source.clone()),
            leases: Link::new(source),
            campaign: Script::new(include_str!("scripts/campaign.lua")),
            renew: Script::new(include_str!("scripts/renew.lua")),
            resign: Script::new(include_str!("scripts/resign.lua")),
            commit: Script::new(include_str!("scripts/commit.lua")),
            trim: Script::new(include_str!("scripts/trim.lua")),
            quarantine: Script::new(include_str!("scripts/quarantine.lua")),
            record: Script::new(include_str!("scripts/telemetry.lua")),
            access: AccessScripts::default(),
            content: ContentScript::default(),
            notices: NoticeScripts::default(),
            migrations: vec![
                Script::new(include_str!("scripts/from_1.lua")),
                Script::new(include_str!("scripts/from_2.lua")),
            ],
            options,
        }
    }

    pub(super) const fn writer(&self) -> &Link {
        &self.writer
    }

    pub(super) const fn reader(&self) -> &Link {
        &self.reader
    }

    pub(super) const fn telemetry_link(&self) -> &Link {
        &self.telemetry
    }

    pub(super) const fn access_scripts(&self) -> &AccessScripts {
        &self.access
    }

    pub(super) const fn notice_scripts(&self) -> &NoticeScripts {
        &self.notices
    }

    pub(super) const fn content_script(&self) -> &ContentScript {
        &self.content
    }

    /// Whether the server answers.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(self.writer.query(&redis::cmd("PING")).await?)
    }

    /// What is weaker in the server's settings than "an acknowledged write is on disk"; `None` if nothing
    /// is, or if the server does not tell (managed ones often refuse).
    pub async fn weakness(&self) -> Option<String> {
        let mut pipe = redis::pipe();
        // Redis before 7.0 takes one pattern at a time.
        for pattern in ["append*", "min-replicas-to-write", "maxmemory-policy"] {
            pipe.cmd("CONFIG").arg("GET").arg(pattern);
        }
        let settings: Vec<BTreeMap<String, String>> = self.writer.pipe(&pipe).await.ok()?;
        let settings: BTreeMap<String, String> = settings.into_iter().flatten().collect();
        let get = |key: &str| settings.get(key).map_or("unknown", String::as_str);
        let (appendonly, appendfsync) = (get("appendonly"), get("appendfsync"));
        if appendonly != "yes" || appendfsync != "always" {
            return Some(format!("appendonly is {appendonly} and appendfsync is {appendfsync}"));
        }
        let policy = get("maxmemory-policy");
        if policy != "noeviction" {
            return Some(format!(
                "maxmemory-policy is {policy}, by which Redis drops records for want of memory"
            ));
        }
        let required: usize = get("min-replicas-to-write").parse().ok()?;
        let wanted = self.options.replicas;
        (required < wanted).then(|| format!("min-replicas-to-write is {required}, below {wanted}"))
    }

    /// Runs a script whose writes count once enough replicas have them.
    async fn invoke_durably(
        &self,
        call: &ScriptInvocation<'_>,
        script: &Script,
    ) -> Result<Vec<String>, StoreError> {
        let wanted = self.options.replicas;
        if wanted == 0 {
            return Ok(self.writer.invoke(call).await?);
        }
        // On one connection: WAIT is about what its own connection has written.
        let mut pipe = redis::pipe();
        pipe.load_script(script).ignore().invoke_script(call);
        pipe.cmd("WAIT").arg(wanted).arg(REPLICA_TIMEOUT.as_millis() as u64);
        let (answer, acked): (Vec<String>, usize) = self.writer.pipe(&pipe).await?;
        // Where nothing was written, there is nothing to wait for.
        let written = answer.first().is_some_and(|word| word == "ok");
        if written && acked < wanted { Err(StoreError::Replicas { acked, wanted }) } else { Ok(answer) }
    }

    /// Brings a store of an older schema up to ours, step by step.
    async fn migrate(&self, found: &str) -> Result<(), StoreError> {
        let newer = || StoreError::Schema { found: found.to_owned() };
        let from: usize = found.parse().map_err(|_| newer())?;
        let steps = from.checked_sub(1).and_then(|done| self.migrations.get(done..)).ok_or_else(newer)?;
        for (at, step) in steps.iter().enumerate() {
            let mut call = step.prepare_invoke();
            call.key(keys::SCHEMA).key(keys::LEADER_EPOCH).key(keys::LEADER);
            call.key(keys::JOBS).key(keys::SPECS);
            let answer = self.invoke_durably(&call, step).await?;
            // Another scheduler may have been faster.
            if answer.first().is_some_and(|word| word == "ok") {
                info!(from = from + at, to = from + at + 1, "store migrated to a newer schema");
            }
        }
        Ok(())
    }

    async fn try_campaign(&self, candidate: &Candidate) -> Result<Campaigned, StoreError> {
        let mut call = self.campaign.prepare_invoke();
        call.key(keys::SCHEMA).key(keys::LEADER_EPOCH).key(keys::LEADER).key(keys::QUARANTINE);
        call.arg(SCHEMA).arg(candidate.instance.to_string()).arg(&candidate.address);
        call.arg(candidate.lease.as_millis() as u64);
        call.arg(if candidate.exclusive { "take" } else { "wait" }).arg(candidate.known.0);
        let answer = self.invoke_durably(&call, &self.campaign).await?;
        let epoch = |text: &str| text.parse().map(LeaderEpoch).map_err(|_| unexpected(&answer));
        match answer.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["ok", drawn, aside @ ..] => {
                report_aside(aside);
                Ok(Campaigned::Leads(epoch(drawn)?))
            }
            ["held", stored, address, left] => Ok(Campaigned::Held {
                epoch: epoch(stored)?,
                address: (*address).to_owned(),
                left: Duration::from_millis(left.parse().unwrap_or(0)),
            }),
            _ => Err(refusal(&answer, candidate.known)),
        }
    }

    /// All fields of a hash, parsed as they come. No other scheduler writes meanwhile without fencing a leader
    /// that reads; for another reader the answer is as of no one moment, but each record is whole.
    async fn scan<T>(
        &self,
        link: &Link,
        key: &str,
        parse: impl Fn(&str, &str) -> Result<T, String>,
    ) -> Result<BTreeMap<String, Result<T, String>>, StoreError> {
        let mut found = BTreeMap::new();
        let mut cursor = 0_u64;
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(key).arg(cursor).arg("COUNT").arg(SCAN_COUNT);
            let (next, fields): (u64, Vec<(String, Vec<u8>)>) = link.query(&command).await?;
            for (field, value) in fields {
                // What is no UTF-8 is no record either, and is quarantined as one that cannot be read.
                let parsed = parse(&field, &String::from_utf8_lossy(&value));
                found.insert(field, parsed);
            }
            if next == 0 {
                return Ok(found);
            }
            cursor = next;
        }
    }

    /// Whether a key can be read as a hash; one that is not there is an empty one.
    async fn is_hash(&self, key: &str) -> Result<bool, StoreError> {
        let kind: String = self.writer.query(redis::cmd("TYPE").arg(key)).await?;
        Ok(kind == "hash" || kind == "none")
    }

    /// The records of a hash; what `parse` refuses is quarantined.
    async fn records<T>(
        &self,
        leader: LeaderEpoch,
        key: &'static str,
        parse: impl Fn(&str, &str) -> Result<T, String>,
        quarantined: &mut Vec<String>,
    ) -> Result<Vec<T>, StoreError> {
        if !self.is_hash(key).await? {
            error!(key, "key holds no hash, setting it aside");
            self.set_aside(leader, key, None).await?;
            quarantined.push(key.to_owned());
        }
        let mut records = Vec::new();
        for (field, parsed) in self.scan(&self.writer, key, parse).await? {
            match parsed {
                Ok(record) => records.push(record),
                Err(cause) => self.quarantine_field(leader, key, &field, &cause, quarantined).await?,
            }
        }
        Ok(records)
    }

    async fn quarantine_field(
        &self,
        leader: LeaderEpoch,
        key: &'static str,
        field: &str,
        cause: &str,
        quarantined: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        error!(key, field, cause, "record cannot be read, setting it aside");
        self.set_aside(leader, key, Some(field)).await?;
        quarantined.push(format!("{key} {field}"));
        Ok(())
    }

    async fn load_jobs(
        &self,
        leader: LeaderEpoch,
        quarantined: &mut Vec<String>,
    ) -> Result<Vec<trainyard_scheduler_core::JobRecord>, StoreError> {
        let statuses = self.records(leader, keys::JOBS, parse_status, quarantined).await?;
        let lost_all = quarantined.iter().any(|key| key == keys::JOBS);
        let progress = self.records(leader, keys::PULSES, parse_progress, quarantined).await?;
        let submitted = self.records(leader, keys::SPECS, parse_submission, quarantined).await?;
        let mut groups = self.records(leader, keys::BATCHES, parse_group, quarantined).await?;
        let forgotten = self.records(leader, keys::FORGOTTEN, parse_forgotten, quarantined).await?;
        if lost_all {
            // Which of their jobs have run is not known any more; none may begin anew.
            groups.clear();
        }
        let parts =
            Parts { submitted, groups, forgotten: forgotten.into_iter().collect(), statuses, progress };
        let (jobs, unfit) = parts.put_together();
        for (key, field, cause) in unfit {
            self.quarantine_field(leader, key, &field, &cause, quarantined).await?;
        }
        Ok(jobs)
    }

    async fn set_aside(&self, leader: LeaderEpoch, key: &str, field: Option<&str>) -> Result<(), StoreError> {
        let mut call = self.quarantine.prepare_invoke();
        call.key(keys::LEADER_EPOCH).key(key).key(keys::QUARANTINE).arg(leader.0);
        if key == keys::JOBS {
            call.key(keys::FORGOTTEN);
        }
        if let Some(field) = field {
            call.arg(field);
        }
        read_answer(&self.writer.invoke::<Vec<String>>(&call).await?, leader)
    }

    async fn readable<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str, &str) -> Result<T, String>,
    ) -> Result<Vec<T>, StoreError> {
        Ok(self.scan(&self.reader, key, parse).await?.into_values().filter_map(Result::ok).collect())
    }

    async fn read_events(
        &self,
        job: JobId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<EventRecord>, StoreError> {
        let key = keys::events(job);
        let mut command = redis::cmd("XRANGE");
        command.arg(&key).arg(stream_id::after(&format!("{after}-0"))).arg("+").arg("COUNT").arg(limit);
        let entries: Vec<StreamEntry> = self.reader.query(&command).await?;
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
    fn campaign<'a>(&'a self, candidate: &'a Candidate) -> Pending<'a, Campaigned> {
        Box::pin(async move {
            match self.try_campaign(candidate).await {
                Err(StoreError::Schema { found }) => {
                    self.migrate(&found).await?;
                    self.try_campaign(candidate).await
                }
                result => result,
            }
        })
    }

    fn renew<'a>(&'a self, candidate: &'a Candidate, leader: LeaderEpoch) -> Pending<'a, ()> {
        Box::pin(async move {
            let mut call = self.renew.prepare_invoke();
            call.key(keys::LEADER_EPOCH).key(keys::LEADER).arg(leader.0);
            call.arg(format!("{} {}", candidate.instance, candidate.address));
            call.arg(candidate.lease.as_millis() as u64);
            read_answer(&self.leases.invoke::<Vec<String>>(&call).await?, leader)
        })
    }

    fn resign<'a>(&'a self, candidate: &'a Candidate) -> Pending<'a, ()> {
        Box::pin(async move {
            let mut call = self.resign.prepare_invoke();
            call.key(keys::LEADER).arg(candidate.instance.to_string());
            read_answer(&self.leases.invoke::<Vec<String>>(&call).await?, candidate.known)
        })
    }

    fn claim_blobs(&self, ours: Uuid) -> Pending<'_, Uuid> {
        Box::pin(async move {
            let mut pipe = redis::pipe();
            pipe.cmd("SET").arg(keys::BLOBS).arg(ours.to_string()).arg("NX").ignore();
            pipe.cmd("GET").arg(keys::BLOBS);
            let (known,): (String,) = self.writer.pipe(&pipe).await?;
            let unreadable =
                |_| StoreError::Unavailable(format!("{} is `{known}`, which is no id", keys::BLOBS));
            known.parse().map_err(unreadable)
        })
    }

    fn load(&self, leader: LeaderEpoch) -> Pending<'_, Loaded> {
        Box::pin(async move {
            let mut quarantined = Vec::new();
            let jobs = self.load_jobs(leader, &mut quarantined).await?;
            let agents = self.records(leader, keys::AGENTS, parse_agent, &mut quarantined).await?;
            let users = self.records(leader, keys::USERS, parse_user, &mut quarantined).await?;
            let throughput = self.records(leader, keys::LEARNED, parse_throughput, &mut quarantined).await?;
            Ok(Loaded { jobs, agents, users, throughput, quarantined })
        })
    }

    fn peek(&self) -> Pending<'_, Loaded> {
        Box::pin(async move {
            // What a job stands on was written before or with where it stands, so it is read after that.
            let parts = Parts {
                statuses: self.readable(keys::JOBS, parse_status).await?,
                progress: self.readable(keys::PULSES, parse_progress).await?,
                submitted: self.readable(keys::SPECS, parse_submission).await?,
                groups: self.readable(keys::BATCHES, parse_group).await?,
                forgotten: self.readable(keys::FORGOTTEN, parse_forgotten).await?.into_iter().collect(),
            };
            let (jobs, _) = parts.put_together();
            let agents = self.readable(keys::AGENTS, parse_agent).await?;
            let users = self.readable(keys::USERS, parse_user).await?;
            let throughput = self.readable(keys::LEARNED, parse_throughput).await?;
            Ok(Loaded { jobs, agents, users, throughput, quarantined: Vec::new() })
        })
    }

    fn commit<'a>(&'a self, leader: LeaderEpoch, writes: &'a [Write]) -> Pending<'a, ()> {
        Box::pin(async move {
            let mut call = self.commit.prepare_invoke();
            call.key(keys::LEADER_EPOCH).arg(leader.0);
            call.arg(self.options.event_history.saturating_mul(STREAM_FACTOR)).arg(notices::KEPT);
            WriteSet::of(writes)?.write(&mut call)?;
            call.key(keys::QUARANTINE);
            read_answer(&self.invoke_durably(&call, &self.commit).await?, leader)
        })
    }

    fn event_history(&self) -> u64 {
        self.options.event_history as u64
    }

    fn trim(&self, leader: LeaderEpoch, job: JobId, first: u64) -> Pending<'_, ()> {
        Box::pin(async move {
            let mut call = self.trim.prepare_invoke();
            call.key(keys::LEADER_EPOCH).key(keys::events(job)).arg(leader.0).arg(first);
            read_answer(&self.writer.invoke::<Vec<String>>(&call).await?, leader)
        })
    }

    fn events(&self, job: JobId, after: u64, limit: usize) -> Pending<'_, Vec<EventRecord>> {
        Box::pin(self.read_events(job, after, limit))
    }

    fn record<'a>(&'a self, now: Time, batches: &'a [AgentSamples]) -> Pending<'a, ()> {
        Box::pin(super::telemetry::record(&self.telemetry, &self.record, now, batches))
    }

    fn telemetry(
        &self,
        agent: AgentId,
        resolution: Resolution,
        span: Range<Time>,
        limit: usize,
    ) -> Pending<'_, Vec<Sample>> {
        Box::pin(super::telemetry::read(&self.reader, agent, resolution, span, limit))
    }
}

/// What a script said that has no value to tell: that it is done, or why it did nothing.
fn read_answer(answer: &[String], ours: LeaderEpoch) -> Result<(), StoreError> {
    match answer {
        [word, aside @ ..] if word == "ok" => {
            report_aside(aside);
            Ok(())
        }
        _ => Err(refusal(answer, ours)),
    }
}

fn report_aside(keys: &[impl AsRef<str>]) {
    for key in keys {
        error!(key = key.as_ref(), into = keys::QUARANTINE, "key holds something else, quarantined");
    }
}

/// Why a script did nothing.
fn refusal(answer: &[String], ours: LeaderEpoch) -> StoreError {
    let number = |text: &str| text.parse().unwrap_or(0);
    match answer.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["fenced", epoch] => StoreError::Fenced { ours, current: LeaderEpoch(number(epoch)) },
        ["schema", found] => StoreError::Schema { found: (*found).to_owned() },
        ["lost"] => StoreError::Lost,
        ["conflict", job, stored, expected] => StoreError::Conflict {
            job: (*job).to_owned(),
            stored: number(stored),
            expected: number(expected),
        },
        _ => unexpected(answer),
    }
}

fn unexpected(answer: &[String]) -> StoreError {
    StoreError::Unavailable(format!("a script answered {answer:?}"))
}
