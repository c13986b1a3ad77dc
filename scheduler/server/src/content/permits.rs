//! How many calls of a kind are under way, in all and of one caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places for calls of a kind. Clones share them.
#[derive(Debug, Clone)]
pub struct Permits {
    taken: Arc<Mutex<HashMap<String, usize>>>,
    of_all: usize,
    of_one: usize,
}

/// A place that a call has; dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    permits: Permits,
    caller: String,
}

impl Permits {
    pub fn new(of_all: usize, of_one: usize) -> Self {
        Self { taken: Arc::default(), of_all, of_one }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more call of a caller, if there is one.
    pub fn take(&self, caller: &str) -> Option<Permit> {
        let mut taken = self.taken();
        let own = taken.get(caller).copied().unwrap_or(0);
        if own >= self.of_one || taken.values().sum::<usize>() >= self.of_all {
            return None;
        }
        taken.insert(caller.to_owned(), own + 1);
        Some(Permit { permits: self.clone(), caller: caller.to_owned() })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = self.permits.taken();
        if let Some(count) = taken.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_places_of_all() {
        let permits = Permits::new(3, 2);
        let (first, _second) = (permits.take("ada").unwrap(), permits.take("ada").unwrap());
        assert!(permits.take("ada").is_none());
        let _third = permits.take("bob").unwrap();
        assert!(permits.take("eve").is_none());
        drop(first);
        assert!(permits.take("eve").is_some());
    }
}
