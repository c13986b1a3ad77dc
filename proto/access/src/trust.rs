//! Whom a client trusts and how it proves itself, as connections that hyper and tonic can open.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use crate::identity::{Identity, IdentityError, read_certificates};
use crate::pin::Pin;
use crate::verifier::PinVerifier;

/// Opens connections to `http://` URLs in plaintext, and to `https://` URLs encrypted.
pub type Connector = HttpsConnector<HttpConnector>;

/// Whom to trust, and who we are.
#[derive(Debug, Default)]
pub struct Trust {
    pin: Option<Pin>,
    roots: Option<RootCertStore>,
    identity: Option<Identity>,
    seen: SeenAuthority,
}

/// The certificate of a pinned authority, known once a server has shown it and was found to be of that authority.
#[derive(Debug, Clone, Default)]
pub struct SeenAuthority(Arc<OnceLock<CertificateDer<'static>>>);

impl SeenAuthority {
    pub(crate) fn remember(&self, authority: &CertificateDer<'_>) {
        self.0.get_or_init(|| authority.clone().into_owned());
    }

    /// In PEM, for programs that check servers by a file; `None` before a server was checked.
    pub fn pem(&self) -> Option<String> {
        let unix = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        let encode = |der: &CertificateDer<'_>| pem::Pem::new("CERTIFICATE", der.as_ref().to_vec());
        self.0.get().map(|der| pem::encode_config(&encode(der), unix))
    }
}

/// Why no encrypted connection can be prepared.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file of authorities cannot be used.
    #[error(transparent)]
    Authorities(#[from] IdentityError),
    /// The certificate and its key cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Identity(#[from] rustls::Error),
    /// There is nobody to trust.
    #[error("nobody vouches for the server: {0}")]
    Roots(#[from] rustls::client::VerifierBuilderError),
}

impl Trust {
    /// Nobody: only `http://` URLs can be reached.
    pub fn none() -> Self {
        Self::default()
    }

    /// Servers of the authority with this pin, whatever their names.
    #[must_use]
    pub fn pin(mut self, pin: Pin) -> Self {
        self.pin = Some(pin);
        self
    }

    /// Keeps the certificate of the pinned authority in `seen`.
    #[must_use]
    pub fn remember(mut self, seen: &SeenAuthority) -> Self {
        self.seen = seen.clone();
        self
    }

    /// Servers whose names are certified by an authority of a PEM file, instead of a pinned one.
    ///
    /// # Errors
    /// The file cannot be read or has no certificate.
    pub fn authorities(mut self, file: &Path) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(read_certificates(file)?);
        self.roots = Some(roots);
        Ok(self)
    }

    /// Proves itself by a certificate.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// What opens connections.
    ///
    /// # Errors
    /// The certificate does not fit its key, or no authority is of use.
    pub fn connector(self) -> Result<Connector, TrustError> {
        let provider = Arc::new(ring::default_provider());
        let verifier = verifier(self.pin, self.roots, self.seen, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match self.identity {
            Some(Identity { chain, key }) => builder.with_client_auth_cert(chain, key)?,
            None => builder.with_no_client_auth(),
        };
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.enforce_http(false);
        let https = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
        Ok(https.enable_http2().wrap_connector(http))
    }
}

/// By the authorities of a file, by a pin, or by nobody.
fn verifier(
    pin: Option<Pin>,
    roots: Option<RootCertStore>,
    seen: SeenAuthority,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
    if let Some(roots) = roots {
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        return Ok(builder.build()?);
    }
    Ok(Arc::new(PinVerifier::new(pin, seen, provider)))
}
