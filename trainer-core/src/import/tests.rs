//! Files of torch, and files that mean harm.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/import/fixtures").join(name)
}

/// A ZIP of such entries, stored.
fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in entries {
        zip.start_file(*name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn read_bytes(bytes: &[u8]) -> Result<PtFile, PtError> {
    parse(Cursor::new(bytes), bytes.len() as u64)
}

/// What reading a file with that pickle, and a storage `0` of 16 bytes, gives.
fn read_pickle(pickle: &[u8]) -> Result<PtFile, PtError> {
    read_bytes(&zipped(&[("x/data.pkl", pickle), ("x/data/0", &[0; 16])]))
}

fn refusal(pickle: &[u8]) -> String {
    read_pickle(pickle).unwrap_err().to_string()
}

/// A text as an instruction.
fn text(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    [b"X", length.to_le_bytes().as_slice(), text.as_bytes()].concat()
}

/// A whole number as an instruction.
fn int(value: i32) -> Vec<u8> {
    [b"J", value.to_le_bytes().as_slice()].concat()
}

/// A tensor of floats as instructions: storage key and length, offset, sizes, strides.
fn tensor(key: &str, [length, offset]: [i32; 2], sizes: &[i32], strides: &[i32]) -> Vec<u8> {
    let tuple = |values: &[i32]| {
        let members: Vec<u8> = values.iter().flat_map(|value| int(*value)).collect();
        [b"(".as_slice(), &members, b"t"].concat()
    };
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".as_slice(),
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text(key),
        &text("cpu"),
        &int(length),
        b"tQ",
        &int(offset),
        &tuple(sizes),
        &tuple(strides),
        b"\x89NtR",
    ]
    .concat()
}

/// A state dict with that one tensor.
fn state_dict(tensor: &[u8]) -> Vec<u8> {
    [b"\x80\x02}".as_slice(), &text("w"), tensor, b"s."].concat()
}

fn assert_equal(found: &PtFile, expected: &serde_json::Value) {
    let expected = expected.as_object().unwrap();
    assert_eq!(found.tensors.len(), expected.len());
    for (name, tensor) in &found.tensors {
        let expected = expected.get(name).unwrap_or_else(|| panic!("{name} is too much"));
        assert_eq!(serde_json::json!(tensor.shape), expected["shape"], "{name}");
        let values: Vec<f32> = match &tensor.values {
            Values::Float(values) => values.clone(),
            Values::Int(values) => values.iter().map(|value| *value as f32).collect(),
        };
        let expected: Vec<f32> = expected["values"]
            .as_array()
            .unwrap()
            .iter()
            .map(|value| value.as_f64().unwrap() as f32)
            .collect();
        assert_eq!(values, expected, "{name}");
    }
}

fn expected() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
}

#[test]
fn a_checkpoint_gives_its_averaged_model_under_state_dict_names() {
    let found = read(&fixture("module.pt")).unwrap();
    assert_equal(&found, &expected()["module"]);
    assert_eq!(found.tensors[0].0, "model.0.conv.weight");
    assert_eq!(found.names.unwrap(), ["red cell", "Zelle ü", "猫"]);
    assert_eq!((found.imgsz, found.task.as_deref()), (Some(320), Some("detect")));
}

#[test]
fn a_state_dict_gives_its_tensors_whatever_their_types_and_strides() {
    let found = read(&fixture("state_dict.pt")).unwrap();
    assert_equal(&found, &expected()["state_dict"]);
    assert_eq!(found.names, None);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = std::fs::read(fixture("state_dict.pt")).unwrap();
    for length in 0..whole.len() {
        assert!(read_bytes(&whole[..length]).is_err(), "{length} of {} bytes", whole.len());
    }
}

#[test]
fn no_damaged_byte_makes_the_reader_panic() {
    for name in ["state_dict.pt", "module.pt"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            drop(read_bytes(&damaged));
        }
    }
}

#[test]
fn a_pickle_that_calls_a_command_is_refused_by_name_and_nothing_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("ran");
    let command = text(&format!("touch {}", mark.display()));
    for (module, name) in
        [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("__builtin__", "exec")]
    {
        let call = [format!("\u{1}c{module}\n{name}\n").as_bytes(), &command, b"\x85R."].concat();
        let pickle = [b"\x80".as_slice(), &call].concat();
        assert!(refusal(&pickle).contains(&format!("`{module}.{name}`")), "{}", refusal(&pickle));
        let stacked = [b"\x80\x04".as_slice(), &text(module), &text(name), b"\x93", &command, b"\x85R."];
        assert!(refusal(&stacked.concat()).contains(&format!("`{module}.{name}`")));
    }
    let hidden = b"\x80\x02}X\x05\x00\x00\x00modelcsubprocess\nPopen\n)\x81s.";
    assert!(matches!(read_pickle(hidden), Err(PtError::Refused { global }) if global == "subprocess.Popen"));
    assert!(!mark.exists());
}

#[test]
fn names_with_control_characters_do_not_reach_the_terminal_raw() {
    let message = refusal(b"\x80\x02cos\x1b[2J\nsystem\n.");
    assert!(!message.contains('\u{1b}'), "{message:?}");
}

#[test]
fn a_call_of_something_harmless_stays_data() {
    // torch.load, called with the name of a file: of an expected package, and still not called.
    let pickle = [b"\x80\x02ctorch\nload\n".as_slice(), &text("/etc/passwd"), b"\x85R."].concat();
    assert!(matches!(read_pickle(&pickle), Err(PtError::NoModel)));
}

#[test]
fn values_that_hold_themselves_or_lie_deep_end_the_reading() {
    // A list in itself.
    assert!(read_pickle(b"\x80\x02]q\x00h\x00a.").is_err());
    // A module that is its own submodule.
    let model = [
        b"\x80\x02}".as_slice(),
        &text("model"),
        b"cultralytics.nn.tasks\nDetectionModel\n)\x81q\x01}",
        &text("_modules"),
        b"}",
        &text("m"),
        b"h\x01ssbs.",
    ];
    assert!(refusal(&model.concat()).contains("modules inside each other"));
    // Tuples in tuples, a million deep.
    let deep = [b"\x80\x02)".as_slice(), &vec![0x85; 1_000_000], b"."].concat();
    assert!(matches!(read_pickle(&deep), Err(PtError::NoModel)));
    let wide = [b"\x80\x02".as_slice(), &vec![b']'; 3_000_000], b"."].concat();
    assert!(refusal(&wide).contains("pickled values"));
    assert!(refusal(&vec![b'N'; pickle::MAX_BYTES + 1]).contains("bytes"));
}

#[test]
fn a_tree_whose_branches_are_the_same_branch_is_not_walked_for_ever() {
    let class = b"cultralytics.nn.tasks\nDetectionModel\n)\x81";
    // A leaf, then thirty modules each of which has the one before twice.
    let mut pickle = [b"\x80\x02".as_slice(), class, b"}", &text("_modules"), b"}sb"].concat();
    for level in 0_u8..30 {
        pickle.extend([b'q', level]);
        pickle.push(b'0');
        pickle.extend([class.as_slice(), b"}", &text("_modules"), b"}(", &text("a")].concat());
        pickle.extend([b'h', level]);
        pickle.extend(text("b"));
        pickle.extend([b'h', level]);
        pickle.extend(b"usb");
    }
    pickle.extend(b"q\x63}");
    pickle.extend([text("model"), b"hcs.".to_vec()].concat());
    assert!(refusal(&pickle).contains("20000 modules"), "{}", refusal(&pickle));
}

#[test]
fn a_stack_that_underflows_is_damage() {
    for pickle in [
        b"\x80\x02.".as_slice(),
        b"\x80\x020.",
        b"\x80\x02t.",
        b"\x80\x02R.",
        b"\x80\x02(\x86.",
        b"\x80\x02h\x05.",
        b"\x80\x02j\xff\xff\xff\xff.",
        b"\x80\x02N(s.",
        b"\x80\x02}(Nu.",
        b"\x80\x02Na.",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x80\x02cos",
        b"\x80\x02I1\n.",
        b"",
    ] {
        assert!(matches!(read_pickle(pickle), Err(PtError::Pickle { .. })), "{pickle:?}");
    }
}

#[test]
fn tensors_stay_within_their_storages() {
    let good = state_dict(&tensor("0", [4, 0], &[2, 2], &[2, 1]));
    assert_eq!(read_pickle(&good).unwrap().tensors[0].1.shape, [2, 2]);
    let wrong: [(&str, Vec<u8>); 8] = [
        ("outside", tensor("0", [4, 1], &[2, 2], &[2, 1])),
        ("outside", tensor("0", [4, 0], &[2], &[4])),
        ("repeat", tensor("0", [4, 0], &[1_000_000], &[0])),
        ("too many values", tensor("0", [4, 0], &[i32::MAX, i32::MAX], &[1, 1])),
        ("no sizes", tensor("0", [4, 0], &[-1], &[1])),
        ("do not fit", tensor("0", [4, 0], &[2], &[1, 1])),
        ("not a number", tensor("../../etc/passwd", [4, 0], &[2], &[1])),
        ("not a number", tensor("/etc/passwd", [4, 0], &[2], &[1])),
    ];
    for (what, tensor) in wrong {
        let message = refusal(&state_dict(&tensor));
        assert!(message.contains(what), "{what}: {message}");
    }
}

#[test]
fn a_storage_has_the_size_that_its_tensor_says() {
    let message = refusal(&state_dict(&tensor("0", [1 << 27, 0], &[2], &[1])));
    assert!(message.contains("16 bytes instead of 536870912"), "{message}");
    let message = refusal(&state_dict(&tensor("7", [4, 0], &[2], &[1])));
    assert!(message.contains("no `x/data/7`"), "{message}");
    // The same storage, as if it were longer.
    let two = [tensor("0", [4, 0], &[2], &[1]), text("v"), tensor("0", [8, 4], &[2], &[1])];
    let pickle = [b"\x80\x02}(".as_slice(), &text("w"), &two.concat(), b"u."].concat();
    assert!(refusal(&pickle).contains("another type or size"));
}

#[test]
fn what_torch_did_not_write_is_told_apart() {
    assert!(read_bytes(b"\x80\x02no zip").unwrap_err().to_string().contains("not a whole .pt file"));
    assert!(read_bytes(&zipped(&[("a.txt", b"")])).unwrap_err().to_string().contains("data.pkl"));
    let big = zipped(&[("x/data.pkl", b"N."), ("x/byteorder", b"big")]);
    assert!(matches!(read_bytes(&big), Err(PtError::BigEndian)));
    assert!(matches!(read_pickle(b"\x80\x02}."), Err(PtError::NoModel)));
    let no_tensor = [b"\x80\x02}".as_slice(), &text("epoch"), &int(3), b"s."].concat();
    assert!(matches!(read_pickle(&no_tensor), Err(PtError::NoModel)));
}
