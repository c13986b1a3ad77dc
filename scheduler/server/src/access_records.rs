//! What is stored of who may use the cluster.

use serde::{Deserialize, Serialize};
use trainyard_access::{Digest, Pin, TokenId};
use trainyard_types::{AgentId, Time};

/// What a caller may do; each may do what those before it may, but for agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessRole {
    /// Reads jobs, agents and artifacts.
    Viewer,
    /// Submits, and changes what is its own.
    User,
    /// May call every method that people may.
    Admin,
    /// An agent, or a token that agents join with.
    Agent,
}

impl AccessRole {
    /// The role's name, as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::User => "user",
            Self::Admin => "admin",
            Self::Agent => "agent",
        }
    }
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    #[serde(with = "crate::stored_text")]
    pub id: TokenId,
    /// Whose it is; empty for one that agents join with.
    pub user: String,
    pub role: AccessRole,
    #[serde(with = "crate::stored_text")]
    pub digest: Digest,
    /// Of the authority that it was made under; under another it counts no more.
    #[serde(with = "crate::stored_text")]
    pub pin: Pin,
    /// The token that its user made it with, if that was no admin's; it counts as long as that one does.
    #[serde(default, with = "as_text_if_any", skip_serializing_if = "Option::is_none")]
    pub parent: Option<TokenId>,
    pub created: Time,
    pub expires: Option<Time>,
    /// Agents that may still join with it.
    #[serde(default)]
    pub uses_left: u32,
    /// The user who made the token.
    pub created_by: String,
}

impl TokenRecord {
    /// What the audit calls it by.
    pub fn described(&self) -> String {
        match self.role {
            AccessRole::Agent => format!("token {} that machines join with", self.id),
            role => format!("token {} of {} ({})", self.id, self.user, role.name()),
        }
    }

    /// Whether it counts no more at `now`.
    pub fn is_over(&self, now: Time) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// An agent that has joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolledAgent {
    pub id: AgentId,
    pub name: String,
    /// The pins of the keys that its certificates are for: the newest, and the one before until that expires.
    #[serde(with = "as_texts")]
    pub keys: Vec<Pin>,
    /// Of the authority that has signed them.
    #[serde(with = "crate::stored_text")]
    pub pin: Pin,
    /// When the newest certificate expires.
    pub expires: Time,
}

/// Somebody did something, or tried to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    pub time: Time,
    /// The user, or the agent's id; empty for one who is not known.
    pub caller: String,
    pub role: Option<AccessRole>,
    pub address: String,
    /// The method without its package.
    pub action: String,
    /// What it was done to, if it was done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// `OK`, or the code of the refusal.
    pub outcome: String,
}

/// All of it but the audit, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessRecords {
    /// Number of changes of tokens and agents so far.
    pub revision: u64,
    pub tokens: Vec<TokenRecord>,
    pub agents: Vec<EnrolledAgent>,
}

/// Values that are stored as they print, where there may be none.
mod as_text_if_any {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(T::to_string).serialize(serializer)
    }

    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// The same for lists.
mod as_texts {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<T: Display, S: Serializer>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(T::to_string))
    }

    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<T>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_stored_without_its_secret() {
        let pin: Pin = "00112233445566778899aabbccddeeff".parse().unwrap();
        let token = trainyard_access::Token::make(pin).unwrap();
        let record = TokenRecord {
            id: token.id,
            user: "ada".into(),
            role: AccessRole::User,
            digest: token.secret.digest(),
            pin,
            parent: Some(token.id),
            created: Time(1),
            expires: None,
            uses_left: 0,
            created_by: "root".into(),
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<TokenRecord>(&text).unwrap(), record);
        assert!(!text.contains(token.reveal().rsplit('.').next().unwrap()));
    }
}
