//! What goes to the scheduler in a push: the list of files as their hashes come, and then what was asked for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use trainyard_content::Digest;
use trainyard_proto::pb;
use trainyard_proto::pb::push_dataset_request::Part;

use super::wire_kind;
use crate::dataset::bundle::Bundle;
use crate::dataset::contents::{self, Ranges};
use crate::dataset::hashing::Digests;
use crate::dataset::progress::Progress;
use crate::failure::Failure;

/// Bytes of the list of files in one message.
const LIST_MESSAGE_BYTES: usize = 512 << 10;
/// While a large file is hashed, an empty message says so often that this end is there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

/// Waits until `count` digests are there.
pub(super) async fn wait_for(digests: &mut Digests, count: usize) -> Result<Vec<Digest>, Failure> {
    let gone = |_| Failure::local("the files were not all hashed");
    let known = digests.wait_for(|known| known.failure.is_some() || known.digests.len() >= count).await;
    let known = known.map_err(gone)?;
    known.failure.clone().map_or_else(|| Ok(known.digests.clone()), Err)
}

/// Sends the list, and then what is asked for. Ends early when the connection does.
pub(super) async fn produce(
    bundle: &Bundle,
    mut digests: Digests,
    messages: mpsc::Sender<pb::PushDatasetRequest>,
    asked: oneshot::Receiver<(Ranges, Arc<Progress>)>,
) -> Result<(), Failure> {
    let send = async |part| messages.send(pb::PushDatasetRequest { part: Some(part) }).await.is_ok();
    let header = pb::PushHeader {
        kind: wire_kind(bundle.kind).into(),
        name: bundle.name.clone(),
        files: bundle.list.len() as u64,
        description: bundle.description.clone(),
    };
    if !send(Part::Header(header)).await {
        return Ok(());
    }
    let mut sent = 0;
    while sent < bundle.list.len() {
        let files = next_files(bundle, &mut digests, sent).await?;
        sent += files.len();
        if !send(Part::Files(pb::DatasetFiles { files })).await {
            return Ok(());
        }
    }
    let Ok((ranges, progress)) = asked.await else { return Ok(()) };
    let all = Arc::new(wait_for(&mut digests, bundle.list.len()).await?);
    let (out, mut pieces) = mpsc::channel::<Vec<u8>>(1);
    let forward = async {
        while let Some(piece) = pieces.recv().await {
            let count = piece.len() as u64;
            if !send(Part::Data(piece)).await {
                return;
            }
            progress.add(count);
        }
    };
    let give_out = async {
        let done = contents::give_out(&bundle.list, &all, &ranges, &out).await;
        drop(out);
        done
    };
    let (done, ()) = tokio::join!(give_out, forward);
    done
}

/// The files from place `from` on whose digests are known, as many as one message takes; none where that takes long.
async fn next_files(
    bundle: &Bundle,
    digests: &mut Digests,
    from: usize,
) -> Result<Vec<pb::DatasetFile>, Failure> {
    let gone = |_| Failure::local("the files were not all hashed");
    let known = digests.wait_for(|known| known.failure.is_some() || known.digests.len() > from);
    let Ok(known) = tokio::time::timeout(SIGN_OF_LIFE, known).await else { return Ok(Vec::new()) };
    let known = known.map_err(gone)?;
    if let Some(failure) = &known.failure {
        return Err(failure.clone());
    }
    let (mut files, mut total) = (Vec::new(), 0);
    for (at, digest) in known.digests.iter().enumerate().skip(from) {
        let Some(file) = bundle.list.get(at) else { break };
        total += file.path.len() + 64;
        if total > LIST_MESSAGE_BYTES && !files.is_empty() {
            break;
        }
        files.push(pb::DatasetFile {
            path: file.path.to_owned(),
            size_bytes: file.size_bytes,
            sha256: digest.0.to_vec(),
        });
    }
    Ok(files)
}
