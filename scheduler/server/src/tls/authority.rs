//! The cluster's own authority: made at the first start, kept in two files, and trusted by its pin.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use trainyard_access::Pin;
use trainyard_types::{AgentId, Time};

use super::{AGENT_URI, TlsError, check_authority};

const KEY_FILE: &str = "ca.key";
const CERTIFICATE_FILE: &str = "ca.pem";
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long each kind of certificate counts.
const AUTHORITY_LIFE: Duration = DAY.saturating_mul(20 * 365);
const SERVER_LIFE: Duration = DAY.saturating_mul(90);
const AGENT_LIFE: Duration = DAY.saturating_mul(30);
/// Certificates begin earlier, since clocks differ.
const EARLIER: Duration = Duration::from_secs(3600);

/// Signs for schedulers and agents.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    pin: Pin,
}

/// What an agent is given.
#[derive(Debug)]
pub struct AgentCertificate {
    /// Its own certificate and the authority's, PEM.
    pub chain: String,
    /// Of its key.
    pub key: Pin,
    /// When it should ask for the next one.
    pub renew: Time,
    pub expires: Time,
}

/// Why no certificate is made for a request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It cannot be read.
    #[error("is no certificate signing request in PEM: {0}")]
    Request(String),
    /// It cannot be signed.
    #[error("cannot be signed: {0}")]
    Sign(rcgen::Error),
}

impl Authority {
    /// Reads the authority of a directory, or makes one. Schedulers that start together on a shared directory agree
    /// on one key.
    ///
    /// # Errors
    /// The directory or its files cannot be used.
    pub fn open(dir: &Path) -> Result<Self, TlsError> {
        let unusable = |cause| TlsError::Directory { path: dir.to_owned(), cause };
        let key_file = dir.join(KEY_FILE);
        // Files that somebody brings may lie where nothing can be written.
        if !key_file.exists() {
            fs::create_dir_all(dir).map_err(unusable)?;
            fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(unusable)?;
            let key = KeyPair::generate()?;
            write_once(&key_file, key.serialize_pem().as_bytes(), 0o600).map_err(unusable)?;
        }
        check_authority(dir, &key_file)?;
        let damaged = |file: &str, problem: String| TlsError::Authority { path: dir.join(file), problem };
        let key = fs::read_to_string(&key_file).map_err(unusable)?;
        let key = KeyPair::from_pem(&key).map_err(|cause| damaged(KEY_FILE, cause.to_string()))?;
        let certificate_file = dir.join(CERTIFICATE_FILE);
        if !certificate_file.exists() {
            let made = authority_params().self_signed(&key)?;
            write_once(&certificate_file, made.pem().as_bytes(), 0o644).map_err(unusable)?;
        }
        let pem = fs::read_to_string(&certificate_file).map_err(unusable)?;
        let bad = |problem: &str| damaged(CERTIFICATE_FILE, problem.to_owned());
        let certificate =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| bad("has no certificate in PEM"))?;
        let pin = Pin::of(&certificate).ok_or_else(|| bad("has a certificate that cannot be read"))?;
        let known = Pin::of(authority_params().self_signed(&key)?.der());
        if known != Some(pin) {
            return Err(bad("is the certificate of another key than ca.key"));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { issuer, certificate, pem, pin })
    }

    /// What tokens name it by.
    pub const fn pin(&self) -> Pin {
        self.pin
    }

    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// For clients that check by an authority's certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A new certificate for a scheduler, and its key in PEM.
    ///
    /// # Errors
    /// A name that no certificate can have.
    pub fn server_certificate(&self, names: &[String]) -> Result<(String, String), rcgen::Error> {
        let mut params = CertificateParams::new(names)?;
        name(&mut params, "Trainyard scheduler");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        valid(&mut params, SERVER_LIFE);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem() + &self.pem, key.serialize_pem()))
    }

    /// A certificate for an agent. Nothing of the request is taken but its key.
    ///
    /// # Errors
    /// The request cannot be read or signed.
    pub fn agent_certificate(&self, request: &str, agent: AgentId) -> Result<AgentCertificate, RequestError> {
        let parsed = CertificateSigningRequestParams::from_pem(request);
        let mut request = parsed.map_err(|cause| RequestError::Request(cause.to_string()))?;
        let mut params = CertificateParams::default();
        name(&mut params, &format!("Trainyard agent {agent}"));
        let uri = format!("{AGENT_URI}{agent}").try_into().map_err(RequestError::Sign)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        valid(&mut params, AGENT_LIFE);
        request.params = params;
        let certificate = request.signed_by(&self.issuer).map_err(RequestError::Sign)?;
        let unreadable = || RequestError::Request("its key cannot be read".into());
        let key = Pin::of(certificate.der()).ok_or_else(unreadable)?;
        let after = |span: Duration| {
            let at = (SystemTime::now() + span).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            Time(u64::try_from(at.as_millis()).unwrap_or(u64::MAX))
        };
        let chain = certificate.pem() + &self.pem;
        Ok(AgentCertificate { chain, key, renew: after(AGENT_LIFE * 2 / 3), expires: after(AGENT_LIFE) })
    }
}

fn name(params: &mut CertificateParams, name: &str) {
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
}

fn valid(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - EARLIER).into();
    params.not_after = (now + life).into();
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    name(&mut params, "Trainyard cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, AUTHORITY_LIFE);
    params
}

/// Writes a file that does not exist yet, whole or not at all; one that another has written meanwhile stays.
fn write_once(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let draft = path.with_extension(format!("{}.draft", std::process::id()));
    let written = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&draft)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    let linked = written.and_then(|()| match fs::hard_link(&draft, path) {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    let _left = fs::remove_file(&draft);
    linked
}

#[cfg(test)]
mod tests {
    use trainyard_access::KeyRequest;

    use super::super::PeerCertificate;
    use super::*;

    #[test]
    fn an_authority_stays_the_same_and_its_key_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let made = Authority::open(dir.path()).unwrap();
        let again = Authority::open(dir.path()).unwrap();
        assert_eq!((made.pin(), made.pem()), (again.pin(), again.pem()));
        let mode = fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // The certificate is lost: the key says the same.
        fs::remove_file(dir.path().join(CERTIFICATE_FILE)).unwrap();
        assert_eq!(Authority::open(dir.path()).unwrap().pin(), made.pin());
    }

    #[test]
    fn files_that_do_not_go_together_are_refused_by_name() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Authority::open(one.path()).unwrap();
        Authority::open(other.path()).unwrap();
        fs::copy(one.path().join(CERTIFICATE_FILE), other.path().join(CERTIFICATE_FILE)).unwrap();
        let error = Authority::open(other.path()).err().unwrap().to_string();
        assert!(error.contains("ca.pem") && error.contains("another key"), "{error}");
        let key = other.path().join(KEY_FILE);
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        let error = Authority::open(other.path()).err().unwrap().to_string();
        assert!(error.contains("mode 644") && error.contains("chmod 600"), "{error}");
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        fs::write(key, "x").unwrap();
        let error = Authority::open(other.path()).err().unwrap().to_string();
        assert!(error.contains("ca.key"), "{error}");
    }

    #[test]
    fn a_directory_or_key_that_somebody_else_could_change_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(dir.path()).unwrap();
        for mode in [0o770, 0o702, 0o1777] {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            let error = Authority::open(dir.path()).err().unwrap().to_string();
            let wanted = format!("run `chmod go-w {}`", dir.path().display());
            assert!(error.starts_with("tls_dir: ") && error.contains(&wanted), "{error}");
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Authority::open(dir.path()).unwrap();
        if !nix::unistd::Uid::effective().is_root() {
            println!("not tried: only root makes a key somebody else's");
            return;
        }
        let key = dir.path().join(KEY_FILE);
        std::os::unix::fs::chown(&key, Some(12345), None).unwrap();
        let error = Authority::open(dir.path()).err().unwrap().to_string();
        let wanted = format!("`{}` belongs to user 12345; run this as that user", key.display());
        assert!(
            error.contains(&wanted) && error.contains("`sudo -u '#12345' trainyard-scheduler"),
            "{error}"
        );
        assert!(!error.contains("chown"), "{error}");
    }

    #[test]
    fn an_agents_certificate_names_it_and_nothing_of_its_request_is_taken_but_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut wanted = CertificateParams::new(vec!["lab-head".to_owned()]).unwrap();
        let uri = format!("{AGENT_URI}{}", AgentId(uuid::Uuid::from_u128(666)));
        wanted.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        let request = wanted.serialize_request(&key).unwrap().pem().unwrap();
        let agent = AgentId(uuid::Uuid::from_u128(7));
        let signed = authority.agent_certificate(&request, agent).unwrap();
        let der = CertificateDer::from_pem_slice(signed.chain.as_bytes()).unwrap();
        assert_eq!(PeerCertificate::read(&der), Some(PeerCertificate { agent, key: signed.key }));
        assert!(webpki::EndEntityCert::try_from(&der).unwrap().valid_dns_names().next().is_none());
        assert!(matches!(authority.agent_certificate("x", agent), Err(RequestError::Request(_))));
        let other = authority.agent_certificate(&KeyRequest::make().unwrap().request_pem, agent).unwrap();
        assert_ne!(other.key, signed.key);
    }
}
