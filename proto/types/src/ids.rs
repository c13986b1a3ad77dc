//! Ids as newtypes; `Display` and `FromStr` agree.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseIdError {
    /// What was given.
    pub text: String,
    /// What was expected, with its article.
    pub expected: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Uuid::try_parse(text)
                    .map(Self)
                    .map_err(|_| ParseIdError { text: text.to_owned(), expected: $expected })
            }
        }
    };
}

uuid_id!(
    /// A job: UUID version 7, so ids sort by submission.
    JobId,
    "a job id (a UUID)"
);
uuid_id!(
    /// An agent: drawn once and kept in its data directory.
    AgentId,
    "an agent id (a UUID)"
);

/// One try at a job; `number` counts from 1 and is never reused. Written `JOB/NUMBER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// The job that is tried.
    pub job: JobId,
    /// The attempt number: the job's fencing token.
    pub number: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.job, self.number)
    }
}

impl FromStr for AttemptId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let wrong = || ParseIdError { text: text.to_owned(), expected: "an attempt id (JOB/NUMBER)" };
        let (job, number) = text.split_once('/').ok_or_else(wrong)?;
        let job = job.parse().map_err(|_| wrong())?;
        let number = number.parse().ok().filter(|&number| number > 0).ok_or_else(wrong)?;
        Ok(Self { job, number })
    }
}

/// A GPU's UUID as NVML spells it, `GPU-8f6…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GpuUuid(pub String);

impl fmt::Display for GpuUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The scheduler's fencing token: grows with every election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaderEpoch(pub u64);

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One connection of an agent; a later one of the same agent is higher. What an older one says is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Session(pub u64);

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_id_reads_back_what_it_prints() {
        let id = AttemptId { job: JobId(Uuid::from_u128(7)), number: 3 };
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn attempt_zero_does_not_parse() {
        assert!(format!("{}/0", Uuid::from_u128(7)).parse::<AttemptId>().is_err());
    }
}
