//! Paths that are missing, come back, or do not answer.

use std::sync::mpsc;

use super::*;

const SOON: Duration = Duration::from_millis(50);

struct World {
    folder: tempfile::TempDir,
    status: watch::Receiver<AgentStatus>,
    paths: PathMonitor,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (sender, status) = watch::channel(AgentStatus::default());
        Self { folder, status, paths: PathMonitor::new(vec![root], Duration::from_secs(300), sender) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn missing(&self) -> Vec<String> {
        self.status.borrow().fitness.missing_paths.clone()
    }
}

#[tokio::test]
async fn a_path_is_missing_until_it_can_be_read() {
    let world = World::new();
    let data = world.path("data.yaml");
    let refusal = world.paths.find(PathUse::Data, &data).await.unwrap_err();
    assert_eq!(refusal.reason, EndReason::AgentUnfit);
    assert_eq!(refusal.unfit.as_ref().unwrap().kind, UnfitKind::PathMissing);
    assert!(refusal.message.contains("cannot be read on this agent"), "{}", refusal.message);
    assert_eq!(world.missing(), [data.display().to_string()]);
    world.paths.check_missing(Duration::MAX).await;
    assert_eq!(world.missing().len(), 1);
    fs::write(&data, "names: [a]").unwrap();
    assert_eq!(world.paths.find(PathUse::Data, &data).await.unwrap(), data);
    world.paths.check_missing(Duration::MAX).await;
    assert_eq!(world.missing(), Vec::<String>::new());
}

#[tokio::test]
async fn what_a_data_yaml_names_is_looked_for_too_and_another_data_yaml_may_mean_something_else() {
    let world = World::new();
    let (data, below) = (world.path("data.yaml"), world.path("images"));
    let note = async || {
        world.paths.add_missing(PathUse::Data, &data, Some(below.clone()));
        world.paths.stamp_missing(&data).await;
    };
    fs::write(&data, "train: images").unwrap();
    note().await;
    world.paths.check_missing(Duration::MAX).await;
    assert_eq!(world.missing().len(), 1);
    fs::create_dir(&below).unwrap();
    world.paths.check_missing(Duration::MAX).await;
    assert_eq!(world.missing().len(), 1, "an empty folder is where a share should be");
    fs::write(below.join("1.jpg"), "").unwrap();
    world.paths.check_missing(Duration::MAX).await;
    assert_eq!(world.missing().len(), 0);
    fs::remove_dir_all(&below).unwrap();
    note().await;
    world.paths.check_missing(Duration::MAX).await;
    assert_eq!(world.missing().len(), 1);
    fs::write(&data, "train: pictures").unwrap();
    world.paths.check_missing(Duration::MAX).await;
    assert_eq!(world.missing().len(), 0);
}

#[tokio::test]
async fn a_path_that_does_not_answer_blocks_one_thread_and_nobody_else() {
    let world = World::new();
    let (path, other) = (world.path("dead"), world.path("alive"));
    let (release, held) = mpsc::channel::<()>();
    let stalled = world.paths.read(&path, SOON, move || held.recv()).await;
    assert!(matches!(stalled, Err(ReadError::Unresponsive)));
    // It is not asked again, and others are.
    assert!(matches!(world.paths.read(&path, SOON, || ()).await, Err(ReadError::Unresponsive)));
    assert!(world.paths.read(&other, Duration::from_secs(60), || 5).await.is_ok_and(|answer| answer == 5));
    release.send(()).unwrap();
    // Once it answers it is asked again.
    assert!(world.paths.read(&path, Duration::from_secs(60), || 7).await.is_ok_and(|answer| answer == 7));
}

#[tokio::test]
async fn no_more_paths_are_remembered_than_there_is_room_for() {
    let world = World::new();
    for number in 0..MISSING + 3 {
        world.paths.note(PathUse::Data, &world.path(&format!("{number:04}")), None);
    }
    let missing = world.missing();
    assert_eq!(missing.len(), MISSING);
    assert!(missing[0].ends_with("0003"), "{}", missing[0]);
}

#[tokio::test]
async fn roots_are_told_with_what_is_wrong_with_them() {
    let world = World::new();
    world.paths.begin().await;
    let roots = world.status.borrow().fitness.data_roots.clone().unwrap();
    assert_eq!((roots.len(), roots[0].problem.as_str()), (1, ""));
    let gone = problem(&world.path("none"), Mounts::default);
    assert_eq!(gone, "cannot be read: it is not there (ENOENT)");
    let place = world.path("nas");
    let mounts = || Mounts::parse(&format!("nas:/d {} nfs x 0 0", place.display()), "");
    assert!(problem(&place, mounts).ends_with("of /etc/fstab is not mounted; mount it"));
    fs::create_dir(&place).unwrap();
    assert!(problem(&place, mounts).starts_with("is empty and not mounted: "), "{}", problem(&place, mounts));
    assert_eq!(problem(&place, Mounts::default), "", "an empty folder is no lack by itself");
    fs::write(place.join("1"), "").unwrap();
    let unasked = || panic!("what is there was put there, mounted or not");
    assert_eq!(problem(&place, unasked), "", "what is there was put there");
}
