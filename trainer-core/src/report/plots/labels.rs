//! What the labels of a data set are like: how many of each class, and where and how large the boxes are.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use trainyard_data::Image;

use super::{Area, FAINT, FONT, PlotError, TEXT, TITLE, Titles, line_colour, picture, shortened};

/// Boxes that are drawn over each other; more would be a grey square.
const OUTLINED: usize = 1000;
/// Cells along a side of the heat maps.
const CELLS: usize = 50;
/// Classes whose bars have names.
const NAMED: usize = 30;

/// One box: class id, and centre and size as shares of the image, `[cx, cy, w, h]`.
pub type LabelBox = (u32, [f32; 4]);

/// A picture of `boxes`. `names`: of the classes.
///
/// # Errors
/// When the backend fails, which one in memory does not.
pub fn draw(boxes: &[LabelBox], names: &[String]) -> Result<Image, PlotError> {
    picture(1400, 1200, |area| {
        let panels = area.split_evenly((2, 2));
        instances(&panels[0], boxes, names)?;
        outlines(&panels[1], boxes)?;
        let of = |x: usize, y: usize| boxes.iter().map(move |(_, place)| [place[x], place[y]]);
        heat(&panels[2], Titles { chart: "Centres", x: "x", y: "y" }, of(0, 1), true)?;
        heat(&panels[3], Titles { chart: "Sizes", x: "width", y: "height" }, of(2, 3), false)
    })
}

fn instances(area: &Area<'_>, boxes: &[LabelBox], names: &[String]) -> Result<(), PlotError> {
    let mut counts = vec![0_u32; names.len()];
    for (class, _) in boxes {
        if let Some(count) = counts.get_mut(*class as usize) {
            *count += 1;
        }
    }
    let most = counts.iter().max().copied().unwrap_or(0).max(1);
    let classes = i32::try_from(names.len()).unwrap_or(i32::MAX).max(1);
    let few = names.len() <= NAMED;
    let mut chart = ChartBuilder::on(area)
        .caption("Instances of each class", (FONT, TITLE))
        .margin(12)
        .x_label_area_size(if few && names.len() > 6 { 120 } else { 40 })
        .y_label_area_size(70)
        .build_cartesian_2d((0..classes - 1).into_segmented(), 0..most + most / 12 + 1)?;
    let name = |at: &SegmentValue<i32>| match at {
        SegmentValue::CenterOf(class) => usize::try_from(*class)
            .ok()
            .and_then(|class| names.get(class))
            .map_or(String::new(), |name| shortened(name, 14)),
        _ => String::new(),
    };
    let label = (FONT, TEXT).into_text_style(area);
    let label = if names.len() > 6 {
        label.transform(FontTransform::Rotate90).pos(Pos::new(HPos::Left, VPos::Center))
    } else {
        label
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .x_labels(if few { names.len().max(1) } else { 10 })
        .x_label_formatter(&name)
        .x_label_style(label)
        .y_label_style((FONT, TEXT))
        .draw()?;
    let bars = counts.iter().zip(0..).map(|(count, class)| {
        let corners = [(SegmentValue::Exact(class), 0), (SegmentValue::Exact(class + 1), *count)];
        let mut bar = Rectangle::new(corners, line_colour(usize::try_from(class).unwrap_or(0)).filled());
        bar.set_margin(0, 0, 3, 3);
        bar
    });
    chart.draw_series(bars)?;
    if few {
        let style = (FONT, TEXT).into_text_style(area).pos(Pos::new(HPos::Center, VPos::Bottom));
        let numbers = counts.iter().zip(0..).map(|(count, class)| {
            Text::new(count.to_string(), (SegmentValue::CenterOf(class), *count), style.clone())
        });
        chart.draw_series(numbers)?;
    }
    Ok(())
}

/// All boxes around one centre, so that their sizes and shapes can be compared.
fn outlines(area: &Area<'_>, boxes: &[LabelBox]) -> Result<(), PlotError> {
    let mut chart = ChartBuilder::on(area)
        .caption("Boxes around a common centre", (FONT, TITLE))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(-0.5_f32..0.5, -0.5_f32..0.5)?;
    chart.configure_mesh().disable_mesh().label_style((FONT, TEXT)).draw()?;
    let step = boxes.len().div_ceil(OUTLINED).max(1);
    let frames = boxes.iter().step_by(step).map(|(class, [_, _, w, h])| {
        let corners = [(-w / 2.0, -h / 2.0), (w / 2.0, h / 2.0)];
        Rectangle::new(corners, line_colour(*class as usize).mix(0.35))
    });
    chart.draw_series(frames)?;
    Ok(())
}

/// How many points lie in each cell of a grid. `down`: y grows downwards, as in images.
fn heat(
    area: &Area<'_>,
    titles: Titles<'_>,
    points: impl Iterator<Item = [f32; 2]>,
    down: bool,
) -> Result<(), PlotError> {
    let mut counts = vec![0_u32; CELLS * CELLS];
    for point in points {
        let [column, row] = point.map(|value| ((value * CELLS as f32) as usize).min(CELLS - 1));
        counts[row * CELLS + column] += 1;
    }
    let most = f64::from(counts.iter().max().copied().unwrap_or(0).max(1));
    let range = if down { 1.0_f32..0.0 } else { 0.0_f32..1.0 };
    let mut chart = ChartBuilder::on(area)
        .caption(titles.chart, (FONT, TITLE))
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0_f32..1.0, range)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .label_style((FONT, TEXT))
        .axis_desc_style((FONT, TEXT + 2))
        .x_label_formatter(&|value| format!("{value:.1}"))
        .y_label_formatter(&|value| format!("{value:.1}"))
        .x_desc(titles.x)
        .y_desc(titles.y)
        .draw()?;
    let side = 1.0 / CELLS as f32;
    let filled = counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(at, count)| {
        let (left, top) = ((at % CELLS) as f32 * side, (at / CELLS) as f32 * side);
        // The root shows the rare ones, too.
        let strength = 0.15 + 0.85 * (f64::from(*count) / most).sqrt();
        Rectangle::new([(left, top), (left + side, top + side)], RGBColor(8, 48, 107).mix(strength).filled())
    });
    chart.draw_series(filled)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_box_odd_boxes_and_many_classes_are_drawn() {
        let odd: Vec<LabelBox> = vec![(0, [f32::NAN; 4]), (9, [1.01, -0.5, 2.0, 1.0]), (1, [0.5; 4])];
        for (boxes, classes) in [(vec![], 0), (vec![], 1), (odd.clone(), 2), (odd, 300)] {
            let names: Vec<String> = (0..classes).map(|class| format!("class {class}")).collect();
            assert_eq!(draw(&boxes, &names).unwrap().height, 1200);
        }
    }
}
