//! Where contents of files are kept: a directory, or an object store by URL.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ObjectStore, ObjectStoreScheme, RetryConfig};
use trainyard_config::masked;
use url::Url;

/// An unfinished file that nothing was added to for so long is nobody's any more; another scheduler may share the
/// directory.
const ABANDONED: Duration = Duration::from_secs(600);
/// How a store that does not answer is asked again. Whoever waits has retries of its own.
const RETRIES: RetryConfig = RetryConfig {
    backoff: BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        base: 2.0,
    },
    max_retries: 4,
    retry_timeout: Duration::from_secs(20),
};
/// How long a request may take, a pack on a slow line; and a connection.
const TIMEOUTS: [(&str, &str); 2] = [("timeout", "5 minutes"), ("connect_timeout", "5 seconds")];
/// Folders below the root that unfinished files may lie in.
const DEPTH: usize = 2;

/// An object store, and what people call it.
#[derive(Debug, Clone)]
pub struct Objects {
    pub store: Arc<dyn ObjectStore>,
    /// The directory or the URL.
    pub place: Arc<str>,
    /// The directory, if it is one.
    root: Option<Arc<Path>>,
}

impl Objects {
    /// A directory, which is created. Removes what processes that were killed left half-written. Blocks.
    ///
    /// # Errors
    /// The directory cannot be created or read.
    pub fn directory(root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        remove_unfinished(root, DEPTH)?;
        let store = LocalFileSystem::new_with_prefix(root).map_err(io::Error::other)?.with_fsync(true);
        Ok(Self { store: Arc::new(store), place: root.to_string_lossy().into(), root: Some(root.into()) })
    }

    /// `s3://BUCKET/PREFIX`, `gs://…` or `az://…`, with options such as `endpoint=http://minio:9000`. What is not among
    /// these comes from the environment: `AWS_ACCESS_KEY_ID` and so on.
    ///
    /// # Errors
    /// The URL or an option cannot be used.
    pub fn at(url: &str, options: &[(String, String)]) -> Result<Self, Box<dyn Error + Send + Sync>> {
        // Only the first one counts, and all of them are this one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (scheme, prefix) = ObjectStoreScheme::parse(&Url::parse(url)?)?;
        // One macro for three builders without a trait in common.
        macro_rules! build {
            ($builder:ident) => {{
                let mut builder = $builder::from_env().with_url(url).with_retry(RETRIES);
                for (key, value) in TIMEOUTS {
                    builder = builder.with_config(key.parse()?, value);
                }
                for (key, value) in options {
                    builder = builder.with_config(key.parse()?, value);
                }
                Arc::new(builder.build()?) as Arc<dyn ObjectStore>
            }};
        }
        let store = match scheme {
            ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder),
            ObjectStoreScheme::GoogleCloudStorage => build!(GoogleCloudStorageBuilder),
            ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder),
            _ => return Err("is of a kind that is not known".into()),
        };
        let place = masked(url).into();
        Ok(Self { store: Arc::new(PrefixStore::new(store, prefix)), place, root: None })
    }

    /// Removes what processes that were killed left half-written in a directory. Blocks.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn tidy(&self) -> io::Result<()> {
        self.root.as_deref().map_or(Ok(()), |root| remove_unfinished(root, DEPTH))
    }

    /// The objects below a folder, under their names there.
    pub fn below(&self, folder: &str) -> Arc<dyn ObjectStore> {
        Arc::new(PrefixStore::new(Arc::clone(&self.store), folder))
    }

    /// Bytes of its disk that are free for this user, and all; `None` when the system does not tell, and of object stores.
    /// Blocks for a moment.
    pub fn room(&self) -> Option<(u64, u64)> {
        let disk = nix::sys::statvfs::statvfs(self.root.as_deref()?).ok()?;
        let unit = disk.fragment_size();
        Some((disk.blocks_available().saturating_mul(unit), disk.blocks().saturating_mul(unit)))
    }
}

/// What another scheduler that shares the directory has removed meanwhile is `None`.
fn seen<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn remove_unfinished(folder: &Path, depth: usize) -> io::Result<()> {
    let is_past = |time: SystemTime| SystemTime::now().duration_since(time).is_ok_and(|age| age > ABANDONED);
    for entry in seen(std::fs::read_dir(folder))?.into_iter().flatten() {
        let entry = entry?;
        let path: PathBuf = entry.path();
        if entry.file_type()?.is_dir() {
            if depth > 0 {
                remove_unfinished(&path, depth - 1)?;
            }
            continue;
        }
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // `LocalFileSystem` writes to `NAME#1` first, earlier builds wrote to `NAME.part`.
        let is_unfinished = name.contains('#') || name.ends_with(".part");
        if is_unfinished
            && seen(entry.metadata().and_then(|metadata| metadata.modified()))?.is_some_and(is_past)
        {
            seen(std::fs::remove_file(path))?;
        }
    }
    Ok(())
}

/// Whether an error comes of a disk or quota that is full.
pub fn is_full(error: &(dyn Error + 'static)) -> bool {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| full.contains(&error.kind())) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_process_left_unfinished_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("content/packs");
        std::fs::create_dir_all(&folder).unwrap();
        let files = [folder.join("pack#1"), dir.path().join("old.part"), folder.join("pack")];
        let make = |file: &PathBuf, age: Duration| {
            let file = std::fs::File::create(file).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        // Another scheduler that shares the directory may be at it.
        files.iter().for_each(|file| make(file, ABANDONED / 2));
        Objects::directory(dir.path()).unwrap();
        assert!(files.iter().all(|file| file.exists()));
        files.iter().for_each(|file| make(file, ABANDONED * 2));
        Objects::directory(dir.path()).unwrap();
        assert_eq!(files.map(|file| file.exists()), [false, false, true]);
    }

    #[test]
    fn a_full_disk_is_told_through_all_layers() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let wrapped = object_store::Error::Generic { store: "local", source: Box::new(full) };
        assert!(is_full(&wrapped));
        assert!(!is_full(&io::Error::from(io::ErrorKind::NotFound)));
    }

    #[test]
    fn object_stores_are_opened_by_url() {
        let options = [("endpoint".to_owned(), "http://127.0.0.1:9".to_owned())];
        let objects = Objects::at("s3://bucket/trainyard", &options).unwrap();
        assert_eq!((&*objects.place, objects.room()), ("s3://bucket/trainyard", None));
        assert!(Objects::at("bucket", &[]).is_err());
        assert!(Objects::at("ftp://bucket", &[]).is_err());
    }
}
