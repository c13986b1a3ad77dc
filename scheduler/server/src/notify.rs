//! People are told of their jobs: while this scheduler leads, each webhook has a task that sends what is to be sent, in
//! order, until it is taken.

mod address;
mod call;
mod message;
mod outbox;
mod signature;
mod waits;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::clock::Clock;
use crate::driver::{Handle, Role};
use crate::store::{NoticeStore, StoreError};

pub use address::{guessed_kind, is_acceptable, shortened};
pub use call::Messenger;
use outbox::Outbox;

/// How often webhooks and the newest notice are read.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is looked which jobs wait for too long.
const WAITS_EVERY: Duration = Duration::from_secs(20);

/// The store, messenger, clock and patience of telling people.
#[derive(Clone)]
pub struct Notifier {
    pub store: Arc<dyn NoticeStore>,
    pub messenger: Messenger,
    pub clock: Clock,
    /// How long a webhook may fail before it is called no more.
    pub give_up: Duration,
}

impl Notifier {
    /// Tells people while this scheduler leads, until `closing`.
    pub async fn run(self, driver: Handle, mut role: watch::Receiver<Role>, closing: CancellationToken) {
        let run = async {
            loop {
                if role.wait_for(Role::leads).await.is_err() {
                    return;
                }
                tokio::select! {
                    () = self.lead(&driver) => {}
                    lost = role.wait_for(|role| !role.leads()) => {
                        if lost.is_err() {
                            return;
                        }
                    }
                }
            }
        };
        closing.run_until_cancelled(run).await;
    }

    /// Keeps a task for each webhook. Dropped, it ends them all.
    async fn lead(&self, driver: &Handle) {
        let newest = watch::Sender::new(String::new());
        let mut tasks: HashMap<Uuid, OutboxTask> = HashMap::new();
        let (mut is_away, mut until_waits) = (false, Duration::ZERO);
        loop {
            match self.look(&newest, &mut tasks).await {
                Ok(()) => is_away = false,
                Err(error) if !is_away => {
                    warn!(%error, "webhooks cannot be read now, will try again");
                    is_away = true;
                }
                Err(error) => debug!(%error, "webhooks cannot be read yet"),
            }
            if until_waits.is_zero() {
                if let Err(error) = waits::look(&*self.store, driver).await {
                    debug!(%error, "cannot tell yet which jobs wait for too long");
                }
                until_waits = WAITS_EVERY;
            }
            sleep(LOOK_EVERY).await;
            until_waits = until_waits.saturating_sub(LOOK_EVERY);
        }
    }

    async fn look(
        &self,
        newest: &watch::Sender<String>,
        tasks: &mut HashMap<Uuid, OutboxTask>,
    ) -> Result<(), StoreError> {
        let webhooks = self.store.webhooks().await?;
        tasks.retain(|id, _| webhooks.iter().any(|(webhook, _)| webhook.id == *id));
        if webhooks.is_empty() {
            return Ok(());
        }
        let tip = self.store.newest_notice().await?;
        newest.send_if_modified(|known| std::mem::replace(known, tip.clone()) != tip);
        for (webhook, state) in webhooks {
            let is_running = tasks.get(&webhook.id).is_some_and(|task| !task.0.is_finished());
            if is_running || state.given_up.is_some() {
                continue;
            }
            let (id, newest) = (webhook.id, newest.subscribe());
            let outbox = Outbox { notifier: self.clone(), webhook, state, newest };
            tasks.insert(id, OutboxTask(tokio::spawn(outbox.send())));
        }
        Ok(())
    }
}

/// The task of a webhook, which ends with this.
struct OutboxTask(JoinHandle<()>);

impl Drop for OutboxTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
