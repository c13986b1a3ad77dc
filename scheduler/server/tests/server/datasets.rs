//! Data sets and weights, over real gRPC and Redis.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;
use trainyard_content::{Builder, Digest, Kind};
use trainyard_proto::pb;
use trainyard_proto::pb::attempt::EndReason;
use trainyard_proto::pb::push_dataset_request::Part;
use trainyard_proto::pb::push_dataset_response::Part as Answer;
use trainyard_proto::pb::upload_artifact_request::Part as Upload;

use crate::support::web::Browser;
use crate::support::{Agent, Scheduler, config, ended, started, submission};

pub type Files<'a> = &'a [(&'a str, &'a [u8])];

const CELLS: Files<'static> = &[
    ("data.yaml", b"names: [cell]"),
    ("images/train/1.jpg", b"first"),
    ("images/train/2.jpg", b"second"),
    ("images/val/1.jpg", b"first"),
];

/// A push as a client of its own making does it.
struct Push {
    parts: mpsc::Sender<pb::PushDatasetRequest>,
    answers: Streaming<pb::PushDatasetResponse>,
}

impl Push {
    async fn open(scheduler: &Scheduler) -> Self {
        let (parts, stream) = mpsc::channel(16);
        let answers = scheduler.datasets().push_dataset(ReceiverStream::new(stream)).await.unwrap();
        Self { parts, answers: answers.into_inner() }
    }

    async fn send(&self, part: Part) {
        // Whoever refuses hears no more.
        let _ = self.parts.send(pb::PushDatasetRequest { part: Some(part) }).await;
    }

    async fn begin(scheduler: &Scheduler, name: &str, files: Files<'_>) -> Self {
        let push = Self::open(scheduler).await;
        push.header(name, files.len() as u64).await;
        let file = |(path, content): &(&str, &[u8])| pb::DatasetFile {
            path: (*path).into(),
            size_bytes: content.len() as u64,
            sha256: Digest::of(content).0.to_vec(),
        };
        // In two messages, as large ones come.
        for part in files.chunks(3) {
            push.send(Part::Files(pb::DatasetFiles { files: part.iter().map(file).collect() })).await;
        }
        push
    }

    async fn header(&self, name: &str, files: u64) {
        let kind = pb::DatasetKind::Dataset.into();
        let header = pb::PushHeader { kind, name: name.into(), files, description: "3 images".into() };
        self.send(Part::Header(header)).await;
    }

    async fn answer(&mut self) -> Result<Answer, Status> {
        Ok(self.answers.message().await?.expect("an answer").part.unwrap())
    }

    /// The places of the files that are asked for.
    async fn missing(&mut self) -> Result<Vec<usize>, Status> {
        let mut missing = Vec::new();
        loop {
            let Answer::Missing(part) = self.answer().await? else { panic!("what is missing comes first") };
            missing.extend(part.ranges.iter().flat_map(|range| range.first..range.first + range.count));
            if !part.more {
                return Ok(missing.into_iter().map(|at| at as usize).collect());
            }
        }
    }

    async fn end(&mut self) -> Result<pb::Dataset, Status> {
        loop {
            if let Answer::Dataset(dataset) = self.answer().await? {
                return Ok(dataset);
            }
        }
    }
}

pub async fn push(
    scheduler: &Scheduler,
    name: &str,
    files: Files<'_>,
) -> Result<(usize, pb::Dataset), Status> {
    let mut push = Push::begin(scheduler, name, files).await;
    let missing = push.missing().await?;
    for at in &missing {
        for piece in files[*at].1.chunks(4) {
            push.send(Part::Data(piece.to_vec())).await;
        }
    }
    Ok((missing.len(), push.end().await?))
}

fn get(name: &str, version: &str) -> pb::GetDatasetRequest {
    pb::GetDatasetRequest { name: name.into(), version: version.into(), ..Default::default() }
}

fn training(data: &str, pretrained: &str) -> pb::SubmitJobRequest {
    let mut request = submission("");
    let train = request.spec.as_mut().unwrap().train.as_mut().unwrap();
    train.data = data.into();
    train.pretrained = Some(pretrained.into());
    request
}

fn training_of(model: &str, pretrained: &str) -> pb::SubmitJobRequest {
    let mut request = training("/data/bccd/data.yaml", pretrained);
    request.spec.as_mut().unwrap().train.as_mut().unwrap().model = model.into();
    request
}

pub async fn read(scheduler: &Scheduler, request: pb::ReadDatasetRequest) -> Result<Vec<u8>, Status> {
    let mut stream = scheduler.datasets().read_dataset(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(part) = stream.message().await? {
        bytes.extend_from_slice(&part.data);
    }
    Ok(bytes)
}

/// Ends an attempt with its best weights.
pub async fn succeed(scheduler: &Scheduler, agent: &mut Agent, attempt: &str, best: &[u8]) {
    let artifact = pb::Artifact {
        name: "weights/best.safetensors".into(),
        size_bytes: best.len() as u64,
        sha256: Digest::of(best).to_string(),
        live: false,
    };
    let header = pb::UploadHeader {
        attempt: attempt.to_owned(),
        session: agent.welcome.session,
        artifact: Some(artifact.clone()),
    };
    let parts = [Upload::Header(header), Upload::Data(best.to_vec())];
    let parts = parts.map(|part| pb::UploadArtifactRequest { part: Some(part) });
    scheduler.artifacts().upload_artifact(tokio_stream::iter(parts)).await.unwrap();
    agent.report_acked(attempt, 1, started()).await;
    agent.report_acked(attempt, 2, ended(EndReason::Completed, vec![artifact])).await;
}

#[tokio::test]
async fn a_data_set_is_pushed_once_listed_and_read_also_after_a_restart() {
    let scheduler = Scheduler::start().await;
    let (sent, first) = push(&scheduler, "cells", CELLS).await.unwrap();
    assert_eq!((sent, first.files, first.size_bytes, first.newest), (3, 4, 29, true));
    let mut builder = Builder::new(Kind::DataSet);
    for (path, content) in CELLS {
        builder.add(path, content.len() as u64, Digest::of(content)).unwrap();
    }
    assert_eq!(first.version, builder.finish().unwrap().id().to_string());
    let scheduler = Scheduler::start_in(scheduler.stop().await).await;
    let (sent, again) = push(&scheduler, "cells", CELLS).await.unwrap();
    assert_eq!((sent, &again.version), (0, &first.version));
    let more: Files<'_> = &[CELLS[0], CELLS[1], ("images/train/3.jpg", b"third")];
    let (sent, second) = push(&scheduler, "cells", more).await.unwrap();
    assert_eq!(sent, 1);
    let listed = scheduler.datasets().list_datasets(pb::ListDatasetsRequest::default()).await.unwrap();
    let versions = listed.into_inner().datasets;
    let shown: Vec<(&str, bool)> =
        versions.iter().map(|version| (version.version.as_str(), version.newest)).collect();
    assert_eq!(shown, [(second.version.as_str(), true), (first.version.as_str(), false)]);
    assert_eq!(versions[0].description, "3 images");
    let found = scheduler.datasets().get_dataset(get("cells", &first.version[..8])).await.unwrap();
    assert_eq!(found.into_inner().version, first.version);
    // Ranges in any order, and from any byte on.
    let ranges = vec![pb::FileRange { first: 1, count: 2 }, pb::FileRange { first: 0, count: 1 }];
    let request = pb::ReadDatasetRequest {
        name: "cells".into(),
        version: first.version.clone(),
        ranges,
        offset: 3,
        ..Default::default()
    };
    assert_eq!(read(&scheduler, request.clone()).await.unwrap(), b"stsecondnames: [cell]");
    let far = pb::ReadDatasetRequest { offset: 25, ..request.clone() };
    assert_eq!(read(&scheduler, far).await.unwrap_err().code(), Code::OutOfRange);
    let outside = pb::ReadDatasetRequest { ranges: vec![pb::FileRange { first: 4, count: 1 }], ..request };
    assert!(read(&scheduler, outside).await.unwrap_err().message().contains("ranges[0]"));
    let request = pb::ListDatasetFilesRequest { name: "cells".into(), ..Default::default() };
    let mut files = scheduler.datasets().list_dataset_files(request).await.unwrap().into_inner();
    let files = files.message().await.unwrap().unwrap().files;
    assert_eq!(files[2].path, "images/train/3.jpg");
}

#[tokio::test]
async fn a_summary_tells_classes_boxes_and_pictures() {
    let scheduler = Scheduler::start().await;
    let files: Files<'_> = &[
        ("data.yaml", b"train: train.txt\nval: val.txt\nnames:\n  0: \"cell\"\n  1: \"<b>\"\n"),
        ("images/train/1.jpg", b"first"),
        ("images/val/1.jpg", b"second"),
        ("labels/train/1.txt", b"1 0.5 0.5 0.2 0.1\n1 0.1 0.1 0.1 0.1\n"),
        ("train.txt", b"./images/train/1.jpg\n"),
        ("val.txt", b"./images/val/1.jpg\n"),
    ];
    push(&scheduler, "cells", files).await.unwrap();
    for _ in 0..2 {
        let summary = scheduler.datasets().get_dataset_summary(get("cells", "")).await.unwrap().into_inner();
        let classes: Vec<_> =
            summary.classes.iter().map(|class| (class.name.as_str(), class.boxes, class.images)).collect();
        assert_eq!(classes, [("cell", 0, 0), ("<b>", 2, 1)]);
        let splits: Vec<_> = summary.images.iter().map(|split| (split.split.as_str(), split.count)).collect();
        assert_eq!(splits, [("train", 1), ("val", 1)]);
        let samples: Vec<_> =
            summary.samples.iter().map(|sample| (sample.path.as_str(), sample.boxes.len())).collect();
        assert_eq!(samples, [("images/train/1.jpg", 2), ("images/val/1.jpg", 0)]);
    }
    let unknown = scheduler.datasets().get_dataset_summary(get("wolves", "")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn a_browser_gets_a_file_of_a_version_under_its_path() {
    let scheduler = Scheduler::start().await;
    let html: (&str, &[u8]) = ("images/zoo.html", b"<script>alert(1)</script>");
    let (_, version) = push(&scheduler, "cells", &[CELLS[0], CELLS[1], html]).await.unwrap();
    let browser = Browser::of(&scheduler);
    let picture =
        browser.get(&format!("/files/datasets/cells/{}/images/train/1.jpg", version.version), &[]).await;
    assert_eq!((picture.status, picture.bytes()), (200, &b"first"[..]));
    assert_eq!(picture.header("content-type"), "image/jpeg");
    assert!(picture.header("cache-control").contains("immutable"));
    let page =
        browser.get(&format!("/files/datasets/cells/{}/images/zoo.html", &version.version[..8]), &[]).await;
    assert_eq!((page.status, page.header("content-type")), (200, "application/octet-stream"));
    assert!(page.header("content-disposition").starts_with("attachment"));
    assert!(page.header("content-security-policy").contains("sandbox"));
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    let gone = browser.get("/files/datasets/cells/3f9a/images/train/1.jpg", &[]).await;
    assert_eq!(
        (gone.status, gone.json()["code"].as_str().unwrap().to_owned()),
        (404, "not_found".to_owned())
    );
    let address = format!("/files/datasets/cells/{}/images/9.jpg", version.version);
    let gone = browser.get(&address, &[]).await;
    assert!(gone.status == 404 && gone.text().contains("images/9.jpg"), "{}", gone.text());
    assert_eq!(browser.get("/files/jobs/0199/weights/best.pt", &[]).await.status, 404);
    // Without a path it is no file, and what is no text is none.
    let folder = format!("/files/datasets/cells/{}/", version.version);
    assert_eq!(browser.get(&folder, &[]).await.status, 404);
    let wrong = browser.get(&format!("{folder}images/%E0%A4%A"), &[]).await;
    assert_eq!((wrong.status, wrong.json()["code"].as_str()), (400, Some("invalid_argument")));
    assert!(wrong.text().contains("percent-encoding"), "{}", wrong.text());
    // What somebody has removed from the store is not found, and pushing it again helps.
    std::fs::remove_dir_all(scheduler.dir.path().join("blobs/content/packs")).unwrap();
    let picture = format!("{folder}images/train/1.jpg");
    let gone = browser.get(&picture, &[]).await;
    assert_eq!((gone.status, gone.header("cache-control")), (404, "no-store"));
    let told = "the content of `images/train/1.jpg` is not in the store any more; push the data set again";
    assert_eq!(gone.json()["message"], told);
}

#[tokio::test]
async fn a_part_of_a_file_is_had_by_its_range_and_its_length_by_head() {
    let scheduler = Scheduler::start().await;
    let long: Vec<u8> = (0..=255).cycle().take(600_000).collect();
    let (empty, large): ((&str, &[u8]), _) =
        (("images/empty.jpg", b""), ("images/large.jpg", long.as_slice()));
    let (_, version) = push(&scheduler, "cells", &[CELLS[0], empty, large]).await.unwrap();
    let browser = Browser::of(&scheduler);
    let folder = format!("/files/datasets/cells/{}/images", version.version);
    let (path, nothing) = (format!("{folder}/large.jpg"), format!("{folder}/empty.jpg"));
    let head = browser.send("HEAD", &path, &[], "").await;
    assert_eq!((head.status, head.header("content-length"), head.bytes().len()), (200, "600000", 0));
    assert_eq!((head.header("accept-ranges"), head.header("content-type")), ("bytes", "image/jpeg"));
    let whole = browser.get(&path, &[]).await;
    assert_eq!((whole.status, whole.header("content-length")), (200, "600000"));
    assert_eq!(whole.bytes(), long);
    for (range, first, last) in [
        ("bytes=0-9", 0, 9),
        ("bytes=299999-300001", 299_999, 300_001),
        ("bytes=599990-", 599_990, 599_999),
        ("bytes=599990-9999999", 599_990, 599_999),
        ("bytes=-7", 599_993, 599_999),
        ("bytes=-9999999", 0, 599_999),
    ] {
        let part = browser.get(&path, &[("range", range)]).await;
        assert_eq!((part.status, part.bytes()), (206, &long[first..=last]), "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {first}-{last}/600000"));
        assert_eq!(part.header("content-length"), (last - first + 1).to_string());
    }
    for (path, range, size) in [
        (&path, "bytes=600000-", 600_000),
        (&path, "bytes=700000-", 600_000),
        (&path, "bytes=-0", 600_000),
        (&nothing, "bytes=0-", 0),
    ] {
        let none = browser.get(path, &[("range", range)]).await;
        assert_eq!((none.status, none.header("content-range")), (416, format!("bytes */{size}").as_str()));
    }
    let empty = browser.get(&nothing, &[]).await;
    assert_eq!((empty.status, empty.header("content-length"), empty.bytes()), (200, "0", &b""[..]));
    let gone = browser.send("HEAD", &format!("{folder}/9.jpg"), &[], "").await;
    assert_eq!(gone.status, 404);
}

#[tokio::test]
async fn pages_of_versions_go_on_where_they_ended() {
    let scheduler = Scheduler::start().await;
    for (name, content) in [("b", "1"), ("a", "2"), ("b", "3"), ("c", "4"), ("a", "5")] {
        let files: Files<'_> = &[("data.yaml", content.as_bytes())];
        push(&scheduler, name, files).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut request = pb::ListDatasetsRequest { page_size: 2, ..Default::default() };
    loop {
        let page = scheduler.datasets().list_datasets(request.clone()).await.unwrap().into_inner();
        assert!(page.datasets.len() <= 2);
        seen.extend(page.datasets.into_iter().map(|version| (version.name, version.newest)));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let names = [("a", true), ("a", false), ("b", true), ("b", false), ("c", true)];
    assert_eq!(seen, names.map(|(name, newest)| (name.to_owned(), newest)));
}

#[tokio::test]
async fn a_push_that_breaks_off_goes_on_where_it_was() {
    let scheduler = Scheduler::start().await;
    let mut broken = Push::begin(&scheduler, "cells", CELLS).await;
    assert_eq!(broken.missing().await.unwrap(), [0, 1, 2]);
    broken.send(Part::Data(b"names: [cell]firstsec".to_vec())).await;
    let Push { parts, mut answers } = broken;
    drop(parts);
    let error = answers.message().await.unwrap_err();
    assert!(error.message().contains("`images/train/2.jpg` and what follows did not come"), "{error}");
    let mut second = Push::begin(&scheduler, "cells", CELLS).await;
    assert_eq!(second.missing().await.unwrap(), [2]);
    second.send(Part::Data(b"second".to_vec())).await;
    assert_eq!(second.end().await.unwrap().files, 4);
}

#[tokio::test]
async fn bad_pushes_are_refused_by_field_and_leave_nothing() {
    let scheduler = Scheduler::start().await;
    let refused = async |name: &str, files: Files<'_>| {
        let error = push(&scheduler, name, files).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        let violations = error.get_details_bad_request().unwrap().field_violations;
        violations.into_iter().map(|found| (found.field, found.description)).collect::<Vec<_>>()
    };
    let found = refused("../cells", CELLS).await;
    assert_eq!(found[0].0, "header.name");
    let found = refused("cells", &[("/etc/passwd", b""), ("a/../b", b""), ("z", b""), ("Z", b"")]).await;
    let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(fields, ["files[0].path", "files[1].path", "files[3].path"]);
    let found = refused("cells", &[("images/1.jpg", b"x")]).await;
    assert!(found[0].1.contains("data.yaml"), "{found:?}");
    // A hundred bad files are twenty and a number.
    let bad: Vec<(String, &[u8])> = (0..100).map(|at| (format!("/{at:03}"), &b""[..])).collect();
    let bad: Vec<(&str, &[u8])> = bad.iter().map(|(path, content)| (path.as_str(), *content)).collect();
    let found = refused("cells", &bad).await;
    assert_eq!((found.len(), found[20].1.as_str()), (21, "80 more files are wrong"));
    // A manifest of ten million files ends with its header.
    let mut push = Push::open(&scheduler).await;
    push.header("cells", 10_000_000).await;
    assert!(push.missing().await.unwrap_err().message().contains("header.files: is 10000000"));
    // Another content than its hash says.
    let mut push = Push::begin(&scheduler, "cells", CELLS).await;
    push.missing().await.unwrap();
    push.send(Part::Data(b"names: [wolf]".to_vec())).await;
    let error = push.end().await.unwrap_err();
    assert!(error.message().contains("`data.yaml` has SHA-256"), "{error}");
    // More than was asked for.
    let mut push = Push::begin(&scheduler, "cells", CELLS).await;
    push.missing().await.unwrap();
    push.send(Part::Data(b"names: [cell]firstsecond and more".to_vec())).await;
    assert!(push.end().await.unwrap_err().message().contains("more bytes came"));
    let listed = scheduler.datasets().list_datasets(pb::ListDatasetsRequest::default()).await.unwrap();
    assert!(listed.into_inner().datasets.is_empty());
}

#[tokio::test]
async fn a_version_that_names_what_it_does_not_have_is_refused_with_file_line_and_value() {
    let scheduler = Scheduler::start().await;
    let list: &[u8] = b"../images/1.jpg\n/data/other/2.jpg\n../../3.jpg\n";
    let yaml: &[u8] = b"names: [a]\ntrain: lists/train.txt\nval:\n  - /data/other\n  - ../images\n";
    let error =
        push(&scheduler, "cells", &[("data.yaml", yaml), ("lists/train.txt", list)]).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let told: Vec<(String, String)> = error
        .get_details_bad_request()
        .unwrap()
        .field_violations
        .into_iter()
        .map(|wrong| (wrong.field, wrong.description))
        .collect();
    for (at, (field, text)) in [
        ("files[0]", "data.yaml:4: `val: /data/other` leads out of the data set; "),
        ("files[0]", "data.yaml:5: `val: ../images` leads out"),
        ("files[1]", "lists/train.txt:2: `/data/other/2.jpg` leads out"),
        ("files[1]", "lists/train.txt:3: `../../3.jpg` leads out"),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(told[at].0 == field && told[at].1.starts_with(text), "{told:?}");
    }
    assert_eq!(told.len(), 4);
    // Also where nothing need be sent.
    push(&scheduler, "cells", &[("data.yaml", yaml), ("lists/train.txt", list)]).await.unwrap_err();
    let listed = scheduler.datasets().list_datasets(pb::ListDatasetsRequest::default()).await.unwrap();
    assert!(listed.into_inner().datasets.is_empty());
    let yaml: &[u8] = b"names: [a]\npath: .\ntrain: lists/train.txt\nval: [images/val]\n";
    let list: &[u8] = b"../images/1.jpg\n./images/2.jpg\n";
    push(&scheduler, "cells", &[("data.yaml", yaml), ("lists/train.txt", list)]).await.unwrap();
}

#[tokio::test]
async fn a_quota_is_told_with_what_it_is_used_for() {
    let dir = tempfile::tempdir().unwrap();
    let config = trainyard_scheduler::config::Config { data_quota_gib: 1, ..config(dir.path()) };
    let scheduler = Scheduler::start_with(dir, config).await;
    push(&scheduler, "cells", CELLS).await.unwrap();
    // Nothing need be sent to hear it.
    let push = Push::open(&scheduler).await;
    push.header("more", 2).await;
    let file = |path: &str, size_bytes| pb::DatasetFile {
        path: path.into(),
        size_bytes,
        sha256: Digest::of(path.as_bytes()).0.to_vec(),
    };
    let files = vec![file("data.yaml", 10), file("images/1.jpg", 1 << 30)];
    push.send(Part::Files(pb::DatasetFiles { files })).await;
    let error = Push { ..push }.missing().await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("the largest: cells@"), "{error}");
}

#[tokio::test]
async fn a_job_keeps_the_version_that_it_was_submitted_with() {
    let scheduler = Scheduler::start().await;
    let unknown = scheduler.submit(training("cells", "")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::InvalidArgument);
    let violations = unknown.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "spec.train.data");
    assert!(violations[0].description.contains("`yard data list`"), "{violations:?}");
    let (_, first) = push(&scheduler, "cells", CELLS).await.unwrap();
    let job = scheduler.submit(training("cells", "")).await.unwrap();
    let exact = format!("cells@{}", first.version);
    assert_eq!(job.spec.as_ref().unwrap().train.as_ref().unwrap().data, exact);
    push(&scheduler, "cells", &[CELLS[0]]).await.unwrap();
    // Agents get the exact one, too; one that cannot fetch gets nothing.
    let hello = |number: u128, held: Option<pb::HeldVersions>| pb::Hello {
        agent_id: uuid::Uuid::from_u128(number).to_string(),
        name: format!("lab-{number}"),
        cpu_slots: 1,
        fitness: Some(pb::Fitness { held_versions: held, ..Default::default() }),
        ..Default::default()
    };
    let _old = Agent::connect_as(scheduler.channel(), hello(1, None)).await.unwrap();
    let held = pb::HeldVersions { versions: vec![first.version.clone()] };
    let mut agent = Agent::connect_as(scheduler.channel(), hello(2, Some(held))).await.unwrap();
    let assigned = agent.assigned().await;
    assert_eq!(assigned.spec.unwrap().train.unwrap().data, exact);
    let fetching =
        pb::Fetching { what: exact.clone(), done_bytes: 10, total_bytes: 40, bytes_per_second: 2048.0 };
    agent.report_acked(&assigned.attempt, 1, pb::report::Report::Fetching(fetching.clone())).await;
    let shown = scheduler.get(&job.id).await;
    assert_eq!(shown.attempts[0].fetching, Some(fetching));
    let short = &first.version[..12];
    let words = format!("agent `lab-2` fetches cells@{short}: 25 % of 40 B, 2.0 KiB/s");
    assert_eq!(shown.state_reason, words);
    // What a job needs stays.
    let request = pb::DeleteDatasetRequest { name: "cells".into(), ..Default::default() };
    let error = scheduler.datasets().delete_dataset(request.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains(&job.id), "{error}");
    agent.report_acked(&assigned.attempt, 2, started()).await;
    agent.report_acked(&assigned.attempt, 3, ended(EndReason::TrainerCrash, vec![])).await;
    scheduler.jobs().cancel_job(pb::CancelJobRequest { job_id: job.id.clone() }).await.unwrap();
    let gone = scheduler.datasets().delete_dataset(request).await.unwrap().into_inner().datasets;
    assert_eq!(gone.len(), 2);
    let error = scheduler.datasets().get_dataset(get("cells", "")).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let retried = scheduler.jobs().retry_job(pb::RetryJobRequest { job_id: job.id }).await.unwrap_err();
    assert!(retried.message().contains("there is no data set `cells`"), "{retried}");
}

#[tokio::test]
async fn a_jobs_best_weights_begin_another_job_and_outlive_it() {
    let scheduler = Scheduler::start().await;
    let mut agent = scheduler.agent(1, &[]).await;
    let first = scheduler.submit(submission("")).await.unwrap();
    let attempt = agent.assigned().await.attempt;
    let early = scheduler.submit(training("/data/bccd/data.yaml", &format!("job:{}", first.id))).await;
    assert!(early.unwrap_err().message().contains("has no weights to begin from"));
    let best = b"the best weights";
    succeed(&scheduler, &mut agent, &attempt, best).await;
    let second =
        scheduler.submit(training("/data/bccd/data.yaml", &format!("job:{}", first.id))).await.unwrap();
    let pretrained = second.spec.unwrap().train.unwrap().pretrained.unwrap();
    let (name, version) = pretrained.split_once('@').unwrap();
    assert_eq!(name, format!("job-{}", first.id));
    let request = pb::ReadDatasetRequest {
        kind: pb::DatasetKind::Weights.into(),
        name: name.into(),
        version: version.into(),
        ranges: vec![pb::FileRange { first: 0, count: 1 }],
        ..Default::default()
    };
    assert_eq!(read(&scheduler, request).await.unwrap(), best);
}

#[tokio::test]
async fn weights_of_another_model_are_refused_before_anything_queues() {
    let scheduler = Scheduler::start().await;
    let mut agent = scheduler.agent(1, &[]).await;
    let first = scheduler.submit(training_of("yolov8s", "")).await.unwrap();
    let attempt = agent.assigned().await.attempt;
    let header = br#"{"__metadata__":{"model":"yolov8s"}}"#;
    let best = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    succeed(&scheduler, &mut agent, &attempt, &best).await;
    let of_job = format!("job:{}", first.id);
    let second = scheduler.submit(training_of("yolov8s", &of_job)).await.unwrap();
    let exact = second.spec.unwrap().train.unwrap().pretrained.unwrap();
    for named in [&of_job, &exact] {
        for validate_only in [true, false] {
            let request = pb::SubmitJobRequest { validate_only, ..training_of("yolov8n", named) };
            let error = scheduler.jobs().submit_job(request).await.unwrap_err();
            let wanted = format!(
                "spec.train.pretrained: is `{named}`, weights of yolov8s, and `model` is yolov8n; name weights of yolov8n, \
                 or the model yolov8s"
            );
            assert_eq!((error.code(), error.message()), (Code::InvalidArgument, wanted.as_str()));
        }
    }
    let sweep = |parameter: &str, values: [&str; 2]| pb::SubmitSweepRequest {
        spec: training_of("yolov8s", &of_job).spec,
        axes: vec![pb::SweepAxis { parameter: parameter.into(), values: values.map(str::to_owned).to_vec() }],
        validate_only: true,
        ..Default::default()
    };
    let error = scheduler.jobs().submit_sweep(sweep("model", ["yolov8s", "yolov8m"])).await.unwrap_err();
    assert!(error.message().contains("and `model` is yolov8m"), "{error}");
    scheduler.jobs().submit_sweep(sweep("pretrained", [&exact, "/w/best.pt"])).await.unwrap();
    scheduler.jobs().submit_sweep(sweep("lr0", ["0.1", "0.2"])).await.unwrap();
}
