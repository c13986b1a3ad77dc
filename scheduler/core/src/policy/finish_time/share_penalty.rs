//! Fair shares: the jobs of a user who has had much more than the others count as longer, by the share penalty.

use trainyard_types::Time;

use super::{SHARE_FLOOR, SHARE_SLACK};
use crate::duration::to_millis;
use crate::policy::ClusterView;

/// The shares of all users that run or wait, added up.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Shares {
    sum: f64,
    users: f64,
}

impl Shares {
    /// Of all users that run or wait; one that has not run yet has had nothing.
    pub(super) fn active(now: Time, view: &ClusterView<'_>) -> Self {
        let mut shares = Self::default();
        for user in view.users.iter() {
            let name = &user.record().name;
            if user.running() != (0, 0) || view.queue().len_of(name) > 0 {
                let share = user.share(view.config, now, view.limits(name)) as f64;
                shares.sum += share;
                shares.users += 1.0;
            }
        }
        let newcomers = view.queue().users().filter(|user| view.users.get(user).is_none()).count();
        shares.users += newcomers as f64;
        shares
    }

    /// By what factor a user's jobs count as longer.
    pub(super) fn penalty_of(self, now: Time, view: &ClusterView<'_>, user: &str) -> f64 {
        let share = view.share(now, user) as f64;
        self.share_penalty(share)
    }

    /// By what factor the jobs of one of these users count as longer: 1 as long as the user has not had more than
    /// [`SHARE_SLACK`] times what the others have had on average.
    fn share_penalty(self, share: f64) -> f64 {
        if self.users < 2.0 {
            return 1.0;
        }
        let others = (self.sum - share).max(0.0) / (self.users - 1.0);
        let floor = to_millis(SHARE_FLOOR);
        (share / (others.max(floor) * SHARE_SLACK)).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: f64 = 3_600_000.0;

    #[test]
    fn who_has_had_more_is_stretched_by_it_however_many_the_others_are() {
        for users in [2.0, 3.0, 10.0] {
            let shares = Shares { sum: 100.0 * HOUR, users };
            assert!(
                (shares.share_penalty(100.0 * HOUR) - 50.0).abs() < 1e-9,
                "the others have had nothing yet"
            );
            let shares = Shares { sum: 100.0 * HOUR + 10.0 * HOUR * (users - 1.0), users };
            assert!((shares.share_penalty(100.0 * HOUR) - 5.0).abs() < 1e-9);
            assert!((shares.share_penalty(10.0 * HOUR) - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn alone_or_within_an_hour_nobody_is_put_back() {
        assert_eq!(Shares { sum: 100.0 * HOUR, users: 1.0 }.share_penalty(100.0 * HOUR), 1.0);
        assert_eq!(Shares { sum: 2.0 * HOUR, users: 2.0 }.share_penalty(2.0 * HOUR), 1.0);
    }
}
