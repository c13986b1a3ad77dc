//! Which parameters decay and which learning rate they follow.

use crate::weights::{Entry, Role, Weights};

/// Parameters that share a learning rate; the number is their column in results.csv (`lr/pg0`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Weights of convolutions, which decay.
    Weight = 0,
    /// Weights of batch normalisations.
    Norm = 1,
    /// All biases, batch normalisation's too.
    Bias = 2,
}

impl Group {
    /// All groups, in the order of results.csv.
    pub const ALL: [Self; 3] = [Self::Weight, Self::Norm, Self::Bias];

    /// A tensor's group, or `None` if no optimiser moves tensors of that role.
    pub const fn of(role: Role) -> Option<Self> {
        match role {
            Role::Weight => Some(Self::Weight),
            Role::Norm => Some(Self::Norm),
            Role::Bias => Some(Self::Bias),
            Role::Statistic | Role::Counter | Role::Constant => None,
        }
    }
}

/// The trained parameters with their groups, in the model's order.
pub fn trained(weights: &Weights) -> impl Iterator<Item = (&Entry, Group)> {
    weights
        .iter()
        .filter(|entry| entry.is_trained())
        .filter_map(|entry| Group::of(entry.role).map(|group| (entry, group)))
}
