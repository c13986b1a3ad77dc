//! Packs in the object store: written as contents come, and found again at a start.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload, WriteMultipart};
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::StreamExt as _;
use tracing::{error, warn};
use trainyard_content::Digest;
use trainyard_content::pack::{FOOTER_BYTES, Index, TARGET_BYTES};
use uuid::Uuid;

use super::places::Places;
use crate::content_records::PackRecord;

/// The folder of packs among the objects.
pub const FOLDER: &str = "packs";
/// Bytes of a part of a large content.
const PART_BYTES: usize = 8 << 20;
/// Parts of it that are sent to the store at a time.
const PARTS_AT_A_TIME: usize = 4;
/// Packs whose index is read at a time.
const READS_AT_A_TIME: usize = 16;

/// A pack's name in the store. It ends as no unfinished file does.
pub fn path(id: Uuid) -> Path {
    Path::from(format!("{FOLDER}/{id}"))
}

fn id_of(path: &Path) -> Option<Uuid> {
    path.filename()?.parse().ok()
}

/// A pack that is stored for good.
#[derive(Debug)]
pub struct Written {
    pub record: PackRecord,
    pub index: Index,
}

/// What is written to the pack under way.
enum Open {
    /// Contents gathered in memory.
    Gathered(Vec<Bytes>),
    /// One large content, sent on part by part.
    Parts(WriteMultipart),
}

/// Writes contents that come one after the other into packs. At most two packs are in memory: one that is gathered and
/// one on its way to the store.
pub struct PackWriter {
    store: Arc<dyn ObjectStore>,
    id: Uuid,
    index: Index,
    open: Open,
    /// Pieces that were gathered before the content under way.
    before: usize,
    on_its_way: Option<JoinHandle<object_store::Result<Written>>>,
    written: Vec<Written>,
}

impl PackWriter {
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            id: Uuid::new_v4(),
            index: Index::default(),
            open: Open::Gathered(Vec::new()),
            before: 0,
            on_its_way: None,
            written: Vec::new(),
        }
    }

    /// Makes room for a content of `size_bytes`; its bytes follow.
    ///
    /// # Errors
    /// The store.
    pub async fn begin(&mut self, size_bytes: u64) -> object_store::Result<()> {
        if !self.index.is_empty() && self.index.content_bytes() + size_bytes > TARGET_BYTES {
            self.close().await?;
        }
        if size_bytes > TARGET_BYTES {
            let upload = self.store.put_multipart(&path(self.id)).await?;
            self.open = Open::Parts(WriteMultipart::new_with_chunk_size(upload, PART_BYTES));
        }
        self.before = match &self.open {
            Open::Gathered(gathered) => gathered.len(),
            Open::Parts(_) => 0,
        };
        Ok(())
    }

    /// Takes the next bytes of the content under way.
    ///
    /// # Errors
    /// The store.
    pub async fn write(&mut self, bytes: Bytes) -> object_store::Result<()> {
        match &mut self.open {
            Open::Gathered(gathered) => gathered.push(bytes),
            Open::Parts(parts) => {
                parts.wait_for_capacity(PARTS_AT_A_TIME).await?;
                parts.put(bytes);
            }
        }
        Ok(())
    }

    /// All bytes of the content under way have come, and they are those of its digest.
    ///
    /// # Errors
    /// The store.
    pub async fn end(&mut self, digest: Digest, size_bytes: u64) -> object_store::Result<()> {
        self.index.add(digest, size_bytes);
        if matches!(self.open, Open::Parts(_)) { self.close().await } else { Ok(()) }
    }

    /// Drops the content under way.
    pub async fn abandon(&mut self) {
        match std::mem::replace(&mut self.open, Open::Gathered(Vec::new())) {
            Open::Gathered(mut gathered) => {
                gathered.truncate(self.before);
                self.open = Open::Gathered(gathered);
            }
            Open::Parts(parts) => {
                // What is left of it is removed in time, as what a killed process leaves.
                let _ = parts.abort().await;
            }
        }
    }

    /// Sends the pack under way to the store. The one before has arrived by then.
    async fn close(&mut self) -> object_store::Result<()> {
        self.arrive().await?;
        if self.index.is_empty() {
            return Ok(());
        }
        let id = std::mem::replace(&mut self.id, Uuid::new_v4());
        let index = std::mem::take(&mut self.index);
        let open = std::mem::replace(&mut self.open, Open::Gathered(Vec::new()));
        let store = Arc::clone(&self.store);
        self.on_its_way = Some(tokio::spawn(async move {
            let tail = Bytes::from(index.encode());
            match open {
                Open::Gathered(mut gathered) => {
                    gathered.push(tail);
                    store.put(&path(id), PutPayload::from_iter(gathered)).await?;
                }
                Open::Parts(mut parts) => {
                    parts.put(tail);
                    parts.finish().await?;
                }
            }
            let record = PackRecord { id, size_bytes: index.content_bytes() };
            Ok(Written { record, index })
        }));
        Ok(())
    }

    async fn arrive(&mut self) -> object_store::Result<()> {
        if let Some(task) = self.on_its_way.take() {
            match task.await {
                Ok(written) => self.written.push(written?),
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            }
        }
        Ok(())
    }

    /// The packs that have arrived since this was asked last.
    pub fn take_written(&mut self) -> Vec<Written> {
        std::mem::take(&mut self.written)
    }

    /// Stores what is left.
    ///
    /// # Errors
    /// The store.
    pub async fn finish(&mut self) -> object_store::Result<()> {
        self.close().await?;
        self.arrive().await
    }
}

/// Reads the indexes of all packs there are. A damaged pack is said and left alone: what lies in it is asked for again
/// with the next push.
///
/// # Errors
/// The store.
pub async fn find_all(store: &Arc<dyn ObjectStore>) -> object_store::Result<Places> {
    let places = Places::default();
    let mut listed = store.list(Some(&Path::from(FOLDER)));
    let mut reads = JoinSet::new();
    while let Some(meta) = listed.next().await {
        let meta = meta?;
        let Some(id) = id_of(&meta.location) else {
            warn!(object = %meta.location, "this is no pack; it lies among them all the same");
            continue;
        };
        if reads.len() >= READS_AT_A_TIME {
            take(reads.join_next().await, &places)?;
        }
        let store = Arc::clone(store);
        reads.spawn(async move { read_index(&*store, &meta).await.map(|index| (id, meta, index)) });
    }
    while !reads.is_empty() {
        take(reads.join_next().await, &places)?;
    }
    Ok(places)
}

type IndexRead = object_store::Result<(Uuid, ObjectMeta, Option<Index>)>;

fn take(
    read: Option<Result<IndexRead, tokio::task::JoinError>>,
    places: &Places,
) -> object_store::Result<()> {
    let Some(read) = read else { return Ok(()) };
    let (id, meta, index) = match read {
        Ok(read) => read?,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    };
    match index {
        Some(index) => {
            let record = PackRecord { id, size_bytes: index.content_bytes() };
            places.add(record, &index, SystemTime::from(meta.last_modified));
        }
        None => {
            error!(pack = %id, "pack is damaged; push the data sets again that lie in it");
        }
    }
    Ok(())
}

/// The index of a pack; `None` when it is damaged, or not there.
///
/// # Errors
/// The store cannot be read.
pub async fn index_of(store: &Arc<dyn ObjectStore>, id: Uuid) -> object_store::Result<Option<Index>> {
    match store.head(&path(id)).await {
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        meta => read_index(&**store, &meta?).await,
    }
}

/// A pack's index; `None` when it is damaged.
async fn read_index(store: &dyn ObjectStore, meta: &ObjectMeta) -> object_store::Result<Option<Index>> {
    let size = meta.size;
    let footer = FOOTER_BYTES as u64;
    if size < footer {
        return Ok(None);
    }
    let bytes = store.get_range(&meta.location, size - footer..size).await?;
    let Ok(tail) = Index::tail_bytes(&bytes) else { return Ok(None) };
    if tail > size {
        return Ok(None);
    }
    let bytes = store.get_range(&meta.location, size - tail..size).await?;
    let index = Index::decode(&bytes).ok();
    Ok(index.filter(|index| index.content_bytes() + tail == size))
}
