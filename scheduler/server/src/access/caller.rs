//! Who calls, as far as a service may know.

use tonic::Request;
use trainyard_access::TokenId;
use trainyard_types::{AgentId, Time};

use crate::access_records::AccessRole;

/// Somebody who calls; among the extensions of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The scheduler asks nobody who they are.
    Anybody,
    /// Somebody without a token or certificate.
    Unknown,
    /// Somebody with a token.
    Person {
        /// In whose name; an admin may act in another's.
        user: String,
        role: AccessRole,
        token: TokenId,
        expires: Option<Time>,
        /// Whether jobs of other users are shown.
        sees_all: bool,
    },
    /// Somebody with a token that agents join with.
    Joining(TokenId),
    /// An agent with a certificate.
    Agent(AgentId),
}

/// What was to be changed belongs to somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotOwner {
    pub caller: String,
    /// One of those whose it is; empty where it has no owner.
    pub owner: String,
}

impl Caller {
    /// The caller of a request.
    pub fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or(Self::Unknown)
    }

    /// What the audit calls it by.
    pub fn name(&self) -> String {
        match self {
            Self::Anybody | Self::Unknown => String::new(),
            Self::Person { user, .. } => user.clone(),
            Self::Joining(token) => format!("token {token}"),
            Self::Agent(agent) => agent.to_string(),
        }
    }

    /// What it may do in general; `None` where nobody is asked, or it is not known.
    pub const fn role(&self) -> Option<AccessRole> {
        match self {
            Self::Anybody | Self::Unknown => None,
            Self::Person { role, .. } => Some(*role),
            Self::Joining(_) | Self::Agent(_) => Some(AccessRole::Agent),
        }
    }

    /// Whether it may do everything.
    pub fn is_admin(&self) -> bool {
        matches!(self, Self::Anybody | Self::Person { role: AccessRole::Admin, .. })
    }

    /// Whether it may change what belongs to `owners`.
    ///
    /// # Errors
    /// It is neither one of them nor an admin.
    pub fn may_change<'a>(&self, owners: impl IntoIterator<Item = &'a str>) -> Result<(), NotOwner> {
        let mut owners = owners.into_iter().peekable();
        let first = owners.peek().copied().unwrap_or_default().to_owned();
        let is_owner = match self {
            Self::Anybody => true,
            Self::Person { role: AccessRole::Admin, .. } => true,
            Self::Person { user, .. } => owners.any(|owner| owner == user),
            Self::Unknown | Self::Joining(_) | Self::Agent(_) => false,
        };
        if is_owner { Ok(()) } else { Err(NotOwner { caller: self.name(), owner: first }) }
    }

    /// The only user whose jobs are shown to it; `None` where all are.
    pub fn sees_only(&self) -> Option<&str> {
        match self {
            Self::Person { user, sees_all: false, role, .. } if *role != AccessRole::Admin => Some(user),
            _ => None,
        }
    }

    /// Whether a user's jobs are shown to it.
    pub fn sees(&self, user: &str) -> bool {
        self.sees_only().is_none_or(|own| own == user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(user: &str, role: AccessRole, sees_all: bool) -> Caller {
        let token = "0011223344556677".parse().unwrap();
        Caller::Person { user: user.into(), role, token, expires: None, sees_all }
    }

    #[test]
    fn owners_and_admins_change_things_and_others_are_told_whose_they_are() {
        let ada = person("ada", AccessRole::User, true);
        assert_eq!(ada.may_change(["ada"]), Ok(()));
        assert_eq!(ada.may_change(["bob", "ada"]), Ok(()));
        let refused = NotOwner { caller: "ada".into(), owner: "bob".into() };
        assert_eq!(ada.may_change(["bob"]), Err(refused));
        assert!(ada.may_change([]).is_err());
        assert_eq!(person("root", AccessRole::Admin, true).may_change(["bob"]), Ok(()));
        assert!(Caller::Unknown.may_change(["bob"]).is_err());
        assert_eq!(Caller::Anybody.may_change([]), Ok(()));
    }

    #[test]
    fn own_jobs_alone_are_seen_where_that_is_configured_but_by_admins() {
        let ada = person("ada", AccessRole::User, false);
        assert!(ada.sees("ada") && !ada.sees("bob"));
        assert!(person("ada", AccessRole::User, true).sees("bob"));
        assert!(person("root", AccessRole::Admin, false).sees("bob"));
        assert!(Caller::Agent(AgentId(uuid::Uuid::nil())).sees("bob"));
    }
}
