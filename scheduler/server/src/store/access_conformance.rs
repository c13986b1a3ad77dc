//! What every store must do about tokens, agents and the audit, run on both of them.

use trainyard_access::{Pin, Token};
use trainyard_types::{AgentId, Time};
use uuid::Uuid;

use super::AccessStore;
use super::conformance::{PrivateRedis, conformance};
use super::memory::MemoryStore;
use crate::access_records::{AccessRole, AuditRecord, EnrolledAgent, TokenRecord};

fn pin() -> Pin {
    "00112233445566778899aabbccddeeff".parse().unwrap()
}

fn token(user: &str, uses_left: u32) -> TokenRecord {
    let token = Token::make(pin()).unwrap();
    TokenRecord {
        id: token.id,
        user: user.into(),
        role: AccessRole::Agent,
        digest: token.secret.digest(),
        pin: pin(),
        parent: None,
        created: Time(1),
        expires: Some(Time(1 << 40)),
        uses_left,
        created_by: "root".into(),
    }
}

fn agent(id: u128) -> EnrolledAgent {
    EnrolledAgent {
        id: AgentId(Uuid::from_u128(id)),
        name: "lab".into(),
        keys: vec![pin()],
        pin: pin(),
        expires: Time(9),
    }
}

fn audit(at: u64) -> AuditRecord {
    AuditRecord {
        time: Time(at),
        caller: "ada".into(),
        role: Some(AccessRole::User),
        address: "::1".into(),
        action: "JobService/CancelJob".into(),
        target: String::new(),
        outcome: "OK".into(),
    }
}

async fn a_cluster_has_first_tokens_once(store: &dyn AccessStore) {
    let (first, later) = (token("", 3), token("ada", 0));
    assert_eq!(store.access_revision().await.unwrap(), 0);
    assert!(store.put_first_tokens(std::slice::from_ref(&first)).await.unwrap());
    assert!(!store.put_first_tokens(std::slice::from_ref(&later)).await.unwrap());
    assert_eq!(store.access().await.unwrap().tokens, std::slice::from_ref(&first));
    // Nor when all are revoked.
    store.remove_token(first.id).await.unwrap();
    assert!(!store.put_first_tokens(&[later]).await.unwrap());
    assert_eq!(store.access().await.unwrap().tokens, []);
}

async fn as_many_agents_join_as_a_token_has_uses(store: &dyn AccessStore) {
    // What users choose cannot pass for a count.
    let joining = TokenRecord { created_by: "\"uses_left\":9".into(), ..token("", 2) };
    store.put_token(&joining).await.unwrap();
    let before = store.access_revision().await.unwrap();
    assert!(store.enrol(joining.id, &agent(1)).await.unwrap());
    assert!(store.enrol(joining.id, &agent(2)).await.unwrap());
    assert!(!store.enrol(joining.id, &agent(3)).await.unwrap());
    assert!(!store.enrol(token("", 1).id, &agent(3)).await.unwrap());
    let mut records = store.access().await.unwrap();
    records.agents.sort_by_key(|agent| agent.id.0);
    assert_eq!(records.agents, [agent(1), agent(2)]);
    assert_eq!(records.tokens, [TokenRecord { uses_left: 0, ..joining }]);
    assert_eq!(records.revision, before + 2);
    store.remove_enrolled(agent(1).id).await.unwrap();
    let renewed = EnrolledAgent { expires: Time(99), ..agent(2) };
    store.put_enrolled(&renewed).await.unwrap();
    assert_eq!(store.access().await.unwrap().agents, [renewed]);
}

async fn the_audit_is_read_from_its_end_and_from_a_cursor(store: &dyn AccessStore) {
    store.append_audit(&[audit(1), audit(2), audit(3)]).await.unwrap();
    let newest = store.audit(None, 2).await.unwrap();
    assert_eq!(newest.iter().map(|(_, record)| record.time).collect::<Vec<_>>(), [Time(2), Time(3)]);
    let after = store.audit(Some(&newest[0].0), 9).await.unwrap();
    assert_eq!(after, newest[1..]);
    assert_eq!(store.audit(Some(&newest[1].0), 9).await.unwrap(), []);
}

conformance!(
    a_cluster_has_first_tokens_once,
    as_many_agents_join_as_a_token_has_uses,
    the_audit_is_read_from_its_end_and_from_a_cursor
);

#[tokio::test]
async fn a_token_that_cannot_be_read_gives_nobody_access() {
    let redis = PrivateRedis::start();
    let store = redis.store();
    let good = token("ada", 0);
    store.put_token(&good).await.unwrap();
    let _: u64 = redis.run(&["HSET", "{trainyard}:tokens", "0011223344556677", "{}"]).await;
    assert_eq!(store.access().await.unwrap().tokens, [good]);
}
