//! Manifests among the objects: read, written by pushes, and removed when no version has them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use tokio_stream::StreamExt as _;
use trainyard_content::{Digest, Manifest};

use super::{Content, ContentError, aside, summary};
use crate::content_records::VersionRecord;

/// The folder of manifests among the objects.
const FOLDER: &str = "manifests";
/// Manifests that are kept in memory, those read last.
const READ_LAST: usize = 4;

fn path(id: Digest) -> Path {
    Path::from(format!("{FOLDER}/{id}"))
}

/// Manifests that pushes are about to refer to, and those that are just being removed. None is both: what a push has
/// written would go before its version is there.
#[derive(Debug, Default)]
struct Uses {
    pushes: HashMap<Digest, usize>,
    removals: HashSet<Digest>,
}

/// The manifests that were read last, and those in use.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    read_last: Mutex<VecDeque<(Digest, Arc<Manifest>)>>,
    uses: Mutex<Uses>,
}

/// A manifest that stays, also while no version has it.
pub(super) struct Needed {
    content: Content,
    id: Digest,
}

impl Drop for Needed {
    fn drop(&mut self) {
        let mut uses = self.content.manifest_uses();
        if let Some(count) = uses.pushes.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                uses.pushes.remove(&self.id);
            }
        }
    }
}

/// A manifest that is being removed.
struct Removed {
    content: Content,
    id: Digest,
}

impl Drop for Removed {
    fn drop(&mut self) {
        self.content.manifest_uses().removals.remove(&self.id);
    }
}

impl Content {
    fn manifest_uses(&self) -> MutexGuard<'_, Uses> {
        self.0.manifests.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The manifest of a version.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub async fn manifest(&self, version: &VersionRecord) -> Result<Arc<Manifest>, ContentError> {
        let kept = || self.0.manifests.read_last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, manifest)) = kept().iter().find(|(id, _)| *id == version.id) {
            return Ok(Arc::clone(manifest));
        }
        let bytes = match self.0.objects.get(&path(version.id)).await {
            Err(object_store::Error::NotFound { .. }) => return Err(ContentError::Manifest(version.id)),
            read => read?.bytes().await?,
        };
        let id = version.id;
        // A million lines take half a second.
        let parsed = tokio::task::spawn_blocking(move || {
            let text = std::str::from_utf8(&bytes).ok().filter(|_| Digest::of(&bytes) == id)?;
            Manifest::parse(text).ok()
        });
        let manifest = parsed.await.ok().flatten().map(Arc::new).ok_or(ContentError::Manifest(id))?;
        let mut kept = kept();
        kept.truncate(READ_LAST - 1);
        kept.push_front((id, Arc::clone(&manifest)));
        Ok(manifest)
    }

    /// Stores a manifest, which stays while the value lives; `None` while it is just being removed.
    pub(super) async fn put_manifest(
        &self,
        manifest: &Arc<Manifest>,
        id: Digest,
    ) -> Result<Option<Needed>, ContentError> {
        let needed = {
            let mut uses = self.manifest_uses();
            if uses.removals.contains(&id) {
                return Ok(None);
            }
            *uses.pushes.entry(id).or_default() += 1;
            Needed { content: self.clone(), id }
        };
        let text = aside(manifest, |manifest| manifest.lines().collect::<String>()).await;
        self.0.objects.put(&path(id), PutPayload::from_bytes(Bytes::from(text))).await?;
        Ok(Some(needed))
    }

    /// A manifest that no version has and no push needs, to be removed.
    fn begin_manifest_removal(&self, id: Digest) -> Option<Removed> {
        let mut uses = self.manifest_uses();
        // A push has its version in the catalogue before it ceases to need its manifest.
        if uses.pushes.contains_key(&id) || self.catalog().all().any(|(version, _)| version.id == id) {
            return None;
        }
        uses.removals.insert(id);
        Some(Removed { content: self.clone(), id })
    }

    /// Removes manifests of pushes that ended before their version was there, and of versions that are gone.
    pub(super) async fn drop_manifests(&self, now: SystemTime) -> Result<usize, ContentError> {
        let live: HashSet<Digest> = self.catalog().all().map(|(version, _)| version.id).collect();
        let mut listed = self.0.objects.list(Some(&Path::from(FOLDER)));
        let mut dropped = 0;
        while let Some(meta) = listed.next().await {
            let meta = meta?;
            let id = meta.location.filename().and_then(|name| name.parse::<Digest>().ok());
            let age = now.duration_since(SystemTime::from(meta.last_modified)).unwrap_or_default();
            let Some(id) = id.filter(|id| !live.contains(id) && age >= self.0.limits.grace) else { continue };
            let Some(_removed) = self.begin_manifest_removal(id) else { continue };
            match self.0.objects.delete(&summary::path(id)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(cause) => return Err(cause.into()),
            }
            self.0.objects.delete(&meta.location).await?;
            dropped += 1;
        }
        Ok(dropped)
    }
}
