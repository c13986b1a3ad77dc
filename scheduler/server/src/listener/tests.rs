use std::net::{IpAddr, Ipv4Addr};

use axum::routing::get;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::bounds::Limits;
use super::*;
use crate::tls::{Authority, ServerCertificate, acceptor};

/// What no test waits for.
const NEVER: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(50);
const BOUNDS: Bounds = Bounds {
    limits: Limits { connections: 9, connections_by_origin: 6, handshakes: 8, handshakes_by_origin: 2 },
    patience: Patience { greeting: NEVER, handshake: NEVER, request: NEVER },
};
const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// A listener that serves one page, encrypted and, by another text, in plaintext.
struct Served {
    address: SocketAddr,
    connector: TlsConnector,
    closing: CancellationToken,
    task: JoinHandle<()>,
}

impl Served {
    async fn start(bounds: Bounds) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(dir.path()).unwrap());
        let certificate = ServerCertificate::new(None, authority.clone(), vec!["localhost".to_owned()]);
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
        let page = |text: &'static str| Router::new().route("/", get(move || async move { text }));
        let encryption = Encryption {
            acceptor: acceptor(&authority, Arc::new(certificate.unwrap())).unwrap(),
            plaintext: page("plain"),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, closing) = (listener.local_addr().unwrap(), CancellationToken::new());
        let serving = serve(listener, page("secret"), Some(encryption), bounds, closing.clone());
        let connector = TlsConnector::from(Arc::new(client));
        Self { address, connector, closing, task: tokio::spawn(serving) }
    }

    async fn connect(&self, from: IpAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn encrypted(&self, from: IpAddr) -> TlsStream<TcpStream> {
        let stream = self.connect(from).await;
        self.connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }

    async fn end(self) {
        self.closing.cancel();
        self.task.await.unwrap();
    }
}

/// Makes a request and gives the answer's text.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &str) {
    stream.write_all(REQUEST).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(text.as_bytes()) {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
}

/// Waits until the other end has closed the connection.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) {
    // HTTP/2 begins by what the server wants, and TLS by tickets.
    let mut said = [0; 1024];
    while matches!(stream.read(&mut said).await, Ok(1..)) {}
}

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

#[tokio::test]
async fn a_connection_without_a_request_is_closed_and_one_with_a_request_is_left_alone() {
    let patience = Patience { request: SOON, ..BOUNDS.patience };
    let served = Served::start(Bounds { patience, ..BOUNDS }).await;
    // Nothing at all, a part of a request, and HTTP/2 without a call: each encrypted and not.
    for said in [&b""[..], b"GET / HT", &PREFACE[..]] {
        let mut stream = served.encrypted(ONE).await;
        stream.write_all(said).await.unwrap();
        closed(&mut stream).await;
    }
    for said in [&b"GET / HT"[..], &PREFACE[..]] {
        let mut stream = served.connect(ONE).await;
        stream.write_all(said).await.unwrap();
        closed(&mut stream).await;
    }
    // The time of the first test of these would be over long before the second request of the second.
    let (mut encrypted, mut plain) = (served.encrypted(ONE).await, served.connect(ONE).await);
    ask(&mut encrypted, "secret").await;
    ask(&mut plain, "plain").await;
    closed(&mut served.encrypted(ONE).await).await;
    ask(&mut encrypted, "secret").await;
    ask(&mut plain, "plain").await;
    drop((encrypted, plain));
    served.end().await;
}

#[tokio::test]
async fn beyond_the_limit_of_one_address_and_of_all_the_newest_connection_is_closed() {
    let served = Served::start(BOUNDS).await;
    let mut of_one = Vec::new();
    for _ in 0..BOUNDS.limits.connections_by_origin {
        let mut stream = served.encrypted(ONE).await;
        ask(&mut stream, "secret").await;
        of_one.push(stream);
    }
    closed(&mut served.connect(ONE).await).await;
    let mut of_other = Vec::new();
    while of_one.len() + of_other.len() < BOUNDS.limits.connections {
        let mut stream = served.encrypted(OTHER).await;
        ask(&mut stream, "secret").await;
        of_other.push(stream);
    }
    closed(&mut served.connect(OTHER).await).await;
    // Those who were there first are served, and a seat that is given back is another's.
    for stream in of_one.iter_mut().chain(&mut of_other) {
        ask(stream, "secret").await;
    }
    drop((of_one, of_other));
    loop {
        let mut stream = served.connect(ONE).await;
        let mut answer = Vec::new();
        let asked = stream.write_all(REQUEST).await;
        if asked.is_ok() && stream.read_buf(&mut answer).await.is_ok_and(|count| count > 0) {
            break;
        }
    }
    served.end().await;
}

#[tokio::test]
async fn an_address_that_stops_in_its_handshakes_keeps_no_other_waiting() {
    let served = Served::start(BOUNDS).await;
    let mut silent = Vec::new();
    for _ in 0..BOUNDS.limits.connections_by_origin {
        let mut stream = served.connect(ONE).await;
        stream.write_all(b"\x16\x03\x01").await.unwrap();
        silent.push(stream);
    }
    // Nobody's patience ends here, so that a turn that the silent ones had would never be another's.
    ask(&mut served.encrypted(OTHER).await, "secret").await;
    drop(silent);
    ask(&mut served.encrypted(ONE).await, "secret").await;
    served.end().await;
}
