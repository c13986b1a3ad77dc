//! Data sets that an agent looks at before a job queues, with real agents, trainers and `yard`.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trainyard_proto::pb;
use trainyard_tests::cluster::Cluster;
use trainyard_tests::jobs::tiny;

/// The label files of the training images of a data set, in order.
fn labels(data: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.parent().unwrap().join("labels/train")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

async fn jobs(cluster: &Cluster) -> Vec<pb::Job> {
    let request = pb::ListJobsRequest::default();
    cluster.jobs().await.unwrap().list_jobs(request).await.unwrap().into_inner().jobs
}

#[tokio::test]
async fn a_class_out_of_range_is_an_answer_to_whoever_submits_and_mended_it_trains() {
    let cluster = Cluster::start_that_checks_data().await.unwrap();
    let _agent = cluster.start_agent("bench", 1).await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    let labels = labels(&data);
    fs::write(&labels[0], "0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\n").unwrap();
    fs::write(&labels[1], "9 0.5 0.5 0.2 0.2\n").unwrap();
    let path = data.display().to_string();
    let train =
        ["train", path.as_str(), "--device", "cpu", "--model", "yolov8n", "--epochs", "1", "--imgsz", "64"];
    let dry_run = [&train[..], &["--dry-run"]].concat();
    for arguments in [&dry_run[..], &train] {
        let (code, _, error) = cluster.yard(arguments).await.unwrap();
        assert_eq!(code, 2, "{error}");
        for (file, line) in [(&labels[0], 2), (&labels[1], 1)] {
            let place = format!("{}:{line}: class ", file.display());
            assert!(error.contains(&place), "{place} is not in: {error}");
        }
        assert!(error.contains("cannot be trained on"), "{error}");
    }
    assert_eq!(jobs(&cluster).await, []);
    // One class for all is another question.
    let (code, _, error) = cluster.yard(&[&dry_run[..], &["--single-cls", "true"]].concat()).await.unwrap();
    assert_eq!(code, 0, "{error}");
    // A row that is there twice keeps nothing from training.
    fs::write(&labels[0], "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n").unwrap();
    fs::write(&labels[1], "1 0.5 0.5 0.2 0.2\n").unwrap();
    let (code, _, error) = cluster.yard(&dry_run).await.unwrap();
    assert_eq!(code, 0, "{error}");
    assert!(error.contains("warning: train: 1 label rows that repeat another"), "{error}");
    let (code, id, error) = cluster.yard(&train).await.unwrap();
    assert_eq!(code, 0, "{error}");
    let (state, _) = cluster.watch_to_end(id.trim()).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded);
}

#[tokio::test]
async fn what_an_agent_cannot_see_is_no_error_of_whoever_submits() {
    let cluster = Cluster::start_that_checks_data().await.unwrap();
    let _agent = cluster.start_agent("bench", 1).await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    fs::create_dir_all(cluster.path("elsewhere/images")).unwrap();
    let climbing = data.with_file_name("climbing.yaml");
    fs::write(&climbing, "train: ../../elsewhere/images\nval: images/val\nnames: [a, b, c]\n").unwrap();
    for named in [data.with_file_name("missing.yaml"), "/etc/data.yaml".into(), climbing] {
        cluster.submit(tiny(&named, 1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_wrong_path_in_a_data_yaml_is_an_answer_to_whoever_submits() {
    let cluster = Cluster::start_that_checks_data().await.unwrap();
    let _agents =
        (cluster.start_agent("bench", 1).await.unwrap(), cluster.start_agent("shelf", 1).await.unwrap());
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    fs::write(&data, "train: images/trian\nval: images/val\nnames: [a, b, c]\n").unwrap();
    let path = data.display().to_string();
    let dry_run = ["train", path.as_str(), "--device", "cpu", "--model", "yolov8n", "--dry-run"];
    let (code, _, error) = cluster.yard(&dry_run).await.unwrap();
    assert_eq!(code, 2, "{error}");
    let place = format!("{path}:1: `train: images/trian` was not found; tried ");
    assert!(error.contains(&place) && error.contains("looked on 2 agents"), "{error}");
    fs::write(&data, "train: images/train\nval: images/val\nnames: [a, b, c]\n").unwrap();
    let (code, _, error) = cluster.yard(&dry_run).await.unwrap();
    assert!(code == 0 && !error.contains("warning: "), "{error}");
    // What nobody has looked at is told from what was.
    let elsewhere = ["train", "/etc/data.yaml", "--device", "cpu", "--model", "yolov8n", "--dry-run"];
    let (code, _, error) = cluster.yard(&elsewhere).await.unwrap();
    assert!(code == 0 && error.contains("warning: data set not checked: /etc/data.yaml: "), "{error}");
    assert!(error.contains("; the job waits for an agent that does"), "{error}");
}

/// A trainer whose check never ends, and that trains nothing.
const HANGS: &str = "[ \"$1\" = check ] || exit 1\necho $$ >\"$TRAINYARD_TEST_PID.new\"\n\
                     mv \"$TRAINYARD_TEST_PID.new\" \"$TRAINYARD_TEST_PID\"\nexec tail -f /dev/null\n";

#[tokio::test]
async fn a_check_that_is_killed_in_the_middle_lets_the_submission_go_on() {
    let cluster = Cluster::start_that_checks_data().await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    let pid_file = cluster.path("check.pid");
    let script = HANGS.replace("$TRAINYARD_TEST_PID", &pid_file.display().to_string());
    let trainer = cluster.pretend(&script).unwrap();
    let variables = [("TRAINYARD_AGENT__TRAINER", trainer.as_str())];
    let _agent = cluster.start_agent_with("bench", 1, &variables).await.unwrap();
    let end_check = async {
        let pid: i32 = loop {
            match fs::read_to_string(&pid_file) {
                Ok(text) => break text.trim().parse().unwrap(),
                Err(_) => tokio::task::yield_now().await,
            }
        };
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    };
    let (submitted, ()) = tokio::join!(cluster.submit(tiny(&data, 1)), end_check);
    submitted.unwrap();
}
