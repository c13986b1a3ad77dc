//! What this scheduler is at the moment, as others in the process see it.

use std::sync::Arc;

/// Whether it leads, stands by, or can do neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It has no state to show: the store does not answer, or must not be used. With the reason.
    Unavailable(Arc<str>),
    /// The same, since a disk is full: an admin's to mend, which users may know. With which disk.
    DiskFull(Arc<str>),
    /// Another leads, at this URL; reads are answered here, from what is stored.
    Standby(Arc<str>),
    Leading,
}

impl Role {
    /// Whether it leads.
    pub fn leads(&self) -> bool {
        *self == Self::Leading
    }

    /// Whether a full disk keeps the store away.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull(_))
    }

    /// Whether jobs can be read here.
    pub fn reads(&self) -> bool {
        matches!(self, Self::Leading | Self::Standby(_))
    }
}
