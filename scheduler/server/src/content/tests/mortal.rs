//! Stores whose process dies at some step: from then on each call is an error, and the one before may have been done.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio_stream::{Stream, StreamExt as _};

use crate::content_records::{ContentChange, ContentRecords};
use crate::store::memory::MemoryStore;
use crate::store::{ContentStore, Pending, StoreError};

type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// The life of a process, in steps of its stores.
#[derive(Debug)]
pub struct Life {
    left: AtomicU64,
    /// Draws how often others come first.
    state: AtomicU64,
}

impl Life {
    pub fn new(steps: u64, seed: u64) -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(steps), state: AtomicU64::new(seed) })
    }

    pub fn is_over(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// Lets others go on for a while, and then is a step nearer to the end. `false` at the end.
    async fn step(&self) -> bool {
        let drawn = self.state.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        for _ in 0..(drawn ^ (drawn >> 31)) % 4 {
            tokio::task::yield_now().await;
        }
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    async fn object_step(&self) -> Result<()> {
        if self.step().await {
            return Ok(());
        }
        Err(object_store::Error::Generic { store: "mortal", source: "the process is dead".into() })
    }

    async fn record_step(&self) -> std::result::Result<(), StoreError> {
        if self.step().await { Ok(()) } else { Err(StoreError::Unavailable("the process is dead".into())) }
    }
}

/// Objects as a process sees them.
#[derive(Debug)]
pub struct Objects {
    pub objects: Arc<InMemory>,
    pub life: Arc<Life>,
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mortal")
    }
}

#[tonic::async_trait]
impl ObjectStore for Objects {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.life.object_step().await?;
        let put = self.objects.put_opts(location, payload, opts).await;
        self.life.object_step().await?;
        put
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.life.object_step().await?;
        self.objects.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<Result<Path>>) -> BoxStream<Result<Path>> {
        let life = Arc::clone(&self.life);
        let alive = locations.then(move |location| {
            let life = Arc::clone(&life);
            async move {
                life.object_step().await?;
                location
            }
        });
        self.objects.delete_stream(Box::pin(alive))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<Result<ObjectMeta>> {
        let life = Arc::clone(&self.life);
        Box::pin(self.objects.list(prefix).then(move |meta| {
            let life = Arc::clone(&life);
            async move {
                life.object_step().await?;
                meta
            }
        }))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.life.object_step().await?;
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.life.object_step().await?;
        self.objects.copy_opts(from, to, options).await
    }
}

/// Records as a process sees them.
pub struct Records {
    pub records: Arc<MemoryStore>,
    pub life: Arc<Life>,
}

impl ContentStore for Records {
    fn content_revision(&self) -> Pending<'_, u64> {
        Box::pin(async {
            self.life.record_step().await?;
            self.records.content_revision().await
        })
    }

    fn content(&self) -> Pending<'_, ContentRecords> {
        Box::pin(async {
            self.life.record_step().await?;
            self.records.content().await
        })
    }

    fn change_content<'a>(&'a self, revision: u64, changes: &'a [ContentChange]) -> Pending<'a, bool> {
        Box::pin(async move {
            self.life.record_step().await?;
            let changed = self.records.change_content(revision, changes).await;
            self.life.record_step().await?;
            changed
        })
    }
}
