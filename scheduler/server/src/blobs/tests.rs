//! Blobs: what is announced, what comes, what is removed.

use super::*;

const JOB: JobId = JobId(Uuid::nil());

fn artifact(content: &[u8]) -> Artifact {
    let sha256 = hex::encode(Sha256::digest(content));
    Artifact { name: "weights/best.safetensors".into(), size_bytes: content.len() as u64, sha256 }
}

async fn blobs() -> (Blobs, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Blobs::open(Objects::directory(dir.path()).unwrap()).await.unwrap(), dir)
}

fn files(dir: &tempfile::TempDir) -> usize {
    std::fs::read_dir(dir.path().join(JOB.to_string())).unwrap().count()
}

#[tokio::test]
async fn a_blob_is_there_once_it_is_whole() {
    let (blobs, dir) = blobs().await;
    let artifact = artifact(b"two parts");
    let mut upload = blobs.upload(JOB, artifact.clone()).await.unwrap();
    upload.write(Bytes::from_static(b"two ")).await.unwrap();
    assert!(!blobs.contains(JOB, &artifact).await);
    upload.write(Bytes::from_static(b"parts")).await.unwrap();
    upload.finish().await.unwrap();
    assert!(blobs.contains(JOB, &artifact).await);
    assert_eq!(files(&dir), 1);
    let mut rest = blobs.read(JOB, &artifact, 4).await.unwrap();
    assert_eq!(rest.next().await.unwrap().unwrap(), "parts");
    assert!(rest.next().await.is_none());
}

#[tokio::test]
async fn bytes_other_than_announced_leave_nothing() {
    let (blobs, dir) = blobs().await;
    let mut upload = blobs.upload(JOB, artifact(b"right")).await.unwrap();
    upload.write(Bytes::from_static(b"wrong")).await.unwrap();
    assert!(matches!(upload.finish().await, Err(UploadError::Hash { .. })));
    let mut upload = blobs.upload(JOB, artifact(b"right")).await.unwrap();
    upload.write(Bytes::from_static(b"rig")).await.unwrap();
    assert!(matches!(upload.finish().await, Err(UploadError::Size { announced: 5, received: 3 })));
    let mut upload = blobs.upload(JOB, artifact(b"right")).await.unwrap();
    assert!(matches!(
        upload.write(Bytes::from_static(b"right and more")).await,
        Err(UploadError::Size { .. })
    ));
    upload.abandon().await;
    assert_eq!(files(&dir), 0);
}

#[tokio::test]
async fn the_id_stays_and_is_one_for_all() {
    let (first, dir) = blobs().await;
    let second = Blobs::open(Objects::directory(dir.path()).unwrap()).await.unwrap();
    assert_eq!(first.id(), second.id());
    assert_ne!(first.id(), blobs().await.0.id());
    std::fs::write(dir.path().join("id"), "damaged").unwrap();
    assert!(Blobs::open(Objects::directory(dir.path()).unwrap()).await.is_err());
}
