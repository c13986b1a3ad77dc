//! The store against a disk.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use trainyard_content::{Builder, Kind, Manifest};
use uuid::Uuid;

use super::store::OpenError;
use super::*;

struct World {
    folder: tempfile::TempDir,
    store: Arc<Store>,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(folder.path()).unwrap());
    World { folder, store }
}

fn manifest(files: &[(&str, &str)]) -> Manifest {
    let mut builder = Builder::new(Kind::DataSet);
    for (path, content) in files {
        builder.add(path, content.len() as u64, Digest::of(content.as_bytes())).unwrap();
    }
    builder.finish().unwrap()
}

impl World {
    /// Stores a version as a fetch does.
    fn keep(&self, files: &[(&str, &str)]) -> Digest {
        let (manifest, layout) = (manifest(files), self.store.layout());
        let id = manifest.id();
        let root = layout.tree_being_made(id);
        fs::create_dir_all(&root).unwrap();
        manifest_file::write(layout, id, &manifest).unwrap();
        for (entry, (_, content)) in manifest.entries().zip(files) {
            if layout.blob(entry.digest).exists() {
                tree::place(layout, &root, entry).unwrap();
                continue;
            }
            let (_, path) = blob::create(layout, entry.digest).unwrap();
            write(&path, content);
            self.store.add(&root, entry, &path).unwrap();
        }
        tree::seal(&root, &manifest).unwrap();
        fs::rename(&root, layout.tree(id)).unwrap();
        self.store.used(id);
        id
    }

    /// The same with a new process of the agent.
    fn restart(self) -> Self {
        let Self { folder, store } = self;
        drop(store);
        let store = Arc::new(Store::open(folder.path()).unwrap());
        store.clean_and_count();
        Self { folder, store }
    }

    fn check(&self, id: Digest, files: &[(&str, &str)]) -> (Vec<u32>, Vec<u32>) {
        let root = self.store.layout().tree(id);
        let found = check::check(&self.store, &root, &manifest(files), &CancellationToken::new()).unwrap();
        (found.missing, found.damaged)
    }

    fn taken(&self) -> u64 {
        self.store.taken_and_promised().0
    }
}

/// Writes a file, also a read-only one.
fn write(path: &Path, content: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
}

const CELLS: [(&str, &str); 4] =
    [("a/1.jpg", "one"), ("a/2.jpg", "two"), ("b/3.jpg", "one"), ("data.yaml", "names: [a]")];
const OTHERS: [(&str, &str); 2] = [("a/2.jpg", "two"), ("data.yaml", "names: [b]")];

#[test]
fn a_restart_finds_what_is_whole_and_removes_what_is_not() {
    let world = world();
    let id = world.keep(&CELLS);
    let layout = world.store.layout().clone();
    let blob = |content: &str| layout.blob(Digest::of(content.as_bytes()));
    let written = |path: PathBuf| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "left").unwrap();
        path
    };
    let elsewhere = Digest::of(b"elsewhere");
    let gone = [
        written(blob("half").with_extension("7")),
        written(layout.unfinished().join("3")),
        written(layout.tree_being_made(elsewhere).join("a/b")),
        written(layout.tree_being_removed(id).join("c")),
        written(layout.manifest(elsewhere)),
        written(blob("old")),
    ];
    let old = fs::File::options().write(true).open(blob("old")).unwrap();
    old.set_modified(SystemTime::now() - Duration::from_secs(25 * 3600)).unwrap();
    let new = written(blob("new"));
    let world = world.restart();
    assert!(gone.iter().all(|path| !path.exists()), "{gone:?}");
    assert!(new.exists(), "a fetch goes on with it");
    assert_eq!(world.store.held(), [id]);
    assert_eq!(world.check(id, &CELLS), (vec![], vec![]));
    // Three contents and the one without a version, a block each.
    assert_eq!(world.taken(), 4 * 4096);
    assert!(matches!(Store::open(world.folder.path()), Err(OpenError::InUse(_))));
}

#[test]
fn damage_is_found_through_every_link_and_mended_where_another_copy_is_sound() {
    let world = world();
    let (id, other) = (world.keep(&CELLS), world.keep(&OTHERS));
    let layout = world.store.layout();
    write(&layout.tree(id).join("a/1.jpg"), "onE");
    // One content at two places, both of which are links to it. Whoever comes second finds no blob.
    assert_eq!(world.check(id, &CELLS), (vec![0, 2], vec![0, 2]));
    assert!(!layout.blob(Digest::of(b"one")).exists());
    assert_eq!(world.check(other, &OTHERS), (vec![], vec![]));
    // A tree's own file can be mended from the blob, and a link that is none is replaced.
    tree::remove_file(&layout.tree(other).join("a/2.jpg")).unwrap();
    fs::write(layout.tree(other).join("a/2.jpg"), "twO").unwrap();
    assert_eq!(world.check(other, &OTHERS), (vec![], vec![0]));
    assert_eq!(fs::read(layout.tree(other).join("a/2.jpg")).unwrap(), b"two");
}

#[test]
fn versions_go_with_what_no_other_has_and_what_an_attempt_needs_stays() {
    let world = world();
    let (cells, others) = (world.keep(&CELLS), world.keep(&OTHERS));
    let attempt = AttemptId { job: trainyard_types::JobId(Uuid::from_u128(7)), number: 1 };
    world.store.need(attempt, cells);
    assert_eq!(world.taken(), 4 * 4096);
    // Nothing may be taken, so all that may go goes.
    let nothing = Limits { quota_gib: Some(1), floor_gib: Some(u32::MAX) };
    room::keep_floor(&world.store, nothing);
    let layout = world.store.layout();
    assert_eq!(world.store.held(), [cells]);
    assert!(!layout.tree(others).exists() && !layout.manifest(others).exists());
    assert_eq!(world.taken(), 3 * 4096);
    assert_eq!(world.check(cells, &CELLS), (vec![], vec![]));
    world.store.keep_for(|_| false);
    room::keep_floor(&world.store, nothing);
    assert_eq!((world.store.held(), world.taken()), (vec![], 0));
}

#[test]
fn room_is_promised_once_and_given_back() {
    let world = world();
    let limits = Limits { quota_gib: Some(1), floor_gib: Some(0) };
    let half = || std::iter::once(600_u64 << 20);
    // Only the quota counts here, not what this machine's disk has.
    let Ok(first) = room::make(&world.store, limits, half(), Duration::ZERO) else { return };
    let refused = room::make(&world.store, limits, half(), Duration::ZERO).unwrap_err();
    assert!(refused.to_string().contains("`fetched_quota_gib`"), "{refused}");
    first.used(300 << 20);
    assert_eq!(world.store.taken_and_promised().1, 300 << 20);
    drop(first);
    assert_eq!(world.store.taken_and_promised().1, 0);
}

#[test]
fn who_finds_no_room_is_told_what_holds_it() {
    let world = world();
    let cells = world.keep(&CELLS);
    let limits = Limits { quota_gib: Some(1), floor_gib: Some(0) };
    let day = Duration::from_secs(24 * 3600);
    let refused = |bytes: u64| room::make(&world.store, limits, std::iter::once(bytes), day).err();
    // Where this machine's disk has so much room at all.
    let Some(too_large @ room::NoRoom::TooLarge { .. }) = refused(2 << 30) else {
        panic!("more than the quota")
    };
    assert!(!too_large.to_string().contains("jobs"), "{too_large}");
    let Some(young @ room::NoRoom::Quota { .. }) = refused(1 << 30) else { return };
    let young = young.to_string();
    assert!(young.contains("held by 1 version that no job uses, used in the last 24 h;"), "{young}");
    assert!(!young.contains("wait for those jobs"), "{young}");
    world.store.need(AttemptId { job: trainyard_types::JobId(Uuid::from_u128(7)), number: 1 }, cells);
    let used = refused(1 << 30).unwrap().to_string();
    assert!(
        used.contains("held by 1 version that jobs use; raise the key, or wait for those jobs"),
        "{used}"
    );
}

#[test]
fn a_content_may_have_more_places_than_a_file_may_have_names() {
    let world = world();
    let layout = world.store.layout();
    let root = layout.tree_being_made(Digest::of(b"tree"));
    let paths: Vec<String> = (0..65_010).map(|at| format!("{:03}/{at}.txt", at / 1000)).collect();
    fs::create_dir_all(&root).unwrap();
    let digest = Digest::of(b"");
    let entry = |path| trainyard_content::Entry { path, size_bytes: 0, digest };
    let (_, path) = blob::create(layout, digest).unwrap();
    world.store.add(&root, entry("first"), &path).unwrap();
    for path in &paths {
        tree::place(layout, &root, entry(path)).unwrap();
    }
    let last = fs::metadata(root.join(paths.last().unwrap())).unwrap();
    assert!(last.is_file() && last.nlink() > 1);
}

#[test]
fn decoded_images_of_a_former_version_move_to_their_own_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["k.tycache", "k.lock", "s.tylabels", "notes.txt"] {
        fs::write(at(name), "x").unwrap();
    }
    move_decoded(folder.path(), &at("decoded"));
    assert!(at("decoded/k.tycache").is_file() && at("decoded/s.tylabels").is_file());
    assert!(at("notes.txt").is_file() && !at("k.lock").exists());
}
