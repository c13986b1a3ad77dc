//! JPEGs of every kind against the picture that they were made of, and against each other.

use super::jpeg_writer::{Form, Scan, Space, progressive, sequential};
use super::*;

/// Colours that change slowly, so that little is lost: neither by rounding nor between samples.
fn picture(x: f64, y: f64) -> [f64; 3] {
    let wave = |angle: f64| 120.0 + 70.0 * angle.sin();
    [wave((x + 2.0 * y) / 60.0), wave((2.0 * x - y) / 75.0 + 1.0), wave((y - x) / 90.0 + 2.0)]
}

fn original([width, height]: [usize; 2], is_grey: bool) -> RgbImage {
    RgbImage::from_fn(dimension(width), dimension(height), |x, y| {
        let [r, g, b] = picture(f64::from(x), f64::from(y));
        let grey = 0.299 * r + 0.587 * g + 0.114 * b;
        image::Rgb((if is_grey { [grey; 3] } else { [r, g, b] }).map(|value| value.round() as u8))
    })
}

/// Sampling factors, the first component's first.
fn samplings(space: Space) -> Vec<Vec<[usize; 2]>> {
    let of = |factors: &[[usize; 2]]| factors.to_vec();
    let [one, wide, tall, both] = [[1, 1], [2, 1], [1, 2], [2, 2]];
    match space {
        Space::Grey => vec![of(&[one]), of(&[wide]), of(&[both]), of(&[[4, 2]])],
        Space::Rgb => vec![of(&[one; 3]), of(&[both; 3])],
        Space::Cmyk => vec![of(&[one; 4]), of(&[wide; 4])],
        Space::Ycck => vec![of(&[one; 4]), of(&[both, one, one, both]), of(&[wide, one, one, wide])],
        Space::YCbCr => {
            let mut all: Vec<_> =
                [one, wide, tall, both, [4, 1], [1, 4], [4, 2], [2, 4], [4, 4], [3, 1], [3, 3]]
                    .map(|luma| vec![luma, one, one])
                    .into();
            all.extend([
                of(&[one, both, both]),
                of(&[one, wide, one]),
                of(&[both, one, wide]),
                of(&[wide, wide, wide]),
                of(&[both, both, both]),
                of(&[tall, wide, both]),
                of(&[both, wide, tall]),
            ]);
            all
        }
    }
}

/// Every order in which the components may come; whether each is of a progressive file.
fn scripts(sampling: &[[usize; 2]]) -> Vec<(Vec<Scan>, bool)> {
    let fits = |components: &[usize]| {
        components.len() == 1
            || components.iter().map(|at| sampling[*at][0] * sampling[*at][1]).sum::<usize>() <= 10
    };
    let scripts: &[&[&[usize]]] = match sampling.len() {
        1 => &[&[&[0]]],
        3 => &[&[&[0, 1, 2]], &[&[0], &[1], &[2]], &[&[0], &[1, 2]], &[&[0, 1], &[2]], &[&[2], &[0], &[1]]],
        _ => &[&[&[0, 1, 2, 3]], &[&[0], &[1], &[2], &[3]], &[&[0, 3], &[1, 2]]],
    };
    let possible = scripts.iter().filter(|script| script.iter().all(|scan| fits(scan)));
    let mut all: Vec<_> = possible.map(|script| (sequential(script), false)).collect();
    let everything: Vec<usize> = (0..sampling.len()).collect();
    all.push((progressive(sampling.len(), fits(&everything)), true));
    all.push((progressive(sampling.len(), false), true));
    all
}

#[test]
fn jpegs_of_every_sampling_scan_script_interval_colour_and_size_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.jpg");
    let (mut files, mut largest) = (0, 0);
    for space in [Space::Grey, Space::YCbCr, Space::Rgb, Space::Cmyk, Space::Ycck] {
        for (sampling, size) in samplings(space)
            .iter()
            .flat_map(|sampling| [[33, 17], [64, 48], [5, 3], [8, 8], [1, 70]].map(|size| (sampling, size)))
        {
            let mut first: Option<Image> = None;
            let mut form = Form::new(space, size, [1, 1]);
            form.sampling.clone_from(sampling);
            let planes = form.planes(picture);
            for (number, (scans, is_progressive)) in scripts(sampling).into_iter().enumerate() {
                for restart in [0, 1, 3] {
                    (form.scans, form.is_progressive, form.restart) =
                        (scans.clone(), is_progressive, restart);
                    form.wide_tables = restart == 1;
                    let told = format!("{form:?}");
                    let bytes = form.write(&planes);
                    let image = decode(&bytes).unwrap_or_else(|error| panic!("{error}: {told}"));
                    let off = distance(&image, &original(size, space == Space::Grey));
                    assert!(off <= 9, "{off}: {told}");
                    largest = largest.max(off);
                    files += 1;
                    // All have the same coefficients, and so the same pixels.
                    assert!(*first.get_or_insert_with(|| image.clone()) == image, "{number}: {told}");
                    std::fs::write(&file, bytes).unwrap();
                    assert_eq!(probe(&file).unwrap().size, size, "{told}");
                }
            }
        }
    }
    println!("{files} files, largest difference {largest}");
    assert!(files > 1500, "{files}");
}

fn fixture(name: &str) -> Image {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)).unwrap()
}

#[test]
fn arithmetic_coding_makes_no_difference() {
    // The fixtures are the plain file, coded anew by libjpeg-turbo's jpegtran without loss.
    let plain = decode(&file(&Form::new(Space::YCbCr, [33, 17], [2, 2]))).unwrap();
    for name in ["arithmetic.jpg", "arithmetic-progressive.jpg"] {
        assert!(fixture(name) == plain, "{name}");
    }
}

fn file(form: &Form) -> Vec<u8> {
    form.write(&form.planes(picture))
}

/// Files that each end in their own way: of one scan, of several, progressive, with restart markers.
fn forms() -> Vec<Form> {
    let plain = Form::new(Space::YCbCr, [64, 48], [2, 2]);
    let mut forms = vec![plain.clone(), Form::new(Space::Grey, [33, 17], [1, 1])];
    forms.push(Form { restart: 2, ..plain.clone() });
    forms.push(Form { scans: sequential(&[&[0], &[1], &[2]]), ..plain.clone() });
    forms.push(Form { scans: progressive(3, true), is_progressive: true, ..plain });
    forms
}

#[test]
fn a_jpeg_cut_anywhere_is_named_or_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    for form in forms() {
        let bytes = file(&form);
        let whole = decode(&bytes).unwrap();
        for keep in 0..bytes.len() {
            let cut = &bytes[..keep];
            std::fs::write(&path, cut).unwrap();
            match decode(cut) {
                Ok(image) => {
                    assert!(image == whole && probe(&path).is_ok(), "{keep} of {}: {form:?}", bytes.len());
                }
                Err(error) => {
                    assert!(keep < 3 || matches!(error, DecodeError::Truncated), "{keep}: {error}: {form:?}");
                    assert!(probe(&path).is_err(), "{keep}: {form:?}");
                }
            }
            // Something has put an end marker there. Progressive files may end early on purpose.
            if !form.is_progressive {
                let ended = decode(&[cut, &JPEG_END].concat());
                assert!(
                    ended.is_err() || ended.unwrap() == whole,
                    "{keep} of {}, ended: {form:?}",
                    bytes.len()
                );
            }
        }
    }
}

#[test]
fn missing_and_damaged_data_of_a_jpeg_are_refused_and_what_belongs_to_nothing_is_passed_over() {
    let at = |bytes: &[u8], marker: u8| bytes.windows(2).position(|known| known == [0xFF, marker]).unwrap();
    let plain = file(&Form::new(Space::YCbCr, [64, 48], [2, 2]));
    let whole = decode(&plain).unwrap();
    let end = plain.len() - 2;
    let filled_up = [&plain[..end], &[0; 300], &plain[end..]].concat();
    assert!(decode(&filled_up).unwrap() == whole);
    assert!(
        decode(&[&plain[..], b"a camera's preview", &plain].concat()).unwrap() == whole,
        "another picture behind it"
    );
    let middle = (at(&plain, 0xDA) + end) / 2;
    let hole = [&plain[..middle], &plain[middle + 60..]].concat();
    assert_eq!(decode(&hole).unwrap_err().to_string(), "is a corrupt JPEG: premature end of data segment");
    let restarts = file(&Form { restart: 2, ..Form::new(Space::YCbCr, [64, 48], [2, 2]) });
    let (second, third) = (at(&restarts, 0xD1), at(&restarts, 0xD2));
    let jumps = [&restarts[..second], &restarts[third..]].concat();
    assert!(decode(&jumps).is_err());
    let surplus = [&restarts[..second], &[1, 2, 3], &restarts[second..]].concat();
    assert!(decode(&surplus).unwrap_err().to_string().contains("3 extraneous bytes"));
    // The file ends as it should, but a colour is not there.
    let without =
        file(&Form { scans: sequential(&[&[0], &[2]]), ..Form::new(Space::YCbCr, [64, 48], [2, 2]) });
    assert_eq!(decode(&without).unwrap_err().to_string(), "is a corrupt JPEG: a colour has no scan");
    let endless = vec![sequential(&[&[0, 1, 2]]).remove(0); 501];
    let endless =
        file(&Form { scans: endless, is_progressive: true, ..Form::new(Space::YCbCr, [8, 8], [1, 1]) });
    assert!(
        decode(&endless).unwrap_err().to_string().starts_with("is a JPEG of 501 scans, which is not read")
    );
}

#[test]
fn kinds_of_jpegs_that_are_not_read_are_named_by_a_look_as_by_decoding() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    let plain = file(&Form::new(Space::YCbCr, [33, 17], [1, 1]));
    let frame = plain.windows(2).position(|marker| marker == [0xFF, 0xC0]).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = plain.clone();
        bytes[frame + at] = byte;
        bytes
    };
    let two =
        [&plain[..frame + 2], &[0, 14, 8, 0, 17, 0, 33, 2, 1, 0x11, 0, 2, 0x11, 0], &plain[frame + 19..]]
            .concat();
    for (bytes, reason) in [
        (with(1, 0xC3), "is a lossless JPEG, which is not read"),
        (with(1, 0xF7), "is JPEG-LS, which is not read"),
        (with(1, 0xC5), "is a hierarchical JPEG, which is not read"),
        (with(4, 12), "is a JPEG of 12 bits a sample, which is not read"),
        (two, "is a JPEG of 2 components, which is not read"),
        (with(6, 0), "is a JPEG that tells its height behind its pixels, which is not read"),
        (with(8, 0), "is a corrupt JPEG: it has no width"),
        (with(11, 0x51), "is a corrupt JPEG: a sampling factor is not 1 to 4"),
        (
            [&with(11, 0x31)[..frame + 14], &[0x21], &plain[frame + 15..]].concat(),
            "is a JPEG whose sampling factors are no",
        ),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        for error in [probe(&path).unwrap_err(), decode(&bytes).unwrap_err()] {
            assert!(error.to_string().starts_with(reason), "{error}: {reason}");
        }
    }
}

#[test]
fn damaged_jpegs_never_end_the_process_and_have_the_size_that_a_look_tells() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    let mut forms = forms();
    forms.push(Form::new(Space::Ycck, [33, 17], [2, 2]));
    for form in forms {
        let bytes = file(&form);
        for position in 2..bytes.len() {
            for damage in [0x5A, 0xFF] {
                let mut damaged = bytes.clone();
                damaged[position] ^= damage;
                // Damage to a header may promise a gibibyte.
                let promised = super::super::jpeg::Header::read(Cursor::new(&damaged))
                    .map_or(0, |header| header.width * header.height);
                if promised > 1 << 20 {
                    continue;
                }
                if let Ok(image) = decode(&damaged) {
                    std::fs::write(&path, &damaged).unwrap();
                    assert_eq!(
                        probe(&path).unwrap().size,
                        [image.width, image.height],
                        "{position}: {form:?}"
                    );
                }
            }
        }
    }
}
