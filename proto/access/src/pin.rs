//! A pin: what names an authority in a token.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use webpki::EndEntityCert;

/// The first 16 bytes of the SHA-256 of an authority's public key (its SubjectPublicKeyInfo, RFC 5280 §4.1.2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; Pin::BYTES]);

impl Pin {
    /// Enough that nobody finds another key with the same pin.
    pub const BYTES: usize = 16;

    /// The pin of a certificate's key; `None` for what is no certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        let hash = Sha256::digest(certificate.subject_public_key_info().as_ref());
        let mut pin = [0; Self::BYTES];
        pin.copy_from_slice(&hash[..Self::BYTES]);
        Some(Self(pin))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Pin {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut pin = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut pin)?;
        Ok(Self(pin))
    }
}
