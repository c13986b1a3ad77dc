//! A training on the tree is the training on the user's files, for every form that a data set may have.

mod random_sets;

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use super::*;
use crate::dataset::{Dataset, OpenOptions, Split};
use crate::test_data::{TestData, truncate};

fn packed(data: &TestData, file: &str) -> Packed {
    let (report, packed) = pack(&data.path(file), 2).unwrap();
    packed.unwrap_or_else(|| panic!("{report}"))
}

/// The bytes of each file of a tree, by path.
fn contents(packed: &Packed) -> BTreeMap<String, Vec<u8>> {
    let bytes = |file: PackedFile<'_>| match file.origin {
        Origin::File(source) => std::fs::read(source).unwrap(),
        Origin::Made(bytes) => bytes.to_vec(),
    };
    packed.list.iter().map(|file| (file.path.to_owned(), bytes(file))).collect()
}

fn write_tree(packed: &Packed) -> TestData {
    let tree = TestData::new(0, 0);
    for (path, bytes) in contents(packed) {
        tree.write(&path, &bytes);
    }
    tree
}

fn open(file: &Path, split: Split) -> Dataset {
    let yaml = DataYaml::read(file).unwrap();
    Dataset::open(&yaml, split, &OpenOptions::default()).unwrap()
}

/// Packs the data set, and compares what a training reads of it with what it reads of the tree.
fn check_same(data: &TestData, file: &str) -> Packed {
    let packed = packed(data, file);
    assert_eq!(packed.clashes, []);
    let tree = write_tree(&packed);
    let yaml = DataYaml::read(&data.path(file)).unwrap();
    for (split, entries) in [(Split::Train, &yaml.train), (Split::Val, &yaml.val), (Split::Test, &yaml.test)]
    {
        if entries.is_empty() {
            continue;
        }
        let (before, after) = (open(&data.path(file), split), open(&tree.path("data.yaml"), split));
        assert_eq!((before.len(), &before.names), (after.len(), &after.names), "{split:?}");
        for at in 0..before.len() {
            let images = [&before.images, &after.images];
            assert_eq!(
                images[0].fingerprint(at),
                images[1].fingerprint(at),
                "{:?}",
                images.map(|of| of.path(at))
            );
            assert_eq!(images[0].labels(at), images[1].labels(at), "{:?}", images.map(|of| of.path(at)));
            assert_eq!(images[0].size(at), images[1].size(at));
        }
        let (mut rows, tree_rows) = (before.report, after.report);
        assert!(tree_rows.labels_elsewhere.is_empty() && tree_rows.missing + tree_rows.corrupt == 0);
        rows.messages.clear();
        assert_eq!(
            (rows.boxes, rows.classes, rows.objects),
            (tree_rows.boxes, tree_rows.classes, tree_rows.objects)
        );
    }
    // What was pulled and is pushed again is the same version.
    let again = packed_again(&tree);
    assert_eq!(contents(&again), contents(&packed));
    packed
}

fn packed_again(tree: &TestData) -> Packed {
    let again = packed(tree, "data.yaml");
    assert_eq!((again.unsent.clone(), again.outside.clone()), (Unsent::default(), vec![]));
    again
}

fn paths(packed: &Packed) -> Vec<&str> {
    packed.list.iter().map(|file| file.path).collect()
}

#[test]
fn folders_keep_their_paths_and_what_the_data_set_does_not_name_is_counted() {
    let data = TestData::new(2, 1);
    data.write("videos/a.mp4", &[0; 5000]);
    data.write("images/train/notes.md", b"no image");
    data.write(".git/objects/aa", b"hidden");
    data.write("labels/train/999.txt", b"0 .5 .5 .1 .1\n");
    let packed = check_same(&data, "data.yaml");
    assert_eq!(
        paths(&packed),
        [
            "data.yaml",
            "images/train/000.jpg",
            "images/train/001.jpg",
            "images/val/000.jpg",
            "labels/train/000.txt",
            "labels/train/001.txt",
            "labels/val/000.txt",
            "train.txt",
            "val.txt"
        ]
    );
    assert_eq!((packed.images, packed.outside.len()), (3, 0));
    let Unsent { files, bytes, largest, has_more } = packed.unsent.clone();
    assert_eq!((files, bytes, has_more), (3, 5000 + 8 + 14, false));
    assert_eq!(largest, Some(("videos/a.mp4".into(), 5000)));
    let made = &contents(&packed)["data.yaml"];
    assert_eq!(made, b"train: train.txt\nval: val.txt\nnames:\n  0: \"square\"\n  1: \"disc\"\n");
    assert_eq!(contents(&packed)["train.txt"], b"./images/train/000.jpg\n./images/train/001.jpg\n");
}

#[test]
fn lists_patterns_and_several_entries_keep_their_order_and_repeats() {
    let data = TestData::new(4, 2);
    data.write_image("images/train/deep/x.jpg", 7);
    data.write_image("images/train/a[1].jpg", 8);
    let absolute = data.path("images/train/003.jpg").display().to_string();
    let list = format!(
        "./../images/train/001.jpg\n# comment\nimages\\train\\000.jpg\n\"images/train/002.jpg\"\n{absolute}\n\
         images/gone.jpg\nimages/train/a[1].jpg\nimages/train/00[01].jpg\nimages/tr*/deep\nimages/train/001.jpg\n"
    );
    data.write("lists/train.txt", list.as_bytes());
    data.write("lists/b.txt", b"images/val/001.jpg\n");
    data.write(
        "data.yaml",
        b"train: [lists/train.txt, images/train]\nval: 'images/v*'\ntest: lists/b*.txt\nnames: {0: a, 1: b}\n",
    );
    let packed = check_same(&data, "data.yaml");
    assert_eq!((packed.images, packed.outside.clone()), (9 + 6 + 2 + 1, vec![]), "{:?}", paths(&packed));
    assert!(paths(&packed).contains(&"test.txt"));
}

#[test]
fn labels_come_to_where_they_are_looked_for_first() {
    let data = TestData::new(5, 1);
    let moved = |from: &str, to: &str| {
        std::fs::create_dir_all(data.path(to).parent().unwrap()).unwrap();
        std::fs::rename(data.path(from), data.path(to)).unwrap();
    };
    moved("labels/train/001.txt", "images/train/001.txt");
    moved("labels/train/002.txt", "Labels/train/002.txt");
    moved("labels/train/003.txt", "labels/train/003.TXT");
    moved("images/train/004.jpg", "images/train/e\u{301}.jpg");
    moved("labels/train/004.txt", "labels/train/é.txt");
    std::fs::remove_file(data.path("labels/train/000.txt")).unwrap();
    let packed = check_same(&data, "data.yaml");
    let labels =
        ["labels/train/001.txt", "labels/train/002.txt", "labels/train/003.txt", "labels/train/e\u{301}.txt"];
    assert_eq!(
        paths(&packed).into_iter().filter(|path| path.starts_with("labels/train")).collect::<Vec<_>>(),
        labels
    );
}

#[test]
fn other_letters_and_code_pages_become_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let data = TestData::new(3, 1);
    let latin1 = |folder: &str, ending: &[u8]| {
        data.path(folder).join(OsStr::from_bytes(&[b"Gr\xF6\xDFe", ending].concat()))
    };
    std::fs::rename(data.path("images/train/000.jpg"), latin1("images/train", b".jpg")).unwrap();
    std::fs::rename(data.path("labels/train/000.txt"), latin1("labels/train", b".txt")).unwrap();
    data.write("data.yaml", "train: images/train\nval: images\\val\nnames: [a, b]\n".as_bytes());
    let packed = check_same(&data, "data.yaml");
    assert!(
        paths(&packed).contains(&"images/train/Größe.jpg")
            && paths(&packed).contains(&"labels/train/Größe.txt")
    );
}

#[test]
fn roots_beside_the_data_yaml_and_images_elsewhere_are_taken_along() {
    let (data, other) = (TestData::new(3, 1), TestData::new(2, 2));
    data.write("configs/data.yaml", b"path: ..\ntrain: images/train\nval: ../images/val\nnames: [a, b]\n");
    let packed = check_same(&data, "configs/data.yaml");
    assert_eq!((paths(&packed)[1], packed.outside.len()), ("images/train/000.jpg", 0));
    let [train, val] = ["images/train", "images/val"].map(|name| other.path(name).display().to_string());
    other.write_image("pictures/p.jpg", 5);
    other.write("pictures/p.txt", b"1 .5 .5 .2 .2\n");
    let pictures = other.path("pictures").display().to_string();
    let text =
        format!("train: [images/train, {train}, {pictures}]\nval: [images/val, {val}]\nnames: [a, b]\n");
    data.write("data.yaml", text.as_bytes());
    let packed = check_same(&data, "data.yaml");
    let whole = other.path("").canonicalize().unwrap();
    let outside: Vec<_> =
        packed.outside.iter().map(|one| (one.folder.clone(), one.taken_as.as_str())).collect();
    assert_eq!(outside, [(whole, "outside/0")]);
    for path in ["outside/0/images/val/001.jpg", "outside/0/labels/train/000.txt", "outside/0/pictures/p.txt"]
    {
        assert!(paths(&packed).contains(&path), "{path}: {:?}", paths(&packed));
    }
}

#[test]
fn a_folder_of_the_name_outside_is_not_mixed_up() {
    let (data, other) = (TestData::new(1, 1), TestData::new(1, 1));
    data.write_image("outside/0/images/train/000.jpg", 9);
    let text = format!(
        "train: [outside/0/images/train, {}]\nval: images/val\nnames: [a, b]\n",
        other.path("images/train").display()
    );
    data.write("data.yaml", text.as_bytes());
    let packed = check_same(&data, "data.yaml");
    assert_eq!(packed.outside[0].taken_as, "outside-2/0");
}

#[test]
fn links_are_followed_and_loops_passed_over() {
    let data = TestData::new(2, 1);
    let other = TestData::new(2, 1);
    symlink(other.path("images/val"), data.path("images/train/far")).unwrap();
    symlink(data.path("images"), data.path("images/train/up")).unwrap();
    symlink(data.path("images/train/itself.jpg"), data.path("images/train/itself.jpg")).unwrap();
    symlink(other.path("images/train/001.jpg"), data.path("images/train/zz.jpg")).unwrap();
    let (report, _) = pack(&data.path("data.yaml"), 1).unwrap();
    assert!(report.warnings.iter().any(|warning| warning.contains("itself.jpg")), "{report}");
    assert!(report.warnings.iter().any(|warning| warning.contains("train/up` leads back")), "{report}");
    let packed = packed(&data, "data.yaml");
    assert!(paths(&packed).contains(&"images/train/far/000.jpg"), "{:?}", paths(&packed));
    let far = ["images/train", "images/val"].map(|folder| other.path(folder).canonicalize().unwrap());
    assert_eq!((packed.through_links.as_slice(), packed.outside.len()), (&far[..], 0));
    let tree = write_tree(&packed);
    assert_eq!(open(&tree.path("data.yaml"), Split::Train).len(), 4);
}

#[test]
fn links_inside_of_a_data_set_and_to_it_are_its_own() {
    let data = TestData::new(2, 1);
    symlink(data.path("images/train/000.jpg"), data.path("images/train/again.jpg")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("cells");
    symlink(data.path(""), &link).unwrap();
    let (_, packed) = pack(&link.join("data.yaml"), 1).unwrap();
    let packed = packed.unwrap();
    assert_eq!((packed.images, packed.through_links.len(), packed.outside.len()), (4, 0, 0));
}

#[test]
fn what_cannot_be_used_stays_behind_and_errors_pack_nothing() {
    let data = TestData::new(6, 1);
    truncate(&data.path("images/train/001.jpg"));
    data.write("images/train/002.jpg", b"<html>404</html>");
    data.write("labels/train/003.txt", b"0 .5 .5 7 .1\n");
    data.write("images/train/phone.HEIC", b"whatever it is");
    let packed = check_same(&data, "data.yaml");
    assert_eq!((packed.images, packed.unsent.files), (4, 0), "they were named by the check");
    data.write("labels/train/000.txt", b"7 .5 .5 .1 .1\n");
    let (report, packed) = pack(&data.path("data.yaml"), 2).unwrap();
    assert!(packed.is_none() && report.errors[0].contains("labels/train/000.txt:1: class 7"), "{report}");
    data.write("data.yaml", b"train: images/none\nval: images/val\nnames: [a]\n");
    assert!(pack(&data.path("data.yaml"), 2).unwrap().1.is_none());
}

#[test]
fn a_test_split_without_images_is_left_out() {
    let data = TestData::new(1, 1);
    data.write("data.yaml", b"train: images/train\nval: images/val\ntest: images/test\nnames: [a, b]\n");
    let packed = packed(&data, "data.yaml");
    assert!(!paths(&packed).contains(&"test.txt"));
    let tree = write_tree(&packed);
    assert_eq!(open(&tree.path("data.yaml"), Split::Train).len(), 1);
}

#[test]
fn labels_that_would_meet_others_keep_apart() {
    // An image at the top that is called as a list, and one without labels.
    let data = TestData::new(1, 1);
    data.write_image("train.jpg", 3);
    data.write_image("val.jpg", 4);
    data.write("val.txt", b"1 .5 .5 .2 .2\n");
    data.write("data.yaml", b"train: [images/train, train.jpg]\nval: [val.jpg]\nnames: [a, b]\n");
    std::fs::remove_file(data.path("labels/val/000.txt")).unwrap();
    let packed = check_same(&data, "data.yaml");
    assert!(paths(&packed).iter().any(|path| path.starts_with("outside/")), "{:?}", paths(&packed));
    // Labels beside the images of one folder would become those of images in another one.
    let data = TestData::new(2, 1);
    std::fs::rename(data.path("labels/train"), data.path("keep")).unwrap();
    data.write("images/train/000.txt", b"1 .5 .5 .2 .2\n");
    data.write_image("img/train/000.jpg", 5);
    data.write_image("labels/train/000.jpg", 6);
    data.write("data.yaml", b"train: [images/train, img/train]\nval: [labels/train]\nnames: [a, b]\n");
    check_same(&data, "data.yaml");
}

#[test]
fn two_names_that_become_one_are_named() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let data = TestData::new(1, 1);
    std::fs::rename(
        data.path("images/train/000.jpg"),
        data.path("images/train").join(OsStr::from_bytes(b"\xD6l.jpg")),
    )
    .unwrap();
    data.write_image("images/train/Öl.jpg", 3);
    std::fs::rename(data.path("labels/train/000.txt"), data.path("labels/train/Öl.txt")).unwrap();
    let packed = packed(&data, "data.yaml");
    assert_eq!(packed.clashes.len(), 1, "{:?}", packed.clashes);
    assert_eq!(packed.clashes[0].path, "images/train/Öl.jpg");
}
