use std::collections::BTreeMap;
use std::fs;

use super::*;

const OPTIONS: DatasetOptions = DatasetOptions { seed: 7, train: 6, val: 3, size: 96 };

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files(dir).into_iter().map(|(path, bytes)| (path.strip_prefix(dir).unwrap().to_owned(), bytes)).collect()
}

#[test]
fn the_same_plan_gives_the_same_bytes_and_another_seed_others() {
    let root = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| root.path().join(name));
    write(&a, &OPTIONS).unwrap();
    write(&b, &OPTIONS).unwrap();
    write(&c, &DatasetOptions { seed: 8, ..OPTIONS }).unwrap();
    assert_eq!(contents(&a), contents(&b));
    let image = Path::new("images/train/00000.jpg");
    assert_ne!(contents(&a)[image], contents(&c)[image]);
}

#[test]
fn every_image_decodes_and_has_one_to_five_boxes_inside_it() {
    let root = tempfile::tempdir().unwrap();
    let yaml = write(root.path(), &OPTIONS).unwrap();
    let text = fs::read_to_string(yaml).unwrap();
    assert!(text.contains("train: images/train\nval: images/val\nnc: 3\nnames:\n  0: circle\n"), "{text}");
    let all = contents(root.path());
    let images: Vec<&PathBuf> = all.keys().filter(|path| path.extension().unwrap() == "jpg").collect();
    assert_eq!(images.len(), 9);
    for path in images {
        let image = image::load_from_memory(&all[path]).unwrap();
        assert_eq!((image.width(), image.height()), (96, 96));
        let label = path.to_str().unwrap().replace("images", "labels").replace(".jpg", ".txt");
        let label = String::from_utf8(all[Path::new(&label)].clone()).unwrap();
        assert!((1..=5).contains(&label.lines().count()), "{label}");
        for line in label.lines() {
            let numbers: Vec<f64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            let [class, cx, cy, w, h] = numbers[..] else { panic!("{line}") };
            assert!(class < 3.0 && w > 0.05 && h > 0.05, "{line}");
            assert!(cx - w / 2.0 > 0.0 && cx + w / 2.0 < 1.0, "{line}");
            assert!(cy - h / 2.0 > 0.0 && cy + h / 2.0 < 1.0, "{line}");
        }
    }
}

#[test]
fn a_second_run_completes_the_first_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &OPTIONS).unwrap();
    let before = contents(root.path());
    fs::remove_file(root.path().join("labels/val/00001.txt")).unwrap();
    fs::write(root.path().join("labels/train.cache"), "a trainer's").unwrap();
    write(root.path(), &OPTIONS).unwrap();
    fs::remove_file(root.path().join("labels/train.cache")).unwrap();
    assert_eq!(contents(root.path()), before);
}

#[test]
fn a_folder_with_something_else_is_refused_untouched() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("thesis.tex"), "years").unwrap();
    assert_eq!(write(root.path(), &OPTIONS).unwrap_err().exit.code(), 2);
    assert_eq!(contents(root.path()).len(), 1);

    let root = tempfile::tempdir().unwrap();
    write(root.path(), &OPTIONS).unwrap();
    assert!(write(root.path(), &DatasetOptions { train: 7, ..OPTIONS }).is_err());
    fs::write(root.path().join("images/train/00000.jpg"), "edited").unwrap();
    let failure = write(root.path(), &OPTIONS).unwrap_err();
    assert!(failure.message.contains("00000.jpg was changed"), "{failure:?}");
}
