//! How a run went: each column of results.csv over the epochs.

use plotters::prelude::*;
use trainyard_data::Image;

use super::{Area, FAINT, FONT, PlotError, TEXT, TITLE, picture};

/// What is shown, in two rows; names of results.csv's columns.
const SHOWN: [&str; 10] = [
    "train/box_loss",
    "train/cls_loss",
    "train/dfl_loss",
    "metrics/precision(B)",
    "metrics/recall(B)",
    "val/box_loss",
    "val/cls_loss",
    "val/dfl_loss",
    "metrics/mAP50(B)",
    "metrics/mAP50-95(B)",
];

/// How strongly the smooth line follows.
const SMOOTHING: f64 = 0.35;

/// A picture of `column(name)`: the values of a column, one an epoch.
///
/// # Errors
/// When the backend fails, which one in memory does not.
pub fn draw(column: impl Fn(&str) -> Vec<f64>) -> Result<Image, PlotError> {
    picture(1900, 860, |area| {
        for (panel, name) in area.split_evenly((2, SHOWN.len() / 2)).iter().zip(SHOWN) {
            draw_panel(panel, name, &column(name))?;
        }
        Ok(())
    })
}

fn draw_panel(area: &Area<'_>, name: &str, values: &[f64]) -> Result<(), PlotError> {
    let points: Vec<(f64, f64)> = values
        .iter()
        .enumerate()
        .map(|(at, value)| ((at + 1) as f64, *value))
        .filter(|(_, value)| value.is_finite())
        .collect();
    let (low, high) =
        points.iter().fold((f64::MAX, f64::MIN), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
    // One point, or none, also needs a range.
    let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
    let room = ((high - low) * 0.06).max(high.abs() * 0.02).max(1e-3);
    let last = points.last().map_or(1.0, |point| point.0).max(2.0);
    let mut chart = ChartBuilder::on(area)
        .caption(name, (FONT, TITLE - 3))
        .margin(8)
        .margin_right(18)
        .x_label_area_size(32)
        .y_label_area_size(58)
        .build_cartesian_2d(1.0..last, low - room..high + room)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .x_labels(6)
        .y_labels(7)
        .label_style((FONT, TEXT - 1))
        .x_label_formatter(&|epoch| {
            if epoch.fract().abs() < 1e-6 { format!("{epoch:.0}") } else { String::new() }
        })
        .y_label_formatter(&|value| tick(*value, high - low + 2.0 * room))
        .draw()?;
    let blue = RGBColor(31, 119, 180);
    chart.draw_series(LineSeries::new(points.iter().copied(), blue.stroke_width(2)))?;
    chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, blue.filled())))?;
    let mut follow = points.first().map_or(0.0, |point| point.1);
    let smooth = points.iter().map(|&(x, y)| {
        follow += SMOOTHING * (y - follow);
        (x, follow)
    });
    let orange = RGBColor(255, 127, 14);
    chart.draw_series(LineSeries::new(smooth, orange.stroke_width(2)))?;
    Ok(())
}

/// A number beside an axis that spans `range`, with as many digits as that needs.
fn tick(value: f64, range: f64) -> String {
    if range >= 20.0 {
        format!("{value:.0}")
    } else if range >= 2.0 {
        format!("{value:.1}")
    } else if range >= 0.2 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_epoch_one_epoch_and_numbers_that_are_none_are_drawn() {
        for values in [vec![], vec![0.5], vec![f64::NAN, 2.0, f64::INFINITY], vec![3.0, 3.0]] {
            assert_eq!(draw(|_| values.clone()).unwrap().width, 1900);
        }
    }
}
