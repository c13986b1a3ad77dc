//! A program's own certificate and key, which it proves itself by; and how it asks for one.

use std::io;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate, those that vouch for it, and its key.
#[derive(Debug)]
pub struct Identity {
    /// The certificates, its own first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// Why a certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read `{path}`: {cause}")]
    Unreadable { path: PathBuf, cause: io::Error },
    /// The file is not what it should be.
    #[error("`{path}` has no {what} in PEM: {cause}")]
    Content {
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        cause: String,
    },
    /// A request cannot be made.
    #[error("cannot make or use a key: {0}")]
    Key(#[from] rcgen::Error),
}

impl Identity {
    /// Reads certificates and key of PEM files.
    ///
    /// # Errors
    /// A file cannot be read, or has no certificate or key.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, IdentityError> {
        Ok(Self { chain: read_certificates(chain)?, key: read_key(key)? })
    }

    /// Reads certificates and key of texts in PEM.
    ///
    /// # Errors
    /// A text has no certificate or key.
    pub fn parse(chain_pem: &str, key_pem: &str) -> Result<Self, rustls::pki_types::pem::Error> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<_, _>>()?;
        if chain.is_empty() {
            return Err(rustls::pki_types::pem::Error::NoItemsFound);
        }
        Ok(Self { chain, key: PrivateKeyDer::from_pem_slice(key_pem.as_bytes())? })
    }

    /// Whether the certificate was made for the key.
    ///
    /// # Errors
    /// It was not, or one of them is of a kind that is not known.
    pub fn check(&self) -> Result<(), rustls::Error> {
        let provider = rustls::crypto::ring::default_provider();
        let key = provider.key_provider.load_private_key(self.key.clone_key())?;
        rustls::sign::CertifiedKey::new(self.chain.clone(), key).keys_match()
    }

    /// A second copy of certificate and key.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path).map_err(|cause| IdentityError::Unreadable { path: path.to_owned(), cause })
}

/// The certificates of a PEM file, at least one.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let error = |cause: String| IdentityError::Content { path: path.to_owned(), what: "certificate", cause };
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|cause| error(cause.to_string()))?;
    if found.is_empty() {
        Err(error("nothing is between BEGIN and END CERTIFICATE".into()))
    } else {
        Ok(found)
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|cause| IdentityError::Content {
        path: path.to_owned(),
        what: "private key",
        cause: cause.to_string(),
    })
}

/// A new key, and the request to certify it.
pub struct KeyRequest {
    /// PKCS #8 in PEM; never leaves the machine.
    pub key_pem: String,
    /// A certificate signing request (RFC 2986) in PEM. It asks for nothing but the key to be signed.
    pub request_pem: String,
}

impl KeyRequest {
    /// An ECDSA key on P-256.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn make() -> Result<Self, IdentityError> {
        Self::with(&KeyPair::generate()?)
    }

    /// A new request for a key that was made before, in PEM.
    ///
    /// # Errors
    /// The text has no key.
    pub fn again(key_pem: &str) -> Result<Self, IdentityError> {
        Self::with(&KeyPair::from_pem(key_pem)?)
    }

    fn with(key: &KeyPair) -> Result<Self, IdentityError> {
        let request = CertificateParams::default().serialize_request(key)?;
        Ok(Self { key_pem: key.serialize_pem(), request_pem: request.pem()? })
    }
}
