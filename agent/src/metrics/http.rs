//! Serves the agent's pages for Prometheus. Reads what other tasks publish, and decides nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{MetricsSnapshot, dcgm_page, page};
use crate::content::Content;
use crate::gpu::states::GpuSnapshots;
use crate::report::spool;
use crate::running_trainers::RunningTrainers;

/// How long the cache's size is kept: to add it up, every file is read.
const CACHE_SIZE_LASTS: Duration = Duration::from_secs(60);

/// What the pages read.
#[derive(Clone)]
pub struct MetricsPages {
    /// The host's name.
    pub host: String,
    /// What every GPU does.
    pub snapshots: watch::Receiver<GpuSnapshots>,
    /// The trainers that run.
    pub trainers: RunningTrainers,
    /// The directory of decoded images.
    pub decoded_dir: PathBuf,
    /// The cache's size and when it was added up.
    pub cache: Arc<Mutex<Option<(Instant, u64)>>>,
    /// The store of fetched versions.
    pub content: Content,
}

/// Serves the pages on `listen` until `end`, or not at all when that is empty. Without the port there are no pages, and the
/// agent works on.
pub async fn serve(listen: String, pages: MetricsPages, end: CancellationToken) {
    if listen.is_empty() {
        return;
    }
    let listener = match TcpListener::bind(&listen).await {
        Ok(listener) => listener,
        Err(error) => {
            warn!(listen, %error, "no metrics page: `metrics_listen` cannot be had; set another one, or \"\" for none");
            return;
        }
    };
    if let Ok(address) = listener.local_addr() {
        info!("metrics are on http://{address}/metrics");
    }
    let router = Router::new()
        .route("/", get(async || "Trainyard agent: /metrics, and /metrics/dcgm with dcgm-exporter's names\n"))
        .route("/healthz", get(async |State(pages): State<MetricsPages>| pages.health()))
        .route("/metrics", get(async |State(pages): State<MetricsPages>| pages.answer(page).await))
        .route("/metrics/dcgm", get(async |State(pages): State<MetricsPages>| pages.answer(dcgm_page).await))
        .with_state(pages);
    // A scrape that never ends must not keep the agent from leaving.
    let serving = async { axum::serve(listener, router).await };
    if let Some(Err(error)) = end.run_until_cancelled(serving).await {
        warn!(%error, "the metrics page has ended");
    }
}

impl MetricsPages {
    async fn answer(self, page: fn(&MetricsSnapshot) -> String) -> Response {
        let text = tokio::task::spawn_blocking(move || page(&self.values())).await.unwrap_or_default();
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
    }

    /// Fails only where starting the agent anew would help.
    fn health(&self) -> (StatusCode, String) {
        match &self.snapshots.borrow().needs_restart {
            None => (StatusCode::OK, "ok\n".to_owned()),
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        }
    }

    fn values(&self) -> MetricsSnapshot {
        MetricsSnapshot {
            host: self.host.clone(),
            gpus: self.snapshots.borrow().gpus.clone(),
            training: self.trainers.counts(),
            cache_bytes: self.cache_bytes(),
            content: self.content.counts(),
            gaps: spool::gaps_total(),
        }
    }

    fn cache_bytes(&self) -> u64 {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        match *cache {
            Some((then, bytes)) if then.elapsed() < CACHE_SIZE_LASTS => bytes,
            _ => {
                let bytes = bytes_under(&self.decoded_dir);
                *cache = Some((Instant::now(), bytes));
                bytes
            }
        }
    }
}

/// Bytes of all files under a folder; what cannot be read counts nothing.
fn bytes_under(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
