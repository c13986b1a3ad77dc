//! What a scheduler has that asks people who they are: its authority, its certificate, its tokens, its audit.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error};
use trainyard_console as console;
use trainyard_service::ServiceManager;

use crate::access::{Admission, Audit, Gate, Registry, first_login};
use crate::clock::Clock;
use crate::config::{self, Config, Visibility};
use crate::grpc::{self, AccessParts};
use crate::store::AccessStore;
use crate::tls::{Authority, CertificateFiles, ServerCertificate, TlsError, acceptor};

/// How soon the store is asked again for the first tokens.
const FIRST_TOKENS_DELAY: Duration = Duration::from_millis(300);

/// The parts of a scheduler that asks who calls; those of one that does not are missing.
pub struct Security {
    pub acceptor: Option<TlsAcceptor>,
    pub parts: Option<AccessParts>,
    pub admission: Admission,
    /// Makes it look at the files of its certificate at once.
    pub look_at_certificate: Option<Arc<Notify>>,
}

impl Security {
    /// What the configuration wants for a scheduler that listens there.
    ///
    /// # Errors
    /// The directory or files of encryption cannot be used.
    pub fn of(
        config: &Config,
        listening: SocketAddr,
        store: Arc<dyn AccessStore>,
        service: &ServiceManager,
        context: &grpc::Context,
    ) -> Result<Self, TlsError> {
        if config.is_secure(listening) {
            return Self::start(config, listening, store, service, context);
        }
        let admission = if listening.ip().is_loopback() {
            Admission::ThisMachine(config::hostname().unwrap_or_default().into())
        } else {
            Admission::Anybody
        };
        Ok(Self { acceptor: None, parts: None, admission, look_at_certificate: None })
    }

    /// Opens the authority, or makes it, and starts what follows the store.
    ///
    /// # Errors
    /// The directory or files of encryption cannot be used.
    fn start(
        config: &Config,
        listening: SocketAddr,
        store: Arc<dyn AccessStore>,
        service: &ServiceManager,
        context: &grpc::Context,
    ) -> Result<Self, TlsError> {
        let (closing, tasks) = (&context.closing, &context.tasks);
        let authority = Arc::new(Authority::open(&config.tls_dir())?);
        let files = config.tls_cert.clone().zip(config.tls_key.clone());
        let files = files.map(|(certificate, key)| CertificateFiles { certificate, key });
        let names = config.certified_names(listening);
        let certificate = Arc::new(ServerCertificate::new(files, authority.clone(), names)?);
        let acceptor = acceptor(&authority, certificate.clone())?;
        let clock = Clock::start();
        let registry = Arc::new(Registry::new(store.clone(), authority.pin()));
        let (audit, writing) = Audit::new(store.clone(), config.data_dir.join("audit.jsonl"), clock);
        let sees_all = config.visibility == Visibility::All;
        let admission = Admission::Gate(Gate::new(registry.clone(), audit, clock, sees_all));
        let look = certificate.look();
        tasks.spawn(certificate.keep_new(service.clone(), closing.clone()));
        tasks.spawn(registry.clone().follow(clock, closing.clone()));
        tasks.spawn(writing);
        let login = FirstLogin {
            store: store.clone(),
            registry: registry.clone(),
            authority: authority.clone(),
            address: config.advertised(listening).trim_start_matches("https://").to_owned(),
            file: config.data_dir.join("first-login.txt"),
            clock,
        };
        tasks.spawn(closing.clone().run_until_cancelled_owned(login.run()));
        let parts = AccessParts { authority, registry, store, clock };
        Ok(Self { acceptor: Some(acceptor), parts: Some(parts), admission, look_at_certificate: Some(look) })
    }
}

/// Makes the first tokens as soon as there is a store.
struct FirstLogin {
    store: Arc<dyn AccessStore>,
    registry: Arc<Registry>,
    authority: Arc<Authority>,
    address: String,
    file: PathBuf,
    clock: Clock,
}

impl FirstLogin {
    async fn run(self) {
        loop {
            let pin = self.authority.pin();
            let now = self.clock.now();
            let made = first_login(&*self.store, &self.registry, pin, &self.address, &self.file, now).await;
            match made {
                // A log keeps what it is told, so that secrets go to a terminal alone.
                Ok(Some(text)) if std::io::stdout().is_terminal() => {
                    let _nobody_reads = console::print(&text);
                    return;
                }
                Ok(_) => return,
                Err(crate::access::BootstrapError::Store(cause)) => debug!(%cause, "no first tokens yet"),
                Err(cause) => {
                    error!(%cause, "no first tokens can be made");
                    return;
                }
            }
            sleep(FIRST_TOKENS_DELAY).await;
        }
    }
}
