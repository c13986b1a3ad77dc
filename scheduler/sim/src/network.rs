//! Connections between agents and the scheduler: they delay, and they break.

use std::time::Duration;

use trainyard_scheduler_core::{AgentStatus, Event, Hello};
use trainyard_types::{Report, Session, Time};

use crate::oracle::Violation;
use crate::world::{HEARTBEAT, SimEvent, World};

/// One dialled connection. Both ways deliver in order.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) machine: usize,
    /// Whom it was dialled to.
    pub(crate) leader_epoch: u64,
    /// Whether anything arrives, each way.
    pub(crate) to_scheduler: bool,
    pub(crate) to_agent: bool,
    pub(crate) session: Option<Session>,
    pub(crate) last_at_scheduler: Time,
    pub(crate) last_at_agent: Time,
}

impl Connection {
    pub(crate) fn is_open(&self) -> bool {
        self.to_scheduler && self.to_agent
    }
}

/// What agents say.
#[derive(Debug)]
pub(crate) enum AgentMessage {
    Hello(Hello),
    Heartbeat(AgentStatus),
    Report(Report),
}

impl World {
    /// From now on nothing arrives by it; the ends notice within `notice` each.
    pub(crate) fn cut(&mut self, id: u64, notice: Duration) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        (connection.to_scheduler, connection.to_agent) = (false, false);
        self.notice(id, notice);
    }

    /// From now on one of the ends hears nothing by it, and the other one does; the ends notice late.
    pub(crate) fn cut_one_way(&mut self, id: u64, notice: Duration) {
        let deaf_agent = self.rng.once_in(2);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if deaf_agent {
            connection.to_agent = false;
        } else {
            connection.to_scheduler = false;
        }
        self.notice(id, notice);
    }

    fn notice(&mut self, id: u64, notice: Duration) {
        let Some(connection) = self.connections.get(&id) else { return };
        let number = connection.machine;
        let most = u64::try_from(notice.as_millis()).unwrap_or(u64::MAX);
        self.event_queue.after(self.rng.millis(0, most), SimEvent::SchedulerNotices(id));
        self.event_queue.after(self.rng.millis(0, most), SimEvent::AgentNotices(number, id));
    }

    pub(crate) fn on_scheduler_notices(&mut self, id: u64) -> Result<(), Violation> {
        let Some(connection) = self.connections.remove(&id) else { return Ok(()) };
        let agent = self.machines[connection.machine].id();
        if let Some(session) = connection.session
            && self.sessions.get(&(connection.leader_epoch, session)) == Some(&id)
        {
            self.sessions.remove(&(connection.leader_epoch, session));
            self.handle_by(connection.leader_epoch, Event::AgentDisconnected { agent, session })?;
        }
        Ok(())
    }

    pub(crate) fn dial_soon(&mut self, number: usize) {
        let life = self.machines[number].life;
        self.event_queue.after(self.rng.millis(100, 10_000), SimEvent::Dial(number, life));
    }

    pub(crate) fn on_dial(&mut self, number: usize, life: u32) {
        let machine = &self.machines[number];
        if machine.life != life || !machine.up || machine.connection.is_some() {
            return;
        }
        if self.core.is_none() {
            return self.dial_soon(number);
        }
        self.dialled += 1;
        let id = self.dialled;
        let now = self.event_queue.now();
        let connection = Connection {
            machine: number,
            leader_epoch: self.leader_epoch,
            to_scheduler: true,
            to_agent: true,
            session: None,
            last_at_scheduler: now,
            last_at_agent: now,
        };
        self.connections.insert(id, connection);
        self.machines[number].connection = Some(id);
        let hello = self.machines[number].hello();
        self.send_from_agent(id, AgentMessage::Hello(hello));
        for report in self.machines[number].unacknowledged() {
            self.send_from_agent(id, AgentMessage::Report(report));
        }
        self.event_queue.after(HEARTBEAT, SimEvent::Heartbeat(number, id));
    }

    /// An agent speaks.
    pub(crate) fn send_from_agent(&mut self, id: u64, message: AgentMessage) {
        // An agent's queue is bounded: a report that finds it full waits in the spool for the next time.
        if self.faults && matches!(message, AgentMessage::Report(_)) && self.rng.once_in(30) {
            return;
        }
        let arrival = self.event_queue.now() + self.rng.millis(1, 300);
        if let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.to_scheduler) {
            connection.last_at_scheduler = connection.last_at_scheduler.max(arrival);
            self.event_queue.at(connection.last_at_scheduler, SimEvent::AtScheduler(id, message));
        }
    }

    pub(crate) fn on_agent_message(&mut self, id: u64, message: AgentMessage) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.to_scheduler)
        else {
            return Ok(());
        };
        let agent = self.machines[connection.machine].id();
        let leader_epoch = connection.leader_epoch;
        let event = match (message, connection.session) {
            (AgentMessage::Hello(hello), _) => {
                let session = Session(self.next_session);
                self.next_session += 1;
                connection.session = Some(session);
                self.sessions.insert((leader_epoch, session), id);
                self.closed_slots.on_status(leader_epoch, agent, session, &hello.status, true);
                Event::AgentConnected { session, hello }
            }
            (AgentMessage::Heartbeat(status), Some(session)) => {
                self.closed_slots.on_status(leader_epoch, agent, session, &status, false);
                Event::Heartbeat { agent, session, status }
            }
            (AgentMessage::Report(report), Some(session)) => Event::Report { agent, session, report },
            (AgentMessage::Heartbeat(_) | AgentMessage::Report(_), None) => return Ok(()),
        };
        self.handle_by(leader_epoch, event).map(|_| ())
    }
}
