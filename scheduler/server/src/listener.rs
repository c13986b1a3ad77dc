//! The one port: accepts connections, encrypted where they are to be, and serves gRPC and HTTP on each.

mod bounds;
mod doorkeeper;
mod visitor;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use bounds::Bounds;
use bounds::Patience;
use doorkeeper::{Doorkeeper, Seat, TurnedAway};
use visitor::Visitor;

use crate::tls::{Peer, PeerCertificate};

/// How often a quiet connection is asked whether it lives, and how long it may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Bytes under way on one upload, and on one connection, before the sender waits: enough for a gigabit
/// network.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
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
    bounds: Bounds,
    closing: CancellationToken,
) {
    let Bounds { limits, patience } = bounds;
    info!(all = limits.connections, of_one_origin = limits.connections_by_origin, "connections at most");
    let serving = Serving { server: server(), routes, encryption: encryption.map(Arc::new), patience };
    let (doorkeeper, mut turned_away) = (Doorkeeper::new(limits), TurnedAway::default());
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => break,
        };
        match accepted.and_then(|(stream, address)| Ok((without_delay(stream)?, address))) {
            Ok((stream, address)) => match doorkeeper.enter(address.ip()) {
                Ok(seat) => {
                    let arrival = Arrival { stream, address, seat };
                    tokio::spawn(serving.clone().connection(arrival, graceful.watcher(), closing.clone()));
                }
                Err(full) => {
                    if let Some(connections) = turned_away.count(Instant::now()) {
                        warn!(%address, connections, limit = ?full, "too many connections, closing the newest");
                    }
                }
            },
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
    patience: Patience,
}

/// A connection that has just been made.
struct Arrival {
    stream: TcpStream,
    address: SocketAddr,
    seat: Seat,
}

impl Serving {
    /// Serves a connection until it ends.
    async fn connection(self, arrival: Arrival, watcher: Watcher, closing: CancellationToken) {
        // The seat is given back when all of this has ended.
        let Arrival { stream, address, seat } = arrival;
        let speaks = closing.run_until_cancelled(speaks(&stream, self.patience.greeting)).await;
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
            let _turn = seat.turn().await?;
            let accepted = encryption.acceptor.accept(stream).await;
            accepted.inspect_err(|cause| debug!(%address, %cause, "handshake failed")).ok()
        };
        let Some(stream) = timeout(self.patience.handshake, handshake).await.ok().flatten() else {
            return;
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let peer = Peer { address, certificate: shown.and_then(PeerCertificate::read) };
        self.serve(stream, self.routes.clone(), peer, watcher).await;
    }

    async fn serve<S>(&self, stream: S, routes: Router, peer: Peer, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let address = peer.address;
        let (visitor, asked) = Visitor::new(routes, peer);
        let service = TowerToHyperService::new(visitor);
        let connection = self.server.serve_connection(TokioIo::new(stream), service).into_owned();
        let mut connection = pin!(watcher.watch(connection));
        let ended = match timeout(self.patience.request, &mut connection).await {
            Ok(ended) => ended,
            Err(_) if asked.is_set() => connection.await,
            Err(_) => {
                debug!(%address, "connection made no request, closing it");
                return;
            }
        };
        if let Err(cause) = ended {
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
mod tests;
