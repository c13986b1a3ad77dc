//! The certificate that the scheduler shows: made by the cluster's authority, or read from files; renewed while
//! connections go on.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use trainyard_access::Identity;
use trainyard_service::ServiceManager;

use super::{Authority, TlsError, check_private};

/// How often files are looked at.
const FILES_POLL: Duration = Duration::from_secs(10);
/// How often the authority makes a new certificate.
const REMAKE_EVERY: Duration = Duration::from_secs(7 * 24 * 3600);

/// A certificate and key of one's own, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl CertificateFiles {
    /// When each was last written, as far as that can be told.
    fn written(&self) -> [Option<SystemTime>; 2] {
        [&self.certificate, &self.key]
            .map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
    }
}

/// Where a certificate comes from.
enum Source {
    Files(CertificateFiles),
    Authority { authority: Arc<Authority>, names: Vec<String> },
}

/// What is shown now.
pub struct ServerCertificate {
    source: Source,
    current: RwLock<Arc<CertifiedKey>>,
    /// Asks for a look at the files at once.
    look: Arc<Notify>,
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerCertificate")
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl ServerCertificate {
    /// From files where there are some, and else made for `names`.
    ///
    /// # Errors
    /// The files cannot be used, or a name cannot be certified.
    pub fn new(
        files: Option<CertificateFiles>,
        authority: Arc<Authority>,
        names: Vec<String>,
    ) -> Result<Self, TlsError> {
        let source = match files {
            Some(files) => Source::Files(files),
            None => Source::Authority { authority, names },
        };
        let current = RwLock::new(Arc::new(certified(&source)?));
        Ok(Self { source, current, look: Arc::default() })
    }

    /// What makes it look at its files at once.
    pub fn look(&self) -> Arc<Notify> {
        Arc::clone(&self.look)
    }

    /// Keeps it new until `closing`.
    /// The service manager hears of one that cannot be used.
    pub async fn keep_new(self: Arc<Self>, service: ServiceManager, closing: CancellationToken) {
        let follow = async {
            let mut seen = self.written();
            let mut made = Instant::now();
            loop {
                // Who asks for it has files read that are as old as the former ones: copies keep times.
                let is_asked = tokio::select! {
                    () = sleep(FILES_POLL) => false,
                    () = self.look.notified() => matches!(self.source, Source::Files(_)),
                };
                let now = self.written();
                let is_due =
                    made.elapsed() >= REMAKE_EVERY && matches!(self.source, Source::Authority { .. });
                if now == seen && !is_due && !is_asked {
                    continue;
                }
                let problem = match self.renew() {
                    Ok(()) => {
                        info!("new connections are shown a new certificate");
                        None
                    }
                    Err(error) => {
                        warn!(%error, "the new certificate cannot be used, the old one stays");
                        Some(format!("the new certificate cannot be used, the old one stays: {error}"))
                    }
                };
                service.problem("certificate", problem);
                (seen, made) = (now, Instant::now());
            }
        };
        closing.run_until_cancelled(follow).await;
    }

    fn written(&self) -> [Option<SystemTime>; 2] {
        match &self.source {
            Source::Files(files) => files.written(),
            Source::Authority { .. } => [None, None],
        }
    }

    fn renew(&self) -> Result<(), TlsError> {
        let new = Arc::new(certified(&self.source)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

fn certified(source: &Source) -> Result<CertifiedKey, TlsError> {
    let Identity { chain, key } = match source {
        Source::Files(files) => {
            check_private("tls_key", &files.key)?;
            Identity::read(&files.certificate, &files.key)?
        }
        Source::Authority { authority, names } => {
            let (chain, key) = authority.server_certificate(names)?;
            let unreadable = |cause: rustls::pki_types::pem::Error| TlsError::Verifier(cause.to_string());
            Identity {
                chain: CertificateDer::pem_slice_iter(chain.as_bytes())
                    .collect::<Result<_, _>>()
                    .map_err(unreadable)?,
                key: PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(unreadable)?,
            }
        }
    };
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(TlsError::Pair)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(TlsError::Pair)?;
    Ok(certified)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_of_another_certificate_is_refused_and_the_old_pair_stays() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(&dir.path().join("tls")).unwrap());
        let files = CertificateFiles { certificate: dir.path().join("c.pem"), key: dir.path().join("k.pem") };
        let write = |(chain, key): (String, String)| {
            fs::write(&files.certificate, chain).unwrap();
            trainyard_files::write_private(&files.key, key.as_bytes(), |_| {}).unwrap();
        };
        let make = || authority.server_certificate(&["lab-head".to_owned()]).unwrap();
        write(make());
        let shown = ServerCertificate::new(Some(files.clone()), authority.clone(), Vec::new()).unwrap();
        let before = shown.current.read().unwrap().clone();
        let (chain, _) = make();
        write((chain, make().1));
        assert!(matches!(shown.renew(), Err(TlsError::Pair(_))));
        assert_eq!(shown.current.read().unwrap().cert, before.cert);
        write(make());
        shown.renew().unwrap();
        assert_ne!(shown.current.read().unwrap().cert, before.cert);
    }
}
