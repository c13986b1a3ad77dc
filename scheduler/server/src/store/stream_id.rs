//! Ids of entries of Redis' streams: a time in milliseconds, and a number among those of that time.

/// The lowest id above `id`, to go on reading from. Redis before 6.2 has no other word for "after".
pub fn after(id: &str) -> String {
    let (time, number) = id.split_once('-').unwrap_or((id, "0"));
    match number.parse::<u64>() {
        Ok(number) => format!("{time}-{}", number.saturating_add(1)),
        // Redis names what is wrong with it.
        Err(_) => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_id_is_the_lowest_above() {
        assert_eq!(after("1796089826000-0"), "1796089826000-1");
        assert_eq!(after("7-41"), "7-42");
        assert_eq!(after("0"), "0-1");
        assert_eq!(after("7-x"), "7-x");
    }
}
