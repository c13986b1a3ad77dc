//! Files of blobs: what is announced, what comes, what is removed.

use tokio::io::AsyncReadExt as _;

use super::*;

const JOB: JobId = JobId(Uuid::nil());

fn artifact(content: &[u8]) -> Artifact {
    let sha256 = hex::encode(Sha256::digest(content));
    Artifact { name: "weights/best.safetensors".into(), size_bytes: content.len() as u64, sha256 }
}

fn blobs() -> (Blobs, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Blobs::open(dir.path()).unwrap(), dir)
}

fn files(dir: &tempfile::TempDir) -> usize {
    std::fs::read_dir(dir.path().join(JOB.to_string())).unwrap().count()
}

#[tokio::test]
async fn a_blob_is_there_once_it_is_whole() {
    let (blobs, dir) = blobs();
    let artifact = artifact(b"two parts");
    let mut upload = blobs.upload(JOB, artifact.clone()).await.unwrap();
    upload.write(b"two ").await.unwrap();
    assert!(!blobs.contains(JOB, &artifact).await);
    upload.write(b"parts").await.unwrap();
    upload.finish().await.unwrap();
    assert!(blobs.contains(JOB, &artifact).await);
    assert_eq!(files(&dir), 1);
    let (mut file, size) = blobs.read(JOB, &artifact.sha256, 4).await.unwrap();
    let mut rest = String::new();
    file.read_to_string(&mut rest).await.unwrap();
    assert_eq!((rest.as_str(), size), ("parts", 9));
}

#[tokio::test]
async fn bytes_other_than_announced_leave_nothing() {
    let (blobs, dir) = blobs();
    let mut upload = blobs.upload(JOB, artifact(b"right")).await.unwrap();
    upload.write(b"wrong").await.unwrap();
    assert!(matches!(upload.finish().await, Err(UploadError::Hash { .. })));
    let mut upload = blobs.upload(JOB, artifact(b"right")).await.unwrap();
    upload.write(b"rig").await.unwrap();
    assert!(matches!(upload.finish().await, Err(UploadError::Size { announced: 5, received: 3 })));
    let mut upload = blobs.upload(JOB, artifact(b"right")).await.unwrap();
    assert!(matches!(upload.write(b"right and more").await, Err(UploadError::Size { .. })));
    drop(upload);
    assert_eq!(files(&dir), 0);
}

#[tokio::test]
async fn what_a_dead_process_left_unfinished_is_removed() {
    let (blobs, dir) = blobs();
    let upload = blobs.upload(JOB, artifact(b"x")).await.unwrap();
    std::mem::forget(upload);
    // Another scheduler that shares the directory may be at it.
    Blobs::open(dir.path()).unwrap();
    assert_eq!(files(&dir), 1);
    let job = std::fs::read_dir(dir.path().join(JOB.to_string())).unwrap();
    for file in job {
        let file = std::fs::File::options().write(true).open(file.unwrap().path()).unwrap();
        file.set_modified(std::time::SystemTime::now() - ABANDONED * 2).unwrap();
    }
    Blobs::open(dir.path()).unwrap();
    assert_eq!(files(&dir), 0);
}
