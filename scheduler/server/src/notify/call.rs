//! One call of a webhook: signed, short, and to no address that is refused.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect;
use tokio::net::lookup_host;
use tracing::warn;

use super::address::{WAY_OUT, is_acceptable, is_local};
use super::message::message;
use super::signature::signature;
use crate::notice_records::{NoticeRecord, WebhookRecord};

/// Why a webhook did not take a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFailed {
    /// A sentence for a person, which says nothing of the URL.
    pub problem: String,
    /// Whether the webhook said that it is no more.
    pub is_gone: bool,
}

/// Makes calls.
#[derive(Clone)]
pub struct Messenger {
    /// Or why there is none: a machine without authorities, say, is no reason not to schedule.
    client: Result<reqwest::Client, Arc<str>>,
    /// Where people reach the scheduler's pages.
    site: Arc<str>,
    allows_local: bool,
}

impl Messenger {
    /// One whose calls end after `timeout`.
    pub fn new(site: &str, timeout: Duration, allows_local: bool) -> Self {
        trainyard_access::install_crypto();
        let client = reqwest::Client::builder()
            .user_agent(concat!("trainyard/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .timeout(timeout)
            .connect_timeout(timeout)
            // Calls are far apart, and a connection that was closed meanwhile would fail one.
            .pool_max_idle_per_host(0)
            .dns_resolver(Arc::new(Resolver { allows_local }))
            .build();
        let client = client.map_err(|error| {
            warn!(error = innermost(&error).to_string(), "no webhook can be called");
            innermost(&error).to_string().into()
        });
        Self { client, site: site.into(), allows_local }
    }

    /// Whether calls may go to the scheduler's own machine.
    pub fn allows_local(&self) -> bool {
        self.allows_local
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The webhook did not take it.
    pub async fn call(&self, webhook: &WebhookRecord, notice: &NoticeRecord) -> Result<(), CallFailed> {
        let failed = |problem: String| CallFailed { problem, is_gone: false };
        // A webhook may be older than the setting.
        let url = is_acceptable(&webhook.url, self.allows_local)
            .map_err(|problem| failed(format!("its URL {problem}")))?;
        let client = self.client.as_ref();
        let client = client.map_err(|cause| failed(format!("the scheduler can call nobody: {cause}")))?;
        let message = message(notice, webhook.kind, &self.site);
        let seconds = trainyard_types::Time::now().0 / 1000;
        let mut request = client.post(url).header("content-type", message.content_type);
        for (name, value) in message.headers {
            request = request.header(name, value);
        }
        let request = request
            .header("trainyard-id", notice.id())
            .header("trainyard-event", notice.event())
            .header("trainyard-signature", signature(&webhook.secret, seconds, &message.body))
            .body(message.body);
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => {
                let (status, is_gone) = (answer.status(), answer.status().as_u16() == 410);
                Err(CallFailed { problem: format!("it answered {status}"), is_gone })
            }
            Err(error) => Err(failed(said(&error))),
        }
    }
}

/// The innermost cause says most; the URL, which the outermost has, is the user's secret.
fn said(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    if error.source().is_none() {
        return "it cannot be called".to_owned();
    }
    format!("it cannot be reached: {}", innermost(error))
}

fn innermost(error: &reqwest::Error) -> &dyn Error {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

/// Leaves out the addresses that are refused, whatever name leads there.
struct Resolver {
    allows_local: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allows_local = self.allows_local;
        Box::pin(async move {
            let name = name.as_str();
            let found: Vec<SocketAddr> = lookup_host((name, 0)).await?.collect();
            let is_found = !found.is_empty();
            let allowed: Vec<SocketAddr> =
                found.into_iter().filter(|address| allows_local || !is_local(address.ip())).collect();
            if is_found && allowed.is_empty() {
                return Err(format!("its name leads to an address, {WAY_OUT}").into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}
