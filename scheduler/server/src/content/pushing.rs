//! A push: what is missing, what comes, and the version that it ends as.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use trainyard_content::{Digest, Entry, Hasher, Kind, Manifest};
use trainyard_types::{Time, Violation, size};

use super::catalog::{Catalog, pushed_at};
use super::packs::PackWriter;
use super::permits::Permit;
use super::places::{Pins, Places, WrongSize};
use super::reading::ReadError;
use super::under_way::Announced;
use super::{Content, ContentError, aside};
use crate::content_records::{ContentChange, VersionRecord};

/// Why a push comes to nothing. What it has stored stays for the next one.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("too many pushes are under way; try again in a moment")]
    TooMany,
    /// The name is somebody else's.
    #[error("belongs to `{0}`")]
    NotOwner(String),
    /// The user may not have so much.
    #[error(
        "{user} would have {} of data sets and weights, {} are allowed: {} are stored, other pushes under way bring {}, \
         and this one {}; the largest: {largest}; remove some with `yard data rm` or `yard weights rm`{}",
        size::bytes(used.saturating_add(*under_way).saturating_add(*more)),
        size::bytes(*allowed),
        size::bytes(*used),
        size::bytes(*under_way),
        size::bytes(*more),
        if *under_way > 0 { ", or wait for the other pushes" } else { "" }
    )]
    Quota {
        user: String,
        /// Bytes that the user has.
        used: u64,
        /// Bytes that the user's other pushes will bring.
        under_way: u64,
        /// Bytes that this version brings.
        more: u64,
        allowed: u64,
        /// The user's largest versions.
        largest: String,
    },
    /// A content is announced with another size than it has.
    #[error("`{path}` has {size_bytes} bytes by the list, and the content with its SHA-256 has {known}")]
    Size { path: String, size_bytes: u64, known: u64 },
    /// The bytes are not those of the hash that was announced.
    #[error(
        "`{path}` has SHA-256 {received}, {announced} was announced; it may have changed meanwhile: push again"
    )]
    Hash { path: String, announced: Digest, received: Digest },
    /// More bytes came than were asked for.
    #[error("more bytes came than were asked for")]
    TooLong,
    /// Fewer bytes came than were asked for.
    #[error("`{0}` and what follows did not come")]
    TooShort(String),
    /// The data set names files that it does not have.
    #[error("{} paths lead out of the data set", .0.len())]
    LeadsOut(Vec<Violation>),
    /// What was there when the push began is damaged or gone by now.
    #[error("a content that was there is gone; push again")]
    Gone,
    #[error(transparent)]
    Content(#[from] ContentError),
}

impl From<object_store::Error> for PushError {
    fn from(error: object_store::Error) -> Self {
        Self::Content(error.into())
    }
}

/// The version that a push is to make, and its user.
#[derive(Debug)]
pub struct Wanted {
    pub name: String,
    pub user: String,
    /// Whether names of others do not concern it.
    pub is_admin: bool,
    pub description: String,
    pub manifest: Arc<Manifest>,
    /// Whether it is made of a job's weights.
    pub is_of_job: bool,
}

/// A push under way.
pub struct Pushing {
    content: Content,
    wanted: Wanted,
    manifest: Arc<Manifest>,
    id: Digest,
    places: Arc<Places>,
    pins: Pins,
    missing: Vec<u32>,
    missing_bytes: u64,
    /// How many of the missing contents have come whole.
    done: usize,
    /// Bytes of the content under way that have come.
    received: u64,
    /// Bytes of all missing contents that have come.
    received_bytes: u64,
    hasher: Hasher,
    writer: PackWriter,
    stored_bytes: u64,
    _announced: Announced,
    _permit: Permit,
}

impl Content {
    /// Begins a push: finds out what is missing.
    ///
    /// # Errors
    /// The name is another user's, the quota is full, too many pushes are under way; the stores.
    pub async fn push(&self, wanted: Wanted) -> Result<Pushing, PushError> {
        let permit = self.0.pushes.take(&wanted.user).ok_or(PushError::TooMany)?;
        let manifest = Arc::clone(&wanted.manifest);
        let id = aside(&manifest, |manifest| manifest.id()).await;
        let owner = self.owner(manifest.kind(), &wanted.name).await?;
        if let Some(owner) = owner.filter(|owner| *owner != wanted.user && !wanted.is_admin) {
            return Err(PushError::NotOwner(owner));
        }
        let places = self.places().await?;
        let looked_up = Arc::clone(&places);
        let missing = aside(&manifest, move |manifest| looked_up.missing(manifest)).await;
        let (missing, pins) = missing.map_err(|WrongSize { file, known }| {
            let entry = manifest.get(file as usize);
            let (path, size_bytes) =
                entry.map_or_else(Default::default, |entry| (entry.path.to_owned(), entry.size_bytes));
            PushError::Size { path, size_bytes, known }
        })?;
        let sizes = missing.iter().filter_map(|at| manifest.get(*at as usize)).map(|entry| entry.size_bytes);
        let missing_bytes = sizes.sum();
        let fits = |others| self.check_quota(&wanted.user, others, missing_bytes);
        let announced = self.0.under_way.announce(&wanted.user, id, missing_bytes, fits)?;
        let writer = PackWriter::new(Arc::clone(&self.0.objects));
        Ok(Pushing {
            content: self.clone(),
            wanted,
            manifest,
            id,
            places,
            pins,
            missing,
            missing_bytes,
            done: 0,
            received: 0,
            received_bytes: 0,
            hasher: Hasher::new(),
            writer,
            stored_bytes: 0,
            _announced: announced,
            _permit: permit,
        })
    }

    /// Whether a user may have so many bytes more, when other pushes bring what they will.
    fn check_quota(&self, user: &str, under_way: u64, more: u64) -> Result<(), PushError> {
        let Some(allowed) = self.0.limits.user_bytes else { return Ok(()) };
        within_quota(&self.catalog(), user, under_way, more, allowed)
    }
}

fn within_quota(
    catalog: &Catalog,
    user: &str,
    under_way: u64,
    more: u64,
    allowed: u64,
) -> Result<(), PushError> {
    let (used, versions) = catalog.usage(user);
    if more == 0 || used.saturating_add(under_way).saturating_add(more) <= allowed {
        return Ok(());
    }
    let largest: Vec<String> = versions
        .iter()
        .take(3)
        .map(|version| format!("{} ({})", version.reference().short(), size::bytes(version.size_bytes)))
        .collect();
    let largest = if largest.is_empty() { "none".to_owned() } else { largest.join(", ") };
    Err(PushError::Quota { user: user.to_owned(), used, under_way, more, allowed, largest })
}

impl Pushing {
    /// The places of the files whose contents are to come, in this order.
    pub fn missing(&self) -> &[u32] {
        &self.missing
    }

    /// The missing file whose content comes now; `None` when all have come.
    fn current(&self) -> Option<Entry<'_>> {
        self.missing.get(self.done).and_then(|at| self.manifest.get(*at as usize))
    }

    fn current_path(&self) -> String {
        self.current().map_or_else(String::new, |entry| entry.path.to_owned())
    }

    /// Bytes of the missing contents that are stored for good.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Takes the next bytes of the missing contents.
    ///
    /// # Errors
    /// They are not those that were announced, or too many; the store.
    pub async fn take(&mut self, mut bytes: Bytes) -> Result<(), PushError> {
        self.skip_empty().await?;
        while !bytes.is_empty() {
            let entry = self.current().ok_or(PushError::TooLong)?;
            let (digest, size) = (entry.digest, entry.size_bytes);
            if self.received == 0 {
                self.writer.begin(size).await?;
            }
            let left = usize::try_from(size - self.received).unwrap_or(usize::MAX);
            let part = bytes.split_to(left.min(bytes.remaining()));
            self.hasher.update(&part);
            self.received += part.len() as u64;
            self.received_bytes += part.len() as u64;
            self.writer.write(part).await?;
            if self.received == size {
                self.end_content(digest, size).await?;
                self.skip_empty().await?;
            }
        }
        Ok(())
    }

    /// Contents without a byte come by themselves.
    async fn skip_empty(&mut self) -> Result<(), PushError> {
        while let Some(Entry { digest, size_bytes: 0, .. }) = self.current() {
            self.writer.begin(0).await?;
            self.end_content(digest, 0).await?;
        }
        Ok(())
    }

    async fn end_content(&mut self, announced: Digest, size: u64) -> Result<(), PushError> {
        let received = self.hasher.take();
        if received != announced {
            return Err(PushError::Hash { path: self.current_path(), announced, received });
        }
        self.writer.end(announced, size).await?;
        self.note_written();
        self.done += 1;
        self.received = 0;
        Ok(())
    }

    fn note_written(&mut self) {
        for written in self.writer.take_written() {
            self.stored_bytes += written.record.size_bytes;
            self.places.add_for(written.record, &written.index, &mut self.pins);
        }
    }

    /// Bytes of the missing contents.
    pub fn missing_bytes(&self) -> u64 {
        self.missing_bytes
    }

    /// Bytes of the missing contents that have come.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Stores what has come whole, so that the next push goes on from there. Returns what is missing, as an error.
    pub async fn break_off(mut self) -> PushError {
        if self.received > 0 {
            self.writer.abandon().await;
        }
        // What cannot be stored comes again.
        if self.writer.finish().await.is_ok() {
            self.note_written();
        }
        PushError::TooShort(self.current_path())
    }

    /// Everything has come: makes the version, which is the newest of its name then.
    ///
    /// # Errors
    /// Something is missing; the stores.
    pub async fn finish(mut self, now: Time) -> Result<Arc<VersionRecord>, PushError> {
        self.skip_empty().await?;
        if self.current().is_some() {
            return Err(PushError::TooShort(self.current_path()));
        }
        self.writer.finish().await?;
        self.note_written();
        match self.content.paths_leading_out(&self.manifest, &self.places).await {
            Ok(found) if found.is_empty() => {}
            Ok(found) => return Err(PushError::LeadsOut(found)),
            Err(ReadError::Missing(_) | ReadError::Damaged(_)) => return Err(PushError::Gone),
            Err(ReadError::Store(error)) => return Err(error.into()),
        }
        let places = Arc::clone(&self.places);
        let packs = aside(&self.manifest, move |manifest| places.packs_of(manifest)).await;
        let (packs, pins) = packs.ok_or(PushError::Gone)?;
        // Kept until the version is there.
        let needed = self.content.put_manifest(&self.manifest, self.id).await?.ok_or(PushError::Gone)?;
        let Wanted { name, user, is_admin, description, is_of_job, .. } = &self.wanted;
        let (kind, id): (Kind, Digest) = (self.manifest.kind(), self.id);
        let allowed = self.content.0.limits.user_bytes;
        let plan = |catalog: &Catalog| {
            let versions = catalog.versions(kind, name);
            let first = versions.first().map(|version| version.user.clone());
            if let Some(owner) = first.filter(|owner| owner != user && !is_admin) {
                return (Vec::new(), Err(PushError::NotOwner(owner)));
            }
            // What others have pushed meanwhile counts, and what a push that broke off has stored before this one.
            if let Some(allowed) = allowed
                && let Err(full) = within_quota(catalog, user, 0, catalog.new_bytes(&packs), allowed)
            {
                return (Vec::new(), Err(full));
            }
            let before = versions.iter().find(|version| version.id == id);
            let record = Arc::new(VersionRecord {
                kind,
                name: name.clone(),
                id,
                user: before.map_or_else(|| user.clone(), |before| before.user.clone()),
                created: pushed_at(now, versions),
                files: self.manifest.len() as u64,
                size_bytes: self.manifest.total_bytes(),
                description: description.clone(),
                packs: packs.clone(),
                is_of_job: *is_of_job,
            });
            (vec![ContentChange::Put(Arc::clone(&record))], Ok(record))
        };
        let made = self.content.change(plan).await?;
        drop((needed, pins));
        made
    }
}
