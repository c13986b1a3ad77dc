//! Tests of reading a data.yaml: usual and odd forms, and errors with line and way out.

use super::*;

fn parse(text: &str) -> Result<DataYaml, YamlError> {
    DataYaml::parse(Path::new("/data/set/data.yaml"), text)
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn names_may_be_a_list_or_a_map_and_nc_is_optional() {
    let list = parse("train: a\nval: b\nnc: 2\nnames: [cat, 7]").unwrap();
    let map = parse("train: a\nval: b\nnames:\n  0: cat\n  1: 7\ndownload: rm -rf /").unwrap();
    assert_eq!(list.names, ["cat", "7"]);
    assert_eq!(list.names, map.names);
    assert_eq!(parse("train: a\nval: b\nnc: 2").unwrap().names, ["class0", "class1"]);
}

#[test]
fn splits_may_be_one_entry_or_several_and_test_may_be_empty() {
    let yaml = parse("train: [a, lists/b.txt]\nvalid: c\ntest:\nnames: [x]").unwrap();
    assert_eq!((yaml.train.len(), yaml.val.len(), yaml.test.len()), (2, 1, 0));
}

#[test]
fn relative_entries_are_looked_for_below_path_then_beside_the_file() {
    let yaml = parse("path: sub\ntrain: ../train/images\nval: b\nnames: [x]").unwrap();
    let tried: Vec<String> =
        yaml.candidates(&yaml.train[0]).iter().map(|path| path.display().to_string()).collect();
    assert_eq!(
        tried,
        [
            "/data/set/sub/../train/images",
            "/data/set/sub/train/images",
            "/data/set/../train/images",
            "/data/set/train/images"
        ]
    );
    let yaml = parse("path: /elsewhere\ntrain: a\nval: /abs\nnames: [x]").unwrap();
    assert_eq!(yaml.candidates("a"), [Path::new("/elsewhere/a"), Path::new("/data/set/a")]);
    assert_eq!(yaml.candidates("/abs"), [Path::new("/abs")]);
}

#[test]
fn what_is_wrong_is_named_with_file_key_value_and_a_way_out() {
    let file = "/data/set/data.yaml: ";
    assert_eq!(
        message("train: a\nval: b\nnc: 3\nnames: [x]"),
        format!("/data/set/data.yaml:3: `nc` is 3, but `names` has 1 names; make them agree, or remove `nc`")
    );
    assert!(message("val: b\nnames: [x]").contains("`train` is missing; add `train: images/train`"));
    assert!(message("train: a\nnames: [x]").contains("`val` is missing"));
    assert!(message("train: a\nval: b").contains("`names` is missing"));
    assert!(message("train: a\nval: b\nnames: []").contains("at least one class name"));
    assert!(message("train: {a: b}\nval: b\nnames: [x]").contains("expected a folder"));
    assert!(message("train: [a\nval").contains(file));
    let error = parse("path: gone\ntrain: a\nval: b\nnames: [x]").unwrap().resolve("val", "b");
    assert_eq!(
        error.unwrap_err().to_string(),
        format!(
            "/data/set/data.yaml:3: `val: b` was not found; tried `/data/set/gone/b`, `/data/set/b`; \
             correct `val` or `path`"
        )
    );
    assert!(DataYaml::read(Path::new("/no/data.yaml")).unwrap_err().to_string().contains("`/no/data.yaml`"));
}
#[test]
fn names_mean_what_they_say_or_name_their_line_and_the_way_out() {
    let names = |text: &str| parse(&format!("train: a\nval: b\n{text}")).map(|yaml| yaml.names);
    for (text, expected) in [
        ("names: {'0': disc, \"1\": square}", ["disc", "square"]),
        ("names: {1: square, 0: disc}", ["disc", "square"]),
        ("names: [2024-01-01, 1.10]", ["2024-01-01", "1.10"]),
        ("names:\n  0: null\n  1: no", ["null", "no"]),
        ("names:\n- disc\n- \"square # big\"", ["disc", "square # big"]),
        ("names: &n [disc, square]\nextra: *n", ["disc", "square"]),
        ("names: !!python/tuple [disc, square]", ["disc", "square"]),
        ("nc: '2'\nnames: [disc, square]", ["disc", "square"]),
        ("nc: 2.0\nnames: [disc, square]\n---\n", ["disc", "square"]),
        ("nc: 2\nnames: [disc, square]\nroboflow: {version: 1}\nchannels: 3", ["disc", "square"]),
    ] {
        assert_eq!(names(text).unwrap_or_else(|error| panic!("{text}: {error}")), expected, "{text}");
    }
    for (text, parts) in [
        ("names: {0: a, 2: b}", ["2 names, but no class 1; number the classes from 0", "line 3"]),
        ("names: {1: a, 2: b}", ["numbered from 1; number them from 0, as label files do: 0 to 1", "line 3"]),
        (
            "names: {a: 0, b: 1}",
            ["`a` is no class id; write whole numbers from 0, as in `0: first`", "line 3"],
        ),
        ("names: {0: a, '0': b}", ["class 0 has two names, `a` and `b`; remove one", "line 3"]),
        (
            "names: [a]\nnames: [b]",
            ["duplicate field `names`; each key comes once: remove one", "data.yaml:4: "],
        ),
        ("names: disc", ["`disc` is one text; write a list: `names: [disc]`", "line 3"]),
        ("names: disc, box", ["write a list: `names: [disc, box]`", "line 3"]),
        ("names:\n  0:disc\n  1:square", ["write a blank behind each colon: `0: first`", "line 4"]),
        (
            "names: [[disc, square]]",
            ["sequence, expected one text, with no list or map in its place", "line 3"],
        ),
        ("names: [disc, '']", ["class 1 has no name; write one", "line 3"]),
        ("names:\n\t0: disc", ["begins with a tab, and YAML indents with blanks", "line 4"]),
        ("nc: 80\nnames: [a, b]", ["`nc` is 80, but `names` has 2 names; make them agree", "data.yaml:3: "]),
        ("nc: many\nnames: [a, b]", ["`many` is not a whole number", "line 3"]),
        ("names:", ["`names` is missing; add", "data.yaml: "]),
        ("names: [a]\n---\nother: 1", ["a second document begins (`---`)", "data.yaml:4: "]),
        ("names: [a]\nkpt_shape: 17", ["expected the number of keypoints and 2 or 3 numbers", "line 4"]),
        ("names: [a]\nkpt_shape: [17, 5]", ["`kpt_shape: [17, 3]`", "line 4"]),
        ("path: \"D:\\lab\"\nnames: [a]", ["a backslash begins an escape: write slashes", "line 3"]),
    ] {
        let message = names(text).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{text}: {message}");
    }
}

#[test]
fn equal_names_and_paths_of_windows_are_noted() {
    let yaml = parse("path: C:\\Users\\me\\set\ntrain: a\nval: b\nnames: [disc, disc]").unwrap();
    assert!(yaml.notes[0].contains("`names` calls classes 0, 1 `disc`"), "{:?}", yaml.notes);
    assert!(yaml.notes[1].contains("`path: C:\\Users\\me\\set` is a Windows path"), "{:?}", yaml.notes);
    assert_eq!(yaml.folder(), Path::new("/data/set"));
    let error = parse("train: D:/lab/train\nval: b\nnames: [x]").unwrap();
    let error = error.resolve("train", &error.train[0]).unwrap_err().to_string();
    assert!(error.contains("data.yaml:1: `train: D:/lab/train` was not found"), "{error}");
    assert!(error.contains("it is a Windows path (a drive letter); write a path of this machine"), "{error}");
}

#[test]
fn a_file_that_is_no_utf8_is_named_with_its_line_and_not_taken_for_missing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data.yaml");
    let message = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        DataYaml::read(&file).map(|yaml| yaml.names.concat()).map_err(|error| error.to_string())
    };
    let good = "\u{feff}# größe\rtrain: a\rval: b\rnames: [disqué]\r";
    assert_eq!(message(good.as_bytes()).unwrap(), "disqué");
    let wrong = message(b"train: a\nval: b\nnames: [disqu\xE9]\n").unwrap_err();
    assert!(wrong.contains("data.yaml:3: byte 14 of the line, 0xE9, is not UTF-8"), "{wrong}");
    assert!(!wrong.contains("give the path"), "{wrong}");
    let wide: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(message(&wide).unwrap_err().ends_with("data.yaml: is UTF-16 text; save it as UTF-8"));
    let error = DataYaml::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains(&format!("give `{}`", file.display())), "{error}");
}

#[test]
fn what_is_too_large_or_no_file_is_no_data_yaml_and_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data.yaml");
    std::fs::File::create(&file).unwrap().set_len(50 << 30).unwrap();
    let told = || DataYaml::read(&file).unwrap_err().to_string();
    let large = told();
    assert!(
        large.contains("data.yaml`: has 50.0 GiB, more than the 4.0 MiB that are read of a data.yaml; "),
        "{large}"
    );
    std::fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    assert!(told().contains("data.yaml`: is a pipe, not a file"), "{}", told());
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert!(
        told().ends_with("is a folder, not a file; give the path of the data set's data.yaml"),
        "{}",
        told()
    );
    let many = message("train: a\nval: b\nnc: 4000000000");
    assert!(
        many.contains("data.yaml:3: `nc` is 4000000000, and a data set has at most 100000 classes"),
        "{many}"
    );
}
