//! What the service manager is told of the scheduler: that it serves, and one line on how it is.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trainyard_service::ServiceManager;
use trainyard_types::JobState;

use crate::driver::{Census, Handle, Role};

/// How often jobs and agents are counted.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// How long the driver may take to count.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);

/// Tells it until `closing`. The scheduler is ready as soon as it is known what it is: one that waits for its Redis
/// answers that it does, and starting it again would change nothing.
pub async fn tell(
    service: ServiceManager,
    driver: Handle,
    mut role: watch::Receiver<Role>,
    closing: CancellationToken,
) {
    if !service.is_there() {
        return;
    }
    let tell = async {
        if role.changed().await.is_err() {
            return;
        }
        service.ready();
        loop {
            let now = role.borrow_and_update().clone();
            let census = match now {
                Role::Leading => timeout(COUNTED_WITHIN, driver.ask(|state| state.census())).await.ok(),
                Role::Standby(_) | Role::Unavailable(_) | Role::DiskFull(_) => None,
            };
            service.status(&line(&now, census.and_then(Result::ok).as_ref()));
            if let Ok(Err(_)) = timeout(COUNT_EVERY, role.changed()).await {
                return;
            }
        }
    };
    if closing.run_until_cancelled(tell).await.is_none() {
        service.status("shutting down");
    }
}

fn line(role: &Role, census: Option<&Census>) -> String {
    match (role, census) {
        (Role::Leading, Some(census)) => {
            let count = |state: JobState| census.jobs.get(&state).copied().unwrap_or_default();
            let running = count(JobState::Starting) + count(JobState::Running);
            let queued = count(JobState::Queued);
            let [connected, ..] = census.agents;
            format!("leading: jobs running: {running}, queued: {queued}; agents connected: {connected}")
        }
        (Role::Leading, None) => "leading".into(),
        (Role::Standby(leader), _) => format!("standing by: {leader} leads"),
        (Role::Unavailable(why) | Role::DiskFull(why), _) => format!("not ready: {why}"),
    }
}
