//! Durations: in words for people, and from and to the fractions of milliseconds that estimates are made of.

use std::time::Duration;

use trainyard_types::Time;

/// `2 h 30 min`, `45 s`.
pub(crate) fn in_words(span: Duration) -> String {
    let seconds = span.as_secs();
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let words: Vec<String> = parts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {unit}"))
        .collect();
    if words.is_empty() { "0 s".to_owned() } else { words.join(" ") }
}

/// Milliseconds in words, to the minute if they are more than one.
pub(crate) fn about(millis: f64) -> String {
    let seconds = from_millis(millis).as_secs_f64().round().max(1.0);
    let whole = if seconds > 60.0 { (seconds / 60.0).round() * 60.0 } else { seconds };
    in_words(Duration::from_secs_f64(whole))
}

/// `14:05:59`, the time of the day.
pub(crate) fn time_of_day(time: Time) -> String {
    let seconds = time.0 / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Milliseconds without their fraction; what is negative counts as none.
pub(crate) fn whole_millis(millis: f64) -> u64 {
    millis.max(0.0) as u64
}

/// A duration in milliseconds.
pub(crate) fn to_millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// A duration of so many milliseconds, as [`whole_millis`].
pub(crate) fn from_millis(millis: f64) -> Duration {
    Duration::from_millis(whole_millis(millis))
}
