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
        assert_eq!(look(&file).unwrap().size, [40, 24], "{format:?}");
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
    assert_eq!(look(Path::new(file)).unwrap().size, [130, 90]);
}

#[test]
fn exif_orientation_turns_pixels_and_size() {
    let picture = gradient(32, 16);
    // A little-endian TIFF header with one entry: orientation (0x0112), one short, 6 = turn right.
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0".to_vec();
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
    encoder.set_exif_metadata(exif).unwrap();
    encoder.write_image(picture.as_raw(), 32, 16, image::ExtendedColorType::Rgb8).unwrap();
    let turned = image::imageops::rotate90(&picture);
    assert!(distance(&decode(&bytes).unwrap(), &turned) <= 12);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.jpg"), bytes).unwrap();
    assert_eq!(look(&folder.path().join("a.jpg")).unwrap().size, [16, 32]);
}

#[test]
fn truncated_and_foreign_files_are_errors_not_panics() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a");
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
        let bytes = encoded(&DynamicImage::ImageRgb8(gradient(64, 64)), format);
        for keep in [0, 1, 7, 20, bytes.len() / 2, bytes.len() - 20] {
            std::fs::write(&file, &bytes[..keep]).unwrap();
            assert!(look(&file).is_err(), "{format:?} {keep}");
            // Whatever comes out, it comes out.
            let _ = decode(&bytes[..keep]);
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
    std::fs::write(&file, &bytes[..bytes.len() - 2]).unwrap();
    look(&file).unwrap();
    std::fs::write(&file, [&bytes[..], &[7; 100]].concat()).unwrap();
    look(&file).unwrap();
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
