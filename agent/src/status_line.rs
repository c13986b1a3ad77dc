//! One line on how the agent is, for the service manager.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trainyard_service::ServiceManager;
use trainyard_types::AttemptId;

use crate::agent_status::AgentStatus;
use crate::connection::Connection;
use crate::message::{Readings, SchedulerLink};

/// What the line is made of.
pub struct StatusLine {
    /// The service manager, which shows the line in `systemctl status`.
    pub service: ServiceManager,
    /// The machine's GPUs and CPU slots.
    pub readings: watch::Receiver<Readings>,
    /// The attempts that the agent has.
    pub held: watch::Receiver<Vec<AttemptId>>,
    /// What it says of itself.
    pub status: watch::Receiver<AgentStatus>,
    /// The scheduler, when it is there.
    pub link: watch::Receiver<Option<SchedulerLink>>,
    /// Why there is no scheduler, a sentence.
    pub problem: watch::Receiver<String>,
}

impl StatusLine {
    /// The line of an agent with this connection.
    pub fn beside(connection: &Connection, service: ServiceManager) -> Self {
        Self {
            service,
            readings: connection.readings.clone(),
            held: connection.held.clone(),
            status: connection.status.clone(),
            link: connection.link.subscribe(),
            problem: connection.problem.subscribe(),
        }
    }

    /// Tells it, and each change, until `end`.
    pub async fn run(mut self, end: CancellationToken) {
        if !self.service.is_there() {
            return;
        }
        loop {
            self.service.status(&self.line());
            tokio::select! {
                () = end.cancelled() => return,
                Ok(()) = self.readings.changed() => {}
                Ok(()) = self.held.changed() => {}
                Ok(()) = self.status.changed() => {}
                Ok(()) = self.link.changed() => {}
                Ok(()) = self.problem.changed() => {}
                else => return,
            }
        }
    }

    fn line(&self) -> String {
        let inventory = &self.readings.borrow().inventory;
        let (gpus, slots, jobs) = (inventory.gpus.len(), inventory.cpu_slots, self.held.borrow().len());
        let has = format!("GPUs: {gpus}, CPU slots: {slots}, jobs: {jobs}");
        let scheduler = match (&*self.link.borrow(), self.problem.borrow().as_str()) {
            (Some(_), _) => "connected".to_owned(),
            (None, "") => "connecting".to_owned(),
            (None, problem) => format!("not connected: {problem}"),
        };
        let status = self.status.borrow();
        let notices: String = status.fitness.notices.iter().map(|notice| format!("; {notice}")).collect();
        match status.unavailable().as_str() {
            "" => format!("{has}; {scheduler}{notices}"),
            reason => format!("{has}; takes no jobs: {reason}; {scheduler}{notices}"),
        }
    }
}
