//! What is asked of the scheduler's store: which files a version has.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use tonic::Status;
use trainyard_content::{Builder, Digest, Kind, Manifest};
use trainyard_proto::pb;
use trainyard_proto::pb::dataset_service_client::DatasetServiceClient;
use trainyard_types::reference::Reference;

use super::fetch_error::FetchError;
use super::retry::{Patience, Retry};
use crate::message::SchedulerLink;
use crate::report::transfer::while_moving;

/// A version of the scheduler's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Data set or weights.
    pub kind: Kind,
    /// The name in the cluster's store.
    pub name: String,
    /// The version's id.
    pub id: Digest,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Reference::exact(&self.name, &self.id.to_string()).short())
    }
}

const fn kind(kind: Kind) -> i32 {
    match kind {
        Kind::DataSet => pb::DatasetKind::Dataset as i32,
        Kind::Weights => pb::DatasetKind::Weights as i32,
    }
}

impl Version {
    /// The call for the contents of files, from a byte of all of them on.
    pub fn read(&self, ranges: Vec<pb::FileRange>, offset: u64) -> pb::ReadDatasetRequest {
        pb::ReadDatasetRequest {
            kind: kind(self.kind),
            name: self.name.clone(),
            version: self.id.to_string(),
            ranges,
            offset,
            ..Default::default()
        }
    }
}

/// Asks the scheduler, again and again if need be.
#[derive(Debug, Clone)]
pub struct Source {
    /// The scheduler, when it is there.
    pub link: watch::Receiver<Option<SchedulerLink>>,
    /// The times after which calls and silent streams are given up.
    pub patience: Patience,
}

impl Source {
    /// The version that `reference` names now.
    ///
    /// # Errors
    /// The scheduler has none, or does not say.
    pub async fn version(&self, what: Kind, reference: &Reference) -> Result<Version, FetchError> {
        let named = |version: &str| -> Option<Version> {
            Some(Version { kind: what, name: reference.name().to_owned(), id: version.parse().ok()? })
        };
        // Mostly the scheduler has written the whole version into the job.
        if let Some(version) = named(reference.version()) {
            return Ok(version);
        }
        let found = self.describe(what, reference).await?;
        named(&found.version).ok_or(FetchError::OtherVersion)
    }

    /// What the scheduler says of the version that `reference` names.
    ///
    /// # Errors
    /// It has none, or does not say.
    pub async fn describe(&self, what: Kind, reference: &Reference) -> Result<pb::Dataset, FetchError> {
        let mut retry = Retry::new(&self.link, self.patience);
        loop {
            let link = retry.connected().await?;
            let request = pb::GetDatasetRequest {
                kind: kind(what),
                name: reference.name().to_owned(),
                version: reference.version().to_owned(),
            };
            let mut client = DatasetServiceClient::new(link.channel);
            let nothing = AtomicU64::new(0);
            let asked = while_moving(&nothing, self.patience.stall_after, client.get_dataset(request)).await;
            match asked.unwrap_or_else(|| Err(Status::deadline_exceeded("no answer"))) {
                Ok(found) => return Ok(found.into_inner()),
                Err(status) => retry.wait(&reference.short(), status).await?,
            }
        }
    }

    /// The files of a version.
    ///
    /// # Errors
    /// The scheduler does not have it, or does not say, or says something else.
    pub async fn files(&self, version: &Version) -> Result<Manifest, FetchError> {
        let mut retry = Retry::new(&self.link, self.patience);
        loop {
            let link = retry.connected().await?;
            let moved = AtomicU64::new(0);
            let listing = list(link, version, &moved);
            let listed = while_moving(&moved, self.patience.stall_after, listing).await;
            let status = match listed {
                Some(Ok(Ok(manifest))) if manifest.id() == version.id => return Ok(manifest),
                Some(Ok(Ok(_))) => return Err(FetchError::OtherVersion),
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(status)) => status,
                None => Status::deadline_exceeded("nothing came for too long"),
            };
            retry.wait(&version.to_string(), status).await?;
        }
    }
}

async fn list(
    link: SchedulerLink,
    version: &Version,
    moved: &AtomicU64,
) -> Result<Result<Manifest, FetchError>, Status> {
    let request = pb::ListDatasetFilesRequest {
        kind: kind(version.kind),
        name: version.name.clone(),
        version: version.id.to_string(),
    };
    let mut client = DatasetServiceClient::new(link.channel);
    let mut stream = client.list_dataset_files(request).await?.into_inner();
    let mut builder = Builder::new(version.kind);
    while let Some(part) = stream.message().await? {
        for file in &part.files {
            let Some(digest) = Digest::from_bytes(&file.sha256) else {
                return Ok(Err(FetchError::OtherVersion));
            };
            if let Err(error) = builder.add(&file.path, file.size_bytes, digest) {
                return Ok(Err(error.into()));
            }
        }
        moved.fetch_add(part.files.len() as u64, Ordering::Relaxed);
    }
    Ok(builder.finish().map_err(Into::into))
}
