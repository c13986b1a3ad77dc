//! A store of data sets that follows the protocol, and breaks it where a test wants that.

use std::collections::HashMap;
use std::path::PathBuf;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use trainyard_content::{Builder, Digest, Kind};
use trainyard_proto::pb;
use trainyard_proto::pb::dataset_service_server::DatasetService;
use trainyard_proto::pb::push_dataset_request::Part;
use trainyard_proto::pb::push_dataset_response::Part as Answer;

use super::{Answers, Fake};

/// What is stored, what went over the wire, and what goes wrong.
#[derive(Default)]
pub struct Store {
    /// Newest first.
    pub versions: Vec<(pb::Dataset, Vec<pb::DatasetFile>)>,
    pub contents: HashMap<Vec<u8>, Vec<u8>>,
    pub pushes: usize,
    /// Contents that came.
    pub received_bytes: usize,
    /// Contents after which a push breaks off, once.
    pub break_push_after: Option<usize>,
    pub refuse: Option<Status>,
    /// The answers to the first pushes, the last one first.
    pub come_again: Vec<Status>,
    /// What becomes of a file once its hash has come.
    pub rewrite: Option<(PathBuf, Vec<u8>)>,
    /// A push is not answered.
    pub hang: bool,
    /// The contents of a push are asked for, and not read.
    pub stop_reading: bool,
    pub reads: Vec<pb::ReadDatasetRequest>,
    /// Bytes after which a read breaks off, once.
    pub break_read_after: Option<usize>,
    pub deleted: Vec<pb::DeleteDatasetRequest>,
}

impl Store {
    fn find(
        &self,
        kind: i32,
        name: &str,
        version: &str,
    ) -> Result<&(pb::Dataset, Vec<pb::DatasetFile>), Status> {
        let is_it =
            |one: &pb::Dataset| one.kind == kind && one.name == name && one.version.starts_with(version);
        let found = self.versions.iter().find(|(one, _)| is_it(one));
        found.ok_or_else(|| Status::not_found(format!("there is no data set `{name}`")))
    }

    fn put(&mut self, dataset: pb::Dataset, files: Vec<pb::DatasetFile>) {
        for (other, _) in self.versions.iter_mut().filter(|(other, _)| other.name == dataset.name) {
            other.newest = false;
        }
        self.versions.retain(|(other, _)| other.version != dataset.version);
        self.versions.insert(0, (dataset, files));
    }

    fn receive(
        &mut self,
        count: usize,
        bytes: &mut Vec<u8>,
        missing: &mut Vec<pb::DatasetFile>,
    ) -> Result<(), Status> {
        self.received_bytes += count;
        self.take(bytes, missing)?;
        if self.break_push_after.is_some_and(|most| self.received_bytes >= most) {
            self.break_push_after = None;
            return Err(Status::unavailable("going down"));
        }
        Ok(())
    }

    /// Stores whole contents from the front of `bytes`; the files in question are `missing`.
    fn take(&mut self, bytes: &mut Vec<u8>, missing: &mut Vec<pb::DatasetFile>) -> Result<(), Status> {
        while let Some(file) = missing.first() {
            let size = usize::try_from(file.size_bytes).unwrap();
            if bytes.len() < size {
                return Ok(());
            }
            let content: Vec<u8> = bytes.drain(..size).collect();
            if Digest::of(&content).0[..] != file.sha256 {
                return Err(Status::invalid_argument(format!("`{}` has another hash", file.path)));
            }
            self.contents.insert(file.sha256.clone(), content);
            missing.remove(0);
        }
        Ok(())
    }
}

fn as_stored(header: pb::PushHeader, version: String, files: &[pb::DatasetFile]) -> pb::Dataset {
    pb::Dataset {
        kind: header.kind,
        name: header.name,
        version,
        user: "ada".into(),
        create_time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        files: header.files,
        size_bytes: files.iter().map(|file| file.size_bytes).sum(),
        newest: true,
        description: header.description,
    }
}

fn kind_of(number: i32) -> Kind {
    if number == pb::DatasetKind::Weights as i32 { Kind::Weights } else { Kind::DataSet }
}

impl Fake {
    async fn take_push(
        &self,
        mut parts: Streaming<pb::PushDatasetRequest>,
        answers: &mpsc::Sender<Result<pb::PushDatasetResponse, Status>>,
    ) -> Result<(), Status> {
        let answer = async |part| {
            let _ = answers.send(Ok(pb::PushDatasetResponse { part: Some(part) })).await;
        };
        let Some(Part::Header(header)) = parts.message().await?.and_then(|message| message.part) else {
            return Err(Status::invalid_argument("no header"));
        };
        let refuse = self.0.lock().unwrap().store.refuse.clone();
        refuse.map_or(Ok(()), Err)?;
        let come_again = self.0.lock().unwrap().store.come_again.pop();
        come_again.map_or(Ok(()), Err)?;
        let mut files: Vec<pb::DatasetFile> = Vec::new();
        while (files.len() as u64) < header.files {
            match parts.message().await?.and_then(|message| message.part) {
                Some(Part::Files(more)) => files.extend(more.files),
                _ => return Err(Status::invalid_argument("no files")),
            }
        }
        let mut builder = Builder::new(kind_of(header.kind));
        for file in &files {
            builder.add(&file.path, file.size_bytes, Digest::from_bytes(&file.sha256).unwrap()).unwrap();
        }
        let version = builder.finish().unwrap().id().to_string();
        let (mut missing, ranges) = {
            let mut script = self.0.lock().unwrap();
            let store = &mut script.store;
            store.pushes += 1;
            if let Some((path, bytes)) = store.rewrite.take() {
                std::fs::write(path, bytes).unwrap();
            }
            let mut wanted = std::collections::HashSet::new();
            let lacks = |file: &pb::DatasetFile| !store.contents.contains_key(&file.sha256);
            let missing: Vec<usize> = (0..files.len())
                .filter(|at| lacks(&files[*at]) && wanted.insert(files[*at].sha256.clone()))
                .collect();
            let range = |at: &usize| pb::FileRange { first: *at as u64, count: 1 };
            let ranges: Vec<_> = missing.iter().map(range).collect();
            (missing.into_iter().map(|at| files[at].clone()).collect::<Vec<_>>(), ranges)
        };
        let hangs = self.0.lock().unwrap().store.hang;
        if hangs {
            std::future::pending::<()>().await;
        }
        // Several messages, as for a long list.
        for range in ranges {
            answer(Answer::Missing(pb::MissingFiles { ranges: vec![range], more: true })).await;
        }
        answer(Answer::Missing(pb::MissingFiles::default())).await;
        let stops = self.0.lock().unwrap().store.stop_reading;
        if stops {
            std::future::pending::<()>().await;
        }
        let mut bytes = Vec::new();
        let mut stored = 0;
        while !missing.is_empty() {
            let Some(Part::Data(data)) = parts.message().await?.and_then(|message| message.part) else {
                return Err(Status::invalid_argument("no data"));
            };
            stored += data.len() as u64;
            bytes.extend(&data);
            self.0.lock().unwrap().store.receive(data.len(), &mut bytes, &mut missing)?;
            answer(Answer::Progress(pb::PushProgress { stored_bytes: stored })).await;
        }
        let dataset = as_stored(header, version, &files);
        self.0.lock().unwrap().store.put(dataset.clone(), files);
        answer(Answer::Dataset(dataset)).await;
        Ok(())
    }
}

#[tonic::async_trait]
impl DatasetService for Fake {
    type PushDatasetStream = Answers<pb::PushDatasetResponse>;

    async fn push_dataset(
        &self,
        request: Request<Streaming<pb::PushDatasetRequest>>,
    ) -> Result<Response<Self::PushDatasetStream>, Status> {
        let (answers, receiver) = mpsc::channel(1);
        let fake = self.clone();
        tokio::spawn(async move {
            if let Err(status) = fake.take_push(request.into_inner(), &answers).await {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn list_datasets(
        &self,
        request: Request<pb::ListDatasetsRequest>,
    ) -> Result<Response<pb::ListDatasetsResponse>, Status> {
        let request = request.into_inner();
        let script = self.0.lock().unwrap();
        let is_wanted = |one: &pb::Dataset| {
            one.kind == request.kind && (request.name.is_empty() || one.name == request.name)
        };
        let mut all: Vec<_> =
            script.store.versions.iter().map(|(one, _)| one.clone()).filter(is_wanted).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        let from: usize = request.page_token.parse().unwrap_or(0);
        let next_page_token = if from + 1 < all.len() { (from + 1).to_string() } else { String::new() };
        Ok(Response::new(pb::ListDatasetsResponse {
            datasets: all.into_iter().skip(from).take(1).collect(),
            next_page_token,
        }))
    }

    async fn get_dataset(
        &self,
        request: Request<pb::GetDatasetRequest>,
    ) -> Result<Response<pb::Dataset>, Status> {
        let request = request.into_inner();
        let script = self.0.lock().unwrap();
        let (found, _) = script.store.find(request.kind, &request.name, &request.version)?;
        Ok(Response::new(found.clone()))
    }

    async fn get_dataset_summary(
        &self,
        _: Request<pb::GetDatasetRequest>,
    ) -> Result<Response<pb::DatasetSummary>, Status> {
        Err(Status::unimplemented("only the page asks for it"))
    }

    async fn delete_dataset(
        &self,
        request: Request<pb::DeleteDatasetRequest>,
    ) -> Result<Response<pb::DeleteDatasetResponse>, Status> {
        let request = request.into_inner();
        let mut script = self.0.lock().unwrap();
        script.store.deleted.push(request.clone());
        script.store.find(request.kind, &request.name, &request.version)?;
        let goes = |one: &pb::Dataset| one.name == request.name && one.version.starts_with(&request.version);
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut script.store.versions).into_iter().partition(|(one, _)| goes(one));
        script.store.versions = kept;
        let datasets = gone.into_iter().map(|(one, _)| one).collect();
        Ok(Response::new(pb::DeleteDatasetResponse { datasets }))
    }

    type ListDatasetFilesStream = Answers<pb::ListDatasetFilesResponse>;

    async fn list_dataset_files(
        &self,
        request: Request<pb::ListDatasetFilesRequest>,
    ) -> Result<Response<Self::ListDatasetFilesStream>, Status> {
        let request = request.into_inner();
        let script = self.0.lock().unwrap();
        let (_, files) = script.store.find(request.kind, &request.name, &request.version)?;
        let message = |files: &[pb::DatasetFile]| Ok(pb::ListDatasetFilesResponse { files: files.to_vec() });
        let messages: Vec<_> = files.chunks(2).map(message).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    type ReadDatasetStream = Answers<pb::ReadDatasetResponse>;

    async fn read_dataset(
        &self,
        request: Request<pb::ReadDatasetRequest>,
    ) -> Result<Response<Self::ReadDatasetStream>, Status> {
        let request = request.into_inner();
        let mut script = self.0.lock().unwrap();
        let store = &mut script.store;
        store.reads.push(request.clone());
        let (_, files) = store.find(request.kind, &request.name, &request.version)?;
        let places = request.ranges.iter().flat_map(|range| range.first..range.first + range.count);
        let content = |at: u64| store.contents[&files[usize::try_from(at).unwrap()].sha256].clone();
        let bytes: Vec<u8> = places.flat_map(content).collect();
        let start = usize::try_from(request.offset).unwrap();
        let end = store.break_read_after.take().map_or(bytes.len(), |count| bytes.len().min(start + count));
        let message = |at: usize| {
            let data = bytes[at..end.min(at + 100)].to_vec();
            Ok(pb::ReadDatasetResponse { offset: at as u64, data, size_bytes: bytes.len() as u64 })
        };
        let mut messages: Vec<_> = (start..end).step_by(100).map(message).collect();
        if end < bytes.len() {
            messages.push(Err(Status::unavailable("going down")));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }
}
