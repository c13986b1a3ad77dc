//! What happens when a card's memory runs out: the next smaller batch.

use crate::libtorch::{self, TorchError};

/// Batch sizes that are tried, one after the other.
const LADDER: [u32; 12] = [64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1];

/// The batch size after `current`, or `None` below 1.
pub fn next_smaller(current: u32) -> Option<u32> {
    LADDER.into_iter().find(|&size| size < current)
}

/// A card that is too small, for tests on machines without one.
///
/// `TRAINYARD_TEST_OOM_AT_BATCH=16` fails every batch of 16 images or more, and `16@2` does so from epoch 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TestOom {
    limit: Option<(u32, u32)>,
}

impl TestOom {
    /// From the environment.
    pub fn from_env() -> Self {
        std::env::var("TRAINYARD_TEST_OOM_AT_BATCH")
            .map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let (size, epoch) = text.split_once('@').unwrap_or((text, "1"));
        Self { limit: size.parse().ok().zip(epoch.parse().ok()) }
    }

    /// Panics as tch does when libtorch throws, if a batch of that size does not "fit".
    pub fn check(self, batch_size: u32, epoch: u32) {
        if let Some((size, from)) = self.limit
            && batch_size >= size
            && epoch >= from
        {
            let message = "CUDA out of memory. Tried to allocate 2.00 GiB. (a test says so)".to_owned();
            libtorch::rethrow(&TorchError { message });
        }
    }
}

/// A sentence on what was done about `error`.
pub fn message(from: u32, to: u32, resumed: bool, error: &TorchError) -> String {
    let place = if resumed { "the newest checkpoint" } else { "the start" };
    format!("batch {from} does not fit in the card's memory; going on with {to} from {place} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtorch::catch;

    #[test]
    fn every_size_steps_down_to_one_and_then_ends() {
        assert_eq!([65, 64, 20, 2, 1].map(next_smaller), [Some(64), Some(48), Some(16), Some(1), None]);
    }

    #[test]
    fn the_test_hook_fails_as_libtorch_does() {
        let hook = TestOom::parse("16@2");
        assert!(catch(|| hook.check(16, 2)).unwrap_err().is_out_of_memory());
        assert_eq!(catch(|| hook.check(15, 2)), Ok(()));
        assert_eq!(catch(|| hook.check(64, 1)), Ok(()));
        assert_eq!(TestOom::parse("no"), TestOom::default());
    }
}
