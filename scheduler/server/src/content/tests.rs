//! Pushes, reads and collections on a real directory.

mod lives;
mod mortal;
mod quota;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::ObjectStoreExt as _;
use object_store::local::LocalFileSystem;
use trainyard_content::{Builder, Digest, Kind, Manifest};
use trainyard_types::Time;

use super::*;
use crate::store::memory::MemoryStore;

const GRACE: Duration = Duration::from_secs(60);

struct Fixture {
    dir: tempfile::TempDir,
    records: Arc<MemoryStore>,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), records: Arc::default() }
    }

    /// A scheduler's view, as after a start.
    fn content(&self, user_bytes: Option<u64>) -> Content {
        let objects = LocalFileSystem::new_with_prefix(self.dir.path()).unwrap();
        Content::new(self.records.clone(), Arc::new(objects), ContentLimits { user_bytes, grace: GRACE })
    }
}

fn manifest(files: &[(&str, &[u8])]) -> Arc<Manifest> {
    let mut builder = Builder::new(Kind::DataSet);
    for (path, content) in files {
        builder.add(path, content.len() as u64, Digest::of(content)).unwrap();
    }
    Arc::new(builder.finish().unwrap())
}

fn wanted(user: &str, files: &[(&str, &[u8])]) -> Wanted {
    Wanted {
        name: "cells".into(),
        user: user.into(),
        is_admin: false,
        description: String::new(),
        manifest: manifest(files),
        is_of_job: false,
    }
}

/// Sends what is asked for, in pieces of `piece` bytes.
async fn push(
    content: &Content,
    user: &str,
    files: &[(&str, &[u8])],
    piece: usize,
) -> Result<(usize, Arc<VersionRecord>), PushError> {
    let mut pushing = content.push(wanted(user, files)).await?;
    let asked = pushing.missing().to_vec();
    let bytes: Vec<u8> = asked.iter().flat_map(|at| files[*at as usize].1.to_vec()).collect();
    for piece in bytes.chunks(piece) {
        pushing.take(Bytes::copy_from_slice(piece)).await?;
    }
    Ok((asked.len(), pushing.finish(Time(1)).await?))
}

async fn read(content: &Content, version: &VersionRecord, offset: u64) -> Result<Vec<u8>, ReadError> {
    let manifest = content.manifest(version).await.unwrap();
    let all = std::iter::once(0..manifest.len()).collect();
    let mut reader = content.reader(manifest, all, offset).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(more) = reader.next().await? {
        bytes.extend_from_slice(&more);
    }
    Ok(bytes)
}

fn collect_at(content: &Content, ago: Duration) -> impl Future<Output = Collected> {
    let is_needed: Box<IsNeeded> = Box::new(|_| Box::pin(async { false }));
    let content = content.clone();
    async move { content.collect(SystemTime::now() + ago, &*is_needed).await.unwrap() }
}

const FILES: &[(&str, &[u8])] = &[
    ("data.yaml", b"names: [a]"),
    ("images/1.jpg", b"one"),
    ("images/2.jpg", b""),
    ("images/3.jpg", b"one"),
];

#[tokio::test]
async fn a_version_comes_back_as_it_was_pushed_and_its_next_push_sends_nothing() {
    let fixture = Fixture::new();
    let content = fixture.content(None);
    let (asked, version) = push(&content, "ada", FILES, 2).await.unwrap();
    // Equal contents come once.
    assert_eq!((asked, version.files, version.size_bytes), (3, 4, 16));
    assert_eq!(read(&content, &version, 0).await.unwrap(), b"names: [a]oneone");
    for offset in 0..=16 {
        assert_eq!(read(&content, &version, offset as u64).await.unwrap(), b"names: [a]oneone"[offset..]);
    }
    // Also after a restart.
    let content = fixture.content(None);
    let (asked, again) = push(&content, "ada", FILES, 2).await.unwrap();
    assert_eq!((asked, again.id), (0, version.id));
    assert_eq!(content.list(|_| true).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_second_version_sends_its_difference_and_is_the_newest() {
    let fixture = Fixture::new();
    let content = fixture.content(None);
    let (_, first) = push(&content, "ada", FILES, 100).await.unwrap();
    let (asked, second) = push(&content, "ada", &[FILES[0], ("images/4.jpg", b"four")], 100).await.unwrap();
    assert_eq!(asked, 1);
    assert_eq!(read(&content, &second, 0).await.unwrap(), b"names: [a]four");
    let newest = |content: &Content| content.catalog().versions(Kind::DataSet, "cells").last().unwrap().id;
    assert_eq!(newest(&content), second.id);
    push(&content, "ada", FILES, 100).await.unwrap();
    assert_eq!(newest(&content), first.id);
    assert!(
        matches!(push(&content, "bob", FILES, 100).await, Err(PushError::NotOwner(owner)) if owner == "ada")
    );
}

#[tokio::test]
async fn a_push_that_breaks_off_goes_on_where_it_was_also_after_a_restart() {
    let fixture = Fixture::new();
    let content = fixture.content(None);
    let mut pushing = content.push(wanted("ada", FILES)).await.unwrap();
    pushing.take(Bytes::from_static(b"names: [a]on")).await.unwrap();
    assert!(matches!(pushing.break_off().await, PushError::TooShort(path) if path == "images/1.jpg"));
    for content in [content, fixture.content(None)] {
        let pushing = content.push(wanted("ada", FILES)).await.unwrap();
        // The empty one comes after the one that broke off.
        assert_eq!(pushing.missing(), [1, 2]);
        assert_eq!(pushing.missing_bytes(), 3);
    }
    let content = fixture.content(None);
    let (_, version) = push(&content, "ada", FILES, 1).await.unwrap();
    assert_eq!(read(&content, &version, 0).await.unwrap(), b"names: [a]oneone");
}

#[tokio::test]
async fn wrong_bytes_too_many_and_too_few_make_no_version() {
    let fixture = Fixture::new();
    let content = fixture.content(None);
    let mut pushing = content.push(wanted("ada", FILES)).await.unwrap();
    let error = pushing.take(Bytes::from_static(b"names: [b]one")).await.unwrap_err();
    assert!(error.to_string().contains("`data.yaml` has SHA-256"), "{error}");
    let mut pushing = content.push(wanted("ada", FILES)).await.unwrap();
    let error = pushing.take(Bytes::from_static(b"names: [a]onex")).await.unwrap_err();
    assert!(matches!(error, PushError::TooLong));
    let mut pushing = content.push(wanted("ada", FILES)).await.unwrap();
    pushing.take(Bytes::from_static(b"names: [a]o")).await.unwrap();
    assert!(matches!(pushing.finish(Time(1)).await, Err(PushError::TooShort(_))));
    assert!(content.list(|_| true).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_no_version_needs_goes_and_what_one_needs_stays() {
    let fixture = Fixture::new();
    let content = fixture.content(None);
    let (_, first) = push(&content, "ada", FILES, 100).await.unwrap();
    let second: &[(&str, &[u8])] = &[FILES[0], ("images/4.jpg", b"four")];
    let (_, kept) = push(&content, "ada", second, 100).await.unwrap();
    // Left by a push that broke off.
    let mut broken = content.push(wanted("ada", &[FILES[0], ("images/5.jpg", b"five!")])).await.unwrap();
    broken.take(Bytes::from_static(b"five!")).await.unwrap();
    broken.break_off().await;
    let removal = content.begin_removal(vec![first]).unwrap();
    content.remove(removal).await.unwrap();
    assert_eq!(collect_at(&content, Duration::ZERO).await, Collected::default());
    // Condemned, and then removed. The first pack holds the data.yaml that the second version needs.
    assert_eq!(collect_at(&content, GRACE).await.packs, 0);
    let collected = collect_at(&content, 2 * GRACE).await;
    assert_eq!((collected.packs, collected.manifests), (1, 0));
    assert_eq!(read(&content, &kept, 0).await.unwrap(), b"names: [a]four");
    let content = fixture.content(None);
    assert_eq!(read(&content, &kept, 0).await.unwrap(), b"names: [a]four");
    assert_eq!(content.places().await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_flipped_bit_is_found_and_the_next_push_mends_it() {
    let fixture = Fixture::new();
    let content = fixture.content(None);
    let (_, version) = push(&content, "ada", FILES, 100).await.unwrap();
    let path = packs::path(version.packs[0].id);
    let objects = LocalFileSystem::new_with_prefix(fixture.dir.path()).unwrap();
    let mut bytes = objects.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    bytes[11] ^= 1;
    objects.put(&path, bytes.into()).await.unwrap();
    let error = read(&content, &version, 0).await.unwrap_err();
    assert!(matches!(&error, ReadError::Damaged(path) if path == "images/1.jpg"), "{error}");
    let (asked, mended) = push(&content, "ada", FILES, 100).await.unwrap();
    assert_eq!((asked, mended.id), (1, version.id));
    assert_eq!(read(&content, &mended, 0).await.unwrap(), b"names: [a]oneone");
    assert_eq!(mended.packs.len(), 2);
}

#[tokio::test]
async fn one_push_mends_all_that_is_damaged_of_a_version() {
    let fixture = Fixture::new();
    let content = fixture.content(None);
    let contents: Vec<(String, String)> =
        (0..100).map(|at| (format!("images/{at:03}.jpg"), format!("content {at:03}"))).collect();
    let files: Vec<(&str, &[u8])> = std::iter::once(FILES[0])
        .chain(contents.iter().map(|(path, content)| (path.as_str(), content.as_bytes())))
        .collect();
    let (_, version) = push(&content, "ada", &files, 100).await.unwrap();
    let path = packs::path(version.packs[0].id);
    let objects = LocalFileSystem::new_with_prefix(fixture.dir.path()).unwrap();
    let mut bytes = objects.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    (0..50).for_each(|at| bytes[10 + at * 22] ^= 1);
    objects.put(&path, bytes.into()).await.unwrap();
    read(&content, &version, 0).await.unwrap_err();
    content.find_damage(version.id, content.manifest(&version).await.unwrap()).await;
    let (asked, mended) = push(&content, "ada", &files, 100).await.unwrap();
    assert_eq!((asked, mended.id), (50, version.id));
    let all: Vec<u8> = files.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
    assert_eq!(read(&content, &mended, 0).await.unwrap(), all);
}

#[tokio::test]
async fn contents_larger_than_a_pack_have_their_own() {
    let fixture = Fixture::new();
    let content = fixture.content(None);
    let large: Vec<u8> = (0..(65 << 20) + 5).map(|at: u32| (at % 251) as u8).collect();
    let files: &[(&str, &[u8])] =
        &[FILES[0], ("images/a.jpg", b"before"), ("images/b.jpg", &large), ("z", b"after")];
    let (_, version) = push(&content, "ada", files, 1 << 20).await.unwrap();
    assert_eq!(version.packs.len(), 3);
    let all = files.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect::<Vec<u8>>();
    assert!(read(&content, &version, 0).await.unwrap() == all);
    let content = fixture.content(None);
    assert!(read(&content, &version, 20 << 20).await.unwrap() == all[20 << 20..]);
}

/// Packs in the store, by their bytes.
fn packs_of(fixture: &Fixture) -> Vec<u64> {
    let files = std::fs::read_dir(fixture.dir.path().join(packs::FOLDER)).unwrap();
    let mut sizes: Vec<u64> = files.map(|file| file.unwrap().metadata().unwrap().len()).collect();
    sizes.sort_unstable();
    sizes
}

#[tokio::test]
async fn what_is_needed_of_a_pack_that_is_mostly_dead_is_written_anew_and_the_rest_goes() {
    let fixture = Fixture::new();
    let content = fixture.content(None);
    let large = vec![7; 10_000];
    let (yaml, kept, gone) = (("data.yaml", &b"y"[..]), ("kept", &b"kept"[..]), ("gone", &large[..]));
    let (_, both) = push(&content, "ada", &[yaml, gone, kept], 4096).await.unwrap();
    let small = Wanted { name: "small".into(), ..wanted("ada", &[yaml, kept]) };
    let pushing = content.push(small).await.unwrap();
    assert_eq!(pushing.missing(), [0; 0]);
    let small = pushing.finish(Time(2)).await.unwrap();
    assert_eq!(small.packs, both.packs);
    // More than half is needed.
    assert_eq!(collect_at(&content, GRACE).await, Collected::default());
    let removal = content.begin_removal(vec![both]).unwrap();
    content.remove(removal).await.unwrap();
    // Not while a push counts on it, nor before its time.
    let pushing = content.push(wanted("ada", &[yaml, kept])).await.unwrap();
    assert_eq!(collect_at(&content, GRACE).await.repacked, 0);
    drop(pushing);
    assert_eq!(collect_at(&content, Duration::ZERO).await.repacked, 0);
    assert_eq!(collect_at(&content, GRACE).await.repacked, 1);
    assert_eq!(packs_of(&fixture).len(), 2);
    // Before the old pack is gone, and after it; here, and for a process that starts then.
    for ago in [GRACE, 3 * GRACE] {
        let collected = collect_at(&content, ago).await;
        assert_eq!(collected.repacked, 0);
        for content in [&content, &fixture.content(None)] {
            let all = content.list(|_| true).await.unwrap();
            assert_eq!(all.len(), 1);
            assert_eq!((&all[0].0.name, all[0].0.created), (&small.name, small.created));
            assert_eq!(read(content, &all[0].0, 0).await.unwrap(), b"ykept");
        }
    }
    let [left] = packs_of(&fixture)[..] else { panic!("{:?}", packs_of(&fixture)) };
    assert!(left < 1000, "{left}");
}

#[tokio::test]
async fn packs_that_another_scheduler_has_written_are_read_before_anything_is_condemned() {
    let fixture = Fixture::new();
    let (old, new) = (fixture.content(None), fixture.content(None));
    let files = [("data.yaml", &b"y"[..]), ("z", &b"zz"[..])];
    // The new leader has read all packs there are.
    assert_eq!(collect_at(&new, GRACE).await, Collected::default());
    let (_, version) = push(&old, "ada", &files, 10).await.unwrap();
    assert!(read(&new, &version, 0).await.is_err());
    collect_at(&new, GRACE).await;
    assert_eq!(read(&new, &version, 0).await.unwrap(), b"yzz");
}
