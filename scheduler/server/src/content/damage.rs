//! All damage of a version at once: one push then mends what else would be found a few files at a time.

use std::sync::{Arc, PoisonError};

use tracing::{error, info, warn};
use trainyard_content::{Digest, Manifest};

use super::{Content, ContentError, ReadError};

impl Content {
    /// A content of this version was found damaged: reads all others, and forgets those that are damaged, too. One version
    /// at a time, and each once at a time.
    pub async fn find_damage(&self, id: Digest, manifest: Arc<Manifest>) {
        let suspects = || self.0.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        if !suspects().insert(id) {
            return;
        }
        let one = self.0.reads_for_damage.lock().await;
        match self.read_whole(manifest).await {
            Ok(0) => info!(version = %id, "no other content of a damaged version is damaged"),
            Ok(damaged) => error!(
                version = %id,
                damaged,
                "contents of a version are damaged in the store; push it again, and they are mended"
            ),
            Err(error) => warn!(version = %id, %error, "a damaged version cannot be read"),
        }
        drop(one);
        suspects().remove(&id);
    }

    /// Number of contents that are damaged or missing.
    async fn read_whole(&self, manifest: Arc<Manifest>) -> Result<usize, ContentError> {
        let all = std::iter::once(0..manifest.len()).collect();
        let mut reader = self.reader(manifest, all, 0).await?;
        let mut damaged = 0;
        loop {
            match reader.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(damaged),
                Err(ReadError::Store(error)) => return Err(error.into()),
                Err(ReadError::Damaged(_) | ReadError::Missing(_)) => damaged += 1,
            }
        }
    }
}
