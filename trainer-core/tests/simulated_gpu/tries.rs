//! Which of many allocations a test has fail: a few by chance, or every one.

use std::time::{SystemTime, UNIX_EPOCH};

/// Set: every allocation is tried.
const EVERY: &str = "TRAINYARD_EVERY_ALLOCATION";
/// The seed of the choice, to try the same ones again.
const SEED: &str = "TRAINYARD_ALLOCATION_SEED";

/// `few` numbers from 1 to `total`, one by chance from each of as many equal parts; or all of them. Prints the seed.
pub fn chosen(what: &str, total: i64, few: i64) -> Vec<i64> {
    if std::env::var_os(EVERY).is_some() {
        println!("{what}: each of {total} allocations");
        return (1..=total).collect();
    }
    let given = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
    let now =
        || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| u64::from(span.subsec_nanos()));
    let mut seed: u64 = given.unwrap_or_else(now);
    println!("{what}: {few} of {total} allocations, {SEED}={seed}");
    let mut next = |below: i64| {
        // A linear congruence (Knuth); its upper bits are the good ones.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(seed >> 33).unwrap() % below.max(1)
    };
    let edge = |part: i64| part * total / few;
    (0..few.min(total)).map(|part| 1 + edge(part) + next(edge(part + 1) - edge(part))).collect()
}
