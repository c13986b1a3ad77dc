//! A push: the list of files goes first, the scheduler answers which contents it lacks, these follow. A connection that
//! breaks is opened again, and the push goes on with what is not stored yet.

mod messages;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use trainyard_content::Kind;
use trainyard_proto::pb;
use trainyard_proto::pb::push_dataset_response::Part as Answer;
use trainyard_types::reference::Reference;
use trainyard_types::size::{bytes, counted};

use self::messages::{produce, wait_for};
use super::bundle::Bundle;
use super::contents::Ranges;
use super::hash_cache::HashCache;
use super::hashing::{self, Digests};
use super::progress::Progress;
use crate::commands::Context;
use crate::failure::{Exit, Failure, is_temporary, is_transport};
use crate::output::Output;
use crate::reconnect::Reconnect;
use crate::terminal;

/// How the scheduler calls that others push just now, as the user may elsewhere.
const TOO_MANY: &str = "TOO_MANY_PUSHES";
/// Messages that wait for the connection.
const QUEUED: usize = 4;

/// The number by which the wire tells kinds apart.
pub const fn wire_kind(kind: Kind) -> pb::DatasetKind {
    match kind {
        Kind::DataSet => pb::DatasetKind::Dataset,
        Kind::Weights => pb::DatasetKind::Weights,
    }
}

/// Hashes a bundle and sends nothing. Returns the version that a push would make.
///
/// # Errors
/// A file changed or cannot be read.
pub async fn rehearse(context: &Context, bundle: &Bundle) -> Result<pb::Dataset, Failure> {
    let mut digests = begin_hashing(context.output, bundle);
    let all = wait_for(&mut digests, bundle.list.len()).await?;
    hashing::finished(digests).await;
    Ok(pb::Dataset {
        kind: wire_kind(bundle.kind).into(),
        name: bundle.name.clone(),
        version: bundle.id(&all).to_string(),
        files: bundle.list.len() as u64,
        size_bytes: bundle.list.total_bytes(),
        description: bundle.description.clone(),
        ..Default::default()
    })
}

/// Stores a bundle as a version of its name.
///
/// # Errors
/// A file changed; the scheduler refuses, or stays away.
pub async fn push(context: &Context, bundle: &Bundle) -> Result<pb::Dataset, Failure> {
    "stopped; the same command goes on where this one was".clone_into(&mut context.on_interrupt.borrow_mut());
    let digests = begin_hashing(context.output, bundle);
    let mut reconnect = Reconnect::new(&context.client);
    let mut least_missing = u64::MAX;
    loop {
        let mut attempt = Attempt { context, bundle, progressed: false, least_missing: &mut least_missing };
        let status = match attempt.run(digests.clone()).await {
            Ok(dataset) => {
                context.client.succeeded();
                hashing::finished(digests).await;
                return Ok(dataset);
            }
            Err(Stopped::Here(failure)) => {
                hashing::finished(digests).await;
                return Err(failure);
            }
            Err(Stopped::There(status)) => status,
        };
        let words = asks_to_come_again(&status);
        if words.is_none() && !is_temporary(&status) {
            return Err(context.client.failure(&status));
        }
        if attempt.progressed {
            reconnect.progressed();
        }
        match words {
            Some(words) => reconnect.wait_as_told(&status, words).await?,
            None => reconnect.wait(&status).await?,
        }
    }
}

/// What to say when the scheduler is there, and this push is to be begun anew.
fn asks_to_come_again(status: &Status) -> Option<&'static str> {
    if status.code() == Code::DeadlineExceeded && !is_transport(status) {
        return Some("the server ended the push, since nothing had come for a while; trying again");
    }
    let is_full = status.get_details_error_info().is_some_and(|info| info.reason == TOO_MANY);
    is_full.then_some("too many pushes are under way; waiting for one to end")
}

fn begin_hashing(output: Output, bundle: &Bundle) -> Digests {
    let progress = Progress::new(output, "hashing", bundle.list.total_bytes());
    hashing::start(Arc::clone(&bundle.list), HashCache::load(&bundle.source), Arc::new(progress))
}

/// Why an attempt ended.
enum Stopped {
    /// A failure of this machine.
    Here(Failure),
    There(Status),
}

impl From<Status> for Stopped {
    fn from(status: Status) -> Self {
        Self::There(status)
    }
}

/// A push by one connection.
struct Attempt<'a> {
    context: &'a Context,
    bundle: &'a Bundle,
    /// Whether more is stored than before it.
    progressed: bool,
    /// The fewest bytes that the scheduler has lacked until now.
    least_missing: &'a mut u64,
}

impl Attempt<'_> {
    async fn run(&mut self, digests: Digests) -> Result<pb::Dataset, Stopped> {
        let (messages, receiver) = mpsc::channel(QUEUED);
        let (ask, asked) = oneshot::channel();
        let produce = async {
            match produce(self.bundle, digests.clone(), messages, asked).await {
                Err(failure) => failure,
                // What is left is the scheduler's answer.
                Ok(()) => std::future::pending().await,
            }
        };
        let bundle = self.bundle;
        let stored = self.answers(receiver, ask);
        let dataset = tokio::select! {
            stored = stored => stored?,
            failure = produce => return Err(Stopped::Here(failure)),
        };
        let own = bundle.id(&digests.borrow().digests).to_string();
        if dataset.version != own {
            let text =
                format!("the server stored version {}, and not {own}", terminal::clean(&dataset.version));
            return Err(Stopped::Here(Failure::new(Exit::Refused, text)));
        }
        Ok(dataset)
    }

    /// Reads what the scheduler says, until the version is stored.
    async fn answers(
        &mut self,
        messages: mpsc::Receiver<pb::PushDatasetRequest>,
        ask: oneshot::Sender<(Ranges, Arc<Progress>)>,
    ) -> Result<pb::Dataset, Stopped> {
        let call = self.context.client.datasets().push_dataset(ReceiverStream::new(messages)).await?;
        let mut answers = call.into_inner();
        let (mut ranges, mut ask) = (Ranges::new(), Some(ask));
        while let Some(answer) = answers.message().await? {
            match answer.part {
                Some(Answer::Missing(missing)) => {
                    let parts = missing.ranges.iter().map(|part| checked(part, self.bundle.list.len()));
                    ranges.extend(parts.collect::<Result<Vec<_>, _>>().map_err(Stopped::Here)?);
                    if let Some(ask) = ask.take_if(|_| !missing.more) {
                        let progress = self.begin_sending(&ranges);
                        // Whoever sends is gone only when a file could not be read, which ends this.
                        let _ = ask.send((std::mem::take(&mut ranges), progress));
                    }
                }
                Some(Answer::Progress(progress)) => self.progressed |= progress.stored_bytes > 0,
                Some(Answer::Dataset(dataset)) => return Ok(dataset),
                None => {}
            }
        }
        Err(Status::unavailable("the server ended the push before it was stored").into())
    }

    /// Says what is sent, once, and notes whether an earlier attempt has helped.
    fn begin_sending(&mut self, ranges: &Ranges) -> Arc<Progress> {
        let list = &self.bundle.list;
        let files: usize = ranges.iter().map(ExactSizeIterator::len).sum();
        let places = ranges.iter().cloned().flatten();
        let missing = places.filter_map(|at| list.get(at)).map(|file| file.size_bytes).sum();
        let is_first = *self.least_missing == u64::MAX;
        if missing < *self.least_missing {
            (*self.least_missing, self.progressed) = (missing, true);
        }
        if is_first {
            let all = format!("{}, {}", counted(list.len(), "file"), bytes(list.total_bytes()));
            terminal::message(&match files {
                0 => format!("{all}: everything is stored already"),
                1 if list.len() == 1 => format!("{all}: the cluster does not have it"),
                _ if files == list.len() => format!("{all}: the cluster has none of them"),
                _ => format!("{all}: the cluster lacks {files} of them, {}", bytes(missing)),
            });
        }
        Arc::new(Progress::new(self.context.output, "sending", missing))
    }
}

/// The files of a range that the scheduler has asked for.
fn checked(range: &pb::FileRange, files: usize) -> Result<std::ops::Range<usize>, Failure> {
    let first = usize::try_from(range.first).ok();
    let end = range.first.checked_add(range.count).and_then(|end| usize::try_from(end).ok());
    match (first, end) {
        (Some(first), Some(end)) if end <= files => Ok(first..end),
        _ => Err(Failure::new(Exit::Refused, "the server asked for files that the version does not have")),
    }
}

/// A version as people name it: `cells@3f9a3f9a3f9a`.
pub fn shown(dataset: &pb::Dataset) -> String {
    terminal::clean(&Reference::exact(&dataset.name, &dataset.version).short())
}
