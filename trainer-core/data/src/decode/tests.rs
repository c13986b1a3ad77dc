//! Tests of decoding and probing: formats, orientation, damage, limits.

mod jpeg;
mod jpeg_writer;
mod signatures;
mod tiff;
mod tiff_writer;

use super::*;
use image::codecs::jpeg::JpegEncoder;
use image::{GrayImage, ImageEncoder};

fn gradient(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([
            u8::try_from(x * 255 / width).unwrap(),
            u8::try_from(y * 255 / height).unwrap(),
            u8::try_from((x + y) * 255 / (width + height)).unwrap(),
        ])
    })
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    if format == ImageFormat::Tiff {
        let rgb = image.to_rgb8();
        let form = tiff_writer::Form::new([rgb.width() as usize, rgb.height() as usize], 2, 3, 8);
        return form.write(|x, y, number| rgb.get_pixel(dimension(x), dimension(y))[number].into());
    }
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// The largest difference between two images of one size.
fn distance(left: &Image, right: &RgbImage) -> u8 {
    assert_eq!((left.width, left.height), (right.width() as usize, right.height() as usize));
    left.rgb.iter().zip(right.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn every_format_decodes_to_the_same_picture() {
    let picture = gradient(40, 24);
    let folder = tempfile::tempdir().unwrap();
    for (format, extension, tolerance) in [
        (ImageFormat::Png, "png", 0),
        (ImageFormat::Bmp, "bmp", 0),
        (ImageFormat::WebP, "webp", 0),
        (ImageFormat::Tiff, "tiff", 0),
        (ImageFormat::Jpeg, "jpg", 12),
    ] {
        let bytes = encoded(&DynamicImage::ImageRgb8(picture.clone()), format);
        assert!(distance(&decode(&bytes).unwrap(), &picture) <= tolerance, "{format:?}");
        let file = folder.path().join(format!("a.{extension}"));
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(probe(&file).unwrap().size, [40, 24], "{format:?}");
        assert!(is_image_name(&file));
    }
    assert!(!is_image_name(Path::new("a.txt")));
}

#[test]
fn grey_and_16_bit_and_transparent_images_become_rgb() {
    let grey = GrayImage::from_fn(20, 20, |x, _| image::Luma([u8::try_from(x * 12).unwrap()]));
    let grey = DynamicImage::ImageLuma8(grey);
    let rgb = grey.to_rgb8();
    assert!(distance(&decode(&encoded(&grey, ImageFormat::Jpeg)).unwrap(), &rgb) <= 4);
    assert_eq!(distance(&decode(&encoded(&grey, ImageFormat::Png)).unwrap(), &rgb), 0);
    let deep = DynamicImage::ImageLuma16(grey.to_luma16());
    assert_eq!(distance(&decode(&encoded(&deep, ImageFormat::Png)).unwrap(), &rgb), 0);
    let clear = DynamicImage::ImageRgba8(grey.to_rgba8());
    assert_eq!(distance(&decode(&encoded(&clear, ImageFormat::Png)).unwrap(), &rgb), 0);
}

#[test]
fn cmyk_jpegs_become_rgb() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/cmyk.jpg");
    let picture = gradient(130, 90);
    let picture = RgbImage::from_fn(130, 90, |x, y| {
        let [r, g, _] = picture.get_pixel(x, y).0;
        image::Rgb([r, g, u8::try_from((x + y) * 255 / 220).unwrap()])
    });
    let off = distance(&read(Path::new(file)).unwrap(), &picture);
    assert!(off <= 16, "{off}");
    assert_eq!(probe(Path::new(file)).unwrap().size, [130, 90]);
}

/// A JPEG whose EXIF data, of so many bytes, has this orientation.
fn oriented_jpeg(picture: &RgbImage, orientation: u8, exif_bytes: usize) -> Vec<u8> {
    // A little-endian TIFF header with one entry: orientation (0x0112), one short.
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0".to_vec();
    exif[18] = orientation;
    exif.resize(exif_bytes.max(exif.len()), 0);
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
    encoder.set_exif_metadata(exif).unwrap();
    let (width, height) = picture.dimensions();
    encoder.write_image(picture.as_raw(), width, height, image::ExtendedColorType::Rgb8).unwrap();
    bytes
}

#[test]
fn every_exif_orientation_turns_pixels_and_size() {
    let (w, h) = (32, 16);
    let picture = gradient(w, h);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.jpg");
    for orientation in 1..=8 {
        let turned = if orientation < 5 { (w, h) } else { (h, w) };
        // Where the pixel at the right place comes from.
        let expected = RgbImage::from_fn(turned.0, turned.1, |x, y| {
            let (x, y) = match orientation {
                1 => (x, y),
                2 => (w - 1 - x, y),
                3 => (w - 1 - x, h - 1 - y),
                4 => (x, h - 1 - y),
                5 => (y, x),
                6 => (y, h - 1 - x),
                7 => (w - 1 - y, h - 1 - x),
                _ => (w - 1 - y, x),
            };
            *picture.get_pixel(x, y)
        });
        // Also where the header is longer than what is read of it at first.
        for exif_bytes in [0, 9000] {
            let bytes = oriented_jpeg(&picture, orientation, exif_bytes);
            assert!(distance(&decode(&bytes).unwrap(), &expected) <= 12, "{orientation}");
            std::fs::write(&file, bytes).unwrap();
            assert_eq!(probe(&file).unwrap().size, [turned.0 as usize, turned.1 as usize], "{orientation}");
        }
    }
}

/// 5 x 3 pixels of four colours, two bits each; the colour at (x, y) is number (x + y) modulo 4.
const PALETTE_PNG: &[u8] = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x05\x00\x00\x00\x03\x02\x03\x00\x00\x00&X-k\
    \x00\x00\x00\x0cPLTE\xff\x00\x00\x00\xff\x00\x00\x00\xff\t\x08\x07\xa2\xd2b\xc0\
    \x00\x00\x00\x11IDATx\xdac\x90f`\xc8q`\xd8\xd8\x00\x00\x05\xdf\x01\xf9\xdc\xe6.g\x00\x00\x00\x00IEND\xaeB`\x82";

#[test]
fn palettes_become_rgb() {
    let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]];
    let expected = RgbImage::from_fn(5, 3, |x, y| image::Rgb(colours[(x + y) as usize % 4]));
    assert_eq!(distance(&decode(PALETTE_PNG).unwrap(), &expected), 0);
}

#[test]
fn a_jpeg_may_be_as_wide_as_jpegs_are_and_one_that_no_memory_could_hold_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.jpg");
    let mut bytes = encoded(&DynamicImage::ImageRgb8(gradient(16_400, 8)), ImageFormat::Jpeg);
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(probe(&file).unwrap().size, [16_400, 8]);
    assert_eq!(decode(&bytes).unwrap().width, 16_400);
    let frame = bytes.windows(2).position(|marker| marker == [0xFF, 0xC0]).unwrap();
    bytes[frame + 5..frame + 9].fill(0xFF);
    std::fs::write(&file, &bytes).unwrap();
    for error in [probe(&file).unwrap_err(), decode(&bytes).unwrap_err()] {
        assert_eq!(error.to_string(), "is 65535x65535 pixels, more than can be decoded");
    }
}

#[test]
fn truncated_and_foreign_files_are_errors_not_panics() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a");
    let formats =
        [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP, ImageFormat::Tiff];
    for format in formats {
        let bytes = encoded(&DynamicImage::ImageRgb8(gradient(64, 64)), format);
        for keep in [0, 1, 7, 20, bytes.len() / 2, bytes.len() - 20] {
            std::fs::write(&file, &bytes[..keep]).unwrap();
            assert!(probe(&file).is_err(), "{format:?} {keep}");
            assert!(decode(&bytes[..keep]).is_err(), "{format:?} {keep}");
        }
    }
    assert!(decode(b"<html>not found</html>").is_err());
    assert!(read(Path::new("/no/such.jpg")).unwrap_err().to_string().starts_with("cannot be read"));
}

#[test]
fn a_jpeg_that_lacks_only_its_end_marker_or_goes_on_behind_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.jpg");
    let bytes = encoded(&DynamicImage::ImageRgb8(gradient(64, 64)), ImageFormat::Jpeg);
    let picture = decode(&bytes).unwrap();
    for bytes in [&bytes[..bytes.len() - 2], &[&bytes[..], &[7; 100]].concat()] {
        std::fs::write(&file, bytes).unwrap();
        probe(&file).unwrap();
        assert_eq!(decode(bytes).unwrap(), picture);
    }
}

#[test]
fn damaged_bytes_never_end_the_process() {
    let bytes = encoded(&DynamicImage::ImageRgb8(gradient(48, 48)), ImageFormat::Jpeg);
    for position in 2..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x5A;
        let _ = decode(&damaged);
    }
}
