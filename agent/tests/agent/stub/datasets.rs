//! The stub's store of data sets and weights, which does wrong what a test tells it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use trainyard_content::{Builder, Digest, Kind, Manifest};
use trainyard_proto::pb;
use trainyard_proto::pb::dataset_service_server::DatasetService;

use super::{Answers, Service, Stub};

/// Bytes of a message.
const CHUNK_BYTES: usize = 64 * 1024;

/// What the stub keeps, and how it misbehaves.
pub struct Datasets {
    versions: Mutex<BTreeMap<String, Arc<Version>>>,
    /// So many streams end after so many bytes.
    cuts: AtomicU32,
    cut_after: AtomicU64,
    /// So many contents of this hash are sent with another first byte.
    damaged: Mutex<Option<(Digest, u32)>>,
    /// Streams wait after their first message while this is `true`.
    held_up: watch::Sender<bool>,
    /// Bytes that were sent.
    pub sent: AtomicU64,
    /// Files that were asked for.
    pub asked_files: AtomicU64,
    /// The byte from which each stream was asked for.
    pub offsets: Mutex<Vec<u64>>,
    /// Streams that wait now.
    pub waiting: watch::Sender<u32>,
}

impl Default for Datasets {
    fn default() -> Self {
        Self {
            versions: Mutex::default(),
            cuts: AtomicU32::new(0),
            cut_after: AtomicU64::new(0),
            damaged: Mutex::default(),
            held_up: watch::Sender::new(false),
            sent: AtomicU64::new(0),
            asked_files: AtomicU64::new(0),
            offsets: Mutex::default(),
            waiting: watch::Sender::new(0),
        }
    }
}

struct Version {
    manifest: Manifest,
    contents: Vec<Vec<u8>>,
}

impl Stub {
    /// Keeps a data set of these files beside a data.yaml; what a job calls it.
    pub fn push(&self, name: &str, files: &[(String, Vec<u8>)]) -> PathBuf {
        let yaml = ("data.yaml".to_owned(), b"names: [a]\ntrain: train.txt\nval: train.txt\n".to_vec());
        self.keep(Kind::DataSet, name, files.iter().cloned().chain([yaml]).collect())
    }

    /// Keeps weights; what a job calls them.
    pub fn push_weights(&self, name: &str, file: &str, content: &[u8]) -> PathBuf {
        self.keep(Kind::Weights, name, vec![(file.to_owned(), content.to_vec())])
    }

    fn keep(&self, kind: Kind, name: &str, mut files: Vec<(String, Vec<u8>)>) -> PathBuf {
        files.sort();
        let mut builder = Builder::new(kind);
        for (path, content) in &files {
            builder.add(path, content.len() as u64, Digest::of(content)).unwrap();
        }
        let manifest = builder.finish().unwrap();
        let called = format!("{name}@{}", manifest.id());
        let contents = files.into_iter().map(|(_, content)| content).collect();
        let version = Arc::new(Version { manifest, contents });
        self.datasets().versions.lock().unwrap().insert(called.clone(), version);
        called.into()
    }

    pub fn datasets(&self) -> &Datasets {
        &self.shared.datasets
    }

    /// Forgets a version.
    pub fn forget(&self, called: &std::path::Path) {
        self.datasets().versions.lock().unwrap().remove(called.to_str().unwrap());
    }

    /// Ends so many streams after so many bytes.
    pub fn cut_streams(&self, count: u32, after: u64) {
        self.datasets().cut_after.store(after, Ordering::SeqCst);
        self.datasets().cuts.store(count, Ordering::SeqCst);
    }

    /// Sends a content with another first byte so many times.
    pub fn damage(&self, content: &[u8], times: u32) {
        *self.datasets().damaged.lock().unwrap() = Some((Digest::of(content), times));
    }

    /// Has streams wait after their first message, or go on.
    pub fn hold_up(&self, yes: bool) {
        self.datasets().held_up.send_replace(yes);
    }

    /// Waits until so many streams wait.
    pub async fn streams_wait(&self, count: u32) {
        let mut waiting = self.datasets().waiting.subscribe();
        waiting.wait_for(|now| *now >= count).await.unwrap();
    }
}

impl Service {
    fn version(&self, name: &str, version: &str) -> Result<Arc<Version>, Status> {
        let versions = self.0.datasets.versions.lock().unwrap();
        let found = versions.get(&format!("{name}@{version}")).cloned();
        found.ok_or_else(|| Status::not_found("no such version"))
    }
}

#[tonic::async_trait]
impl DatasetService for Service {
    type PushDatasetStream = Answers<pb::PushDatasetResponse>;
    type ListDatasetFilesStream = Answers<pb::ListDatasetFilesResponse>;
    type ReadDatasetStream = Answers<pb::ReadDatasetResponse>;

    async fn push_dataset(
        &self,
        _request: Request<Streaming<pb::PushDatasetRequest>>,
    ) -> Result<Response<Self::PushDatasetStream>, Status> {
        Err(Status::unimplemented("not of the agents"))
    }

    async fn list_datasets(
        &self,
        _request: Request<pb::ListDatasetsRequest>,
    ) -> Result<Response<pb::ListDatasetsResponse>, Status> {
        Err(Status::unimplemented("not of the agents"))
    }

    async fn get_dataset_summary(
        &self,
        _: Request<pb::GetDatasetRequest>,
    ) -> Result<Response<pb::DatasetSummary>, Status> {
        Err(Status::unimplemented("no agent asks for it"))
    }

    async fn delete_dataset(
        &self,
        _request: Request<pb::DeleteDatasetRequest>,
    ) -> Result<Response<pb::DeleteDatasetResponse>, Status> {
        Err(Status::unimplemented("not of the agents"))
    }

    async fn get_dataset(
        &self,
        request: Request<pb::GetDatasetRequest>,
    ) -> Result<Response<pb::Dataset>, Status> {
        let request = request.into_inner();
        let version = self.version(&request.name, &request.version)?;
        Ok(Response::new(pb::Dataset {
            name: request.name,
            version: request.version,
            files: version.manifest.len() as u64,
            size_bytes: version.manifest.total_bytes(),
            ..pb::Dataset::default()
        }))
    }

    async fn list_dataset_files(
        &self,
        request: Request<pb::ListDatasetFilesRequest>,
    ) -> Result<Response<Self::ListDatasetFilesStream>, Status> {
        let request = request.into_inner();
        let version = self.version(&request.name, &request.version)?;
        let files: Vec<pb::DatasetFile> = version.manifest.entries().map(file).collect();
        let parts: Vec<_> = files
            .chunks(1000)
            .map(|files| Ok(pb::ListDatasetFilesResponse { files: files.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn read_dataset(
        &self,
        request: Request<pb::ReadDatasetRequest>,
    ) -> Result<Response<Self::ReadDatasetStream>, Status> {
        let request = request.into_inner();
        let version = self.version(&request.name, &request.version)?;
        self.0.datasets.offsets.lock().unwrap().push(request.offset);
        let (sender, parts) = mpsc::channel(2);
        tokio::spawn(send(Arc::clone(&self.0), version, request, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(parts))))
    }
}

fn file(entry: trainyard_content::Entry<'_>) -> pb::DatasetFile {
    pb::DatasetFile {
        path: entry.path.to_owned(),
        size_bytes: entry.size_bytes,
        sha256: entry.digest.0.to_vec(),
    }
}

/// Sends contents one after the other, and misbehaves as the test wants.
async fn send(
    shared: Arc<super::Shared>,
    version: Arc<Version>,
    request: pb::ReadDatasetRequest,
    parts: mpsc::Sender<Result<pb::ReadDatasetResponse, Status>>,
) {
    let datasets = &shared.datasets;
    let mut all = Vec::new();
    for at in request.ranges.iter().flat_map(|range| range.first..range.first + range.count) {
        datasets.asked_files.fetch_add(1, Ordering::SeqCst);
        let mut content = version.contents[usize::try_from(at).unwrap()].clone();
        if let Some((digest, times)) = datasets.damaged.lock().unwrap().as_mut()
            && *times > 0
            && *digest == Digest::of(&content)
        {
            *times -= 1;
            content[0] ^= 1;
        }
        all.extend(content);
    }
    let take = |left: u32| left.checked_sub(1);
    let cut = datasets.cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
    let from = usize::try_from(request.offset).unwrap();
    let mut end = all.len();
    if cut {
        end = end.min(from + usize::try_from(datasets.cut_after.load(Ordering::SeqCst)).unwrap());
    }
    let mut offset = from;
    for data in all[from..end].chunks(CHUNK_BYTES) {
        let part = pb::ReadDatasetResponse {
            offset: offset as u64,
            data: data.to_vec(),
            size_bytes: all.len() as u64,
        };
        if parts.send(Ok(part)).await.is_err() {
            return;
        }
        offset += data.len();
        datasets.sent.fetch_add(data.len() as u64, Ordering::SeqCst);
        if *datasets.held_up.borrow() {
            datasets.waiting.send_modify(|waiting| *waiting += 1);
            let mut held_up = datasets.held_up.subscribe();
            tokio::select! {
                _ = held_up.wait_for(|held_up| !held_up) => {}
                () = parts.closed() => {}
            }
            datasets.waiting.send_modify(|waiting| *waiting -= 1);
        }
    }
    if cut {
        let _over = parts.send(Err(Status::unavailable("cut"))).await;
    }
}
