//! Tokens and enrolled agents in memory, as the store has them: a call needs no store, and a change on any scheduler
//! counts on each within a second.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use trainyard_access::{Pin, Token, TokenId};
use trainyard_types::{AgentId, Time};

use crate::access_records::{AccessRecords, EnrolledAgent, TokenRecord};
use crate::clock::Clock;
use crate::store::{AccessStore, StoreError};
use crate::tls::PeerCertificate;

/// How often the store is asked whether anything changed.
const POLL: Duration = Duration::from_millis(300);

/// Calls that may be under way by one token: a page that shows everything has a few, and a program that leaves its
/// streams open has no end of them.
const CALLS_AT_A_TIME: usize = 1024;

/// Why somebody is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// There is no such token, or its secret is another.
    Invalid,
    Expired,
    /// The agent was forgotten, or has joined again since.
    Revoked,
    /// Nothing was read of the store yet.
    NotReady,
}

/// Somebody who is known, and until when.
#[derive(Debug)]
pub struct Known<T> {
    pub record: T,
    /// Cancelled when it counts no more.
    pub revoked: CancellationToken,
    /// What each of its calls holds until it ends.
    pub calls: Arc<Semaphore>,
}

/// All tokens and agents.
pub struct Registry {
    store: Arc<dyn AccessStore>,
    /// Of the authority. What was made under another counts no more.
    pin: Pin,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// Of the store; `None` before it was first read.
    revision: Option<u64>,
    tokens: HashMap<TokenId, Arc<Known<TokenRecord>>>,
    agents: HashMap<AgentId, EnrolledAgent>,
    keys: HashMap<(AgentId, Pin), CancellationToken>,
}

impl Registry {
    pub fn new(store: Arc<dyn AccessStore>, pin: Pin) -> Self {
        Self { store, pin, state: RwLock::default() }
    }

    /// Follows the store and the clock until `closing`.
    pub async fn follow(self: Arc<Self>, clock: Clock, closing: CancellationToken) {
        let follow = async {
            let mut is_away = false;
            loop {
                match self.refresh().await {
                    Ok(()) if std::mem::take(&mut is_away) => info!("tokens can be read again"),
                    Ok(()) => {}
                    // Who is known stays known: a store that is away must not lock everybody out.
                    Err(error) if !is_away => {
                        warn!(%error, "tokens cannot be read now, will try again; who is known stays known");
                        is_away = true;
                    }
                    Err(error) => debug!(%error, "tokens cannot be read yet"),
                }
                self.end_expired(clock.now());
                sleep(POLL).await;
            }
        };
        closing.run_until_cancelled(follow).await;
    }

    /// Reads tokens and agents, if the store's revision is another.
    ///
    /// # Errors
    /// The store is away.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let known = self.read().revision;
        if known == Some(self.store.access_revision().await?) {
            return Ok(());
        }
        let records = self.store.access().await?;
        self.state.write().unwrap_or_else(PoisonError::into_inner).replace(counting(records, self.pin));
        Ok(())
    }

    /// Ends what is under way by tokens and certificates that have expired.
    fn end_expired(&self, now: Time) {
        let state = self.read();
        for known in state.tokens.values().filter(|known| known.record.is_over(now)) {
            known.revoked.cancel();
        }
        for agent in state.agents.values().filter(|agent| agent.expires <= now) {
            for key in &agent.keys {
                if let Some(over) = state.keys.get(&(agent.id, *key)) {
                    over.cancel();
                }
            }
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a token of this id, as far as is known.
    pub fn has_token(&self, id: TokenId) -> bool {
        self.read().tokens.contains_key(&id)
    }

    /// The record of whoever has this token.
    ///
    /// # Errors
    /// Nobody has it, or it counts no more.
    pub fn token(&self, token: &Token, now: Time) -> Result<Arc<Known<TokenRecord>>, Denied> {
        let state = self.read();
        if state.revision.is_none() {
            return Err(Denied::NotReady);
        }
        let known = state.tokens.get(&token.id).filter(|known| known.record.pin == token.pin);
        let known = known.ok_or(Denied::Invalid)?;
        if !known.record.digest.is_of(&token.secret) {
            return Err(Denied::Invalid);
        }
        if known.record.is_over(now) { Err(Denied::Expired) } else { Ok(Arc::clone(known)) }
    }

    /// Whether an agent's certificate counts, and until when.
    ///
    /// # Errors
    /// It was revoked.
    pub fn agent(&self, certificate: &PeerCertificate) -> Result<CancellationToken, Denied> {
        let state = self.read();
        if state.revision.is_none() {
            return Err(Denied::NotReady);
        }
        state.keys.get(&(certificate.agent, certificate.key)).cloned().ok_or(Denied::Revoked)
    }

    /// Tokens that were made with one, or with one of those.
    pub fn made_with(&self, id: TokenId) -> Vec<TokenId> {
        let state = self.read();
        let parent = |of: TokenId| state.tokens.get(&of).and_then(|known| known.record.parent);
        let comes_from =
            |of: &TokenId| std::iter::successors(parent(*of), |up| parent(*up)).any(|up| up == id);
        state.tokens.keys().copied().filter(comes_from).collect()
    }

    /// All tokens.
    pub fn tokens(&self) -> Vec<TokenRecord> {
        self.read().tokens.values().map(|known| known.record.clone()).collect()
    }

    /// The only agent of this name that has joined.
    pub fn enrolled_as(&self, name: &str) -> Option<AgentId> {
        let state = self.read();
        let is_meant = |agent: &&EnrolledAgent| agent.name == name || agent.id.to_string().starts_with(name);
        let mut found = state.agents.values().filter(is_meant);
        found.next().filter(|_| found.next().is_none()).map(|agent| agent.id)
    }

    /// An agent that has joined.
    pub fn enrolled(&self, agent: AgentId) -> Option<EnrolledAgent> {
        self.read().agents.get(&agent).cloned()
    }
}

/// Tokens have parents so many levels up at most.
const GENERATIONS: usize = 16;

/// Whether a token and all that it comes from are there.
fn is_rooted(token: &TokenRecord, all: &HashMap<TokenId, Option<TokenId>>) -> bool {
    let mut parent = token.parent;
    for _ in 0..GENERATIONS {
        match parent {
            None => return true,
            Some(id) => match all.get(&id) {
                Some(further) => parent = *further,
                None => return false,
            },
        }
    }
    false
}

/// Of what is stored, that which counts: made under this authority, with every token that it comes from.
fn counting(mut records: AccessRecords, pin: Pin) -> AccessRecords {
    records.tokens.retain(|token| token.pin == pin);
    records.agents.retain(|agent| agent.pin == pin);
    let all: HashMap<_, _> = records.tokens.iter().map(|token| (token.id, token.parent)).collect();
    records.tokens.retain(|token| is_rooted(token, &all));
    records
}

impl State {
    fn replace(&mut self, records: AccessRecords) {
        let AccessRecords { revision, tokens, agents } = records;
        self.revision = Some(revision);
        let mut before = std::mem::take(&mut self.tokens);
        for record in tokens {
            let kept = before.remove(&record.id);
            // Whatever else changed of it, what it may do is another thing now.
            let same = kept.as_ref().is_some_and(|known| {
                (&known.record.digest, &known.record.user, known.record.role)
                    == (&record.digest, &record.user, record.role)
            });
            let (revoked, calls) = match kept {
                Some(known) if same => (known.revoked.clone(), known.calls.clone()),
                before => {
                    if let Some(known) = before {
                        known.revoked.cancel();
                    }
                    (CancellationToken::new(), Arc::new(Semaphore::new(CALLS_AT_A_TIME)))
                }
            };
            self.tokens.insert(record.id, Arc::new(Known { record, revoked, calls }));
        }
        for gone in before.into_values() {
            gone.revoked.cancel();
        }
        let mut before = std::mem::take(&mut self.keys);
        for agent in &agents {
            for key in &agent.keys {
                let named = (agent.id, *key);
                let revoked = before.remove(&named).unwrap_or_default();
                self.keys.insert(named, revoked);
            }
        }
        for gone in before.into_values() {
            gone.cancel();
        }
        self.agents = agents.into_iter().map(|agent| (agent.id, agent)).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_records::AccessRole;
    use crate::store::memory::MemoryStore;

    fn pin() -> Pin {
        "00112233445566778899aabbccddeeff".parse().unwrap()
    }

    fn token(user: &str, expires: Option<Time>) -> (Token, TokenRecord) {
        let pin = pin();
        let token = Token::make(pin).unwrap();
        let (id, digest) = (token.id, token.secret.digest());
        let (user, created_by) = (user.to_owned(), "root".to_owned());
        let (role, created) = (AccessRole::User, Time(0));
        let record = TokenRecord {
            id,
            user,
            role,
            digest,
            pin,
            parent: None,
            created,
            expires,
            uses_left: 0,
            created_by,
        };
        (token, record)
    }

    #[tokio::test]
    async fn a_token_counts_until_it_expires_or_is_revoked_and_open_streams_are_told() {
        let store = Arc::new(MemoryStore::default());
        let registry = Registry::new(store.clone(), pin());
        let (ada, record) = token("ada", Some(Time(10)));
        assert_eq!(registry.token(&ada, Time(1)).err(), Some(Denied::NotReady));
        store.put_token(&record).await.unwrap();
        registry.refresh().await.unwrap();
        let known = registry.token(&ada, Time(9)).unwrap();
        assert_eq!(known.record, record);
        assert_eq!(registry.token(&ada, Time(10)).err(), Some(Denied::Expired));
        let (stranger, other) = token("bob", None);
        assert_eq!(registry.token(&stranger, Time(1)).err(), Some(Denied::Invalid));
        let forged = Token { secret: stranger.secret.clone(), ..ada.clone() };
        assert_eq!(registry.token(&forged, Time(1)).err(), Some(Denied::Invalid));
        registry.end_expired(Time(9));
        assert!(!known.revoked.is_cancelled());
        // What another scheduler changes leaves it alone.
        store.put_token(&other).await.unwrap();
        registry.refresh().await.unwrap();
        assert!(!known.revoked.is_cancelled());
        store.remove_token(ada.id).await.unwrap();
        registry.refresh().await.unwrap();
        assert!(known.revoked.is_cancelled());
        assert_eq!(registry.token(&ada, Time(1)).err(), Some(Denied::Invalid));
    }

    #[tokio::test]
    async fn what_is_under_way_ends_when_a_token_or_certificate_expires() {
        let store = Arc::new(MemoryStore::default());
        let registry = Registry::new(store.clone(), pin());
        let (ada, record) = token("ada", Some(Time(10)));
        let key = pin();
        let id = AgentId(uuid::Uuid::from_u128(7));
        let agent = EnrolledAgent { id, name: "lab".into(), keys: vec![key], pin: key, expires: Time(20) };
        store.put_token(&record).await.unwrap();
        store.put_enrolled(&agent).await.unwrap();
        registry.refresh().await.unwrap();
        let person = registry.token(&ada, Time(9)).unwrap().revoked.clone();
        let machine = registry.agent(&PeerCertificate { agent: id, key }).unwrap();
        for (now, over) in [(9, [false, false]), (10, [true, false]), (20, [true, true])] {
            registry.end_expired(Time(now));
            assert_eq!([person.is_cancelled(), machine.is_cancelled()], over, "{now}");
        }
    }

    #[tokio::test]
    async fn a_token_counts_as_long_as_those_that_it_comes_from_and_under_its_authority_alone() {
        let store = Arc::new(MemoryStore::default());
        let registry = Registry::new(store.clone(), pin());
        let ((first, root), (second, child), (third, grandchild)) =
            (token("ada", None), token("ada", None), token("ada", None));
        let child = TokenRecord { parent: Some(root.id), ..child };
        let grandchild = TokenRecord { parent: Some(child.id), ..grandchild };
        for record in [&root, &child, &grandchild] {
            store.put_token(record).await.unwrap();
        }
        registry.refresh().await.unwrap();
        let youngest = registry.token(&third, Time(1)).unwrap();
        store.remove_token(first.id).await.unwrap();
        registry.refresh().await.unwrap();
        assert!(youngest.revoked.is_cancelled());
        assert_eq!(registry.token(&second, Time(1)).err(), Some(Denied::Invalid));
        // Another authority took the place of the first.
        let (old, record) = token("bob", None);
        store.put_token(&record).await.unwrap();
        let new = "ffeeddccbbaa99887766554433221100".parse().unwrap();
        let registry = Registry::new(store.clone(), new);
        registry.refresh().await.unwrap();
        assert_eq!(registry.token(&Token { pin: new, ..old }, Time(1)).err(), Some(Denied::Invalid));
    }

    #[tokio::test]
    async fn an_agent_counts_by_its_newest_keys_and_no_other() {
        let store = Arc::new(MemoryStore::default());
        let registry = Registry::new(store.clone(), pin());
        let keys: [Pin; 3] = ["00", "11", "22"].map(|byte| byte.repeat(16).parse().unwrap());
        let id = AgentId(uuid::Uuid::from_u128(7));
        let enrolled = |keys: &[Pin]| EnrolledAgent {
            id,
            name: "lab".into(),
            keys: keys.to_vec(),
            pin: pin(),
            expires: Time(9),
        };
        let shown = |key: Pin| PeerCertificate { agent: id, key };
        store.put_enrolled(&enrolled(&keys[..2])).await.unwrap();
        registry.refresh().await.unwrap();
        let (first, second) =
            (registry.agent(&shown(keys[0])).unwrap(), registry.agent(&shown(keys[1])).unwrap());
        assert_eq!(registry.agent(&shown(keys[2])).err(), Some(Denied::Revoked));
        store.put_enrolled(&enrolled(&keys[1..])).await.unwrap();
        registry.refresh().await.unwrap();
        assert!(first.is_cancelled() && !second.is_cancelled());
        store.remove_enrolled(id).await.unwrap();
        registry.refresh().await.unwrap();
        assert!(second.is_cancelled());
        let other = PeerCertificate { agent: AgentId(uuid::Uuid::from_u128(8)), key: keys[1] };
        assert_eq!(registry.agent(&other).err(), Some(Denied::Revoked));
    }
}
