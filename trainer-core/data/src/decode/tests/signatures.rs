//! Kinds of the formats that the `image` crate reads, and what lies under a wrong name.

use super::*;

/// The colour at (x, y) of 5 x 3 pixels is number (x + y) modulo 4.
const COLOURS: [[u8; 3]; 4] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]];

fn number(x: u32, y: u32) -> u8 {
    ((x + y) % 4) as u8
}

fn expected() -> RgbImage {
    RgbImage::from_fn(5, 3, |x, y| image::Rgb(COLOURS[usize::from(number(x, y))]))
}

/// A bitmap: rows from bottom to top unless it says otherwise.
fn bmp(old: bool, height: i32, bits: u16, compression: u32, masks: &[u32], pixels: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    let has_palette = bits <= 8;
    if old {
        // Of OS/2: 16-bit sides, colours of three bytes.
        head.extend(12_u32.to_le_bytes());
        [5, 3, 1, bits].iter().for_each(|number: &u16| head.extend(number.to_le_bytes()));
    } else {
        head.extend(40_u32.to_le_bytes());
        head.extend([5_i32.to_le_bytes(), height.to_le_bytes()].concat());
        head.extend([1_u16.to_le_bytes(), bits.to_le_bytes()].concat());
        let colours = if has_palette { 4 } else { 0 };
        for number in [compression, u32::try_from(pixels.len()).unwrap(), 0, 0, colours, 0] {
            head.extend(number.to_le_bytes());
        }
    }
    masks.iter().for_each(|mask| head.extend(mask.to_le_bytes()));
    if has_palette {
        // The old kind has as many colours as there are numbers.
        let count = if old { 1 << bits } else { 4 };
        for colour in 0..count {
            let [r, g, b] = COLOURS.get(colour).copied().unwrap_or_default();
            head.extend([b, g, r]);
            if !old {
                head.push(0);
            }
        }
    }
    let offset = u32::try_from(14 + head.len()).unwrap();
    let length = offset + u32::try_from(pixels.len()).unwrap();
    [b"BM", &length.to_le_bytes()[..], &[0; 4], &offset.to_le_bytes(), &head, pixels].concat()
}

/// Rows from the bottom, each filled up to four bytes.
fn rows(make: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..3)
        .rev()
        .flat_map(|y| {
            let mut row = make(y);
            row.resize(row.len().next_multiple_of(4), 0);
            row
        })
        .collect()
}

#[test]
fn bitmaps_of_every_kind_are_right() {
    let packed = |bits: u32| {
        rows(|y| {
            let numbers =
                (0..5).fold(0_u64, |packed, x| packed << bits | u64::from(number(x, y)) & ((1 << bits) - 1));
            (numbers << (40 - 5 * bits)).to_be_bytes()[3..][..(5 * bits).div_ceil(8) as usize].to_vec()
        })
    };
    let bytes = |order: [usize; 3], more: &[u8]| {
        rows(|y| {
            let pixel = |x| order.map(|at| COLOURS[usize::from(number(x, y))][at]).to_vec();
            (0..5).flat_map(|x| [pixel(x), more.to_vec()].concat()).collect()
        })
    };
    let words = |green: u32| {
        rows(|y| {
            let word = |x| {
                let [r, g, b] = COLOURS[usize::from(number(x, y))].map(u32::from);
                (r >> 3) << (5 + green) | (g >> (8 - green)) << 5 | b >> 3
            };
            (0..5).flat_map(|x| u16::try_from(word(x)).unwrap().to_le_bytes()).collect()
        })
    };
    // A run of the same number twice, and others as they are.
    let runs_of_8: Vec<u8> = (0..3)
        .rev()
        .flat_map(|y| {
            let at = |x| number(x, y);
            [1, at(0), 0, 3, at(1), at(2), at(3), 0, 1, at(4), 0, if y == 0 { 1 } else { 0 }]
        })
        .collect();
    let runs_of_4: Vec<u8> = (0..3)
        .rev()
        .flat_map(|y| {
            let pair = |x| number(x, y) << 4 | number(x + 1, y);
            [4, pair(0), 1, pair(4), 0, if y == 0 { 1 } else { 0 }]
        })
        .collect();
    // Four of a run alternate between two numbers: rows as that makes them.
    let of_runs = RgbImage::from_fn(5, 3, |x, y| {
        image::Rgb(COLOURS[usize::from(if x < 4 { number(x % 2, y) } else { number(4, y) })])
    });
    let top_down: Vec<u8> = packed(8).chunks(8).rev().flatten().copied().collect();
    let of_two = RgbImage::from_fn(5, 3, |x, y| image::Rgb(COLOURS[usize::from(number(x, y) % 2)]));
    for (told, file, expected, tolerance) in [
        ("OS/2, 1 bit", bmp(true, 3, 1, 0, &[], &packed(1)), of_two, 0),
        ("4 bits", bmp(false, 3, 4, 0, &[], &packed(4)), expected(), 0),
        ("8 bits", bmp(false, 3, 8, 0, &[], &packed(8)), expected(), 0),
        ("8 bits from the top", bmp(false, -3, 8, 0, &[], &top_down), expected(), 0),
        ("OS/2, 4 bits", bmp(true, 3, 4, 0, &[], &packed(4)), expected(), 0),
        ("OS/2, 8 bits", bmp(true, 3, 8, 0, &[], &packed(8)), expected(), 0),
        ("OS/2, 24 bits", bmp(true, 3, 24, 0, &[], &bytes([2, 1, 0], &[])), expected(), 0),
        ("16 bits", bmp(false, 3, 16, 0, &[], &words(5)), expected(), 8),
        ("16 bits, 6 of green", bmp(false, 3, 16, 3, &[0xF800, 0x7E0, 0x1F], &words(6)), expected(), 8),
        ("24 bits", bmp(false, 3, 24, 0, &[], &bytes([2, 1, 0], &[])), expected(), 0),
        ("32 bits", bmp(false, 3, 32, 0, &[], &bytes([2, 1, 0], &[0])), expected(), 0),
        (
            "32 bits, masks",
            bmp(false, 3, 32, 3, &[0xFF, 0xFF00, 0xFF_0000], &bytes([0, 1, 2], &[0])),
            expected(),
            0,
        ),
        ("8 bits in runs", bmp(false, 3, 8, 1, &[], &runs_of_8), expected(), 0),
        ("4 bits in runs", bmp(false, 3, 4, 2, &[], &runs_of_4), of_runs, 0),
    ] {
        let image = decode(&file).unwrap_or_else(|error| panic!("{told}: {error}"));
        let off = distance(&image, &expected);
        assert!(off <= tolerance, "{told}: {off}");
    }
    let jpeg_inside = bmp(false, 3, 24, 4, &[], &bytes([2, 1, 0], &[]));
    assert!(decode(&jpeg_inside).unwrap_err().is_unsupported());
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 })
    })
}

#[test]
fn transparent_palettes_and_deep_pngs_keep_their_colours() {
    let transparency = [&b"tRNS"[..], &[0, 128, 255, 7]].concat();
    let chunk = [&4_u32.to_be_bytes(), &transparency[..], &crc(&transparency).to_be_bytes()].concat();
    let at = PALETTE_PNG.windows(4).position(|name| name == b"IDAT").unwrap() - 4;
    let clear = [&PALETTE_PNG[..at], &chunk, &PALETTE_PNG[at..]].concat();
    assert_eq!(distance(&decode(&clear).unwrap(), &expected()), 0);
    let deep = DynamicImage::ImageRgb8(gradient(40, 24)).into_rgba16();
    let deep = encoded(&DynamicImage::ImageRgba16(deep), ImageFormat::Png);
    assert_eq!(distance(&decode(&deep).unwrap(), &gradient(40, 24)), 0);
}

#[test]
fn of_an_animated_webp_the_first_picture_is_taken() {
    let frame = |picture: &RgbImage| {
        let file = encoded(&DynamicImage::ImageRgb8(picture.clone()), ImageFormat::WebP);
        let mut frame = vec![0; 6];
        frame.extend([39, 0, 0, 23, 0, 0, 100, 0, 0, 0]);
        frame.extend(&file[12..]);
        chunk(b"ANMF", &frame)
    };
    fn chunk(name: &[u8], content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap();
        [name, &length.to_le_bytes(), content, &vec![0; content.len() % 2]].concat()
    }
    let first = gradient(40, 24);
    let second = RgbImage::from_pixel(40, 24, image::Rgb([1, 2, 3]));
    let chunks = [
        chunk(b"VP8X", &[2, 0, 0, 0, 39, 0, 0, 23, 0, 0]),
        chunk(b"ANIM", &[0; 6]),
        frame(&first),
        frame(&second),
    ]
    .concat();
    let file = chunk(b"RIFF", &[b"WEBP", &chunks[..]].concat());
    // Its library blends it with what it covers wholly, and rounds.
    assert!(distance(&decode(&file).unwrap(), &first) <= 1);
}

#[test]
fn what_lies_under_a_wrong_name_is_named_for_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, reason) in [
        (
            "a.jpg",
            &b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"[..],
            "is HEIC under the name .jpg; convert it to JPEG or PNG",
        ),
        (
            "a.jpg",
            b"\0\0\0\x1cftypavif\0\0\0\0mif1avif",
            "is AVIF under the name .jpg; convert it to JPEG or PNG",
        ),
        (
            "a.png",
            b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ",
            "is JPEG 2000 under the name .png; convert it to JPEG or PNG",
        ),
        ("a.PNG", b"GIF89a\x01\0\x01\0", "is GIF under the name .PNG; convert it to JPEG or PNG"),
        ("a.jpg", b"", "is empty"),
        (
            "a.jpg",
            b"<html>not found</html>",
            "is no readable image: it is text that begins with `<html>not found</html>`",
        ),
        (
            "a.jpg",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
            "is no readable image: it is text that begins with `version https://git-lfs.github.com/spec/v1`",
        ),
        ("a.jpg", &[0; 100], "is no readable image: nothing known begins like it"),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        for error in [probe(&file).unwrap_err(), read(&file).unwrap_err()] {
            assert_eq!(error.to_string(), reason);
        }
        assert!(decode(content).is_err());
    }
    // What is read is read under any name.
    let file = folder.path().join("a.jpg");
    std::fs::write(&file, PALETTE_PNG).unwrap();
    assert_eq!(probe(&file).unwrap().size, [5, 3]);
}
