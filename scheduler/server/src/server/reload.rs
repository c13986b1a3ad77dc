//! What can change while the scheduler runs.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::config::Config;
use crate::driver::Limits;

/// The way to the limits of users and to the certificate of a running scheduler.
#[derive(Debug, Clone)]
pub struct Reload {
    pub(super) limits: watch::Sender<Limits>,
    /// Wakes the task that looks at the files of the certificate; `None` without encryption.
    pub(super) look_at_certificate: Option<Arc<Notify>>,
}

impl Reload {
    /// Sends out what `config` says anew, and has the files of certificates looked at.
    pub fn send(&self, config: &Config) {
        let limits = Limits::of(&config.core());
        self.limits.send_if_modified(|known| {
            let changed = *known != limits;
            *known = limits;
            changed
        });
        if let Some(look) = &self.look_at_certificate {
            look.notify_one();
        }
    }
}
