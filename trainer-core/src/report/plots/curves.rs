//! Precision over recall, and precision, recall and F1 over confidence: a line for each class, a thick one
//! for the mean.

use plotters::prelude::*;
use trainyard_data::Image;

use super::{Area, FAINT, FONT, PlotError, TEXT, TITLE, Titles, line_colour, picture, shortened};

/// The line of a class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassCurve {
    /// The class's name.
    pub name: String,
    /// Class id, for its colour.
    pub class: usize,
    /// Values at equally distant points of the x axis, from 0 to 1.
    pub values: Vec<f64>,
    /// A number for the legend: average precision.
    pub figure: Option<f64>,
}

/// Classes that get a name in the legend; of more, only the mean does.
const NAMED: usize = 20;

/// A picture of curves whose x and y both go from 0 to 1.
///
/// `mean`: what the legend says of the mean, given the highest point of the mean curve (x, y).
///
/// # Errors
/// When the backend fails, which one in memory does not.
pub fn draw(
    curves: &[ClassCurve],
    titles: Titles<'_>,
    mean: impl Fn(f64, f64) -> String,
) -> Result<Image, PlotError> {
    picture(1300, 800, |area| {
        // Room for the legend on the right.
        let (left, right) = area.split_horizontally(920);
        let mut chart = ChartBuilder::on(&left)
            .caption(titles.chart, (FONT, TITLE))
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..1.0, 0.0..1.02)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .label_style((FONT, TEXT))
            .axis_desc_style((FONT, TEXT + 2))
            .x_desc(titles.x)
            .y_desc(titles.y)
            .x_label_formatter(&|value| format!("{value:.1}"))
            .y_label_formatter(&|value| format!("{value:.1}"))
            .draw()?;
        let few = curves.len() <= NAMED;
        for curve in curves {
            let colour = if few { line_colour(curve.class) } else { RGBColor(170, 170, 170) };
            chart.draw_series(LineSeries::new(points(&curve.values), colour.stroke_width(2)))?;
        }
        let thick = BLUE.stroke_width(4);
        let average = averaged(curves);
        chart.draw_series(LineSeries::new(points(&average), thick))?;
        let best =
            points(&average).fold((0.0, 0.0), |best, point| if point.1 > best.1 { point } else { best });
        legend(&right, if few { curves } else { &[] }, &mean(best.0, best.1))
    })
}

fn points(values: &[f64]) -> impl Iterator<Item = (f64, f64)> + '_ {
    let last = values.len().saturating_sub(1).max(1) as f64;
    values.iter().enumerate().map(move |(at, value)| (at as f64 / last, *value))
}

fn averaged(curves: &[ClassCurve]) -> Vec<f64> {
    let length = curves.iter().map(|curve| curve.values.len()).min().unwrap_or(0);
    let mean = |at| curves.iter().map(|curve| curve.values[at]).sum::<f64>() / curves.len() as f64;
    (0..length).map(mean).collect()
}

fn legend(area: &Area<'_>, curves: &[ClassCurve], mean: &str) -> Result<(), PlotError> {
    let mut top = 50;
    let mut line = |text: &str, style: ShapeStyle| -> Result<(), PlotError> {
        area.draw(&PathElement::new(vec![(4, top + 9), (32, top + 9)], style))?;
        area.draw(&Text::new(text.to_owned(), (40, top), (FONT, TEXT)))?;
        top += 26;
        Ok(())
    };
    for curve in curves {
        let mut text = shortened(&curve.name, 18);
        if let Some(figure) = curve.figure {
            text.push_str(&format!(" {figure:.3}"));
        }
        line(&text, line_colour(curve.class).stroke_width(2))?;
    }
    line(mean, BLUE.stroke_width(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_one_class_and_very_many_are_all_drawn() {
        let curve = |class| ClassCurve {
            name: "x".repeat(60),
            class,
            values: vec![1.0, 0.5, 0.0],
            figure: Some(0.5),
        };
        for count in [0, 1, 20, 300] {
            let curves: Vec<ClassCurve> = (0..count).map(curve).collect();
            let found =
                draw(&curves, Titles { chart: "Precision-recall", x: "Recall", y: "Precision" }, |x, y| {
                    format!("{x} {y}")
                });
            assert_eq!((found.as_ref().unwrap().width, found.unwrap().height), (1300, 800));
        }
    }
}
