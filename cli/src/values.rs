//! Values as people write them on a command line or in a job file: paths, sizes of memory, spans of time, labels.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use crate::failure::Failure;

/// `path` as an absolute one: agents do not share this process's directory. `..` is resolved where
/// the path exists; where it does not, it stays, since a link may change what it means.
pub fn absolute_path(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let climbs = absolute.components().any(|part| part == Component::ParentDir);
    if climbs { absolute.canonicalize().unwrap_or(absolute) } else { absolute }
}

/// Reads `20G`, `20GB`, `20GiB`, `20480M`, … as MiB. Users of GPUs count in powers of two.
///
/// # Errors
/// A number without its unit, or no number.
pub fn parse_mib(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a memory size; write a number and a unit, such as 20G or 20480M");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "g" | "gb" | "gib" => 1024.0,
        "m" | "mb" | "mib" => 1.0,
        _ => return Err(wrong()),
    };
    let mib = (number.parse::<f64>().map_err(|_| wrong())? * factor).round();
    if !(0.0..=1e9).contains(&mib) {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1e9, as just checked")]
    Ok(mib as u64)
}

/// Reads `90s`, `90m`, `36h`, `2d` or `1h30m`.
///
/// # Errors
/// A number without its unit, or no number.
pub fn parse_span(text: &str) -> Result<prost_types::Duration, String> {
    let wrong = || format!("`{text}` is not a span of time; write numbers with units, such as 90m or 1h30m");
    let (mut seconds, mut rest) = (0_i64, text.trim());
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, unit) = rest.split_at(split);
        let unit = match unit.chars().next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86_400,
            _ => return Err(wrong()),
        };
        // `1.5h`; nobody counts parts of a second.
        let more = match number.parse::<i64>() {
            Ok(number) => number.checked_mul(unit).ok_or_else(wrong)?,
            Err(_) => rounded(number.parse::<f64>().map_err(|_| wrong())? * unit as f64).ok_or_else(wrong)?,
        };
        seconds = seconds.checked_add(more).ok_or_else(wrong)?;
        rest = &rest[split + 1..];
    }
    if text.trim().is_empty() { Err(wrong()) } else { Ok(prost_types::Duration { seconds, nanos: 0 }) }
}

/// Seconds as a whole number; `None` for what is no span of time.
#[expect(clippy::cast_possible_truncation, reason = "below 2^53, as just checked")]
fn rounded(seconds: f64) -> Option<i64> {
    (0.0..9e15).contains(&seconds).then(|| seconds.round() as i64)
}

/// Reads `key=value`.
///
/// # Errors
/// No `=`, or nothing before it.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not a label; write key=value")),
    }
}

/// Labels by their keys.
///
/// # Errors
/// A key comes twice: of two values, which one is meant?
pub fn labels_by_key(labels: &[(String, String)]) -> Result<HashMap<String, String>, Failure> {
    let mut by_key = HashMap::new();
    for (key, value) in labels {
        if let Some(before) = by_key.insert(key.clone(), value.clone()) {
            let text =
                format!("--label `{key}` is given twice, as `{before}` and as `{value}`; give it once");
            return Err(Failure::usage(text));
        }
    }
    Ok(by_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_numbers_with_units() {
        let seconds = |text: &str| parse_span(text).map(|span| span.seconds);
        assert_eq!(
            ["90s", "90m", "1h30m", "1.5h", "2d"].map(seconds),
            [90, 5400, 5400, 5400, 172_800].map(Ok)
        );
        for wrong in ["", "90", "m", "1w", "1.2.3h", "-1h", "99999999999999999999d", "1e30h"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn memory_sizes_need_their_unit() {
        assert_eq!(
            ["20G", "20gb", "20GiB", "20480M", "0.5G"].map(parse_mib),
            [20480, 20480, 20480, 20480, 512].map(Ok)
        );
        for wrong in ["20", "G", "-1G", "x", "1.2.3G", "1T", "99999999999G"] {
            assert!(parse_mib(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_path_becomes_absolute() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute_path(Path::new("d/data.yaml")), here.join("d/data.yaml"));
        assert_eq!(absolute_path(Path::new("../nowhere-to-be-found")), here.join("../nowhere-to-be-found"));
        assert_eq!(absolute_path(Path::new("/data/data.yaml")), Path::new("/data/data.yaml"));
    }
}
