//! TIFFs of every kind: right, or refused by name, in the same words by a look as by decoding.

use super::jpeg_writer::{self, Space};
use super::tiff_writer::Form;
use super::*;

const SIZE: [usize; 2] = [40, 24];

fn picture() -> RgbImage {
    gradient(40, 24)
}

fn colour(x: usize, y: usize) -> [u8; 3] {
    picture().get_pixel(dimension(x), dimension(y)).0
}

/// The picture as brightness alone, of so many bits.
fn grey(bits: usize) -> impl Fn(usize, usize) -> u16 {
    let picture = picture();
    move |x, y| {
        let [r, g, _] = picture.get_pixel(dimension(x), dimension(y)).0;
        let deep = (u16::from(r) + u16::from(g)) * 128;
        deep >> (16 - bits)
    }
}

fn grey_image(bits: usize) -> RgbImage {
    let (grey, most) = (grey(bits), (1_u32 << bits) - 1);
    RgbImage::from_fn(40, 24, |x, y| {
        let value = u32::from(grey(x as usize, y as usize));
        image::Rgb([u8::try_from((value * 255 + most / 2) / most).unwrap(); 3])
    })
}

fn rgb(bits: usize) -> impl Fn(usize, usize, usize) -> u16 {
    let picture = picture();
    move |x, y, number| {
        let pixel = picture.get_pixel(dimension(x), dimension(y)).0;
        // What is beyond the colours must not be seen.
        let byte = u16::from(pixel.get(number).copied().unwrap_or(if x.is_multiple_of(2) { 0 } else { 99 }));
        if bits == 16 { byte * 257 } else { byte }
    }
}

fn form(photometric: u64, samples: usize, bits: usize) -> Form {
    Form::new(SIZE, photometric, samples, bits)
}

/// Decodes the file, and has a look at it.
fn both(bytes: &[u8], told: &str) -> Result<Image, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.tif");
    std::fs::write(&file, bytes).unwrap();
    let (probed, decoded) = (probe(&file), decode(bytes));
    match (&probed, &decoded) {
        (Ok(probed), Ok(image)) => assert_eq!(probed.size, [image.width, image.height], "{told}"),
        (Err(probed), Err(decoded)) => assert_eq!(probed.to_string(), decoded.to_string(), "{told}"),
        _ => panic!("a probe says {probed:?}, decoding {:?}: {told}", decoded.map(|_| ())),
    }
    decoded.map_err(|error| error.to_string())
}

#[test]
fn colours_are_right_however_a_tiff_lays_them_out() {
    let expected = picture();
    let mut files = 0;
    for (photometric, samples, bits) in
        [(2, 3, 8), (2, 3, 16), (2, 4, 8), (2, 4, 16), (2, 5, 8), (5, 4, 8), (5, 4, 16), (5, 5, 8)]
    {
        for (compression, predictor) in [(1, 1), (5, 1), (5, 2), (8, 2), (32_773, 1)] {
            for (planar, tiles, part) in [
                (false, false, [40, 24]),
                (false, false, [40, 7]),
                (false, true, [16, 16]),
                (true, false, [40, 7]),
                (true, true, [16, 32]),
            ] {
                for (big, big_endian) in [(false, false), (false, true), (true, false), (true, true)] {
                    let mut form = form(photometric, samples, bits);
                    (form.compression, form.predictor) = (compression, predictor);
                    (form.planar, form.tiles, form.part) = (planar, tiles, part);
                    (form.big, form.big_endian) = (big, big_endian);
                    let sample = rgb(bits);
                    let full = if bits == 16 { u16::MAX } else { 255 };
                    let bytes = form.write(|x, y, number| match (photometric, number) {
                        (5, 3) => 0,
                        (5, 0..3) => full - sample(x, y, number),
                        _ => sample(x, y, number),
                    });
                    let image = both(&bytes, &format!("{form:?}"))
                        .unwrap_or_else(|error| panic!("{error}: {form:?}"));
                    assert!(distance(&image, &expected) <= 1, "{form:?}");
                    files += 1;
                }
            }
        }
    }
    assert_eq!(files, 800);
}

#[test]
fn greys_of_every_depth_are_right_whichever_end_is_white() {
    for bits in [1, 2, 4, 8, 16] {
        let (value, expected) = (grey(bits), grey_image(bits));
        let most = u16::MAX >> (16 - bits);
        for (photometric, samples) in [(0, 1), (1, 1), (1, 2), (0, 2)] {
            for (planar, part) in [(false, [40, 24]), (false, [40, 5]), (true, [40, 5])] {
                let mut form = form(photometric, samples, bits);
                (form.planar, form.part) = (planar, part);
                let bytes = form.write(|x, y, number| match (number, photometric) {
                    (0, 0) => most - value(x, y),
                    (0, _) => value(x, y),
                    _ => most,
                });
                let image = both(&bytes, &format!("{form:?}")).unwrap();
                assert_eq!(distance(&image, &expected), 0, "{form:?}");
            }
        }
    }
}

#[test]
fn palettes_of_every_depth_are_right_in_words_and_in_bytes() {
    for (bits, unit) in [(1, 257), (2, 257), (4, 257), (8, 257), (8, 1)] {
        let count = 1_usize << bits;
        let entry = |number: usize, colour: usize| (number * 37 + colour * 91) % 256;
        let palette: Vec<u64> =
            (0..3 * count).map(|at| (entry(at % count, at / count) * unit) as u64).collect();
        for (big, big_endian) in [(false, false), (true, true)] {
            let mut form = form(3, 1, bits);
            (form.big, form.big_endian) = (big, big_endian);
            form.more = vec![(320, palette.clone())];
            let bytes = form.write(|x, y, _| ((x + y) % count) as u16);
            let expected = RgbImage::from_fn(40, 24, |x, y| {
                let number = (x + y) as usize % count;
                image::Rgb([0, 1, 2].map(|colour| entry(number, colour) as u8))
            });
            let image = both(&bytes, &format!("{form:?}")).unwrap();
            assert_eq!(distance(&image, &expected), 0, "{form:?}");
        }
    }
}

#[test]
fn jpegs_in_tiffs_are_decoded_as_files_are() {
    let smooth = |x: f64, y: f64| [60.0 + x * 2.0, 200.0 - y * 2.0, 80.0 + x + y];
    let part = |space: Space, size: [usize; 2], left: usize, top: usize, luma: [usize; 2]| {
        let mut jpeg = jpeg_writer::Form::new(space, size, luma);
        jpeg.adobe = false;
        // Of an RGB picture nothing but the TIFF says so.
        let bytes = jpeg.write(&jpeg.planes(|x, y| smooth(x + left as f64, y + top as f64)));
        if space == Space::Rgb { plain_ids(bytes) } else { bytes }
    };
    for (space, photometric, luma) in [
        (Space::YCbCr, 6, [2, 2]),
        (Space::YCbCr, 6, [1, 1]),
        (Space::Rgb, 2, [1, 1]),
        (Space::Grey, 1, [1, 1]),
    ] {
        for (tiles, size) in [(false, [40, 24]), (false, [40, 16]), (true, [16, 16])] {
            let mut form = form(photometric, space.components(), 8);
            (form.tiles, form.part, form.compression) = (tiles, size, 7);
            let [across, down] = [0, 1].map(|axis| SIZE[axis].div_ceil(size[axis]));
            let parts: Vec<Vec<u8>> = (0..across * down)
                .map(|number| {
                    let (left, top) = (number % across * size[0], number / across * size[1]);
                    part(space, size, left, top, luma)
                })
                .collect();
            // Tables may stand apart, as GDAL and libtiff write them.
            let split = parts[0].windows(2).position(|marker| marker == [0xFF, 0xC0]).unwrap();
            let tables = [&parts[0][..split], &[0xFF, 0xD9]].concat();
            for apart in [false, true] {
                let parts: Vec<Vec<u8>> = parts
                    .iter()
                    .map(|part| if apart { [&[0xFF, 0xD8], &part[split..]].concat() } else { part.clone() })
                    .collect();
                form.more = if apart {
                    vec![(347, tables.iter().map(|byte| u64::from(*byte)).collect())]
                } else {
                    vec![]
                };
                let image = both(&form.assemble(&parts), &format!("{form:?}")).unwrap();
                let expected = RgbImage::from_fn(40, 24, |x, y| {
                    let [r, g, b] = smooth(x.into(), y.into());
                    let grey = 0.299 * r + 0.587 * g + 0.114 * b;
                    image::Rgb(
                        (if space == Space::Grey { [grey; 3] } else { [r, g, b] })
                            .map(|value| value.round() as u8),
                    )
                });
                let off = distance(&image, &expected);
                assert!(off <= 8, "{off}: {form:?}");
            }
        }
    }
}

/// A JPEG whose components have the numbers 1 to 3, instead of letters that tell its colours.
fn plain_ids(mut bytes: Vec<u8>) -> Vec<u8> {
    for marker in [0xC0, 0xDA] {
        let at = bytes.windows(2).position(|known| known == [0xFF, marker]).unwrap();
        for letter in &mut bytes[at..at + 20] {
            if let Some(number) = b"RGB".iter().position(|known| known == letter) {
                *letter = u8::try_from(number + 1).unwrap();
            }
        }
    }
    bytes
}

#[test]
fn what_has_no_plain_meaning_is_refused_by_name() {
    let more = |tag: u64, numbers: &[u64]| vec![(tag, numbers.to_vec())];
    for (photometric, samples, bits, compression, more, reason) in [
        (2, 3, 32, 1, more(339, &[3, 3, 3]), "is a TIFF of floating-point numbers"),
        (1, 1, 16, 1, more(339, &[2]), "is a TIFF of numbers with a sign"),
        (1, 1, 32, 1, vec![], "is a TIFF of 32 bits a sample"),
        (1, 1, 12, 1, vec![], "is a TIFF of 12 bits a sample"),
        (8, 3, 8, 1, vec![], "is a TIFF of CIE L*a*b* colours"),
        (6, 3, 8, 1, vec![], "is a TIFF of YCbCr colours"),
        (3, 1, 8, 1, vec![], "is a TIFF without the palette that it needs"),
        (4, 1, 1, 1, vec![], "is a TIFF of a mask alone"),
        (2, 2, 8, 1, vec![], "is a TIFF of 2 samples a pixel where its colours have 3"),
        (1, 1, 8, 50_000, vec![], "is a TIFF compressed by Zstandard"),
        (1, 1, 8, 6, vec![], "is a TIFF of JPEGs of the old style"),
        (1, 1, 1, 1, more(266, &[2]), "is a TIFF whose bits are in reverse order"),
        (32_803, 1, 16, 1, vec![], "is a camera's raw file"),
        (2, 3, 8, 1, more(50_706, &[1]), "is DNG"),
    ] {
        let mut form = form(photometric, samples, bits);
        form.compression = compression;
        form.more = more;
        let parts = vec![vec![0; 40 * 24 * samples * bits.max(8) / 8]];
        let error = both(&form.assemble(&parts), reason).unwrap_err();
        assert_eq!(error, format!("{reason}, which is not read; convert it to an 8-bit JPEG or PNG"));
    }
}

#[test]
fn orientations_turn_tiffs_and_a_truncated_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.tif");
    for (big, big_endian, tiles) in
        [(false, false, false), (true, false, true), (false, true, true), (true, true, false)]
    {
        let mut form = form(2, 3, 8);
        (form.big, form.big_endian, form.tiles, form.part) = (big, big_endian, tiles, [16, 16]);
        if !tiles {
            form.part = [40, 5];
        }
        form.more = vec![(274, vec![6])];
        let bytes = form.write(rgb(8));
        let image = both(&bytes, "turned").unwrap();
        assert_eq!((image.width, image.height), (24, 40));
        assert_eq!(image.rgb[..3], colour(0, 23));
        // The header is whole, the pixels are not.
        let begin = bytes.len() - 1000;
        // A tile's last byte is beyond the picture's edge here, and not missed.
        for keep in [if tiles { begin } else { bytes.len() - 1 }, begin - 1, begin - 300] {
            std::fs::write(&file, &bytes[..keep]).unwrap();
            for error in [probe(&file).unwrap_err(), decode(&bytes[..keep]).unwrap_err()] {
                assert!(matches!(error, DecodeError::Truncated), "{keep}: {error}: {form:?}");
            }
        }
    }
}

#[test]
fn a_tiff_of_more_than_half_a_gibibyte_that_passes_a_look_is_decoded() {
    // All strips are the same one, so that the file is small.
    let [side, rows] = [13_400, 134];
    let mut form = Form::new([side, side], 2, 3, 8);
    (form.part, form.compression) = ([side, rows], 32_773);
    let runs = (3 * side * rows).div_ceil(128);
    let strip: Vec<u8> = [129, 7].repeat(runs);
    let bytes = form.assemble(&[strip]);
    let bytes = one_strip_for_all(bytes, side / rows);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.tif");
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(probe(&file).unwrap().size, [side, side]);
    let image = decode(&bytes).unwrap();
    assert!(image.rgb.len() > 512 << 20);
    assert_eq!((image.rgb[0], image.rgb[image.rgb.len() - 1]), (7, 7));
}

/// The list of strips, of one, becomes lists of many that are the same.
fn one_strip_for_all(mut bytes: Vec<u8>, strips: usize) -> Vec<u8> {
    let count = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    for entry in 0..count {
        let at = 10 + 12 * entry;
        if matches!(u16::from_le_bytes([bytes[at], bytes[at + 1]]), 273 | 279) {
            let value = bytes[at + 8..at + 12].to_vec();
            let place = u32::try_from(bytes.len()).unwrap();
            bytes.extend(value.repeat(strips));
            bytes[at + 4..at + 8].copy_from_slice(&u32::try_from(strips).unwrap().to_le_bytes());
            bytes[at + 8..at + 12].copy_from_slice(&place.to_le_bytes());
        }
    }
    bytes
}

#[test]
fn damaged_tiffs_never_end_the_process() {
    for (big, compression) in [(false, 5), (true, 8)] {
        let mut form = form(2, 3, 8);
        (form.big, form.compression, form.part) = (big, compression, [40, 8]);
        let bytes = form.write(rgb(8));
        for position in 0..bytes.len().min(700) {
            for damage in [0x5A, 0xFF] {
                let mut damaged = bytes.clone();
                damaged[position] ^= damage;
                let _ = decode(&damaged);
            }
        }
    }
}
