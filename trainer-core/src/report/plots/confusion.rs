//! The confusion matrix: which class was taken for which, and what was missed or made up.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use trainyard_data::Image;

use super::{FONT, PlotError, TEXT, TITLE, picture, shortened};
use crate::eval::Confusion;

/// Classes whose cells have numbers and whose rows have names; more would not be legible.
const NUMBERED: usize = 30;

/// A picture of `confusion`: a column for each true class, a row for each predicted one, background last.
///
/// `normalised`: each column divided by its sum. `names`: of the classes, without the background.
///
/// # Errors
/// When the backend fails, which one in memory does not.
pub fn draw(confusion: &Confusion, names: &[String], normalised: bool) -> Result<Image, PlotError> {
    let size = confusion.classes() + 1;
    let sums: Vec<u64> =
        (0..size).map(|truth| (0..size).map(|row| confusion.count(row, truth)).sum()).collect();
    let value = |predicted: usize, truth: usize| {
        let count = confusion.count(predicted, truth) as f64;
        if normalised { count / sums[truth].max(1) as f64 } else { count }
    };
    let cells = (0..size).flat_map(|row| (0..size).map(move |column| (row, column)));
    let most = cells.clone().map(|(row, column)| value(row, column)).fold(f64::MIN_POSITIVE, f64::max);
    let name = |at: usize| names.get(at).map_or("background", String::as_str);
    let numbered = size <= NUMBERED + 1;
    picture(1100, 1000, |area| {
        let (left, top, side) = (190_i32, 60_i32, 780_i32);
        let count = i32::try_from(size).unwrap_or(i32::MAX).max(1);
        let edge = |at: usize| side * i32::try_from(at).unwrap_or(0) / count;
        let text = |size: i32| (FONT, size.clamp(8, 20)).into_text_style(area);
        let centred = text(side / count / 4).pos(Pos::new(HPos::Center, VPos::Center));
        for (row, column) in cells {
            let share = (value(row, column) / most).clamp(0.0, 1.0);
            let (x, y) = (left + edge(column), top + edge(row));
            let (right, bottom) = (left + edge(column + 1), top + edge(row + 1));
            area.draw(&Rectangle::new([(x, y), (right, bottom)], shade(share).filled()))?;
            if numbered && value(row, column) > 0.0 {
                let number = if normalised {
                    format!("{share:.2}", share = value(row, column))
                } else {
                    value(row, column).to_string()
                };
                let colour = if share > 0.5 { WHITE } else { BLACK };
                area.draw_text(&number, &centred.color(&colour), ((x + right) / 2, (y + bottom) / 2))?;
            }
        }
        area.draw(&Rectangle::new([(left, top), (left + side, top + side)], BLACK))?;
        if numbered {
            let label = text(side / count / 3);
            for at in 0..size {
                let middle = edge(at) + side / count / 2;
                let name = shortened(name(at), 16);
                let beside = label.pos(Pos::new(HPos::Right, VPos::Center));
                area.draw_text(&name, &beside, (left - 8, top + middle))?;
                // Below, upright where there is room for it.
                let room = side / count > 110;
                let style = if room {
                    label.pos(Pos::new(HPos::Center, VPos::Top))
                } else {
                    label.transform(FontTransform::Rotate90).pos(Pos::new(HPos::Left, VPos::Center))
                };
                area.draw_text(&name, &style, (left + middle, top + side + 8))?;
            }
        }
        let title =
            if normalised { "Confusion matrix, shares of each true class" } else { "Confusion matrix" };
        let heading = (FONT, TITLE).into_text_style(area).pos(Pos::new(HPos::Center, VPos::Center));
        area.draw_text(title, &heading, (left + side / 2, top / 2))?;
        let axis = (FONT, TEXT + 2).into_text_style(area).pos(Pos::new(HPos::Center, VPos::Center));
        area.draw_text("True", &axis, (left + side / 2, 985))?;
        area.draw_text("Predicted", &axis.transform(FontTransform::Rotate270), (16, top + side / 2))?;
        scale(area, most, normalised)
    })
}

/// The colour of a share between 0 and 1: white to dark blue.
fn shade(share: f64) -> RGBColor {
    let mix = |light: f64, dark: f64| (light + (dark - light) * share) as u8;
    RGBColor(mix(247.0, 8.0), mix(251.0, 48.0), mix(255.0, 107.0))
}

/// What the colours mean, on the right.
fn scale(area: &super::Area<'_>, most: f64, normalised: bool) -> Result<(), PlotError> {
    let (x, top, height) = (1000, 60, 780);
    for step in 0..height {
        let share = 1.0 - f64::from(step) / f64::from(height);
        area.draw(&Rectangle::new([(x, top + step), (x + 24, top + step + 1)], shade(share).filled()))?;
    }
    let style = (FONT, TEXT).into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
    for (share, y) in [(1.0, top), (0.5, top + height / 2), (0.0, top + height)] {
        let text = if normalised { format!("{:.2}", most * share) } else { format!("{:.0}", most * share) };
        area.draw_text(&text, &style, (x + 30, y))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_small_and_large_matrices_are_drawn() {
        for classes in [0, 1, 3, 80] {
            let names: Vec<String> = (0..classes).map(|class| format!("class {class}")).collect();
            for normalised in [false, true] {
                let found = draw(&Confusion::new(classes), &names, normalised).unwrap();
                assert_eq!((found.width, found.height), (1100, 1000));
            }
        }
    }
}
