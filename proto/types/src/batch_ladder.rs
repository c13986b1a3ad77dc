//! The sizes that a batch steps down when memory runs out. Agents and trainers go by the same.

/// The sizes that a batch steps down to, largest first.
pub const LADDER: [u32; 12] = [64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1];

/// The batch size after `size`, in images; `None` below 1.
pub fn next_smaller(size: u32) -> Option<u32> {
    LADDER.into_iter().find(|&step| step < size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_steps_down_until_one() {
        assert_eq!([65, 64, 20, 2, 1].map(next_smaller), [Some(64), Some(48), Some(16), Some(1), None]);
    }
}
