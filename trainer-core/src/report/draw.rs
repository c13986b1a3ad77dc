//! Boxes with names on pictures, pictures side by side, PNG files: for people who look at results.

use std::io;
use std::path::Path;

use image::ImageEncoder;
use image::codecs::png::PngEncoder;
use plotters::prelude::*;
use trainyard_data::Image;
use trainyard_data::resample::GREY;
use trainyard_files::write_atomically;

use super::plots::{FONT, register_fonts};

/// Size of a label's letters at scale 1, in pixels: of a capital, two thirds.
const LETTERS: i32 = 14;

/// An RGB colour.
pub type Colour = [u8; 3];

/// A box to draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DrawnBox {
    /// Corners in pixels of the picture, `[x1, y1, x2, y2]`.
    pub xyxy: [f32; 4],
    /// The class's id.
    pub class: u32,
    /// The confidence of a detection; none for a label.
    pub score: Option<f32>,
}

/// A colour for each class, neighbours far apart: hues by the golden ratio, three brightnesses.
pub fn class_colour(class: u32) -> Colour {
    let hue = (f64::from(class) * 0.618_033_988_75).fract() * 6.0;
    let value = [255.0, 200.0, 235.0][(class % 3) as usize];
    let low = value * 0.1;
    let (sector, part) = (hue.floor(), hue.fract());
    let (rising, falling) = (low + (value - low) * part, value - (value - low) * part);
    let rgb = match sector as i32 {
        0 => [value, rising, low],
        1 => [falling, value, low],
        2 => [low, value, rising],
        3 => [low, falling, value],
        4 => [rising, low, value],
        _ => [value, low, falling],
    };
    rgb.map(|channel| channel as u8)
}

/// Draws each box with its class name and, for detections, its confidence. Later boxes cover earlier ones.
pub fn draw_boxes(image: &mut Image, boxes: &[DrawnBox], names: &[String]) {
    // Large pictures get thicker lines and larger letters.
    let scale = (image.width.max(image.height) / 480).clamp(1, 4);
    for drawn in boxes {
        let colour = class_colour(drawn.class);
        let [x1, y1, x2, y2] = drawn.xyxy.map(to_pixel);
        frame(image, [x1, y1, x2, y2], scale + 1, colour);
        let mut text = match names.get(drawn.class as usize) {
            Some(name) => name.clone(),
            None => drawn.class.to_string(),
        };
        if let Some(score) = drawn.score {
            text.push_str(&format!(" {score:.2}"));
        }
        label(image, x1, y1, &text, scale, colour);
    }
}

/// Coordinates may be anything; a picture's sides are far below these bounds.
fn to_pixel(value: f32) -> i32 {
    if value.is_nan() { 0 } else { value.round().clamp(-100_000.0, 100_000.0) as i32 }
}

/// Fills the part of a rectangle that is on the picture.
fn fill(image: &mut Image, [x1, y1, x2, y2]: [i32; 4], colour: Colour) {
    let clip = |value: i32, limit: usize| usize::try_from(value).unwrap_or(0).min(limit);
    let (left, right) = (clip(x1, image.width), clip(x2, image.width));
    let (top, bottom) = (clip(y1, image.height), clip(y2, image.height));
    for y in top..bottom {
        if left < right {
            for pixel in image.row_mut(y)[left * 3..right * 3].chunks_exact_mut(3) {
                pixel.copy_from_slice(&colour);
            }
        }
    }
}

fn frame(image: &mut Image, [x1, y1, x2, y2]: [i32; 4], thickness: usize, colour: Colour) {
    let t = i32::try_from(thickness).unwrap_or(1);
    for side in [[x1, y1, x2, y1 + t], [x1, y2 - t, x2, y2], [x1, y1, x1 + t, y2], [x2 - t, y1, x2, y2]] {
        fill(image, side, colour);
    }
}

/// Text on a coloured ground, above the point if there is room, below it otherwise.
fn label(image: &mut Image, x: i32, y: i32, text: &str, scale: usize, colour: Colour) {
    register_fonts();
    let size = LETTERS * i32::try_from(scale).unwrap_or(1);
    let font = (FONT, size).into_font();
    // The font is a part of the program; without it there would be a coloured ground and no text.
    let width = font.box_size(text).map_or(0, |(width, _)| i32::try_from(width).unwrap_or(i32::MAX / 2));
    // Room for accents and for what hangs below the line.
    let (width, height) = (width + 4, size * 8 / 7);
    let top = if y >= height { y - height } else { y };
    let side = i32::try_from(image.width).unwrap_or(i32::MAX);
    let left = x.min(side - width).max(0);
    fill(image, [left, top, left + width, top + height], colour);
    let [r, g, b] = readable_on(colour);
    let style = font.color(&RGBColor(r, g, b));
    let [columns, rows] = [image.width, image.height].map(|side| u32::try_from(side).unwrap_or(0));
    if columns == 0 || rows == 0 {
        return;
    }
    let area = BitMapBackend::with_buffer(&mut image.rgb, (columns, rows)).into_drawing_area();
    // Plotters draws capitals around the point that it is given, accents above it.
    let _ = area.draw(&Text::new(text, (left + 2, top + size * 9 / 25), style));
    let _ = area.present();
}

/// Black or white, whichever is easier to read on `colour`.
fn readable_on([r, g, b]: Colour) -> Colour {
    let brightness = 299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b);
    if brightness > 140_000 { [0; 3] } else { [255; 3] }
}

/// Puts pictures side by side, `columns` in a row, each in the top left corner of a cell as large as the
/// largest of them.
pub fn montage(images: &[Image], columns: usize) -> Image {
    const GAP: usize = 4;
    let columns = columns.clamp(1, images.len().max(1));
    let width = images.iter().map(|image| image.width).max().unwrap_or(1);
    let height = images.iter().map(|image| image.height).max().unwrap_or(1);
    let rows = images.len().div_ceil(columns).max(1);
    let mut sheet = Image::filled(columns * (width + GAP) - GAP, rows * (height + GAP) - GAP, GREY / 3);
    for (index, image) in images.iter().enumerate() {
        let (left, top) = (index % columns * (width + GAP), index / columns * (height + GAP));
        for y in 0..image.height {
            sheet.row_mut(top + y)[left * 3..left * 3 + image.stride()].copy_from_slice(image.row(y));
        }
    }
    sheet
}

/// Writes a PNG file, whole or not at all.
///
/// # Errors
/// When the file cannot be written, or the picture has no pixels.
pub fn write_png(path: &Path, image: &Image) -> io::Result<()> {
    let side = |pixels: usize| u32::try_from(pixels).map_err(io::Error::other);
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(&image.rgb, side(image.width)?, side(image.height)?, image::ExtendedColorType::Rgb8)
        .map_err(io::Error::other)?;
    write_atomically(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(xyxy: [f32; 4]) -> DrawnBox {
        DrawnBox { xyxy, class: 1, score: Some(0.876) }
    }

    #[test]
    fn a_box_is_framed_and_its_inside_left_alone() {
        let mut image = Image::filled(100, 80, 0);
        draw_boxes(&mut image, &[drawn([10.0, 40.0, 60.0, 70.0])], &["a".into(), "cat".into()]);
        let pixel = |x: usize, y: usize| <[u8; 3]>::try_from(&image.row(y)[x * 3..x * 3 + 3]).unwrap();
        let colour = class_colour(1);
        assert_eq!((pixel(10, 40), pixel(59, 69), pixel(30, 69)), (colour, colour, colour));
        assert_eq!((pixel(30, 50), pixel(60, 70), pixel(90, 10)), ([0; 3], [0; 3], [0; 3]));
        // The label stands above.
        assert!((30..40).any(|y| (10..80).any(|x| pixel(x, y) == readable_on(colour))));
    }

    #[test]
    fn whatever_the_coordinates_and_names_nothing_leaves_the_picture() {
        let mut image = Image::filled(20, 10, 0);
        for xyxy in [
            [-50.0, -50.0, 500.0, 500.0],
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3.0],
            [15.0, 8.0, 5.0, 2.0],
            [19.0, 9.0, 25.0, 12.0],
        ] {
            draw_boxes(&mut image, &[drawn(xyxy)], &[]);
            draw_boxes(&mut image, &[drawn(xyxy)], &["x".into(), "grün 猫".into()]);
        }
        assert_eq!(image.rgb.len(), 600);
    }

    #[test]
    fn names_in_other_scripts_are_as_legible_as_latin_ones() {
        let drawn = |name: &str| {
            let mut image = Image::filled(200, 40, 0);
            let class = DrawnBox { xyxy: [0.0, 20.0, 1.0, 40.0], class: 0, score: None };
            draw_boxes(&mut image, &[class], &[name.into()]);
            image.rgb
        };
        // Not a font's sign for what it has not got, of which two would look alike.
        for (one, other) in [("ж", "я"), ("ω", "ψ"), ("ش", "ع"), ("א", "ש"), ("ß", "ø"), ("ო", "ფ")]
        {
            assert_ne!(drawn(one), drawn(other), "{one} {other}");
        }
    }

    #[test]
    fn the_first_classes_have_clearly_different_colours() {
        let colours: Vec<Colour> = (0..20).map(class_colour).collect();
        for (index, a) in colours.iter().enumerate() {
            for b in &colours[..index] {
                let distance: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
                assert!(distance > 20, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_montage_holds_every_picture_and_is_written_whole() {
        let pictures: Vec<Image> = (1..=5).map(|value| Image::filled(10, 6, value)).collect();
        let sheet = montage(&pictures, 2);
        assert_eq!((sheet.width, sheet.height), (24, 26));
        assert_eq!((sheet.row(0)[0], sheet.row(0)[14 * 3], sheet.row(20)[0]), (1, 2, 5));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.png");
        write_png(&file, &sheet).unwrap();
        assert_eq!(trainyard_data::decode::read(&file).unwrap(), sheet);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
