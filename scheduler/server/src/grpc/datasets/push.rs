//! One push: header and files come, what is missing is asked for, and a version comes out.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Status, Streaming};
use trainyard_content::{Builder, Digest, Kind, MAX_FILES, Manifest, ManifestError};
use trainyard_proto::pb;
use trainyard_proto::pb::push_dataset_request::Part;
use trainyard_proto::pb::push_dataset_response::Part as Answer;
use trainyard_types::reference::check_name;
use trainyard_types::{Time, Violation};

use super::{noun, parse_kind, shown};
use crate::access::{Caller, LateTarget};
use crate::content::{PushError, Wanted};
use crate::content_records::JOB_WEIGHTS_NAME;
use crate::grpc::Context;
use crate::grpc::status::ApiError;

/// Files that an answer names; behind them, the user has a pattern to go by.
const MOST_VIOLATIONS: usize = 20;
/// Characters of a name that the audit keeps.
const NAME: usize = 128;
/// Bytes of a description.
const DESCRIPTION: usize = 200;
/// Ranges in one message: at most 20 bytes each.
const RANGES: usize = 50_000;
/// A client that says nothing for so long is gone: hashing a large file takes a while, and holds no place.
const SILENCE: Duration = Duration::from_secs(300);
/// Whoever holds a place among the pushes uses it: no byte that comes, and no answer that is taken, for so long end it.
const STALL: Duration = Duration::from_secs(30);
/// Bytes of contents that come in [`SILENCE`] at least.
const LEAST_BYTES: u64 = 256 << 10;

/// A push that has come in.
pub(super) struct Push {
    pub context: Context,
    pub caller: Caller,
    pub user: String,
    /// For the audit: the name that is pushed to.
    pub target: LateTarget,
    pub parts: Streaming<pb::PushDatasetRequest>,
    pub answers: mpsc::Sender<Result<pb::PushDatasetResponse, Status>>,
}

struct Header {
    kind: Kind,
    name: String,
    files: usize,
    description: String,
}

fn parse_header(header: pb::PushHeader) -> Result<Header, ApiError> {
    let mut found = Vec::new();
    let kind = parse_kind(header.kind).unwrap_or_else(|wrong| {
        found.push(wrong);
        Kind::DataSet
    });
    if let Err(error) = check_name(&header.name) {
        found.push(Violation::new("name", error.to_string()));
    }
    if header.name.starts_with(JOB_WEIGHTS_NAME) {
        let text = format!(
            "is `{}`; names that begin with `{JOB_WEIGHTS_NAME}` are of weights that jobs left",
            header.name
        );
        found.push(Violation::new("name", text));
    }
    let files = usize::try_from(header.files).unwrap_or(usize::MAX);
    if !(1..=MAX_FILES).contains(&files) {
        found.push(Violation::new("files", format!("is {}; use 1 to {MAX_FILES}", header.files)));
    }
    if header.description.len() > DESCRIPTION || header.description.chars().any(char::is_control) {
        let text = format!("use at most {DESCRIPTION} bytes, without control characters");
        found.push(Violation::new("description", text));
    }
    let under = |violation: Violation| violation.under("header");
    if !found.is_empty() {
        return Err(ApiError::Invalid(found.into_iter().map(under).collect()));
    }
    Ok(Header { kind, name: header.name, files, description: header.description })
}

/// Takes the files of a push, and notes what is wrong with them.
struct Files {
    builder: Builder,
    expected: usize,
    came: usize,
    found: Vec<Violation>,
    more: usize,
}

impl Files {
    fn note(&mut self, field: &str, text: String) {
        if self.found.len() < MOST_VIOLATIONS {
            self.found.push(Violation::new(format!("files[{}].{field}", self.came), text));
        } else {
            self.more += 1;
        }
    }

    fn take(&mut self, files: Vec<pb::DatasetFile>) -> Result<(), ApiError> {
        for file in files {
            if self.came == self.expected {
                let text = format!("is {}, and more files came", self.expected);
                return Err(ApiError::field("header.files", text));
            }
            match Digest::from_bytes(&file.sha256) {
                None => {
                    let text = format!("has {} bytes; a SHA-256 has 32", file.sha256.len());
                    self.note("sha256", text);
                }
                Some(digest) => {
                    if let Err(error) = self.builder.add(&file.path, file.size_bytes, digest) {
                        let field = match error {
                            ManifestError::FileTooLarge { .. } => "size_bytes",
                            _ => "path",
                        };
                        self.note(field, error.to_string());
                    }
                }
            }
            self.came += 1;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Manifest, ApiError> {
        if self.more > 0 {
            let text = format!("{} more files are wrong", self.more);
            self.found.push(Violation::new("files", text));
        }
        if !self.found.is_empty() {
            return Err(ApiError::Invalid(self.found));
        }
        self.builder.finish().map_err(|error| ApiError::field("files", error.to_string()))
    }
}

impl Push {
    pub(super) async fn run(mut self) {
        let closing = self.context.closing.clone();
        let answers = self.answers.clone();
        let end = tokio::select! {
            end = self.receive() => end,
            () = closing.cancelled() => Err(ApiError::SHUTTING_DOWN.into()),
        };
        let answer = match end {
            Ok(dataset) => Ok(pb::PushDatasetResponse { part: Some(Answer::Dataset(dataset)) }),
            Err(status) => Err(status),
        };
        // The client may be gone by now.
        let _ = answers.send(answer).await;
    }

    /// The next part of header and files.
    async fn next(&mut self) -> Result<Option<Part>, Status> {
        loop {
            let part = next_part(&mut self.parts, Instant::now() + SILENCE, SILENCE).await?;
            if !matches!(part, Some(None)) {
                return Ok(part.flatten());
            }
        }
    }

    async fn answer(&self, answer: Answer) -> Result<(), Status> {
        let message = pb::PushDatasetResponse { part: Some(answer) };
        let sent = timeout(STALL, self.answers.send(Ok(message))).await;
        sent.map_err(|_| stalled("no answer was taken", STALL))?
            .map_err(|_| Status::cancelled("the client is gone"))
    }

    /// Header and files.
    async fn receive_manifest(&mut self) -> Result<(Header, Manifest), Status> {
        let header = match self.next().await? {
            Some(Part::Header(header)) => {
                self.target.set(header.name.chars().take(NAME).collect());
                parse_header(header)?
            }
            _ => return Err(ApiError::field("header", "the first message must be one").into()),
        };
        let builder = Builder::new(header.kind);
        let mut files = Files { builder, expected: header.files, came: 0, found: Vec::new(), more: 0 };
        while files.came < files.expected {
            match self.next().await? {
                Some(Part::Files(part)) => files.take(part.files)?,
                Some(Part::Header(_)) => return Err(ApiError::field("header", "came twice").into()),
                Some(Part::Data(_)) => {
                    let text = format!(
                        "came after {} of {} files; all files come first",
                        files.came, files.expected
                    );
                    return Err(ApiError::field("data", text).into());
                }
                None => {
                    let text = format!("is {}, and {} files came", files.expected, files.came);
                    return Err(ApiError::field("header.files", text).into());
                }
            }
        }
        Ok((header, files.finish()?))
    }

    async fn receive(&mut self) -> Result<pb::Dataset, Status> {
        let (header, manifest) = self.receive_manifest().await?;
        let kind = header.kind;
        let wanted = Wanted {
            name: header.name,
            user: self.user.clone(),
            is_admin: self.caller.is_admin(),
            description: header.description,
            manifest: Arc::new(manifest),
            is_of_job: false,
        };
        let name = wanted.name.clone();
        let refused = |error: PushError| Status::from(refusal(error, kind, &name));
        let mut pushing = self.context.content.push(wanted).await.map_err(refused)?;
        self.ask_for(pushing.missing()).await?;
        let all = pushing.missing_bytes();
        let mut told = 0;
        let (mut window, mut window_began) = (0, Instant::now());
        while pushing.received_bytes() < all {
            let data = match next_bytes(&mut self.parts, STALL).await {
                Ok(Some(data)) => data,
                end => {
                    // What has come stays, so that the next push goes on from there.
                    let short = pushing.break_off().await;
                    end?;
                    return Err(refusal(short, kind, &name).into());
                }
            };
            if window_began.elapsed() >= SILENCE {
                let received = pushing.received_bytes();
                if received - window < LEAST_BYTES {
                    pushing.break_off().await;
                    return Err(stalled(&format!("{} bytes came", received - window), SILENCE));
                }
                (window, window_began) = (received, Instant::now());
            }
            if let Err(error) = pushing.take(data.into()).await {
                pushing.break_off().await;
                return Err(refused(error));
            }
            if pushing.stored_bytes() > told {
                told = pushing.stored_bytes();
                self.answer(Answer::Progress(pb::PushProgress { stored_bytes: told })).await?;
            }
        }
        let version = pushing.finish(Time::now()).await.map_err(refused)?;
        Ok(shown(&version, true))
    }

    /// Asks for the contents of files, neighbours as ranges.
    async fn ask_for(&self, missing: &[u32]) -> Result<(), Status> {
        let mut ranges: Vec<pb::FileRange> = Vec::new();
        for &at in missing {
            let at = u64::from(at);
            match ranges.last_mut() {
                Some(last) if last.first + last.count == at => last.count += 1,
                _ => ranges.push(pb::FileRange { first: at, count: 1 }),
            }
        }
        let parts = ranges.chunks(RANGES).count().max(1);
        for part in 0..parts {
            let begin = part * RANGES;
            let end = ranges.len().min(begin + RANGES);
            let missing = pb::MissingFiles { ranges: ranges[begin..end].to_vec(), more: part + 1 < parts };
            self.answer(Answer::Missing(missing)).await?;
        }
        Ok(())
    }
}

fn stalled(what: &str, time: Duration) -> Status {
    Status::deadline_exceeded(format!("{what} for {} s; push again, it goes on where it was", time.as_secs()))
}

type Message = Result<pb::PushDatasetRequest, Status>;

/// The next message's part, which may have none; `None` behind the last one.
async fn next_part(
    messages: &mut (impl Stream<Item = Message> + Unpin),
    until: Instant,
    time: Duration,
) -> Result<Option<Option<Part>>, Status> {
    let message = timeout_at(until, messages.next()).await.map_err(|_| stalled("nothing came", time))?;
    Ok(message.transpose()?.map(|message| message.part))
}

/// The next bytes of contents; `None` behind the last ones. Messages without a byte gain no time.
async fn next_bytes(
    messages: &mut (impl Stream<Item = Message> + Unpin),
    time: Duration,
) -> Result<Option<Vec<u8>>, Status> {
    let until = Instant::now() + time;
    loop {
        let part = next_part(messages, until, time).await?;
        match part {
            None => return Ok(None),
            Some(None) => {}
            Some(Some(Part::Data(data))) if data.is_empty() => {}
            Some(Some(Part::Data(data))) => return Ok(Some(data)),
            Some(Some(_)) => return Err(ApiError::field("part", "contents alone come now").into()),
        }
        // What comes without a pause is never too late for a timeout.
        if Instant::now() >= until {
            return Err(stalled("nothing came", time));
        }
    }
}

/// The answer to a push that was refused.
fn refusal(error: PushError, kind: Kind, name: &str) -> ApiError {
    match error {
        PushError::TooMany => ApiError::TooManyPushes,
        PushError::NotOwner(owner) => {
            let text = format!(
                "the {} `{name}` belongs to `{owner}`; push under another name, or ask its owner",
                noun(kind)
            );
            ApiError::NameTaken { name: name.to_owned(), owner, text }
        }
        PushError::Quota { .. } => ApiError::DataQuota(error.to_string()),
        PushError::LeadsOut(found) => ApiError::Invalid(found),
        PushError::Size { .. } => ApiError::field("files", error.to_string()),
        PushError::Hash { .. } | PushError::TooLong | PushError::TooShort(_) => {
            ApiError::field("data", error.to_string())
        }
        PushError::Gone => ApiError::Unavailable("a content that was there is gone; push again"),
        PushError::Content(cause) => cause.into(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;
    use tonic::Code;

    use super::*;

    fn message(part: Option<Part>) -> Message {
        Ok(pb::PushDatasetRequest { part })
    }

    #[tokio::test]
    async fn who_sends_no_byte_is_ended_whatever_else_comes() {
        let words = tokio_stream::iter(0_u64..).then(|at| async move {
            sleep(Duration::from_millis(1)).await;
            message(if at % 2 == 0 { None } else { Some(Part::Data(Vec::new())) })
        });
        let mut words = Box::pin(words);
        let ended = next_bytes(&mut words, Duration::from_millis(100));
        let status = timeout(Duration::from_secs(60), ended).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().starts_with("nothing came for 0 s; push again"), "{}", status.message());
        let status = next_bytes(&mut tokio_stream::pending(), Duration::from_millis(10)).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn bytes_come_without_what_has_none_and_the_end_is_no_silence() {
        let parts =
            [None, Some(Part::Data(Vec::new())), Some(Part::Data(vec![1])), Some(Part::Data(vec![2]))];
        let mut parts = tokio_stream::iter(parts.map(message));
        assert_eq!(next_bytes(&mut parts, STALL).await.unwrap(), Some(vec![1]));
        assert_eq!(next_bytes(&mut parts, STALL).await.unwrap(), Some(vec![2]));
        assert_eq!(next_bytes(&mut parts, STALL).await.unwrap(), None);
        let mut other = tokio_stream::iter([message(Some(Part::Files(pb::DatasetFiles::default())))]);
        let refused = next_bytes(&mut other, STALL).await.unwrap_err();
        assert!(refused.message().contains("contents alone come now"), "{refused}");
    }
}
