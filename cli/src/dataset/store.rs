//! What the cluster's store has: versions, and their files.

use trainyard_content::{Builder, Digest, Kind, Manifest};
use trainyard_proto::pb;
use trainyard_types::reference::Reference;

use super::push::wire_kind;
use crate::client::{Client, all_pages};
use crate::failure::{Exit, Failure};
use crate::terminal::clean;

/// The newest versions of all names of a kind, or those of one name, as the scheduler orders them.
///
/// # Errors
/// The scheduler cannot be reached.
pub async fn list(client: &Client, kind: Kind, name: Option<&str>) -> Result<Vec<pb::Dataset>, Failure> {
    all_pages(async |page_token| {
        let request = pb::ListDatasetsRequest {
            kind: wire_kind(kind).into(),
            name: name.unwrap_or_default().to_owned(),
            page_size: 1000,
            page_token,
        };
        let call = || async { client.datasets().list_datasets(request.clone()).await };
        let answer = client.retrying(call).await?;
        Ok((answer.datasets, answer.next_page_token))
    })
    .await
}

/// The version of a name.
///
/// # Errors
/// There is none such, or the scheduler cannot be reached.
pub async fn get(client: &Client, kind: Kind, reference: &Reference) -> Result<pb::Dataset, Failure> {
    let request = pb::GetDatasetRequest {
        kind: wire_kind(kind).into(),
        name: reference.name().to_owned(),
        version: reference.version().to_owned(),
    };
    let call = || async { client.datasets().get_dataset(request.clone()).await };
    client.retrying(call).await.map_err(|failure| advised(failure, kind))
}

/// Forgets a version, or a name with all of its versions. Returns what was forgotten.
///
/// # Errors
/// A job needs it, there is none such, or the scheduler cannot be reached.
pub async fn delete(client: &Client, kind: Kind, reference: &Reference) -> Result<Vec<pb::Dataset>, Failure> {
    let request = pb::DeleteDatasetRequest {
        kind: wire_kind(kind).into(),
        name: reference.name().to_owned(),
        version: reference.version().to_owned(),
    };
    // A second call would find nothing.
    let call = || async { client.datasets().delete_dataset(request.clone()).await };
    let answer = client.once(call).await.map_err(|failure| advised(failure, kind))?;
    Ok(answer.datasets)
}

/// The files of a version. What comes is checked: paths that stay in their folder, and the hash of all is the version.
///
/// # Errors
/// The scheduler cannot be reached, or says something else than the version's files.
pub async fn manifest(client: &Client, kind: Kind, dataset: &pb::Dataset) -> Result<Manifest, Failure> {
    let request = pb::ListDatasetFilesRequest {
        kind: wire_kind(kind).into(),
        name: dataset.name.clone(),
        version: dataset.version.clone(),
    };
    let call = || async { client.datasets().list_dataset_files(request.clone()).await };
    let mut stream = client.retrying(call).await?;
    let mut builder = Builder::new(kind);
    let refused =
        |text: String| Failure::new(Exit::Refused, format!("the server's list of files: {}", clean(&text)));
    while let Some(message) = stream.message().await.map_err(|status| client.failure(&status))? {
        for file in message.files {
            let digest = Digest::from_bytes(&file.sha256)
                .ok_or_else(|| refused(format!("`{}` has no hash", file.path)))?;
            builder.add(&file.path, file.size_bytes, digest).map_err(|error| refused(error.to_string()))?;
        }
    }
    let manifest = builder.finish().map_err(|error| refused(error.to_string()))?;
    if manifest.id().to_string() != dataset.version {
        return Err(refused(format!("is not that of version {}", dataset.version)));
    }
    Ok(manifest)
}

/// A failure with what to do about a version that is not there.
pub fn advised(failure: Failure, kind: Kind) -> Failure {
    let command = match kind {
        Kind::DataSet => "`yard data list` lists the data sets that there are",
        Kind::Weights => "`yard weights list` lists the weights that there are",
    };
    let is_general = failure.hint.as_deref() == Some(crate::failure::NOT_FOUND_HINT);
    if is_general { failure.hint(command) } else { failure }
}
