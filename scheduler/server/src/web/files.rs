//! Files for browsers: `/files/jobs/JOB/NAME` is an artifact, `/files/datasets/NAME/VERSION/PATH` a data set's file. Each
//! is a call of the method that streams it, so that who may read is decided in one place.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use percent_encoding::percent_decode_str;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use trainyard_proto::pb;

use super::framing::next_message;
use super::ranges::{Part, Unsatisfiable, Wanted};
use super::{connect_error, unary};
use crate::refusal::details;

pub const PATH_START: &str = "/files/";

/// What files of users may do in a browser: nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'";
/// An exact version never changes.
const FOREVER: &str = "private, max-age=31536000, immutable";
const DIGEST_DIGITS: usize = 64;

/// Types that a browser shows; all others it saves.
const SHOWN: [(&str, &str); 9] = [
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("png", "image/png"),
    ("bmp", "image/bmp"),
    ("webp", "image/webp"),
    ("txt", "text/plain; charset=utf-8"),
    ("csv", "text/plain; charset=utf-8"),
    ("yaml", "text/plain; charset=utf-8"),
    ("json", "application/json"),
];

/// A file, and the method that streams it.
enum File {
    Artifact(pb::DownloadArtifactRequest),
    OfDataset(pb::ReadDatasetRequest),
}

impl File {
    /// The file that a path means, if it means any.
    ///
    /// # Errors
    /// A part of the path is no text in percent-encoding.
    fn of(path: &str) -> Result<Option<Self>, Status> {
        let parts = path.strip_prefix(PATH_START).and_then(|path| path.split_once('/'));
        let Some((kind, (first, rest))) = parts.and_then(|(kind, rest)| Some((kind, rest.split_once('/')?)))
        else {
            return Ok(None);
        };
        let file = match kind {
            "jobs" => {
                let (job_id, name) = (decoded(first)?, decoded(rest)?);
                Self::Artifact(pb::DownloadArtifactRequest { job_id, name, ..Default::default() })
            }
            "datasets" => {
                let Some((version, path)) = rest.split_once('/') else { return Ok(None) };
                let (name, version, path) = (decoded(first)?, decoded(version)?, decoded(path)?);
                Self::OfDataset(pb::ReadDatasetRequest { name, version, path, ..Default::default() })
            }
            _ => return Ok(None),
        };
        // Without a path all files would be meant.
        Ok(Some(file).filter(|file| !file.name().is_empty()))
    }

    const fn method(&self) -> &'static str {
        match self {
            Self::Artifact(_) => "/trainyard.v1.ArtifactService/DownloadArtifact",
            Self::OfDataset(_) => "/trainyard.v1.DatasetService/ReadDataset",
        }
    }

    /// The call's message, for the bytes from an offset on.
    fn message(&self, offset: u64) -> Vec<u8> {
        match self {
            Self::Artifact(request) => {
                pb::DownloadArtifactRequest { offset, ..request.clone() }.encode_to_vec()
            }
            Self::OfDataset(request) => pb::ReadDatasetRequest { offset, ..request.clone() }.encode_to_vec(),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Artifact(request) => &request.name,
            Self::OfDataset(request) => &request.path,
        }
    }

    fn kept(&self) -> &'static str {
        match self {
            Self::OfDataset(request) if request.version.len() == DIGEST_DIGITS => FOREVER,
            // A running job's pictures come anew under their names.
            _ => "no-cache",
        }
    }

    /// What a message of the answer carries.
    const fn parse(&self) -> fn(&Bytes) -> Option<Piece> {
        match self {
            Self::Artifact(_) => |message| {
                let message = pb::DownloadArtifactResponse::decode(&message[..]).ok()?;
                Some(Piece { data: message.data.into(), size_bytes: message.size_bytes })
            },
            Self::OfDataset(_) => |message| {
                let message = pb::ReadDatasetResponse::decode(&message[..]).ok()?;
                Some(Piece { data: message.data.into(), size_bytes: message.size_bytes })
            },
        }
    }

    /// Begins to read from an offset on.
    async fn open(&self, head: &Parts, offset: u64, next: &Next) -> Result<Opened, Status> {
        let mut request = Request::from_parts(head.clone(), Body::empty());
        unary::turn_to(&mut request, self.method());
        let message = self.message(offset);
        let body = unary::begin(request, |_| unary::whole(&message), next.clone()).await?;
        let mut contents = Contents { body, come: BytesMut::new(), parse: self.parse() };
        // The first message tells the size, even of nothing. What is refused at once is told as a refusal.
        let first = contents.next().await;
        let Piece { data, size_bytes } = first.ok_or_else(|| Status::internal("the answer is empty"))??;
        Ok(Opened { first: data, size_bytes, contents })
    }

    /// What an answer says of the file whatever part of it is asked for.
    fn headers(&self) -> [(HeaderName, HeaderValue); 6] {
        let suffix = self.name().rsplit_once('.').map(|(_, suffix)| suffix.to_ascii_lowercase());
        let shown = suffix.and_then(|suffix| SHOWN.iter().find(|(known, _)| *known == suffix));
        let media = shown.map_or("application/octet-stream", |(_, media)| media);
        [
            (header::CONTENT_TYPE, HeaderValue::from_static(media)),
            (header::CACHE_CONTROL, HeaderValue::from_static(self.kept())),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
            (header::CONTENT_DISPOSITION, disposition(self.name(), shown.is_some())),
            (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        ]
    }
}

/// A part of a path as text.
fn decoded(part: &str) -> Result<String, Status> {
    let is_whole = |at: usize| {
        part.as_bytes().get(at + 1..at + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    };
    let is_encoded = part.match_indices('%').all(|(at, _)| is_whole(at));
    let text = percent_decode_str(part).decode_utf8().ok().filter(|_| is_encoded);
    text.map(std::borrow::Cow::into_owned).ok_or_else(|| {
        let text = format!(
            "`{part}` in the path is no text in percent-encoding; write `%` as %25, and letters as UTF-8"
        );
        Status::with_error_details(Code::InvalidArgument, text, details("INVALID_ARGUMENT", []))
    })
}

/// A file of which the first bytes have come.
struct Opened {
    first: Bytes,
    size_bytes: u64,
    contents: Contents,
}

/// Answers with the file that a path means, or a part of it; a HEAD with what it would say of it.
pub async fn follow(request: Request, next: Next) -> Response {
    let file = match File::of(request.uri().path()) {
        Ok(Some(file)) => file,
        Ok(None) => return next.run(request).await,
        Err(status) => return connect_error::answer(&status),
    };
    let wanted = Wanted::by(request.headers());
    let (head, _) = request.into_parts();
    let (opened, part) = match open_part(&file, &head, wanted, &next).await {
        Ok(found) => found,
        Err(Refused::Call(status)) => return refusal(&status),
        Err(Refused::Range(none)) => return no_such_part(none),
    };
    let length = part.map_or(opened.size_bytes, Part::len);
    let status = if part.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let body = if head.method == Method::HEAD {
        Body::empty()
    } else {
        Body::new(Started { first: Some(opened.first), left: length, contents: opened.contents })
    };
    let mut answer = (status, file.headers(), body).into_response();
    answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if let Some(range) = part.and_then(|part| part.header(opened.size_bytes)) {
        answer.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    answer
}

/// Why there is no file, or not the part of it that was asked for.
enum Refused {
    Call(Status),
    Range(Unsatisfiable),
}

/// Begins to read where the part that is wanted begins.
async fn open_part(
    file: &File,
    head: &Parts,
    wanted: Wanted,
    next: &Next,
) -> Result<(Opened, Option<Part>), Refused> {
    let offset = if let Wanted::From { first, .. } = wanted { first } else { 0 };
    let mut opened = file.open(head, offset, next).await.map_err(|status| match size_of(&status) {
        Some(size_bytes) => Refused::Range(Unsatisfiable { size_bytes }),
        None => Refused::Call(status),
    })?;
    let part = wanted.of(opened.size_bytes).map_err(Refused::Range)?;
    // How long a file is, and so where its end begins, is known by now.
    if let Some(Part { first, .. }) = part.filter(|part| part.first != offset) {
        drop(opened);
        opened = file.open(head, first, next).await.map_err(Refused::Call)?;
    }
    Ok((opened, part))
}

/// The size of a file that is shorter than the offset at which it was to be read, as the refusal tells.
fn size_of(status: &Status) -> Option<u64> {
    let info = status.get_details_error_info().filter(|info| info.reason == "OFFSET_TOO_LARGE")?;
    info.metadata.get("size_bytes")?.parse().ok()
}

/// A file that was removed from the store is not found, though to machines that fetch a version it is a loss.
fn refusal(status: &Status) -> Response {
    let is_missing = status.get_details_error_info().is_some_and(|info| info.reason == "CONTENT_MISSING");
    if is_missing {
        connect_error::answer_as(StatusCode::NOT_FOUND, status)
    } else {
        connect_error::answer(status)
    }
}

fn no_such_part(none: Unsatisfiable) -> Response {
    let size_bytes = none.size_bytes;
    let text = format!("the file has {size_bytes} bytes, and none of those that `range` asks for");
    let metadata = [("size_bytes", size_bytes.to_string())];
    let status = Status::with_error_details(Code::OutOfRange, text, details("OUT_OF_RANGE", metadata));
    let mut answer = connect_error::answer_as(StatusCode::RANGE_NOT_SATISFIABLE, &status);
    let range = HeaderValue::from_str(&format!("bytes */{size_bytes}"));
    answer.headers_mut().extend(range.ok().map(|range| (header::CONTENT_RANGE, range)));
    answer
}

/// Under which name a browser saves it.
fn disposition(name: &str, is_shown: bool) -> HeaderValue {
    let name = name.rsplit('/').next().unwrap_or_default();
    let encoded = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    let way = if is_shown { "inline" } else { "attachment" };
    HeaderValue::from_str(&format!("{way}; filename*=UTF-8''{encoded}"))
        .unwrap_or(HeaderValue::from_static("attachment"))
}

/// What one message carries.
struct Piece {
    data: Bytes,
    /// Bytes of the whole file.
    size_bytes: u64,
}

/// What the messages of an answer carry.
struct Contents {
    body: Body,
    come: BytesMut,
    parse: fn(&Bytes) -> Option<Piece>,
}

impl Contents {
    async fn next(&mut self) -> Option<Result<Piece, Status>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Piece, Status>>> {
        loop {
            if let Some(message) = next_message(&mut self.come) {
                let piece = (self.parse)(&message);
                return Poll::Ready(Some(piece.ok_or_else(|| Status::internal("the answer is no file"))));
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(cause)) => {
                    return Poll::Ready(Some(Err(Status::unavailable(format!(
                        "the answer broke off: {cause}"
                    )))));
                }
                None => return Poll::Ready(None),
            };
            match frame.into_data() {
                Ok(data) => self.come.extend_from_slice(&data),
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(Status::from_header_map);
                    let failed = status.filter(|status| status.code() != Code::Ok);
                    return Poll::Ready(failed.map(Err));
                }
            }
        }
    }
}

/// The bytes of a file, up to the end of the part that is wanted.
struct Started {
    first: Option<Bytes>,
    /// Bytes that are still to come.
    left: u64,
    contents: Contents,
}

impl http_body::Body for Started {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut data = match self.first.take() {
            Some(first) => first,
            None => match ready!(self.contents.poll_next(context)).transpose() {
                Ok(Some(piece)) => piece.data,
                // Its length was told.
                Ok(None) => return Poll::Ready(Some(Err(Status::unavailable("the file ended early")))),
                Err(status) => return Poll::Ready(Some(Err(status))),
            },
        };
        data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= data.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_mean_artifacts_and_files_of_versions() {
        let Ok(Some(File::Artifact(artifact))) = File::of("/files/jobs/0199/plots/a%20b.png") else {
            panic!()
        };
        assert_eq!((artifact.job_id.as_str(), artifact.name.as_str()), ("0199", "plots/a b.png"));
        let Ok(Some(File::OfDataset(file))) = File::of("/files/datasets/cells/3f9a/images/%C3%A9.jpg") else {
            panic!()
        };
        assert_eq!(
            (file.name.as_str(), file.version.as_str(), file.path.as_str()),
            ("cells", "3f9a", "images/é.jpg")
        );
        for path in [
            "/files/",
            "/files/jobs/0199",
            "/files/tokens/a/b",
            "/files/datasets/cells/3f9a",
            "/files/datasets/cells/3f9a/",
            "/files/jobs/0199/",
        ] {
            assert!(matches!(File::of(path), Ok(None)), "{path}");
        }
        for path in
            ["/files/jobs/a/%ff", "/files/jobs/%E0%A4%A/b", "/files/datasets/a/b/c%2", "/files/jobs/a/%zz"]
        {
            assert_eq!(
                File::of(path).err().map(|status| status.code()),
                Some(Code::InvalidArgument),
                "{path}"
            );
        }
    }

    #[test]
    fn names_of_users_end_no_header() {
        assert_eq!(disposition("plots/a\"\r\n.png", true), "inline; filename*=UTF-8''a%22%0D%0A%2Epng");
        assert_eq!(disposition("w.pt", false), "attachment; filename*=UTF-8''w%2Ept");
    }
}
