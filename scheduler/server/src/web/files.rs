//! Files for browsers: `/files/jobs/JOB/NAME` is an artifact, `/files/datasets/NAME/VERSION/PATH` a data set's file. Each
//! is a call of the method that streams it, so that who may read is decided in one place.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use percent_encoding::percent_decode_str;
use prost::Message as _;
use tonic::{Code, Status};
use trainyard_proto::pb;

use super::framing::next_message;
use super::{connect_error, unary};

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
    fn of(path: &str) -> Option<Self> {
        let decode =
            |text: &str| percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned);
        let (kind, rest) = path.strip_prefix(PATH_START)?.split_once('/')?;
        let (first, rest) = rest.split_once('/')?;
        match kind {
            "jobs" => {
                let (job_id, name) = (decode(first)?, decode(rest)?);
                Some(Self::Artifact(pb::DownloadArtifactRequest { job_id, name, ..Default::default() }))
            }
            "datasets" => {
                let (version, path) = rest.split_once('/')?;
                let (name, version, path) = (decode(first)?, decode(version)?, decode(path)?);
                Some(Self::OfDataset(pb::ReadDatasetRequest { name, version, path, ..Default::default() }))
            }
            _ => None,
        }
    }

    const fn method(&self) -> &'static str {
        match self {
            Self::Artifact(_) => "/trainyard.v1.ArtifactService/DownloadArtifact",
            Self::OfDataset(_) => "/trainyard.v1.DatasetService/ReadDataset",
        }
    }

    fn message(&self) -> Vec<u8> {
        match self {
            Self::Artifact(request) => request.encode_to_vec(),
            Self::OfDataset(request) => request.encode_to_vec(),
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

    /// The bytes of a message of the answer.
    fn data(&self) -> fn(&Bytes) -> Option<Bytes> {
        match self {
            Self::Artifact(_) => {
                |message| Some(pb::DownloadArtifactResponse::decode(&message[..]).ok()?.data.into())
            }
            Self::OfDataset(_) => {
                |message| Some(pb::ReadDatasetResponse::decode(&message[..]).ok()?.data.into())
            }
        }
    }
}

/// Streams the file that a path means.
pub async fn follow(mut request: Request, next: Next) -> Response {
    let Some(file) = File::of(request.uri().path()) else { return next.run(request).await };
    unary::turn_to(&mut request, file.method());
    let message = file.message();
    let body = match unary::begin(request, |_| unary::whole(&message), next).await {
        Ok(body) => body,
        Err(status) => return connect_error::answer(&status),
    };
    let mut contents = Contents { body, come: BytesMut::new(), data: file.data() };
    // What is refused at once is told as a refusal.
    let first = match contents.next().await {
        Some(Err(status)) => return connect_error::answer(&status),
        Some(Ok(bytes)) => bytes,
        None => Bytes::new(),
    };
    let suffix =
        file.name().rsplit_once('.').map(|(_, suffix)| suffix.to_ascii_lowercase()).unwrap_or_default();
    let shown = SHOWN.iter().find(|(known, _)| *known == suffix).map(|(_, media)| *media);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(shown.unwrap_or("application/octet-stream"))),
        (header::CACHE_CONTROL, HeaderValue::from_static(file.kept())),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::CONTENT_DISPOSITION, disposition(file.name(), shown.is_some())),
    ];
    (headers, Body::new(Started { first: Some(first), contents })).into_response()
}

/// Under which name a browser saves it.
fn disposition(name: &str, is_shown: bool) -> HeaderValue {
    let name = name.rsplit('/').next().unwrap_or_default();
    let encoded = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    let way = if is_shown { "inline" } else { "attachment" };
    HeaderValue::from_str(&format!("{way}; filename*=UTF-8''{encoded}"))
        .unwrap_or(HeaderValue::from_static("attachment"))
}

/// The bytes that the messages of an answer carry.
struct Contents {
    body: Body,
    come: BytesMut,
    data: fn(&Bytes) -> Option<Bytes>,
}

impl Contents {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            if let Some(message) = next_message(&mut self.come) {
                let data = (self.data)(&message);
                return Poll::Ready(Some(data.ok_or_else(|| Status::internal("the answer is no file"))));
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

/// A file of which the first bytes have come.
struct Started {
    first: Option<Bytes>,
    contents: Contents,
}

impl http_body::Body for Started {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        self.contents.poll_next(context).map_ok(Frame::data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_mean_artifacts_and_files_of_versions() {
        let Some(File::Artifact(artifact)) = File::of("/files/jobs/0199/plots/a%20b.png") else { panic!() };
        assert_eq!((artifact.job_id.as_str(), artifact.name.as_str()), ("0199", "plots/a b.png"));
        let Some(File::OfDataset(file)) = File::of("/files/datasets/cells/3f9a/images/%C3%A9.jpg") else {
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
            "/files/jobs/a/%ff",
        ] {
            assert!(File::of(path).is_none(), "{path}");
        }
    }

    #[test]
    fn names_of_users_end_no_header() {
        assert_eq!(disposition("plots/a\"\r\n.png", true), "inline; filename*=UTF-8''a%22%0D%0A%2Epng");
        assert_eq!(disposition("w.pt", false), "attachment; filename*=UTF-8''w%2Ept");
    }
}
