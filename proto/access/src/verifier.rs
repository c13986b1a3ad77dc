//! Checks a server by the pin of its authority.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::pin::Pin;
use crate::trust::SeenAuthority;

/// The server shows no certificate of the authority that was pinned.
#[derive(Debug, thiserror::Error)]
#[error("the server is not of the cluster that the token is for: its authority has another key")]
pub struct OtherAuthority;

/// Nothing says which server to trust.
#[derive(Debug, thiserror::Error)]
#[error("nothing says which server to trust; log in with a token first")]
pub struct NobodyTrusted;

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(OtherError(Arc::new(error)))
}

/// Trusts whatever the authority with this pin has signed for a server. The server's name does not matter: the
/// authority is the cluster's own, and signs for its schedulers alone. Without a pin, trusts nobody.
#[derive(Debug)]
pub struct PinVerifier {
    pin: Option<Pin>,
    seen: SeenAuthority,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinVerifier {
    pub fn new(pin: Option<Pin>, seen: SeenAuthority, provider: &CryptoProvider) -> Self {
        Self { pin, seen, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pin = self.pin.ok_or_else(|| other(NobodyTrusted))?;
        let authority = intermediates.iter().find(|certificate| Pin::of(certificate) == Some(pin));
        let authority = authority.ok_or_else(|| other(OtherAuthority))?;
        let invalid = |cause: webpki::Error| match cause {
            webpki::Error::CertExpired { time, not_after } => {
                CertificateError::ExpiredContext { time, not_after }.into()
            }
            webpki::Error::CertNotValidYet { time, not_before } => {
                CertificateError::NotValidYetContext { time, not_before }.into()
            }
            // It names the authority, and is not signed by it.
            webpki::Error::InvalidSignatureForPublicKey | webpki::Error::UnknownIssuer => {
                other(OtherAuthority)
            }
            cause => Error::General(format!("the server's certificate cannot be used: {cause}")),
        };
        let anchor = anchor_from_trusted_cert(authority).map_err(invalid)?;
        let usage = KeyUsage::server_auth();
        EndEntityCert::try_from(end_entity)
            .and_then(|server| {
                let anchors = std::slice::from_ref(&anchor);
                server
                    .verify_for_usage(self.algorithms.all, anchors, &[], now, usage, None, None)
                    .map(|_path| ())
            })
            .map_err(invalid)?;
        self.seen.remember(authority);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
