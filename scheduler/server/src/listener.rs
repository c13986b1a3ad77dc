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
/// How long a new connection may take to say which protocol it speaks; after that, each has a timeout of its own.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the rest of a greeting is looked for, once there is a part of it.
const HANDSHAKE_POLL: Duration = Duration::from_millis(20);
/// What a connection of HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long calls may take to end when the scheduler does.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
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
                let (server, watcher, closing) = (server.clone(), graceful.watcher(), closing.clone());
                tokio::spawn(async move {
                    let speaks = closing.run_until_cancelled(speaks(&stream, HANDSHAKE_TIMEOUT)).await;
                    if speaks != Some(true) {
                        debug!("connection said nothing, closing it");
                        return;
                    }
                    let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
                    if let Err(cause) = watcher.watch(connection).await {
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
    if timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        warn!(timeout = ?DRAIN_TIMEOUT, "calls are still under way, leaving them");
    }
}

/// Small messages go out at once.
fn without_delay(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether a connection says in time what it speaks.
async fn speaks(stream: &TcpStream, patience: Duration) -> bool {
    let greeting = async {
        let mut start = [0; PREFACE.len()];
        loop {
            match stream.peek(&mut start).await {
                Ok(0) | Err(_) => return false,
                // HTTP/1, which has a timeout of its own for the rest.
                Ok(count) if count == start.len() || start[..count] != PREFACE[..count] => return true,
                Ok(_) => sleep(HANDSHAKE_POLL).await,
            }
        }
    };
    timeout(patience, greeting).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_does_not_say_what_it_speaks_is_given_up_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cases: [(&[u8], bool); 4] = [(b"", false), (b"PRI * HT", false), (PREFACE, true), (b"G", true)];
        for (said, expected) in cases {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.write_all(said).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            // Whoever has spoken is heard however short the patience, but not before the system has it.
            let patience = Duration::from_millis(if expected { 60_000 } else { 50 });
            assert_eq!(speaks(&stream, patience).await, expected, "{said:?}");
        }
    }
}
