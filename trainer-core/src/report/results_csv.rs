//! results.csv as users' plotting scripts expect it: this header, one row per epoch, numbers as `%.6g`.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use trainyard_files::write_atomically;

/// The columns behind `epoch` and `time`, in order; also the keys of an epoch's metrics.
pub const METRICS: [&str; 13] = [
    "train/box_loss",
    "train/cls_loss",
    "train/dfl_loss",
    "metrics/precision(B)",
    "metrics/recall(B)",
    "metrics/mAP50(B)",
    "metrics/mAP50-95(B)",
    "val/box_loss",
    "val/cls_loss",
    "val/dfl_loss",
    "lr/pg0",
    "lr/pg1",
    "lr/pg2",
];

/// The first line of the file.
pub fn header() -> String {
    format!("epoch,time,{}", METRICS.join(","))
}

/// The row of an epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The epoch, from 1.
    pub epoch: u32,
    /// Since training began, earlier attempts included.
    pub seconds: f64,
    /// The numbers by the names of [`METRICS`]; a missing one is written as `nan`.
    pub metrics: BTreeMap<String, f64>,
}

impl Row {
    fn line(&self) -> String {
        let mut line = format!("{},{}", self.epoch, number(self.seconds));
        for name in METRICS {
            line.push(',');
            line.push_str(&number(self.metrics.get(name).copied().unwrap_or(f64::NAN)));
        }
        line.push('\n');
        line
    }
}

/// The file, open for further rows.
#[derive(Debug)]
pub struct ResultsCsv {
    path: PathBuf,
}

impl ResultsCsv {
    /// Opens or creates the file. Of an earlier attempt's rows those of epochs 1 to `completed` stay;
    /// later ones, which are about to be done again, and torn lines go.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path, completed: u32) -> io::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut kept = header() + "\n";
        let mut last = 0;
        // What is not ended by a line break was being written when its trainer died.
        for line in text.split_inclusive('\n').skip(1).filter(|line| line.ends_with('\n')) {
            let epoch = line.split(',').next().and_then(|word| word.trim().parse().ok());
            let whole = line.matches(',').count() == METRICS.len() + 1;
            if let Some(epoch) = epoch.filter(|epoch| whole && (last + 1..=completed).contains(epoch)) {
                kept.push_str(line);
                last = epoch;
            }
        }
        write_atomically(path, kept.as_bytes())?;
        Ok(Self { path: path.to_path_buf() })
    }

    /// Adds an epoch's row.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&self, row: &Row) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        file.write_all(row.line().as_bytes())
    }
}

/// `value` as C's `%.6g` writes it.
pub fn number(value: f64) -> String {
    const DIGITS: i32 = 6;
    if !value.is_finite() {
        return if value.is_nan() {
            "nan"
        } else if value > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    // The exponent after rounding to six digits decides on the form.
    let scientific = format!("{value:.5e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..DIGITS).contains(&exponent) {
        let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or(0);
        return trimmed(&format!("{value:.decimals$}")).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs())
}

/// A number without zeros at the end of its fraction.
fn trimmed(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_as_c_prints_them() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-2.5, "-2.5"),
            (0.123_456_789, "0.123457"),
            (123_456.7, "123457"),
            (999_999.5, "1e+06"),
            (1_234_567.0, "1.23457e+06"),
            (0.000_1, "0.0001"),
            (0.000_099_999_99, "0.0001"),
            (0.000_012_345_678, "1.23457e-05"),
            (1e100, "1e+100"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(number(value), text, "{value:e}");
        }
    }

    fn row(epoch: u32) -> Row {
        let metrics = METRICS.iter().map(|name| ((*name).to_owned(), 0.5)).collect();
        Row { epoch, seconds: f64::from(epoch) * 1.5, metrics }
    }

    fn epochs(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.ends_with('\n'));
        let mut lines = text.lines();
        assert_eq!(
            lines.next().unwrap(),
            "epoch,time,train/box_loss,train/cls_loss,train/dfl_loss,metrics/precision(B),\
             metrics/recall(B),metrics/mAP50(B),metrics/mAP50-95(B),val/box_loss,val/cls_loss,\
             val/dfl_loss,lr/pg0,lr/pg1,lr/pg2"
        );
        lines.map(|line| line.split(',').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_resumed_run_neither_doubles_nor_loses_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.csv");
        let csv = ResultsCsv::open(&path, 0).unwrap();
        (1..=3).for_each(|epoch| csv.append(&row(epoch)).unwrap());
        // Killed while it wrote the fourth.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"4,6,0.5,0.").unwrap();
        let csv = ResultsCsv::open(&path, 2).unwrap();
        assert_eq!(epochs(&path), ["1", "2"]);
        csv.append(&row(3)).unwrap();
        assert_eq!(epochs(&path), ["1", "2", "3"]);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap().lines().nth(1).unwrap(),
            "1,1.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5"
        );
        ResultsCsv::open(&path, 0).unwrap();
        assert_eq!(epochs(&path), Vec::<String>::new());
    }

    #[test]
    fn a_missing_metric_is_not_a_number() {
        let row = Row { epoch: 1, seconds: 2.0, metrics: BTreeMap::new() };
        assert!(row.line().starts_with("1,2,nan,nan"));
    }
}
