//! Data sets that nobody would think of.

use std::fs;

use super::check_same;
use crate::labels::search_path::LabelSearchPath;
use crate::random::{SampleRng, Stream};
use crate::test_data::TestData;

/// A random data set: images in several folders, in and beside the data set's; labels at any place where they are looked
/// for, or none; entries as folders, lists, patterns and single images.
fn random_set(random: &mut SampleRng, data: &TestData, other: &TestData) {
    let folders = [
        "images/a",
        "images/a/deep",
        "img/b",
        "c",
        "Images/d",
        "labels/e",
        "JPEGImages",
        "x/images/y/images/z",
    ];
    let mut entries: Vec<String> = Vec::new();
    let mut number = 0;
    for folder in folders {
        if random.below(3) == 0 {
            continue;
        }
        let is_elsewhere = random.below(5) == 0;
        let set = if is_elsewhere { other } else { data };
        let mut lines = String::new();
        for _ in 0..=random.below(4) {
            number += 1;
            let stem = ["one", "two", "é", "a b", "x[1]", "train"][random.below(6)].to_owned()
                + &(number % 4).to_string();
            let image = format!("{folder}/{stem}.jpg");
            set.write_image(&image, number);
            lines += &format!(
                "{}\n",
                if is_elsewhere { set.path(&image).display().to_string() } else { format!("./{image}") }
            );
            let search = LabelSearchPath::of(&set.path(folder), Some(&set.path("")));
            let places = search.folders();
            let at = random.below(places.len() + 1);
            if let Some(place) = places.get(at).filter(|place| place.starts_with(set.path(""))) {
                fs::create_dir_all(place).unwrap();
                fs::write(
                    place.join(format!("{stem}.txt")),
                    format!("{} .5 .5 .{} .2\n", number % 2, number % 9 + 1),
                )
                .unwrap();
            }
        }
        let list = format!("lists/{}.txt", entries.len());
        entries.push(match random.below(3) {
            0 => {
                data.write(&list, lines.as_bytes());
                list
            }
            1 if !is_elsewhere => format!("{folder}/*"),
            _ if is_elsewhere => set.path(folder).display().to_string(),
            _ => folder.to_owned(),
        });
    }
    entries.push("images/train".to_owned());
    let of =
        |entries: &[String]| entries.iter().map(|entry| format!("{entry:?}")).collect::<Vec<_>>().join(", ");
    let half = entries.len() / 2;
    let text = format!(
        "train: [{}]\nval: [images/val, {}]\nnames: [a, b]\n",
        of(&entries[half..]),
        of(&entries[..half])
    );
    data.write("data.yaml", text.replace("images/val, ]", "images/val]").as_bytes());
}

#[test]
fn random_data_sets_train_the_same_as_their_trees() {
    let first: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in first..first + 12 {
        let (data, other) = (TestData::new(2, 1), TestData::new(0, 0));
        random_set(&mut SampleRng::new(seed, 0, 0, Stream::Order), &data, &other);
        let same = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check_same(&data, "data.yaml")));
        assert!(
            same.is_ok(),
            "SEED={seed} makes this data set: {}",
            fs::read_to_string(data.path("data.yaml")).unwrap()
        );
    }
}
