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
impl JobId {
    /// Not below any job's.
    pub const MAX: Self = Self(Uuid::max());
}

uuid_id!(
    /// A job group: jobs that were submitted at once; a sweep's users know it as the sweep's id.
    JobGroupId,
    "a job group id (a UUID)"
);

impl JobGroupId {
    /// Jobs that one group can have.
    pub const MAX_JOBS: u32 = 100_000;

    /// The id of the group's job number `index`, from 0, below [`Self::MAX_JOBS`].
    ///
    /// The index stands right after the time, so that ids sort in the order of the group, and are told
    /// apart by their first digits as other ids are. The last bits are the group's own.
    pub fn job(self, index: u32) -> JobId {
        let (high, low) = (u128::from(index >> 5), u128::from(index & 31));
        JobId(Uuid::from_u128(self.0.as_u128() & !INDEX_BITS | high << 64 | low << 57))
    }

    /// Which job of the group has this id, if one has.
    pub fn index(self, job: JobId) -> Option<u32> {
        let bits = job.0.as_u128();
        let index = u32::try_from((bits >> 64 & 0xfff) << 5 | (bits >> 57 & 31)).ok()?;
        (self.job(index) == job).then_some(index)
    }
}

/// Where [`JobGroupId::job`] puts the index: `rand_a`, and the first bits of `rand_b` after the variant.
const INDEX_BITS: u128 = 0xfff << 64 | 31 << 57;

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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
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
    fn a_group_finds_its_jobs_by_their_ids_and_no_others() {
        let [group, other] =
            [0x0198_0000_0000_7123_8abc_0000_0000_0001, 7].map(|id| JobGroupId(Uuid::from_u128(id)));
        let ids: Vec<JobId> = (0..JobGroupId::MAX_JOBS).map(|index| group.job(index)).collect();
        assert!(ids.is_sorted_by(|before, after| before < after));
        for (index, &id) in ids.iter().enumerate().step_by(997) {
            assert_eq!(group.index(id).map(|index| index as usize), Some(index));
            assert_eq!((id.0.get_version_num(), other.index(id)), (7, None));
        }
    }

    #[test]
    fn attempt_zero_does_not_parse() {
        assert!(format!("{}/0", Uuid::from_u128(7)).parse::<AttemptId>().is_err());
    }
}
