//! Tests of opening a split: what is taken for images and labels, and what the user is told.

use super::*;
use crate::test_data::{TestData, truncate};

fn names(dataset: &Dataset) -> Vec<String> {
    dataset.images.iter().map(|item| item.path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn error(data: &TestData) -> String {
    data.try_open(Split::Train).unwrap_err().to_string()
}

#[test]
fn a_good_split_opens_sorted_with_sizes_and_labels() {
    let data = TestData::new(5, 1);
    data.write_image("images/train/deeper/x.PNG", 3);
    std::fs::remove_file(data.path("labels/train/002.txt")).unwrap();
    data.write("images/train/notes.md", b"not an image");
    let dataset = data.open(Split::Train);
    assert_eq!(names(&dataset), ["000", "001", "002", "003", "004", "x"]);
    assert_eq!(dataset.images.size(1), [67, 63]);
    assert_eq!(dataset.images.labels(1)[0].class, 1);
    assert_eq!(dataset.report.to_string(), "6 images, 4 boxes, 2 backgrounds, 0 corrupt");
    assert_eq!(dataset.report.unlabelled, 2);
    assert_eq!(dataset.report.objects.clone().into_iter().collect::<Vec<_>>(), [(0, 2), (1, 4)]);
    assert_eq!(dataset.report.classes.clone().into_iter().collect::<Vec<_>>(), [(0, 2), (1, 2)]);
}

/// What `check --json` prints is read by other programs, and scan caches by newer builds.
#[test]
fn the_json_of_a_report_keeps_its_flat_keys() {
    let keys = [
        "background",
        "boxes",
        "classes",
        "clipped",
        "corrupt",
        "duplicates",
        "empty_boxes",
        "files_with_clipped",
        "files_with_duplicates",
        "files_with_empty_boxes",
        "first_respelled",
        "first_unlabelled",
        "four_corners",
        "images",
        "keypoints",
        "labels_elsewhere",
        "looked_for_labels",
        "messages",
        "missing",
        "objects",
        "out_of_range",
        "polygons",
        "respelled_labels",
        "rows_in_sum",
        "unlabelled",
        "unnamed",
        "unsupported",
    ];
    let report = ScanReport { objects: [(2, 1)].into(), classes: [(1, 2)].into(), ..ScanReport::default() };
    let text = serde_json::to_string(&report).unwrap();
    let json: std::collections::BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(json.keys().collect::<Vec<_>>(), keys);
    assert_eq!(serde_json::from_str::<ScanReport>(&text).unwrap(), report);
}

#[test]
fn broken_images_and_rows_are_left_out_and_named_with_file_and_line() {
    let data = TestData::new(6, 1);
    truncate(&data.path("images/train/001.jpg"));
    data.write("images/train/002.jpg", b"<html>404</html>");
    data.write("labels/train/003.txt", b"0 .5 .5 .1 .1\n0 .5 .5 7 .1\n");
    data.write("labels/train/004.txt", b"1 .5 .5 .1 .1\n1 .5 .5 .1 .1\n");
    data.write("images/train/small.jpg", &std::fs::read(data.path("images/train/000.jpg")).unwrap());
    image::RgbImage::new(9, 40).save(data.path("images/train/small.jpg")).unwrap();
    let dataset = data.open(Split::Train);
    assert_eq!(names(&dataset), ["000", "004", "005"]);
    let report = &dataset.report;
    assert_eq!(report.to_string(), "3 images, 3 boxes, 0 backgrounds, 4 corrupt, 1 duplicate labels");
    for (message, expected) in report.warnings().iter().zip([
        "images/train/001.jpg: is truncated, image left out",
        "images/train/002.jpg: is no readable image: ",
        "labels/train/003.txt:2: 7 is outside 0 to 1; ",
        "images/train/small.jpg: is 9x40 pixels, less than 10 on a side, image left out",
    ]) {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn many_warnings_are_counted_after_the_first_twenty() {
    let data = TestData::new(30, 1);
    for index in 1..30 {
        data.write(&format!("labels/train/{index:03}.txt"), b"0 x");
    }
    let warnings = data.open(Split::Train).report.warnings();
    assert_eq!((warnings.len(), warnings[20].as_str()), (21, "… and 9 more such images"));
}

#[test]
fn a_class_that_the_yaml_does_not_know_stops_at_once() {
    let data = TestData::new(3, 1);
    data.write("labels/train/001.txt", b"0 .5 .5 .1 .1\n2 .5 .5 .1 .1\n");
    let error = error(&data);
    assert!(error.starts_with("1 label files have class ids that the data.yaml does not name (2 classes)"));
    assert!(error.contains("labels/train/001.txt:2: class 2 is out of range"), "{error}");
    let yaml = DataYaml::read(&data.path("data.yaml")).unwrap();
    let options = OpenOptions { single_cls: true, ..OpenOptions::default() };
    let single = Dataset::open(&yaml, Split::Train, &options).unwrap();
    assert_eq!((single.len(), single.names.len()), (3, 1));
    assert!(single.images.iter().flat_map(|item| item.labels).all(|label| label.class == 0));
}

#[test]
fn an_empty_split_and_one_without_a_usable_image_are_errors() {
    let data = TestData::new(0, 1);
    std::fs::create_dir_all(data.path("images/train")).unwrap();
    assert!(error(&data).contains("`train: images/train` has no images; put images there (bmp"));
    data.write("images/train/a.jpg", b"nothing");
    assert!(error(&data).contains("none of the 1 images of `train` can be used; the first problem is: "));
    std::fs::remove_dir_all(data.path("images/train")).unwrap();
    assert!(error(&data).contains("`train: images/train` was not found; tried"));
    let wrong_entry = |entry: &str| {
        data.write("data.yaml", format!("train: {entry}\nval: images/val\nnames: [a]").as_bytes());
        error(&data)
    };
    assert!(wrong_entry("~/set").ends_with("write the whole path"), "{}", wrong_entry("~/set"));
    assert!(wrong_entry("https://host/set.zip").contains("; it is an address, and nothing is fetched"));
    assert!(wrong_entry("data.yaml").contains("neither a folder, nor an image, nor a .txt list"));
}

#[test]
fn lists_may_be_relative_to_themselves_or_to_the_data_set_and_missing_images_are_named() {
    let data = TestData::new(4, 1);
    let absolute = data.path("images/train/003.jpg").display().to_string();
    let list = format!(
        "./../images/train/001.jpg\nimages/train/000.jpg\n\ndata/images/train/002.jpg\n{absolute}\nimages/gone.jpg\n"
    );
    data.write("lists/train.txt", list.as_bytes());
    data.write("data.yaml", b"train: [lists/train.txt]\nval: images/val\nnames: {0: a, 1: b}");
    let dataset = data.open(Split::Train);
    assert_eq!(names(&dataset), ["001", "000", "002", "003"]);
    assert_eq!(dataset.report.boxes, 4);
    let warnings = dataset.report.warnings();
    assert!(warnings[0].contains("lists/train.txt:6: image `"), "{warnings:?}");
    assert!(warnings[0].ends_with("images/gone.jpg` does not exist, left out"), "{warnings:?}");
}

#[test]
fn a_fraction_takes_the_first_images() {
    let data = TestData::new(10, 1);
    let yaml = DataYaml::read(&data.path("data.yaml")).unwrap();
    let count = |fraction| {
        let options = OpenOptions { fraction, ..OpenOptions::default() };
        Dataset::open(&yaml, Split::Train, &options).unwrap().len()
    };
    assert_eq!((count(1.0), count(0.3), count(0.001)), (10, 3, 1));
}

#[test]
fn the_scan_is_the_same_with_any_number_of_threads() {
    let data = TestData::new(12, 1);
    truncate(&data.path("images/train/007.jpg"));
    let yaml = DataYaml::read(&data.path("data.yaml")).unwrap();
    let open = |threads| {
        Dataset::open(&yaml, Split::Train, &OpenOptions { threads, ..OpenOptions::default() }).unwrap()
    };
    let one = open(1);
    assert_eq!(open(0), one);
    assert_eq!(open(5), one);
}

/// Moves a file of the data set.
fn rename(data: &TestData, from: &str, to: &str) {
    let to = data.path(to);
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::rename(data.path(from), to).unwrap();
}

#[test]
fn labels_are_found_beside_the_images_although_a_folder_above_the_data_set_is_called_images() {
    let data = TestData::new(4, 2);
    for (split, index) in [("train", 0), ("train", 1), ("train", 2), ("train", 3), ("val", 0), ("val", 1)] {
        for (kind, ending) in [("images", "jpg"), ("labels", "txt")] {
            let from = format!("{kind}/{split}/{index:03}.{ending}");
            rename(&data, &from, &format!("images/cells/{split}/{index:03}.{ending}"));
        }
    }
    data.write("images/cells/data.yaml", b"train: train\nval: val\nnames: [a, b]\n");
    let yaml = DataYaml::read(&data.path("images/cells/data.yaml")).unwrap();
    let dataset = Dataset::open(&yaml, Split::Train, &OpenOptions::default()).unwrap();
    assert_eq!((dataset.report.boxes, dataset.notes), (4, vec![]));
}

#[test]
fn half_of_the_labels_may_lie_in_one_place_and_half_in_another() {
    let data = TestData::new(4, 1);
    for index in [1, 3] {
        rename(&data, &format!("labels/train/{index:03}.txt"), &format!("images/train/{index:03}.txt"));
    }
    let dataset = data.open(Split::Train);
    assert_eq!((dataset.report.boxes, dataset.report.unlabelled), (4, 0));
    let [remark] = &dataset.notes[..] else { panic!("{:?}", dataset.notes) };
    assert!(remark.starts_with("2 images have their label files in `"), "{remark}");
    assert!(remark.ends_with("images/train`; taken from there"), "{remark}");
    // The first place wins where both have a file.
    data.write("labels/train/001.txt", b"0 .5 .5 .1 .1\n1 .5 .5 .1 .1\n");
    assert_eq!(data.open(Split::Train).report.boxes, 5);
}

#[test]
fn folders_of_other_names_for_images_have_their_labels_beside_them() {
    for (images, labels) in [("Images", "Labels"), ("JPEGImages", "labels"), ("img", "labels")] {
        let data = TestData::new(2, 1);
        std::fs::rename(data.path("images"), data.path(images)).unwrap();
        std::fs::rename(data.path("labels"), data.path(labels)).unwrap();
        let text = format!("train: {images}/train\nval: {images}/val\nnames: [a, b]\n");
        data.write("data.yaml", text.as_bytes());
        assert_eq!(data.open(Split::Train).report.boxes, 2, "{images}");
    }
}

#[test]
fn a_training_split_without_a_label_file_is_refused_with_where_was_looked_and_what_is_there() {
    let data = TestData::new(3, 2);
    std::fs::remove_dir_all(data.path("labels")).unwrap();
    data.write("Annotations/000.xml", b"<annotation/>");
    let message = error(&data);
    let shown = |name: &str| format!("`{}`", data.path(name).display());
    for part in [
        "none of the 3 images of `train` has a label file; `000.txt` was looked for in ",
        &shown("labels/train"),
        &shown("images/train"),
        &format!("there is {} with .xml files (Pascal VOC)", shown("Annotations")),
        "an empty one where there is nothing to see",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    // Nobody validates by mistake for weeks: a warning is enough.
    let val = data.open(Split::Val);
    assert!(
        val.notes[0].starts_with("2 of 2 images without a label file; taken as background"),
        "{:?}",
        val.notes
    );
    assert!(val.notes[1].starts_with("the validation images have no objects at all"), "{:?}", val.notes);
    // One file, be it empty, shows that somebody has thought of labels.
    data.write("labels/train/002.txt", b"");
    assert_eq!(data.open(Split::Train).len(), 3);
    // It need not be one of the images that are used.
    let yaml = DataYaml::read(&data.path("data.yaml")).unwrap();
    let options = OpenOptions { fraction: 0.3, ..OpenOptions::default() };
    let dataset = Dataset::open(&yaml, Split::Train, &options).unwrap();
    assert_eq!((dataset.len(), dataset.require_label_files(&yaml).is_ok()), (1, true));
}

#[test]
fn rows_are_read_as_the_data_yaml_says_and_what_they_were_taken_for_is_said_once() {
    let data = TestData::new(3, 1);
    let rows = "0 .5 .5 .2 .2 .1 .1 .9 .9 0 1\n";
    data.write("labels/train/000.txt", rows.as_bytes());
    data.write("labels/train/001.txt", b"1 .1 .1 .2 .1 .2 .2 .1 .2\n");
    let dataset = data.open(Split::Train);
    assert_eq!((dataset.report.rows.polygons, dataset.report.rows.four_corners), (1, 1));
    assert_eq!(
        dataset.notes,
        [
            "1 label rows are polygons; the box around each is taken (if they are a box and keypoints, say so by \
             `kpt_shape` in the data.yaml)",
            "1 label rows have four corners (oriented boxes, or polygons); the upright box around each is taken"
        ]
    );
    data.write("labels/train/001.txt", b"1 .1 .1 .2 .1\n");
    data.write("data.yaml", b"train: images/train\nval: images/val\nnames: [a, b]\nkpt_shape: [3, 2]\n");
    let dataset = data.open(Split::Train);
    assert_eq!(dataset.images.labels(0)[0].cxcywh, [0.5, 0.5, 0.2, 0.2]);
    assert_eq!(
        dataset.notes,
        ["1 label rows with keypoints (`kpt_shape: [3, 2]`); the box of each is taken"]
    );
}

#[test]
fn label_files_of_any_line_end_are_read_alike_and_other_encodings_are_named() {
    let data = TestData::new(5, 1);
    let rows = "0 .5 .5 .2 .2\n1 .4 .4 .1 .1\n";
    for (index, end) in ["\n", "\r", "\r\n"].into_iter().enumerate() {
        let text = format!("\u{feff}{}", rows.replace('\n', end));
        data.write(&format!("labels/train/{index:03}.txt"), text.as_bytes());
    }
    let wide: Vec<u8> = rows.encode_utf16().flat_map(u16::to_le_bytes).collect();
    data.write("labels/train/003.txt", &wide);
    data.write("labels/train/004.txt", b"0 .5 .5 .2 .2\r0 .5 .5 .2 \xB12\r");
    let dataset = data.open(Split::Train);
    assert_eq!((dataset.len(), dataset.report.boxes, dataset.report.rows.polygons), (3, 6, 0));
    let warnings = dataset.report.warnings();
    assert!(
        warnings[0].ends_with("003.txt: is UTF-16 text; save it as UTF-8, image left out"),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("004.txt:2: byte 12 of the line, 0xB1, is not UTF-8"), "{warnings:?}");
}

#[test]
fn lists_of_windows_and_of_other_letters_are_read_with_one_note() {
    let data = TestData::new(3, 1);
    for kind in [("images", "jpg"), ("labels", "txt")] {
        let (folder, ending) = kind;
        rename(&data, &format!("{folder}/train/002.{ending}"), &format!("{folder}/train/e\u{301}.{ending}"));
    }
    let list = "\u{feff}images\\train\\000.jpg\r.\\images\\train\\001.jpg\rimages/train/é.jpg\r\
                D:\\lab\\images\\train\\000.jpg\r";
    data.write("train.txt", list.as_bytes());
    data.write("data.yaml", b"train: train.txt\nval: images/v*\nnames: [a, b]\n");
    let dataset = data.open(Split::Train);
    assert_eq!((dataset.len(), dataset.report.boxes, dataset.report.missing), (3, 3, 1));
    let [slashes, letters] = &dataset.notes[..] else { panic!("{:?}", dataset.notes) };
    assert!(
        slashes.ends_with("train.txt:1: 2 lines have backslashes, which were taken as slashes"),
        "{slashes}"
    );
    assert!(
        letters.contains("train.txt:3: 1 lines name files whose names have the same letters"),
        "{letters}"
    );
    let warnings = dataset.report.warnings();
    assert!(
        warnings[0].contains("train.txt:4: image `D:\\lab\\images\\train\\000.jpg` does not exist"),
        "{warnings:?}"
    );
    assert!(
        warnings[0].ends_with("(a drive letter and backslashes); write `images/train/000.jpg`"),
        "{warnings:?}"
    );
    assert_eq!(data.open(Split::Val).len(), 1, "an entry may be a pattern");
}

#[test]
fn pipes_devices_and_folders_with_names_of_files_are_named_and_end_at_once() {
    let data = TestData::new(3, 1);
    let pipe = |name: &str| {
        let made = std::process::Command::new("mkfifo").arg(data.path(name)).status().unwrap();
        assert!(made.success());
    };
    pipe("images/train/pipe.jpg");
    std::fs::create_dir_all(data.path("other/folder.jpg")).unwrap();
    std::fs::remove_file(data.path("labels/train/000.txt")).unwrap();
    pipe("labels/train/000.txt");
    std::fs::remove_file(data.path("labels/train/001.txt")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", data.path("labels/train/001.txt")).unwrap();
    std::os::unix::fs::symlink("/dev/null", data.path("images/train/null.jpg")).unwrap();
    data.write("data.yaml", b"train: [images/train, list.txt]\nval: images/val\nnames: [a, b]\n");
    data.write("list.txt", b"other/folder.jpg\n");
    let dataset = data.open(Split::Train);
    assert_eq!(names(&dataset), ["002"]);
    let warnings = dataset.report.warnings();
    for (warning, expected) in warnings.iter().zip([
        "labels/train/000.txt: is a pipe, not a file, image left out",
        "labels/train/001.txt: is a device, not a file, image left out",
        "images/train/null.jpg: cannot be read: is a device, not a file, image left out",
        "images/train/pipe.jpg: cannot be read: is a pipe, not a file, image left out",
        "other/folder.jpg: cannot be read: is a folder, not a file, image left out",
    ]) {
        assert!(warning.ends_with(expected), "{expected}: {warnings:?}");
    }
    assert_eq!(warnings.len(), 5);
}

#[test]
fn files_that_are_larger_than_their_kind_may_be_are_named_and_not_read() {
    let data = TestData::new(4, 1);
    let grow = |name: &str| {
        let file = std::fs::File::options().write(true).open(data.path(name)).unwrap();
        // Nothing of it is on the disk.
        file.set_len(50 << 30).unwrap();
    };
    grow("images/train/000.jpg");
    grow("labels/train/001.txt");
    let dataset = data.open(Split::Train);
    assert_eq!(names(&dataset), ["002", "003"]);
    let warnings = dataset.report.warnings();
    for (warning, expected) in warnings.iter().zip([
        "images/train/000.jpg: cannot be read: has 50.0 GiB, more than the 256.0 MiB that are read of an image; convert \
         it to a JPEG or PNG, or make it smaller, image left out",
        "labels/train/001.txt: has 50.0 GiB, more than the 16.0 MiB that are read of a label file; write a row for each \
         object, and nothing else, image left out",
    ]) {
        assert!(warning.ends_with(expected), "{expected}: {warnings:?}");
    }
    assert_eq!(warnings.len(), 2);
    data.write("data.yaml", b"train: list.txt\nval: images/val\nnames: [a, b]\n");
    data.write("list.txt", b"images/train/002.jpg\n");
    grow("list.txt");
    let error = error(&data);
    assert!(
        error.contains("list.txt`: has 50.0 GiB, more than the 256.0 MiB that are read of a list"),
        "{error}"
    );
}

#[test]
fn labels_and_entries_of_other_letters_are_taken_with_one_note_each() {
    let data = TestData::new(3, 1);
    rename(&data, "images/train", "images/e\u{301}");
    rename(&data, "labels/train", "labels/é");
    rename(&data, "images/e\u{301}/000.jpg", "images/e\u{301}/o\u{308}.jpg");
    rename(&data, "labels/é/000.txt", "labels/é/ö.txt");
    data.write("data.yaml", "train: images/é\nval: images\\val\nnames: [a, b]\n".as_bytes());
    let dataset = data.open(Split::Train);
    assert_eq!((dataset.report.boxes, dataset.report.unlabelled), (3, 0));
    let [entry, labels] = &dataset.notes[..] else { panic!("{:?}", dataset.notes) };
    assert!(
        entry.starts_with("`train: images/é`: what is there has the same letters in other bytes"),
        "{entry}"
    );
    assert!(labels.starts_with("3 images have label files whose names have the same letters"), "{labels}");
    assert!(labels.contains("labels/é/001.txt`; these were taken"), "{labels}");
    let val = data.open(Split::Val);
    assert_eq!(val.notes, ["`val: images\\val`: the backslashes were taken as slashes"]);
    rename(&data, "images", "in/side/images");
    data.write("data.yaml", b"path: in\\side\ntrain: images/val\nval: images/val\nnames: [a, b]\n");
    let yaml = DataYaml::read(&data.path("data.yaml")).unwrap();
    assert_eq!(yaml.notes, ["`path: in\\side`: the backslashes were taken as slashes"]);
}

#[test]
fn lines_of_a_list_may_be_folders_patterns_quoted_and_comments() {
    let data = TestData::new(4, 1);
    data.write_image("images/train/deep/x.jpg", 7);
    data.write(
        "train.txt",
        b"# all of it\n\"images/train/002.jpg\"\n'images/train/003.jpg'\nimages/train/00[01].jpg\nimages/tr*/deep\n\
          images/val\nimages/none*.jpg\nnothing\n#gone.jpg\n",
    );
    data.write("data.yaml", b"train: train.txt\nval: images/val\nnames: [a, b]\n");
    let dataset = data.open(Split::Train);
    assert_eq!(names(&dataset), ["002", "003", "000", "001", "x", "000"]);
    let warnings = dataset.report.warnings();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    for (warning, line) in warnings.iter().zip([7, 8, 9]) {
        assert!(warning.contains(&format!("train.txt:{line}: image `")), "{warnings:?}");
    }
}

#[test]
fn a_list_in_a_code_page_names_files_of_that_code_page_and_of_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let data = TestData::new(2, 1);
    let latin1 = std::ffi::OsStr::from_bytes(b"images/train/Gr\xF6\xDFe.jpg");
    std::fs::rename(data.path("images/train/000.jpg"), data.path("").join(latin1)).unwrap();
    rename(&data, "images/train/001.jpg", "images/train/Öl.jpg");
    rename(&data, "labels/train/000.txt", "labels/train/Größe.txt");
    rename(&data, "labels/train/001.txt", "labels/train/Öl.txt");
    data.write("train.txt", b"images/train/Gr\xF6\xDFe.jpg\nimages/train/\xD6l.jpg\n");
    data.write("data.yaml", b"train: train.txt\nval: images/val\nnames: [a, b]\n");
    let dataset = data.open(Split::Train);
    assert_eq!((dataset.len(), dataset.report.boxes, dataset.report.unlabelled), (2, 2, 0));
}

#[test]
fn a_pattern_passes_over_what_is_no_image_and_means_lists_only_where_it_ends_so() {
    let data = TestData::new(3, 1);
    for index in 0..3 {
        rename(&data, &format!("labels/train/{index:03}.txt"), &format!("images/train/{index:03}.txt"));
    }
    data.write("images/train/README.md", b"about");
    data.write("lists/a.txt", b"images/train/001.jpg\n");
    data.write("lists/b.txt", b"images/train/002.jpg\n");
    for (entry, expected) in
        [("images/train/*", &["000", "001", "002"][..]), ("lists/*.txt", &["001", "002"])]
    {
        data.write("data.yaml", format!("train: {entry}\nval: images/val\nnames: [a, b]\n").as_bytes());
        let dataset = data.open(Split::Train);
        assert_eq!(
            (names(&dataset), dataset.report.missing),
            (expected.iter().map(|name| (*name).to_owned()).collect(), 0)
        );
    }
    data.write("data.yaml", b"train: images/train/*.md\nval: images/val\nnames: [a, b]\n");
    assert!(error(&data).contains("`train: images/train/*.md` has no images"), "{}", error(&data));
}

#[test]
fn lines_may_name_files_with_brackets_and_a_folder_is_one_line() {
    let data = TestData::new(3, 1);
    rename(&data, "images/train/001.jpg", "images/train/a[1].jpg");
    data.write("train.txt", b"images/train/a[1].jpg\nimages\\train\n");
    data.write("data.yaml", b"train: train.txt\nval: images/val\nnames: [a, b]\n");
    let dataset = data.open(Split::Train);
    assert_eq!(names(&dataset), ["a[1]", "000", "002", "a[1]"]);
    assert!(
        dataset.notes[0].ends_with("train.txt:2: 1 lines have backslashes, which were taken as slashes"),
        "{:?}",
        dataset.notes
    );
}

#[test]
fn labels_are_searched_elsewhere_only_when_many_are_missing() {
    let data = TestData::new(3, 1);
    data.write("Annotations/000.xml", b"<annotation/>");
    for (index, is_told) in [(0, false), (1, true)] {
        std::fs::remove_file(data.path(&format!("labels/train/{index:03}.txt"))).unwrap();
        let dataset = data.open(Split::Train);
        let told = dataset.notes.iter().any(|remark| remark.contains("Annotations` with .xml files"));
        assert_eq!(told, is_told, "{:?}", dataset.notes);
    }
}
