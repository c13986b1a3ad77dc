//! The sessions of agents that look at data sets, and who waits for which answer. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use trainyard_proto::convert::agent::DataChecked;
use trainyard_types::{AgentId, DataToCheck, Session};

/// Checks on their way to one agent. One that does not read them is not asked.
const BACKLOG: usize = 8;

/// A data set that an agent is to look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Names the check.
    pub id: u64,
    pub data: DataToCheck,
    /// How long the scheduler waits for the answer.
    pub time_limit: Duration,
}

/// Where the answer to a check comes. It ends without one when the session does.
#[derive(Debug)]
pub struct Reply {
    pub id: u64,
    pub answer: oneshot::Receiver<DataChecked>,
}

struct Waiting {
    agent: AgentId,
    session: Session,
    answer: oneshot::Sender<DataChecked>,
}

struct Open {
    session: Session,
    orders: mpsc::Sender<Order>,
    /// Whether an answer was waited for in vain, and none has come since: nobody waits for it again.
    is_silent: bool,
}

#[derive(Default)]
pub(super) struct Sessions {
    open: BTreeMap<AgentId, Open>,
    waiting: HashMap<u64, Waiting>,
    last_id: u64,
}

impl Sessions {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn open(&mut self, agent: AgentId, session: Session) -> mpsc::Receiver<Order> {
        let (sender, orders) = mpsc::channel(BACKLOG);
        let open = Open { session, orders: sender, is_silent: false };
        if let Some(older) = self.open.insert(agent, open) {
            self.drop_waiting(agent, older.session);
        }
        orders
    }

    /// An older session may end after a newer one has begun.
    pub(super) fn close(&mut self, agent: AgentId, session: Session) {
        if self.open.get(&agent).is_some_and(|open| open.session == session) {
            self.open.remove(&agent);
        }
        self.drop_waiting(agent, session);
    }

    fn drop_waiting(&mut self, agent: AgentId, session: Session) {
        self.waiting.retain(|_, waiting| (waiting.agent, waiting.session) != (agent, session));
    }

    /// Asks an agent; `None` where it has no session, or does not read.
    pub(super) fn ask(&mut self, agent: AgentId, data: &DataToCheck, time_limit: Duration) -> Option<Reply> {
        let Open { session, orders, .. } = self.open.get(&agent).filter(|open| !open.is_silent)?;
        let id = self.last_id + 1;
        orders.try_send(Order { id, data: data.clone(), time_limit }).ok()?;
        let (sender, answer) = oneshot::channel();
        self.waiting.insert(id, Waiting { agent, session: *session, answer: sender });
        self.last_id = id;
        Some(Reply { id, answer })
    }

    pub(super) fn answer(&mut self, agent: AgentId, session: Session, id: u64, answer: DataChecked) {
        if let Some(open) = self.open.get_mut(&agent).filter(|open| open.session == session) {
            open.is_silent = false;
        }
        let is_asked = |waiting: &Waiting| (waiting.agent, waiting.session) == (agent, session);
        if self.waiting.get(&id).is_some_and(is_asked)
            && let Some(waiting) = self.waiting.remove(&id)
        {
            // Nobody may wait any more.
            let _ = waiting.answer.send(answer);
        }
    }

    /// An answer has not come in time. The agent is asked again once it says anything.
    pub(super) fn give_up(&mut self, id: u64) {
        if let Some(waiting) = self.waiting.remove(&id)
            && let Some(open) =
                self.open.get_mut(&waiting.agent).filter(|open| open.session == waiting.session)
        {
            open.is_silent = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const AGENT: AgentId = AgentId(Uuid::from_u128(1));
    const LIMIT: Duration = Duration::from_secs(10);

    fn data() -> DataToCheck {
        DataToCheck { data: "/a".into(), single_cls: false, fraction: 1.0 }
    }

    fn answer() -> DataChecked {
        DataChecked::NotSeen("is not there".into())
    }

    #[test]
    fn an_answer_comes_from_whom_it_was_asked_and_once() {
        let mut sessions = Sessions::default();
        let mut orders = sessions.open(AGENT, Session(1));
        let Reply { id, answer: mut reply } = sessions.ask(AGENT, &data(), LIMIT).unwrap();
        assert_eq!(orders.try_recv().unwrap(), Order { id, data: data(), time_limit: LIMIT });
        for (agent, session, other) in
            [(AgentId(Uuid::from_u128(2)), 1, id), (AGENT, 2, id), (AGENT, 1, id + 1)]
        {
            sessions.answer(agent, Session(session), other, answer());
            assert!(reply.try_recv().is_err());
        }
        sessions.answer(AGENT, Session(1), id, answer());
        assert_eq!(reply.try_recv().unwrap(), answer());
        sessions.answer(AGENT, Session(1), id, answer());
        assert!(sessions.waiting.is_empty());
    }

    #[test]
    fn whoever_waits_for_a_session_that_ends_is_told_and_a_newer_session_stays() {
        let mut sessions = Sessions::default();
        let _orders = sessions.open(AGENT, Session(1));
        let mut reply = sessions.ask(AGENT, &data(), LIMIT).unwrap().answer;
        let mut orders = sessions.open(AGENT, Session(2));
        assert!(matches!(reply.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        let mut reply = sessions.ask(AGENT, &data(), LIMIT).unwrap().answer;
        sessions.close(AGENT, Session(1));
        assert!(matches!(reply.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        assert!(orders.try_recv().is_ok());
        sessions.close(AGENT, Session(2));
        assert!(matches!(reply.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert!(sessions.is_empty() && sessions.ask(AGENT, &data(), LIMIT).is_none());
    }

    #[test]
    fn an_agent_that_was_waited_for_in_vain_is_asked_again_once_it_answers() {
        let mut sessions = Sessions::default();
        let _orders = sessions.open(AGENT, Session(1));
        let id = sessions.ask(AGENT, &data(), LIMIT).unwrap().id;
        sessions.give_up(id);
        assert!(sessions.ask(AGENT, &data(), LIMIT).is_none());
        sessions.answer(AGENT, Session(1), id, answer());
        assert!(sessions.ask(AGENT, &data(), LIMIT).is_some());
    }

    #[test]
    fn an_agent_that_does_not_read_is_not_asked() {
        let mut sessions = Sessions::default();
        let _orders = sessions.open(AGENT, Session(1));
        let asked: Vec<Option<Reply>> =
            (0..2 * BACKLOG).map(|_| sessions.ask(AGENT, &data(), LIMIT)).collect();
        assert_eq!(asked.iter().flatten().count(), BACKLOG);
        assert_eq!(sessions.waiting.len(), BACKLOG);
    }
}
