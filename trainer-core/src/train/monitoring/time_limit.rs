//! The spec's `time`: how many epochs fit in the hours that a run has been given.

/// The most epochs of a run, as for the spec's `epochs`.
const MAX_EPOCHS: f64 = 100_000.0;

/// Epochs of a run of `hours`, when `done` epochs (at least one) took `seconds`: as many as begin in time at
/// that pace, so that the learning rate comes to its end together with the time.
pub fn epochs_within(hours: f64, seconds: f64, done: u32) -> u32 {
    let mean = (seconds / f64::from(done.max(1))).max(1e-6);
    let all = (hours * 3600.0 / mean).ceil().clamp(1.0, MAX_EPOCHS) as u32;
    all.max(done)
}

/// Whether `seconds` of training have reached the limit of `hours`; 0 hours are no limit.
pub fn is_over(hours: f64, seconds: f64) -> bool {
    hours > 0.0 && seconds >= hours * 3600.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epochs_follow_from_the_mean_so_far() {
        assert_eq!(epochs_within(1.0, 36.0, 1), 100);
        assert_eq!(epochs_within(1.0, 70.0, 2), 103);
        // Slower than thought: what is done stays done.
        assert_eq!(epochs_within(1.0, 4000.0, 5), 5);
        assert_eq!(epochs_within(1000.0, 0.0, 1), 100_000);
    }

    #[test]
    fn no_hours_are_without_end() {
        assert_eq!([is_over(0.0, 1e9), is_over(1.0, 3599.0), is_over(1.0, 3600.0)], [false, false, true]);
    }
}
