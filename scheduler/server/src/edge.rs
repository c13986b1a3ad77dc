//! The one port: accepts connections and serves gRPC and HTTP on each.

use std::io;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How often a quiet connection is asked whether it lives, and how long it may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Bytes under way on one upload, and on one connection, before the sender waits: enough for a gigabit
/// network.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// How long calls may take to end when the scheduler does.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait when no more connections can be accepted, as when descriptors run out.
const ACCEPT_DELAY: Duration = Duration::from_millis(200);

/// Serves until `closing` is cancelled, and then until the calls under way have ended.
pub async fn serve(listener: TcpListener, routes: Router, closing: CancellationToken) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new());
    // An agent whose cable was pulled is noticed, and a middlebox does not forget a quiet session.
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(KEEPALIVE))
        .keep_alive_timeout(KEEPALIVE)
        .initial_stream_window_size(Some(STREAM_WINDOW))
        .initial_connection_window_size(Some(CONNECTION_WINDOW))
        .max_concurrent_streams(1024);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => break,
        };
        match accepted.and_then(|(stream, _)| without_delay(stream)) {
            Ok(stream) => {
                let service = TowerToHyperService::new(routes.clone());
                let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
                let connection = graceful.watch(connection);
                tokio::spawn(async move {
                    if let Err(cause) = connection.await {
                        debug!(cause, "connection ended");
                    }
                });
            }
            Err(cause) => {
                warn!(%cause, "connection cannot be accepted");
                sleep(ACCEPT_DELAY).await;
            }
        }
    }
    drop(listener);
    if timeout(DRAIN_PATIENCE, graceful.shutdown()).await.is_err() {
        warn!(patience = ?DRAIN_PATIENCE, "calls are still under way, leaving them");
    }
}

/// Small messages go out at once.
fn without_delay(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}
