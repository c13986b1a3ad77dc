//! Encryption: the cluster's own authority, the certificate that this scheduler shows, and who connected.

mod authority;
mod server_certificate;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Uid, User};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;
use trainyard_access::{IdentityError, Pin};
use trainyard_files::OpenToOthers;
use trainyard_service::installed;
use trainyard_types::AgentId;

use crate::config::SERVICE;

pub use authority::{AgentCertificate, Authority, RequestError};
pub use server_certificate::{CertificateFiles, ServerCertificate};

/// What an agent's certificate names it by, before its id.
const AGENT_URI: &str = "trainyard://agent/";

/// Why there is no encryption.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The directory of the authority cannot be used.
    #[error("tls_dir: cannot use `{path}`: {cause}; {}", installed::way_to_write(SERVICE, path, cause))]
    Directory { path: PathBuf, cause: std::io::Error },
    /// The authority's files do not go together.
    #[error(
        "tls_dir: `{path}` cannot be used: {problem}; restore it, or remove ca.key and ca.pem to begin anew (every token and every agent's certificate is void then)"
    )]
    Authority { path: PathBuf, problem: String },
    /// The files of a certificate cannot be used.
    #[error("tls_cert, tls_key: {0}")]
    Files(#[from] IdentityError),
    /// Whoever has the key can pose as the scheduler.
    #[error("{key}: {cause}")]
    Open {
        /// The key of the configuration.
        key: &'static str,
        cause: OpenToOthers,
    },
    /// Whoever may write to the directory can put another authority's key there.
    #[error("tls_dir: others on this machine may write to `{path}` (mode {mode:o}); run `chmod go-w {path}`")]
    Writable { path: PathBuf, mode: u32 },
    /// Whoever owns the key can read it, whatever its mode.
    #[error("tls_dir: `{path}` belongs to user {owner}; run this as that user: {}", run_as(*owner))]
    Foreign {
        path: PathBuf,
        /// The number of the user that it belongs to.
        owner: u32,
    },
    /// The certificate does not fit its key.
    #[error("tls_cert, tls_key: {0}; give the key that the certificate was made for")]
    Pair(rustls::Error),
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The authority cannot vouch for anybody.
    #[error("the cluster's authority cannot be used: {0}")]
    Verifier(String),
}

/// How this very command is run as another user. No way to give them the files is told: a service could not use them then.
fn run_as(user: u32) -> String {
    let name = User::from_uid(Uid::from_raw(user)).ok().flatten().map(|user| user.name);
    let name = name.unwrap_or_else(|| format!("'#{user}'"));
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    // Root alone finds the installed configuration by itself.
    let installed = installed::configuration("scheduler.toml");
    if let Some(file) = installed.filter(|_| !words.iter().any(|word| word.starts_with("--config"))) {
        words.splice(0..0, ["--config".to_owned(), file.to_string_lossy().into_owned()]);
    }
    // Only what needs no quoting.
    let is_plain =
        |word: &String| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:=".contains(&byte));
    let words = if words.iter().all(is_plain) { words.join(" ") } else { "…".to_owned() };
    format!("`{}`", format!("sudo -u {name} trainyard-scheduler {words}").trim_end())
}

/// Refuses a private key that others may read.
fn check_private(key: &'static str, path: &Path) -> Result<(), TlsError> {
    trainyard_files::check_private(path).map_err(|cause| TlsError::Open { key, cause })
}

/// Refuses an authority's directory or key that somebody else, who is not root, could change.
fn check_authority(dir: &Path, key: &Path) -> Result<(), TlsError> {
    let unusable = |cause| TlsError::Directory { path: dir.to_owned(), cause };
    let mode = fs::metadata(dir).map_err(unusable)?.mode() & 0o777;
    if mode & 0o022 != 0 && !is_read_only(dir) {
        return Err(TlsError::Writable { path: dir.to_owned(), mode });
    }
    let (owner, user) = (fs::metadata(key).map_err(unusable)?.uid(), Uid::effective().as_raw());
    if ![0, user].contains(&owner) {
        return Err(TlsError::Foreign { path: key.to_owned(), owner });
    }
    check_private("tls_dir", key)
}

/// Whether nobody writes there, whatever the mode: so are mounted the secrets of a pod, which anybody might write to.
fn is_read_only(dir: &Path) -> bool {
    statvfs(dir).is_ok_and(|disk| disk.flags().contains(FsFlags::ST_RDONLY))
}

/// A connection's other end.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// Shown and checked while the connection was made.
    pub certificate: Option<PeerCertificate>,
}

/// An agent's certificate, signed by the cluster's authority and in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    pub agent: AgentId,
    /// Of its key.
    pub key: Pin,
}

impl PeerCertificate {
    /// What a certificate says; `None` if it is not an agent's.
    pub fn read(certificate: &rustls::pki_types::CertificateDer<'_>) -> Option<Self> {
        let key = Pin::of(certificate)?;
        let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
        let agent = parsed.valid_uri_names().find_map(|uri| uri.strip_prefix(AGENT_URI)?.parse().ok())?;
        Some(Self { agent, key })
    }
}

/// Takes encrypted connections: shows `certificate`, and checks those that agents show.
///
/// # Errors
/// The authority's own certificate cannot be used.
pub fn acceptor(authority: &Authority, certificate: Arc<ServerCertificate>) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let unusable = |cause: &dyn std::fmt::Display| TlsError::Verifier(cause.to_string());
    roots.add(authority.certificate().clone()).map_err(|cause| unusable(&cause))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|cause| unusable(&cause))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|cause| unusable(&cause))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
