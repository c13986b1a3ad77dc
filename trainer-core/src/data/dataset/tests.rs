use super::*;
use crate::data::test_data::{TestData, truncate};

fn names(dataset: &Dataset) -> Vec<String> {
    dataset.items.iter().map(|item| item.path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
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
    assert_eq!(dataset.items.size(1), [67, 63]);
    assert_eq!(dataset.items.labels(1)[0].class, 1);
    assert_eq!(dataset.report.to_string(), "6 images, 4 boxes, 2 backgrounds, 0 corrupt");
    assert_eq!(dataset.report.unlabelled, 2);
    assert_eq!(dataset.report.objects.clone().into_iter().collect::<Vec<_>>(), [(0, 2), (1, 4)]);
    assert_eq!(dataset.report.classes.clone().into_iter().collect::<Vec<_>>(), [(0, 2), (1, 2)]);
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
    assert!(single.items.iter().flat_map(|item| item.labels).all(|label| label.class == 0));
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
    data.write("data.yaml", b"train: data.yaml\nval: images/val\nnames: [a]");
    assert!(error(&data).contains("neither a folder nor a .txt list"));
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
