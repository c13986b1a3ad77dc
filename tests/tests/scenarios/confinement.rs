//! Data that tries to get at what its job must not see, through the real trainer under an agent.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use trainyard_proto::pb;
use trainyard_tests::cluster::Cluster;
use trainyard_tests::jobs::{epoch_end, tiny};

const SECRET: &str = "the agent's user may read this, and no job";

/// A cluster with a data set in its data root, and a folder outside of it with pictures and a secret.
struct World {
    cluster: Cluster,
    _agent: trainyard_tests::process::Process,
    /// The data set's folder.
    set: PathBuf,
    outside: PathBuf,
}

impl World {
    async fn start() -> Self {
        let cluster = Cluster::start().await.unwrap();
        let agent = cluster.start_agent("bench", 1).await.unwrap();
        let set = cluster.demo_data("shapes", 8, 4, 64).await.unwrap().parent().unwrap().to_owned();
        let outside = cluster.path("outside");
        fs::create_dir_all(outside.join("images")).unwrap();
        let picture = fs::read_dir(set.join("images/train")).unwrap().next().unwrap().unwrap().path();
        fs::copy(picture, outside.join("images/a.jpg")).unwrap();
        fs::write(outside.join("secret"), SECRET).unwrap();
        Self { cluster, _agent: agent, set, outside }
    }

    /// A data.yaml beside the data set's own.
    fn yaml(&self, name: &str, text: &str) -> PathBuf {
        let file = self.set.join(name);
        fs::write(&file, format!("{text}\nnames: [a, b, c]\n")).unwrap();
        file
    }

    /// Runs a job that must not succeed; all that its user can read of it.
    async fn refused(&self, spec: pb::JobSpec) -> String {
        let id = self.cluster.submit(spec).await.unwrap();
        let (state, events) = self.cluster.watch_to_end(&id).await.unwrap();
        let job = self.cluster.job(&id).await.unwrap();
        assert_eq!(state, pb::JobState::Failed, "{job:?}");
        let told = format!("{job:?} {events:?}");
        assert!(!told.contains(SECRET), "{told}");
        job.state_reason
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test]
async fn data_that_leads_outside_ends_the_job_with_the_path() {
    let world = World::start().await;
    let (set, outside) = (&world.set, &world.outside);

    // A data.yaml that names a file outside.
    let shadow = world.yaml("shadow.yaml", "train: /etc/shadow\nval: images/val");
    let reason = world.refused(tiny(&shadow, 1)).await;
    assert!(reason.contains("/etc/shadow"), "{reason}");

    // A folder that is a link.
    symlink(outside.join("images"), set.join("linked")).unwrap();
    let linked = world.yaml("linked.yaml", "train: linked\nval: images/val");
    let reason = world.refused(tiny(&linked, 1)).await;
    assert!(reason.contains("linked") && reason.contains("data_roots"), "{reason}");

    // The same inside of a folder with images.
    symlink(outside.join("images"), set.join("images/val/linked")).unwrap();
    let inside = world.yaml("inside.yaml", "train: images/train\nval: images/val");
    let reason = world.refused(tiny(&inside, 1)).await;
    assert!(reason.contains("images/val/linked") && reason.contains("data_roots"), "{reason}");
    fs::remove_file(set.join("images/val/linked")).unwrap();

    // A list of images, and a list that lies outside itself.
    fs::write(set.join("list.txt"), shown(&outside.join("images/a.jpg"))).unwrap();
    let list = world.yaml("list.yaml", "train: list.txt\nval: images/val");
    let reason = world.refused(tiny(&list, 1)).await;
    assert!(reason.contains(&shown(&outside.join("images"))) && reason.contains("data_roots"), "{reason}");
    fs::write(outside.join("list.txt"), SECRET).unwrap();
    let list = world
        .yaml("far_list.yaml", &format!("train: {}\nval: images/val", outside.join("list.txt").display()));
    let reason = world.refused(tiny(&list, 1)).await;
    assert!(reason.contains(&shown(&outside.join("list.txt"))) && reason.contains("data_roots"), "{reason}");

    // Images and labels, each a link: no folder tells that these lead outside. Only the kernel does.
    fs::create_dir_all(set.join("images/stolen")).unwrap();
    fs::create_dir_all(set.join("labels/stolen")).unwrap();
    symlink(outside.join("images/a.jpg"), set.join("images/stolen/a.jpg")).unwrap();
    let stolen = world.yaml("stolen.yaml", "train: images/stolen\nval: images/val");
    let reason = world.refused(tiny(&stolen, 1)).await;
    assert!(reason.contains("images/stolen/a.jpg") && reason.contains("Permission denied"), "{reason}");
    fs::remove_file(set.join("images/stolen/a.jpg")).unwrap();
    fs::copy(outside.join("images/a.jpg"), set.join("images/stolen/a.jpg")).unwrap();
    symlink(outside.join("secret"), set.join("labels/stolen/a.txt")).unwrap();
    let reason = world.refused(tiny(&stolen, 1)).await;
    assert!(reason.contains("labels/stolen/a.txt") && reason.contains("Permission denied"), "{reason}");
}

#[tokio::test]
async fn weights_that_lead_outside_or_would_run_something_end_the_job_with_the_path() {
    let world = World::start().await;
    let pretrained = |file: &Path| {
        let mut spec = tiny(&world.set.join("data.yaml"), 1);
        spec.train.as_mut().unwrap().pretrained = Some(shown(file));
        spec
    };
    let link = world.set.join("link.pt");
    symlink(world.outside.join("secret"), &link).unwrap();
    let reason = world.refused(pretrained(&link)).await;
    assert!(reason.contains("link.pt") && reason.contains("data_roots"), "{reason}");

    // `os.system` of a command, as Python would unpickle it.
    let (crafted, made) = (world.set.join("crafted.pt"), world.cluster.path("made"));
    fs::write(&crafted, format!("cos\nsystem\n(S'touch {}'\ntR.", made.display())).unwrap();
    let reason = world.refused(pretrained(&crafted)).await;
    assert!(reason.contains("crafted.pt"), "{reason}");
    assert!(!made.exists());
}

#[tokio::test]
async fn data_reached_by_links_and_lists_inside_the_roots_trains() {
    let world = World::start().await;
    let root = world.cluster.data_root();
    // Images of another folder of the root, by a folder that is a link, a list with absolute paths, and `path:`.
    symlink(&world.set, root.join("current")).unwrap();
    let images =
        fs::read_dir(world.set.join("images/val")).unwrap().map(|entry| shown(&entry.unwrap().path()));
    fs::write(root.join("val.txt"), images.collect::<Vec<_>>().join("\n")).unwrap();
    let yaml = root.join("data.yaml");
    let text =
        format!("path: {}\ntrain: current/images/train\nval: val.txt\nnames: [a, b, c]\n", root.display());
    fs::write(&yaml, text).unwrap();
    let mut spec = tiny(&yaml, 2);
    spec.train.as_mut().unwrap().cache = Some("disk".into());
    let id = world.cluster.submit(spec).await.unwrap();
    let (state, events) = world.cluster.watch_to_end(&id).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "{:?}", world.cluster.job(&id).await.unwrap());
    assert_eq!(events.iter().filter_map(epoch_end).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_running_trainer_is_confined() {
    let world = World::start().await;
    let id = world.cluster.submit(tiny(&world.set.join("data.yaml"), 1000)).await.unwrap();
    world.cluster.watch_until(&id, |event| epoch_end(event).is_some()).await.unwrap();
    let name = format!("/{id}/1");
    let is_trainer = |pid: &PathBuf| {
        let environment = fs::read(pid.join("environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|entry| entry.starts_with(b"TRAINYARD_TRAINER_OF=") && entry.ends_with(name.as_bytes()))
    };
    let mut processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let trainer = processes.find(is_trainer).expect("the job's trainer runs");
    let status = fs::read_to_string(trainer.join("status")).unwrap();
    let says = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    assert_eq!((says("NoNewPrivs:"), says("Seccomp:")), (Some("1"), Some("2")), "{status}");
    world.cluster.yard(&["cancel", &id]).await.unwrap();
}
