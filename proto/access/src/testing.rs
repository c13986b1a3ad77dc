//! A cluster's authority, and an encrypted door in front of a server that speaks plaintext: for tests of clients.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use time::{Duration, OffsetDateTime};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::Pin;

/// An authority that signs whatever a test needs.
pub struct TestAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Default for TestAuthority {
    fn default() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(params, key), certificate: der, pem }
    }
}

/// From so many days before now to so many days after it; both may be negative.
fn valid(params: &mut CertificateParams, from_days: i64, to_days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now + Duration::days(from_days);
    params.not_after = now + Duration::days(to_days);
}

impl TestAuthority {
    /// The pin that tokens name the authority by.
    pub fn pin(&self) -> Pin {
        Pin::of(&self.certificate).unwrap()
    }

    /// The authority's certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server's configuration with a certificate for `names` from so many days from now to so many days from now. It
    /// checks certificates of clients that show one.
    pub fn server(&self, names: &[&str], from_days: i64, to_days: i64) -> ServerConfig {
        self.server_that_names(self, names, from_days, to_days)
    }

    /// A server's configuration that names `authority`, which has not signed it, as the one that vouches for it.
    pub fn forged(&self, authority: &Self, names: &[&str]) -> ServerConfig {
        self.server_that_names(authority, names, -1, 1)
    }

    fn server_that_names(
        &self,
        authority: &Self,
        names: &[&str],
        from_days: i64,
        to_days: i64,
    ) -> ServerConfig {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        valid(&mut params, from_days, to_days);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![certificate.der().clone(), authority.certificate.clone()];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let clients = clients.allow_unauthenticated().build().unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// An agent's certificate and this authority's, in PEM.
    pub fn sign_agent(&self, request_pem: &str, agent: &str, from_days: i64, to_days: i64) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem).unwrap();
        let mut params = CertificateParams::default();
        let uri = format!("trainyard://agent/{agent}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        valid(&mut params, from_days, to_days);
        request.params = params;
        request.signed_by(&self.issuer).unwrap().pem() + &self.pem
    }
}

/// An encrypted door in front of a plaintext server; open as long as the runtime runs.
pub struct Door {
    /// The address that the door listens on.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Option<String>>>>,
}

impl Door {
    /// Opens a door to `behind`.
    pub async fn open(config: ServerConfig, behind: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
        let (acceptor, shown) = (TlsAcceptor::from(Arc::new(config)), seen.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shown) = (acceptor.clone(), shown.clone());
                tokio::spawn(async move {
                    // A client that does not trust the door goes away.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                    let agent = certificate.and_then(agent_of);
                    shown.lock().unwrap().push(agent);
                    let Ok(mut server) = TcpStream::connect(behind).await else { return };
                    let _cut = copy_bidirectional(&mut stream, &mut server).await;
                });
            }
        });
        Self { address, seen }
    }

    /// The agents that the certificates of those who came in named; `None` for one who showed none.
    pub fn seen(&self) -> Vec<Option<String>> {
        self.seen.lock().unwrap().clone()
    }
}

fn agent_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    parsed.valid_uri_names().find_map(|uri| Some(uri.strip_prefix("trainyard://agent/")?.to_owned()))
}
