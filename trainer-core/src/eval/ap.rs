//! The area under a precision-recall curve, in the two ways that the field knows.

/// Sampling points of recall.
const POINTS: usize = 101;

/// A curve of precision over recall: one entry per prediction, surest first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Curve {
    /// Rises.
    pub recall: Vec<f64>,
    /// Hits among the predictions so far.
    pub precision: Vec<f64>,
}

impl Curve {
    /// A curve from hits (true) and misses, surest first, and the number of objects to find.
    pub fn new(hits: impl IntoIterator<Item = bool>, objects: usize) -> Self {
        let mut curve = Self::default();
        let mut found = 0_u32;
        for (index, hit) in hits.into_iter().enumerate() {
            found += u32::from(hit);
            curve.recall.push(f64::from(found) / (objects as f64 + 1e-16));
            curve.precision.push(f64::from(found) / (index + 1) as f64);
        }
        curve
    }

    /// Trapezoid over 101 points of the envelope, interpolated linearly: what Ultralytics reports.
    pub fn area_trapezoid(&self) -> f64 {
        let found = self.sampled(POINTS);
        (1..POINTS).map(|at| (found[at] + found[at - 1]) / 2.0 * (point(at) - point(at - 1))).sum()
    }

    /// The envelope's precision at `points` equally distant recalls from 0 to 1, interpolated linearly.
    pub fn sampled(&self, points: usize) -> Vec<f64> {
        let last = self.recall.last().copied().unwrap_or(0.0);
        let mut recall = vec![0.0];
        recall.extend_from_slice(&self.recall);
        recall.extend([last, 1.0]);
        let mut precision = vec![1.0];
        precision.extend_from_slice(&self.precision);
        precision.extend([0.0, 0.0]);
        envelope(&mut precision);
        let share = |index: usize| index as f64 / (points - 1).max(1) as f64;
        (0..points).map(|index| interpolate(share(index), &recall, &precision)).collect()
    }

    /// Mean of the envelope at 101 points, without interpolation: what pycocotools reports.
    pub fn area_steps(&self) -> f64 {
        let mut precision = self.precision.clone();
        envelope(&mut precision);
        let at = |index: usize| {
            let reached = self.recall.partition_point(|recall| *recall < point(index));
            precision.get(reached).copied().unwrap_or(0.0)
        };
        (0..POINTS).map(at).sum::<f64>() / POINTS as f64
    }
}

fn point(index: usize) -> f64 {
    index as f64 / (POINTS - 1) as f64
}

/// Makes each value the largest of itself and all behind it.
fn envelope(precision: &mut [f64]) {
    for index in (1..precision.len()).rev() {
        precision[index - 1] = precision[index - 1].max(precision[index]);
    }
}

/// The value at `x` of the line through (`xs`, `ys`), where `xs` rises; constant outside of it. Where
/// several points share an x, the last counts.
///
/// # Panics
/// When there are no points.
pub fn interpolate(x: f64, xs: &[f64], ys: &[f64]) -> f64 {
    let behind = xs.partition_point(|value| *value <= x);
    if behind == 0 {
        return ys[0];
    }
    let before = behind - 1;
    if behind == xs.len() || xs[before] == x {
        return ys[before];
    }
    let slope = (ys[behind] - ys[before]) / (xs[behind] - xs[before]);
    slope * (x - xs[before]) + ys[before]
}

/// The mean over a window of `width` (odd) around each value; beyond the ends the last value goes on.
///
/// # Panics
/// When there are no values.
pub fn smoothed(values: &[f64], width: usize) -> Vec<f64> {
    let half = width / 2;
    let at = |index: usize| values[index.saturating_sub(half).min(values.len() - 1)];
    (0..values.len()).map(|start| (start..start + width).map(at).sum::<f64>() / width as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_everything_first_is_perfect_and_nothing_is_zero() {
        let perfect = Curve::new([true, true, true], 3);
        assert!((perfect.area_trapezoid() - 0.995).abs() < 1e-9, "{}", perfect.area_trapezoid());
        assert!((perfect.area_steps() - 1.0).abs() < 1e-12);
        let nothing = Curve::new([false, false], 3);
        assert_eq!(nothing.area_steps(), 0.0);
        // The point in front of the curve (recall 0, precision 1) leaves its half step.
        assert!(nothing.area_trapezoid() <= 0.005);
    }

    #[test]
    fn a_curve_counts_hits_in_order() {
        let curve = Curve::new([true, false, true], 4);
        assert_eq!(curve.recall, [0.25, 0.25, 0.5]);
        assert_eq!(curve.precision, [1.0, 0.5, 2.0 / 3.0]);
    }

    #[test]
    fn interpolation_is_linear_and_constant_outside() {
        let (xs, ys) = ([0.0, 1.0, 1.0, 3.0], [4.0, 2.0, 8.0, 6.0]);
        let at = |x| interpolate(x, &xs, &ys);
        assert_eq!((at(-1.0), at(0.5), at(1.0), at(2.0), at(9.0)), (4.0, 3.0, 8.0, 7.0, 6.0));
    }

    #[test]
    fn smoothing_holds_the_ends() {
        assert_eq!(smoothed(&[3.0, 0.0, 0.0, 6.0], 3), [2.0, 1.0, 2.0, 4.0]);
    }
}
