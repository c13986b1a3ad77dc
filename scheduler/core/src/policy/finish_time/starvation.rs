//! The starvation guard: jobs that have waited for too long go before everything that came later.
//!
//! They are kept by request and by user, so that those which no GPU on offer satisfies, or whose user is at a
//! limit, hide nobody behind them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use trainyard_types::{JobId, Time};

use crate::state::queue::Request;

/// Jobs by their submission.
type BySubmission = BTreeSet<(Time, JobId)>;

/// Jobs that starve.
#[derive(Debug, Default, PartialEq)]
pub(super) struct StarvationGuard {
    by_request: BTreeMap<Request, BTreeMap<Arc<str>, BySubmission>>,
}

impl StarvationGuard {
    pub(super) fn insert(&mut self, request: &Request, user: &Arc<str>, created: Time, job: JobId) {
        let users = match self.by_request.get_mut(request) {
            Some(users) => users,
            None => self.by_request.entry(request.clone()).or_default(),
        };
        users.entry(Arc::clone(user)).or_default().insert((created, job));
    }

    pub(super) fn remove(&mut self, request: &Request, user: &str, created: Time, job: JobId) {
        let Some(users) = self.by_request.get_mut(request) else { return };
        if let Some(jobs) = users.get_mut(user) {
            jobs.remove(&(created, job));
            if jobs.is_empty() {
                users.remove(user);
            }
        }
        if users.is_empty() {
            self.by_request.remove(request);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_request.values().flat_map(BTreeMap::values).map(BTreeSet::len).sum()
    }

    /// The first of each request that is wanted, of the users that may, the earliest submission first.
    pub(super) fn heads(
        &self,
        is_wanted: impl Fn(&Request) -> bool,
        may: impl Fn(&Request, &str) -> bool,
    ) -> Vec<JobId> {
        let wanted = self.by_request.iter().filter(|(request, _)| is_wanted(request));
        let mut heads: Vec<&(Time, JobId)> = wanted
            .filter_map(|(request, users)| {
                let of_users = users.iter().filter(|(user, _)| may(request, user));
                of_users.filter_map(|(_, jobs)| jobs.first()).min()
            })
            .collect();
        heads.sort();
        heads.into_iter().map(|&(_, job)| job).collect()
    }

    /// All whose request is wanted, the earliest submission first.
    pub(super) fn in_order(&self, is_wanted: impl Fn(&Request) -> bool) -> impl Iterator<Item = JobId> {
        let wanted = self.by_request.iter().filter(move |(request, _)| is_wanted(request));
        let mut rest: Vec<_> = wanted.flat_map(|(_, users)| users.values()).map(|jobs| jobs.iter()).collect();
        let mut order: BinaryHeap<Reverse<(&(Time, JobId), usize)>> = rest
            .iter_mut()
            .enumerate()
            .filter_map(|(index, jobs)| Some(Reverse((jobs.next()?, index))))
            .collect();
        std::iter::from_fn(move || {
            let Reverse((&(_, job), index)) = order.pop()?;
            order.extend(rest[index].next().map(|next| Reverse((next, index))));
            Some(job)
        })
    }
}

#[cfg(test)]
mod tests {
    use trainyard_types::Resources;
    use uuid::Uuid;

    use super::*;

    fn job(number: u128) -> JobId {
        JobId(Uuid::from_u128(number))
    }

    #[test]
    fn who_cannot_be_served_hides_nobody_and_the_earliest_goes_first() {
        let large = Request::from(&Resources { min_vram_mib: 81920, ..Resources::default() });
        let small = Request::from(&Resources::default());
        let mut starving = StarvationGuard::default();
        for number in 0..100 {
            starving.insert(&large, &"ada".into(), Time(1), job(number));
        }
        starving.insert(&small, &"ada".into(), Time(2), job(200));
        starving.insert(&small, &"bob".into(), Time(3), job(201));
        assert_eq!(starving.len(), 102);
        assert_eq!(starving.heads(|_| true, |_, _| true), [job(0), job(200)]);
        assert_eq!(starving.heads(|request| *request == small, |_, user| user != "ada"), [job(201)]);
        let order: Vec<JobId> = starving.in_order(|request| *request == small).collect();
        assert_eq!(order, [job(200), job(201)]);
        starving.remove(&small, "ada", Time(2), job(200));
        assert_eq!(starving.heads(|request| *request == small, |_, _| true), [job(201)]);
    }
}
