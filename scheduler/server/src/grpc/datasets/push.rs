//! One push: header and files come, what is missing is asked for, and a version comes out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout;
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
/// A client that sends nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(300);
/// Bytes of contents that come in that time at least: whoever holds a place among the pushes uses it.
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

    async fn next(&mut self) -> Result<Option<Part>, Status> {
        loop {
            match timeout(SILENCE, self.parts.message()).await {
                Ok(Ok(Some(pb::PushDatasetRequest { part: None }))) => {}
                Ok(message) => return Ok(message?.and_then(|message| message.part)),
                Err(_) => {
                    let text = format!("nothing came for {} s; push again", SILENCE.as_secs());
                    return Err(Status::deadline_exceeded(text));
                }
            }
        }
    }

    async fn answer(&self, answer: Answer) -> Result<(), Status> {
        let message = pb::PushDatasetResponse { part: Some(answer) };
        self.answers.send(Ok(message)).await.map_err(|_| Status::cancelled("the client is gone"))
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
            let part = match self.next().await {
                Ok(Some(part)) => part,
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
                    let text =
                        format!("{} bytes came in {} s; push again", received - window, SILENCE.as_secs());
                    return Err(Status::deadline_exceeded(text));
                }
                (window, window_began) = (received, Instant::now());
            }
            let Part::Data(data) = part else {
                return Err(ApiError::field("part", "contents alone come now").into());
            };
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

/// The answer to a push that was refused.
fn refusal(error: PushError, kind: Kind, name: &str) -> ApiError {
    match error {
        PushError::TooMany => ApiError::Unavailable("too many pushes are under way; try again in a moment"),
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
