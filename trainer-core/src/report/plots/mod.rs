//! Pictures with axes: curves of a validation, of a run, the confusion matrix, what a data set's labels are
//! like. The font comes with the program, so that they are legible on a machine without any.

pub mod confusion;
pub mod curves;
pub mod labels;
pub mod results;

use std::sync::Once;

use plotters::coord::Shift;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::*;
use plotters::style::register_font;
use trainyard_data::Image;

use super::draw::class_colour;

/// Why a picture cannot be drawn.
pub type PlotError = DrawingAreaErrorKind<<BitMapBackend<'static> as DrawingBackend>::ErrorType>;

/// The canvas that panels are drawn on.
type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// The name that texts ask for.
pub(super) const FONT: &str = "sans-serif";
const TITLE: u32 = 22;
const TEXT: u32 = 16;
/// The colour of grid lines.
const FAINT: RGBColor = RGBColor(225, 225, 225);

/// What stands above a chart and at its axes.
#[derive(Debug, Clone, Copy)]
pub struct Titles<'a> {
    /// Above the chart.
    pub chart: &'a str,
    /// Below the x axis.
    pub x: &'a str,
    /// Beside the y axis.
    pub y: &'a str,
}

/// A picture of that size on which `draw` draws.
fn picture(
    width: u32,
    height: u32,
    draw: impl FnOnce(&Area<'_>) -> Result<(), PlotError>,
) -> Result<Image, PlotError> {
    register_fonts();
    let mut image = Image::filled(width as usize, height as usize, 255);
    {
        let area = BitMapBackend::with_buffer(&mut image.rgb, (width, height)).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
    }
    Ok(image)
}

/// Makes the program's own font the one that texts are drawn in.
pub(super) fn register_fonts() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        for (style, bytes) in
            [(FontStyle::Normal, dejavu::sans::regular()), (FontStyle::Bold, dejavu::sans::bold())]
        {
            // The font is a constant of the program: that it can be read is tested.
            let _ = register_font(FONT, style, bytes);
        }
    });
}

/// The colour of a class, dark enough for a line on white.
fn line_colour(class: usize) -> RGBColor {
    let [r, g, b] =
        class_colour(u32::try_from(class).unwrap_or(0)).map(|channel| (u16::from(channel) * 4 / 5) as u8);
    RGBColor(r, g, b)
}

/// The first characters of `text`, at most so many; the last one is an ellipsis if it was longer.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_drawn_without_a_font_of_the_system() {
        let draw = |text: &'static str| {
            picture(80, 30, move |area| area.draw(&Text::new(text, (2, 2), (FONT, TEXT)))).unwrap()
        };
        let dark = |image: &Image| image.rgb.iter().filter(|value| **value < 128).count();
        let (little, much) = (draw("i"), draw("MMM"));
        assert!(dark(&little) > 5 && dark(&much) > 4 * dark(&little), "{} {}", dark(&little), dark(&much));
    }

    #[test]
    fn long_texts_end_in_an_ellipsis() {
        assert_eq!((shortened("Zelle", 5), shortened("Zellen", 5)), ("Zelle".to_owned(), "Zell…".to_owned()));
    }
}
