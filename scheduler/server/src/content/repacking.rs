//! Packs of which versions need less than half: what they need is written anew, so that the rest can go.
//!
//! The new pack is stored first. Then one change of the records has the versions need it instead of the old one, which is
//! from then on a pack that nobody needs. A process that dies before that change leaves a new pack that nobody needs, and one
//! that dies after it has nothing left to do.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use object_store::ObjectStoreExt as _;
use tracing::{info, warn};
use trainyard_content::pack::Placed;
use trainyard_content::{Digest, Hasher};
use uuid::Uuid;

use super::catalog::Catalog;
use super::packs::{self, PackWriter};
use super::places::Places;
use super::{Content, ContentError, aside};
use crate::content_records::{ContentChange, PackRecord, VersionRecord};

/// Packs that one collection writes anew: at most half of each is copied.
const AT_A_TIME: usize = 16;
/// Bytes that are copied at once.
const COPY_BYTES: u64 = 4 << 20;

/// Versions and packs that were looked at, and of which nothing was to be written anew.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    revision: Option<u64>,
    packs: HashSet<Uuid>,
}

/// Whether `needed` of a pack's bytes are so few that it is written anew.
fn is_mostly_dead(needed: u64, all: u64) -> bool {
    needed.saturating_mul(2) < all
}

impl Content {
    /// Writes anew what versions need of packs that are mostly dead. Returns how many packs.
    pub(super) async fn repack(&self, now: SystemTime) -> Result<usize, ContentError> {
        self.refresh().await?;
        let places = self.places().await?;
        let old = places.settled(self.0.limits.grace, now);
        let looked = Looked { revision: self.catalog().revision(), packs: old.keys().copied().collect() };
        let last = || self.0.looked.lock().unwrap_or_else(PoisonError::into_inner);
        // Reading what all versions list takes a while.
        if *last() == looked {
            return Ok(0);
        }
        let mut repacked = 0;
        for pack in self.mostly_dead(&places, old).await?.into_iter().take(AT_A_TIME) {
            repacked += usize::from(self.repack_one(&places, pack).await?);
        }
        if repacked == 0 {
            *last() = looked;
        }
        Ok(repacked)
    }

    /// The versions that need a pack, by its record.
    fn versions_of(&self, pack: Uuid) -> Vec<Arc<VersionRecord>> {
        let catalog = self.catalog();
        let needs = |version: &&Arc<VersionRecord>| version.packs.iter().any(|other| other.id == pack);
        catalog.all().map(|(version, _)| version).filter(needs).cloned().collect()
    }

    /// Those of the `old` packs, with their sizes, of which no single version needs half.
    async fn mostly_dead(
        &self,
        places: &Arc<Places>,
        mut old: HashMap<Uuid, u64>,
    ) -> Result<Vec<Uuid>, ContentError> {
        let versions: Vec<Arc<VersionRecord>> = {
            let catalog = self.catalog();
            catalog.all().map(|(version, _)| Arc::clone(version)).collect()
        };
        let listed: HashSet<Uuid> =
            versions.iter().flat_map(|version| &version.packs).map(|pack| pack.id).collect();
        // What no version lists goes as a whole.
        old.retain(|pack, _| listed.contains(pack));
        for version in versions {
            if !version.packs.iter().any(|pack| old.contains_key(&pack.id)) {
                continue;
            }
            let needed = match self.manifest(&version).await {
                Ok(manifest) => {
                    let places = Arc::clone(places);
                    aside(&manifest, move |manifest| places.bytes_by_pack(manifest)).await
                }
                // What it needs cannot be told.
                Err(ContentError::Manifest(_)) => {
                    version.packs.iter().map(|pack| (pack.id, pack.size_bytes)).collect()
                }
                Err(error) => return Err(error),
            };
            old.retain(|pack, size| is_mostly_dead(needed.get(pack).copied().unwrap_or(0), *size));
        }
        let mut dead: Vec<Uuid> = old.into_keys().collect();
        dead.sort();
        Ok(dead)
    }

    /// Writes anew what versions need of a pack, if that is little. `false` when the pack stays as it is.
    async fn repack_one(&self, places: &Arc<Places>, pack: Uuid) -> Result<bool, ContentError> {
        let versions = self.versions_of(pack);
        let Some(mut pins) = places.pin(pack) else { return Ok(false) };
        let Some(index) = packs::index_of(&self.0.objects, pack).await? else { return Ok(false) };
        let rows: Arc<HashSet<Digest>> = Arc::new(index.rows().iter().map(|row| row.digest).collect());
        let mut needed: HashSet<Digest> = HashSet::new();
        for version in &versions {
            let Ok(manifest) = self.manifest(version).await else { return Ok(false) };
            let rows = Arc::clone(&rows);
            let of_version = move |manifest: &trainyard_content::Manifest| {
                let all = manifest.entries().map(|entry| entry.digest);
                all.filter(|digest| rows.contains(digest)).collect::<Vec<_>>()
            };
            needed.extend(aside(&manifest, of_version).await);
        }
        let mut kept: Vec<Placed> = index.rows().to_vec();
        // A content may lie in a pack twice.
        let mut open = needed;
        kept.retain(|row| open.remove(&row.digest));
        if !is_mostly_dead(kept.iter().map(|row| row.size_bytes).sum(), index.content_bytes()) {
            return Ok(false);
        }
        let mut writer = PackWriter::new(Arc::clone(&self.0.objects));
        for row in &kept {
            if !self.copy(pack, row, &mut writer).await? {
                warn!(%pack, content = %row.digest, "a content of a pack is damaged; the pack stays as it is");
                places.forget(&row.digest, pack);
                return Ok(false);
            }
        }
        writer.finish().await?;
        let mut new: Vec<PackRecord> = Vec::new();
        for written in writer.take_written() {
            places.add_for(written.record, &written.index, &mut pins);
            new.push(written.record);
        }
        self.replace(pack, &new, &versions).await?;
        let bytes: u64 = new.iter().map(|pack| pack.size_bytes).sum();
        info!(%pack, bytes, of_bytes = index.content_bytes(), "wrote anew what versions need of a pack");
        Ok(true)
    }

    /// Copies a content. `false` when it has other bytes than were pushed.
    async fn copy(&self, pack: Uuid, row: &Placed, writer: &mut PackWriter) -> Result<bool, ContentError> {
        let end = row.offset + row.size_bytes;
        let (mut at, mut hasher) = (row.offset, Hasher::new());
        writer.begin(row.size_bytes).await?;
        while at < end {
            let until = end.min(at + COPY_BYTES);
            let bytes = match self.0.objects.get_range(&packs::path(pack), at..until).await {
                // Somebody took it away.
                Err(object_store::Error::NotFound { .. }) => break,
                read => read?,
            };
            if bytes.len() as u64 != until - at {
                break;
            }
            hasher.update(&bytes);
            writer.write(bytes).await?;
            at = until;
        }
        if at != end || hasher.take() != row.digest {
            writer.abandon().await;
            return Ok(false);
        }
        writer.end(row.digest, row.size_bytes).await?;
        Ok(true)
    }

    /// Has the versions that were looked at need the `new` packs instead of the old one. One that came meanwhile keeps the
    /// old one: nobody knows what it needs of it.
    async fn replace(
        &self,
        pack: Uuid,
        new: &[PackRecord],
        looked_at: &[Arc<VersionRecord>],
    ) -> Result<(), ContentError> {
        let known: HashSet<String> = looked_at.iter().map(|version| version.field()).collect();
        let plan = |catalog: &Catalog| {
            let listed = catalog.all().map(|(version, _)| version).filter(|version| {
                known.contains(&version.field()) && version.packs.iter().any(|other| other.id == pack)
            });
            let changes = listed.map(|version| {
                let others = version.packs.iter().filter(|other| other.id != pack);
                let mut packs: Vec<PackRecord> = others.chain(new).copied().collect();
                packs.sort();
                packs.dedup();
                ContentChange::Put(Arc::new(VersionRecord { packs, ..VersionRecord::clone(version) }))
            });
            (changes.collect(), ())
        };
        self.change(plan).await
    }
}
