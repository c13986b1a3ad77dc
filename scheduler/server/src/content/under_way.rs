//! What pushes under way will bring, by user: a quota holds for them before they are versions.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trainyard_content::Digest;

/// What all pushes under way will bring. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct UnderWay(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// The manifest of each push and the bytes that it lacks, by user and number.
    pushes: HashMap<String, BTreeMap<u64, (Digest, u64)>>,
}

/// What one push will bring; dropping it gives it back.
#[derive(Debug)]
pub struct Announced {
    under_way: UnderWay,
    user: String,
    number: u64,
}

impl UnderWay {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a push of `user` will bring so many bytes, if `fits` agrees. That is told what the user's other pushes
    /// will bring: those of the same files are one, as a push that was begun anew is.
    ///
    /// # Errors
    /// The error by which `fits` refuses it.
    pub fn announce<E>(
        &self,
        user: &str,
        manifest: Digest,
        bytes: u64,
        fits: impl FnOnce(u64) -> Result<(), E>,
    ) -> Result<Announced, E> {
        let mut state = self.state();
        let mut others: HashMap<Digest, u64> = HashMap::new();
        for (other, bytes) in state.pushes.get(user).into_iter().flat_map(BTreeMap::values) {
            let most = others.entry(*other).or_default();
            *most = (*most).max(*bytes);
        }
        others.remove(&manifest);
        fits(others.into_values().fold(0, u64::saturating_add))?;
        state.last += 1;
        let number = state.last;
        state.pushes.entry(user.to_owned()).or_default().insert(number, (manifest, bytes));
        Ok(Announced { under_way: self.clone(), user: user.to_owned(), number })
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let mut state = self.under_way.state();
        if let Some(pushes) = state.pushes.get_mut(&self.user) {
            pushes.remove(&self.number);
            if pushes.is_empty() {
                state.pushes.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_added_up_by_user_and_a_push_that_is_begun_anew_counts_once() {
        let (under_way, one, two) = (UnderWay::default(), Digest::of(b"one"), Digest::of(b"two"));
        let announce = |user: &str, manifest, bytes| {
            let mut others = 0;
            let fits = |told| {
                others = told;
                Ok::<_, ()>(())
            };
            (under_way.announce(user, manifest, bytes, fits).unwrap(), others)
        };
        let (first, others) = announce("ada", one, 7);
        assert_eq!(others, 0);
        let (again, others) = announce("ada", one, 5);
        assert_eq!(others, 0);
        let (_second, others) = announce("ada", two, 3);
        assert_eq!(others, 7);
        assert_eq!(announce("bob", two, 3).1, 0);
        drop(first);
        assert_eq!(announce("ada", Digest::of(b"three"), 0).1, 8);
        drop(again);
        assert_eq!(announce("ada", Digest::of(b"three"), 0).1, 3);
        assert!(under_way.announce("ada", one, 5, Err).is_err());
        assert_eq!(announce("ada", Digest::of(b"three"), 0).1, 3);
    }
}
