//! The one port: accepts connections, encrypted where they are to be, and serves gRPC and HTTP on each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_layer::Layer as _;
use tracing::{debug, warn};

use crate::tls::{Peer, PeerCertificate};

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
/// What a connection of TLS begins with: the content type of a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// What a connection of HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long calls may take to end when the scheduler does.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait when no more connections can be accepted, as when descriptors run out.
const ACCEPT_DELAY: Duration = Duration::from_millis(200);

/// Connections that may make their handshake at a time: each costs more than all that comes after it.
const HANDSHAKES: usize = 64;

/// How connections are encrypted.
pub struct Encryption {
    pub acceptor: TlsAcceptor,
    /// What those get that are not.
    pub plaintext: Router,
}

/// Serves until `closing` is cancelled, and then until the calls under way have ended.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    encryption: Option<Encryption>,
    closing: CancellationToken,
) {
    let serving = Serving {
        server: server(),
        routes,
        encryption: encryption.map(Arc::new),
        handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
    };
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => break,
        };
        match accepted.and_then(|(stream, address)| Ok((without_delay(stream)?, address))) {
            Ok((stream, address)) => {
                let (serving, watcher) = (serving.clone(), graceful.watcher());
                tokio::spawn(serving.connection(stream, address, watcher, closing.clone()));
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

fn server() -> auto::Builder<TokioExecutor> {
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
    server
}

/// What every connection is served with.
#[derive(Clone)]
struct Serving {
    server: auto::Builder<TokioExecutor>,
    routes: Router,
    encryption: Option<Arc<Encryption>>,
    handshakes: Arc<Semaphore>,
}

impl Serving {
    /// Serves a connection until it ends.
    async fn connection(
        self,
        stream: TcpStream,
        address: SocketAddr,
        watcher: Watcher,
        closing: CancellationToken,
    ) {
        let speaks = closing.run_until_cancelled(speaks(&stream, HANDSHAKE_TIMEOUT)).await;
        let Some(Some(protocol)) = speaks else {
            debug!(%address, "connection said nothing, closing it");
            return;
        };
        let Some(encryption) = &self.encryption else {
            let peer = Peer { address, certificate: None };
            return self.serve(stream, self.routes.clone(), peer, watcher).await;
        };
        if protocol == Protocol::Plaintext {
            let peer = Peer { address, certificate: None };
            return self.serve(stream, encryption.plaintext.clone(), peer, watcher).await;
        }
        let handshake = async {
            // Only closing the semaphore fails, which nobody does.
            let _turn = self.handshakes.acquire().await.ok()?;
            let accepted = encryption.acceptor.accept(stream).await;
            accepted.inspect_err(|cause| debug!(%address, %cause, "handshake failed")).ok()
        };
        let Some(stream) = timeout(HANDSHAKE_TIMEOUT, handshake).await.ok().flatten() else { return };
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let peer = Peer { address, certificate: shown.and_then(PeerCertificate::read) };
        self.serve(stream, self.routes.clone(), peer, watcher).await;
    }

    async fn serve<S>(&self, stream: S, routes: Router, peer: Peer, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = TowerToHyperService::new(Extension(peer).layer(routes));
        let connection = self.server.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(cause) = watcher.watch(connection).await {
            debug!(cause, "connection ended");
        }
    }
}

/// Small messages go out at once.
fn without_delay(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tls,
    /// HTTP, of any version.
    Plaintext,
}

/// What a connection speaks, if it says so in time.
async fn speaks(stream: &TcpStream, patience: Duration) -> Option<Protocol> {
    let greeting = async {
        let mut start = [0; PREFACE.len()];
        loop {
            match stream.peek(&mut start).await {
                Ok(0) | Err(_) => return None,
                Ok(_) if start[0] == TLS_HANDSHAKE => return Some(Protocol::Tls),
                // HTTP/1, which has a timeout of its own for the rest.
                Ok(count) if count == start.len() || start[..count] != PREFACE[..count] => {
                    return Some(Protocol::Plaintext);
                }
                Ok(_) => sleep(HANDSHAKE_POLL).await,
            }
        }
    };
    timeout(patience, greeting).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_does_not_say_what_it_speaks_is_given_up_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cases: [(&[u8], Option<Protocol>); 5] = [
            (b"", None),
            (b"PRI * HT", None),
            (PREFACE, Some(Protocol::Plaintext)),
            (b"G", Some(Protocol::Plaintext)),
            (b"\x16", Some(Protocol::Tls)),
        ];
        for (said, expected) in cases {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.write_all(said).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            // Whoever has spoken is heard however short the patience, but not before the system has it.
            let patience = Duration::from_millis(if expected.is_some() { 60_000 } else { 50 });
            assert_eq!(speaks(&stream, patience).await, expected, "{said:?}");
        }
    }
}
