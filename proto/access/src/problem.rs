//! Why an encrypted connection could not be had, found among the causes of an error.

use std::error::Error;
use std::io;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, OtherError};

use crate::verifier::{NobodyTrusted, OtherAuthority};

/// What was wrong with the other end of a connection, or with ours in its eyes. Each text is a sentence about "the
/// server"; what to do about it differs between programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionProblem {
    /// The server is not of the pinned authority.
    #[error(
        "the server is another cluster's, or somebody sits between: its authority has another key than the token names"
    )]
    OtherAuthority,
    /// There is neither pin nor file of authorities.
    #[error("nothing says which server to trust")]
    NobodyTrusted,
    /// The server speaks plaintext.
    #[error("the server does not speak TLS")]
    NotEncrypted,
    /// The server's certificate is over.
    #[error("the server's certificate ended at {not_after}, and this machine's clock says {now}")]
    Expired { not_after: String, now: String },
    /// The server's certificate has not begun.
    #[error("the server's certificate begins at {not_before}, and this machine's clock says {now}")]
    NotYetValid { not_before: String, now: String },
    /// The certificate is for other names.
    #[error("the server's certificate is not for the name `{name}`{}", listed(presented))]
    OtherName { name: String, presented: Vec<String> },
    /// No authority of the file has signed it.
    #[error("no authority of the given file has signed the server's certificate")]
    UnknownAuthority,
    /// The server does not take our certificate.
    #[error("the server does not take this machine's certificate: {0}")]
    Refused(&'static str),
    /// The connection was cut while it was made.
    #[error("the connection ended while encryption was agreed on: the server may not speak TLS")]
    Cut,
    /// Another failure of TLS.
    #[error("no encrypted connection: {0}")]
    Other(String),
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(", but for {}", names.join(", ")) }
}

fn shown(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| "an unknown time".into(), |time| time.to_string())
}

impl ConnectionProblem {
    /// What is said of TLS among the causes of `error`; `None` where that is not why it failed.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::of_tls(found));
            }
            if let Some(error) = error.downcast_ref::<io::Error>() {
                // What such an error wraps is not among its sources.
                let wrapped = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
                if let Some(found) = wrapped.and_then(Self::of) {
                    return Some(found);
                }
                if error.kind() == io::ErrorKind::UnexpectedEof && error.to_string().contains("handshake") {
                    return Some(Self::Cut);
                }
            }
            next = error.source();
        }
        None
    }

    /// Whether another try would come to the same.
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::Cut)
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::Other(OtherError(inner)) if inner.is::<OtherAuthority>() => Self::OtherAuthority,
            rustls::Error::Other(OtherError(inner)) if inner.is::<NobodyTrusted>() => Self::NobodyTrusted,
            rustls::Error::InvalidMessage(_) => Self::NotEncrypted,
            rustls::Error::InvalidCertificate(error) => Self::of_certificate(error),
            rustls::Error::AlertReceived(alert) => Self::of_alert(*alert, error),
            error => Self::Other(error.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::ExpiredContext { time, not_after } => {
                Self::Expired { not_after: shown(*not_after), now: shown(*time) }
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                Self::NotYetValid { not_before: shown(*not_before), now: shown(*time) }
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                Self::OtherName { name: expected.to_str().into_owned(), presented: presented.clone() }
            }
            // Two clusters' authorities have one name, and different keys.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
            error => Self::Other(error.to_string()),
        }
    }

    fn of_alert(alert: AlertDescription, error: &rustls::Error) -> Self {
        Self::Refused(match alert {
            AlertDescription::CertificateExpired => {
                "it has ended or not begun; one of the two clocks may be wrong"
            }
            AlertDescription::CertificateRevoked => "it was revoked",
            AlertDescription::UnknownCA | AlertDescription::DecryptError => "it is another cluster's",
            AlertDescription::CertificateRequired => "it asks for one, and none was sent",
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => "it is not one of an agent of its cluster",
            _ => return Self::Other(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tower_service::Service as _;

    use super::*;
    use crate::testing::{Door, TestAuthority};
    use crate::{SeenAuthority, Trust};

    /// A server that answers in plaintext, whatever it is told.
    async fn plaintext() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _gone = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
        });
        address
    }

    async fn connect(trust: Trust, address: SocketAddr) -> Result<(), ConnectionProblem> {
        let url = format!("https://{address}").parse().unwrap();
        let tried = trust.connector().unwrap().call(url).await;
        let problem = |error: Box<dyn Error + Send + Sync>| ConnectionProblem::of(&*error).unwrap();
        tried.map(|_stream| ()).map_err(problem)
    }

    #[tokio::test]
    async fn a_server_of_the_pinned_authority_is_trusted_whatever_its_name() {
        let authority = TestAuthority::default();
        let door = Door::open(authority.server(&["elsewhere"], -1, 1), plaintext().await).await;
        let seen = SeenAuthority::default();
        assert_eq!(seen.pem(), None);
        let trust = Trust::none().pin(authority.pin()).remember(&seen);
        assert_eq!(connect(trust, door.address).await, Ok(()));
        let lines = |pem: &str| pem.split_whitespace().collect::<String>();
        assert_eq!(lines(&seen.pem().unwrap()), lines(authority.pem()));
    }

    #[tokio::test]
    async fn each_reason_not_to_trust_a_server_is_told_apart() {
        let (authority, other) = (TestAuthority::default(), TestAuthority::default());
        let behind = plaintext().await;
        let door = async |from, to| Door::open(authority.server(&["lab"], from, to), behind).await.address;
        let pinned = || Trust::none().pin(authority.pin());
        let good = door(-1, 1).await;
        assert_eq!(
            connect(Trust::none().pin(other.pin()), good).await,
            Err(ConnectionProblem::OtherAuthority)
        );
        let forged = Door::open(other.forged(&authority, &["lab"]), behind).await.address;
        assert_eq!(connect(pinned(), forged).await, Err(ConnectionProblem::OtherAuthority));
        assert_eq!(connect(Trust::none(), good).await, Err(ConnectionProblem::NobodyTrusted));
        assert_eq!(connect(pinned(), behind).await, Err(ConnectionProblem::NotEncrypted));
        let over = connect(pinned(), door(-3, -1).await).await.unwrap_err();
        assert!(matches!(over, ConnectionProblem::Expired { .. }), "{over:?}");
        let early = connect(pinned(), door(1, 3).await).await.unwrap_err();
        assert!(matches!(early, ConnectionProblem::NotYetValid { .. }), "{early:?}");

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, authority.pem()).unwrap();
        let named = connect(Trust::none().authorities(&file).unwrap(), good).await.unwrap_err();
        assert!(named.to_string().contains("not for the name `127.0.0.1`"), "{named}");
        std::fs::write(&file, other.pem()).unwrap();
        let unknown = connect(Trust::none().authorities(&file).unwrap(), good).await;
        assert_eq!(unknown, Err(ConnectionProblem::UnknownAuthority));
    }
}
