//! Contents of a version's files, one after the other, as they lie in packs.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt as _};
use trainyard_content::{Digest, Hasher, Manifest};
use trainyard_types::SizeLimit;
use uuid::Uuid;

use super::places::Places;
use super::{Content, packs};

/// Bytes that are read from the store at once.
const READ_BYTES: u64 = 2 << 20;

/// Why a file's content does not come.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No pack holds the content.
    #[error("the content of `{0}` is not in the store any more; push the data set again")]
    Missing(String),
    /// It has other bytes than were pushed.
    #[error("the content of `{0}` is damaged in the store; push the data set again, and it is mended")]
    Damaged(String),
    #[error(transparent)]
    Store(#[from] object_store::Error),
}

/// A part of a content, in a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    pack: Uuid,
    range: Range<u64>,
    /// The file, by its place.
    file: usize,
    /// Whether the piece begins or ends its content.
    begins: bool,
    ends: bool,
}

/// Reads files of a version, a step at a time.
pub struct Reader {
    store: Arc<dyn ObjectStore>,
    places: Arc<Places>,
    manifest: Arc<Manifest>,
    files: Box<dyn Iterator<Item = usize> + Send>,
    /// Bytes of the next file to skip.
    skip: u64,
    /// What is left of a file that one step does not read whole.
    rest: Option<Piece>,
    /// Why the file behind the last run does not come.
    failed: Option<ReadError>,
    /// The content under way, if it was read from its first byte on.
    hasher: Option<Hasher>,
}

impl Reader {
    /// Reads the files of `ranges` in this order, from the byte `offset` of all their contents on.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        places: Arc<Places>,
        manifest: Arc<Manifest>,
        ranges: Vec<Range<usize>>,
        offset: u64,
    ) -> Self {
        let mut files = ranges.into_iter().flatten().peekable();
        let mut skip = offset;
        while let Some(size) = files.peek().and_then(|at| manifest.get(*at)).map(|entry| entry.size_bytes) {
            if skip < size {
                break;
            }
            skip -= size;
            files.next();
        }
        Self { store, places, manifest, files: Box::new(files), skip, rest: None, failed: None, hasher: None }
    }

    fn name(&self, file: usize) -> String {
        self.manifest.get(file).map_or_else(String::new, |entry| entry.path.to_owned())
    }

    /// The next piece: at most [`READ_BYTES`] of one content.
    fn next_piece(&mut self) -> Result<Option<Piece>, ReadError> {
        let piece = match self.rest.take() {
            Some(rest) => rest,
            None => {
                let Some(file) = self.files.next() else { return Ok(None) };
                let Some(entry) = self.manifest.get(file) else { return Ok(None) };
                let skip = std::mem::take(&mut self.skip);
                let place = self.places.find(&entry.digest, entry.size_bytes);
                let (pack, offset) = place.ok_or_else(|| ReadError::Missing(entry.path.to_owned()))?;
                Piece {
                    pack,
                    range: offset + skip..offset + entry.size_bytes,
                    file,
                    begins: skip == 0,
                    ends: true,
                }
            }
        };
        if piece.range.end - piece.range.start <= READ_BYTES {
            return Ok(Some(piece));
        }
        let cut = piece.range.start + READ_BYTES;
        self.rest = Some(Piece { range: cut..piece.range.end, begins: false, ..piece });
        Ok(Some(Piece { range: piece.range.start..cut, ends: false, ..piece }))
    }

    /// Pieces that lie one after the other in one pack, to be read at once.
    fn next_run(&mut self) -> Result<Vec<Piece>, ReadError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut run: Vec<Piece> = Vec::new();
        loop {
            let piece = match self.next_piece() {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) if run.is_empty() => return Err(error),
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            };
            let follows = run.last().is_none_or(|last| {
                let begin = run[0].range.start;
                last.pack == piece.pack
                    && last.range.end == piece.range.start
                    && piece.range.end - begin <= READ_BYTES
            });
            if !follows {
                // It is the first of the next run, together with what was cut off from it.
                self.rest = Some(match self.rest.take() {
                    Some(rest) => {
                        Piece { range: piece.range.start..rest.range.end, ends: rest.ends, ..piece }
                    }
                    None => piece,
                });
                break;
            }
            run.push(piece);
        }
        Ok(run)
    }

    /// The next bytes; `None` behind the last file. Whole contents are checked: what was damaged is an error after its
    /// bytes were given, and is forgotten. After such an error it goes on with the files behind it.
    ///
    /// # Errors
    /// A content is missing or damaged; the store.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        let run = self.next_run()?;
        let Some((first, last)) = run.first().zip(run.last()) else { return Ok(None) };
        let (begin, end) = (first.range.start, last.range.end);
        if begin == end {
            return Ok(Some(Bytes::new()));
        }
        let bytes = match self.store.get_range(&packs::path(first.pack), begin..end).await {
            Err(object_store::Error::NotFound { .. }) => {
                self.forget(&run);
                return Err(ReadError::Missing(self.name(first.file)));
            }
            read => read?,
        };
        if bytes.len() as u64 != end - begin {
            self.forget(&run);
            return Err(ReadError::Damaged(self.name(first.file)));
        }
        let mut checked = Ok(());
        for piece in &run {
            // A run is at most READ_BYTES long.
            let at = |offset: u64| usize::try_from(offset - begin).unwrap_or(usize::MAX);
            checked = checked.and(self.check(piece, &bytes[at(piece.range.start)..at(piece.range.end)]));
        }
        checked.map(|()| Some(bytes))
    }

    /// What is not where it should be is asked for again with the next push.
    fn forget(&self, run: &[Piece]) {
        for piece in run {
            if let Some(entry) = self.manifest.get(piece.file) {
                self.places.forget(&entry.digest, piece.pack);
            }
        }
    }

    fn check(&mut self, piece: &Piece, bytes: &[u8]) -> Result<(), ReadError> {
        if piece.begins {
            self.hasher = Some(Hasher::new());
        }
        let Some(hasher) = &mut self.hasher else { return Ok(()) };
        hasher.update(bytes);
        if !piece.ends {
            return Ok(());
        }
        let found: Digest = hasher.take();
        self.hasher = None;
        let Some(entry) = self.manifest.get(piece.file) else { return Ok(()) };
        if found == entry.digest {
            return Ok(());
        }
        self.places.forget(&entry.digest, piece.pack);
        Err(ReadError::Damaged(entry.path.to_owned()))
    }
}

impl Content {
    /// Reads a file's content, part by part; `false` for one that is too large to be read as what it is.
    ///
    /// # Errors
    /// The content is gone or damaged; the store cannot be read.
    pub(super) async fn read_file(
        &self,
        manifest: &Arc<Manifest>,
        places: &Arc<Places>,
        at: usize,
        limit: SizeLimit,
        mut take: impl FnMut(Bytes),
    ) -> Result<bool, ReadError> {
        if manifest.get(at).is_none_or(|entry| limit.check(entry.size_bytes).is_err()) {
            return Ok(false);
        }
        let (objects, places, manifest) =
            (Arc::clone(&self.0.objects), Arc::clone(places), Arc::clone(manifest));
        let mut reader = Reader::new(objects, places, manifest, std::iter::once(at..at + 1).collect(), 0);
        while let Some(bytes) = reader.next().await? {
            take(bytes);
        }
        Ok(true)
    }
}
