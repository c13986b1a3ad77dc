//! Letterbox, rectangular batches, NMS and mAP against tensors made with the reference implementation.
//! Nothing here knows the shapes of one particular set: parameters come from its manifest.

use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::Value;
use trainyard_trainer::data::image::Image;
use trainyard_trainer::data::letterbox::{Fit, Letterbox, load_resize, rect_plan};

/// `TRAINYARD_GOLDEN_DIR`, or where `make` puts the repository's own fixtures.
fn golden_dir() -> PathBuf {
    match std::env::var_os("TRAINYARD_GOLDEN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/golden"),
    }
}

fn read(name: &str) -> Vec<u8> {
    let file = golden_dir().join(name);
    std::fs::read(&file).unwrap_or_else(|error| {
        panic!("{}: {error}; set TRAINYARD_GOLDEN_DIR to a golden directory", file.display())
    })
}

/// The manifest's part on one file.
fn manifest(file: &str) -> Value {
    let manifest: Value = serde_json::from_slice(&read("manifest.json")).unwrap();
    manifest["files"][file].clone()
}

fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|n| usize::try_from(n.as_u64().unwrap()).unwrap()).collect()
}

/// Shape and values of a float tensor, whatever its width.
fn floats(tensors: &SafeTensors, name: &str) -> (Vec<usize>, Vec<f64>) {
    let view = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let values = match view.dtype() {
        safetensors::Dtype::F32 => view
            .data()
            .chunks_exact(4)
            .map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap())))
            .collect(),
        safetensors::Dtype::F64 => {
            view.data().chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect()
        }
        safetensors::Dtype::BOOL => view.data().iter().map(|byte| f64::from(*byte)).collect(),
        other => panic!("{name} is {other:?}"),
    };
    (view.shape().to_vec(), values)
}

fn image(tensors: &SafeTensors, name: &str) -> Image {
    let view = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let [height, width, 3] = *view.shape() else { panic!("{name} is no image: {:?}", view.shape()) };
    Image { width, height, rgb: view.data().to_vec() }
}

#[test]
fn letterboxes_and_loader_resizes_are_equal_to_the_reference() {
    let bytes = read("letterbox.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let manifest = manifest("letterbox.safetensors");
    let cases = manifest["cases"].as_array().unwrap();
    let mut largest = 0;
    for case in cases {
        let name = case["case"].as_str().unwrap();
        let input = image(&tensors, &format!("{}.in", name.split('.').next().unwrap()));
        let expected = image(&tensors, name);
        let made = if let Some(long_side) = case["long_side"].as_u64() {
            load_resize(input, usize::try_from(long_side).unwrap())
        } else {
            let [height, width] = numbers(&case["new_shape_hw"])[..] else { panic!("{name}") };
            let fit = match (case["auto"].as_bool(), case["scaleup"].as_bool()) {
                (Some(true), _) => Fit::Tight(32),
                (_, Some(false)) => Fit::ShrinkOnly,
                _ => Fit::Scale,
            };
            let letterbox = Letterbox::fit([input.width, input.height], [width, height], fit);
            assert_eq!(letterbox.inner.to_vec(), numbers(&case["new_unpad_wh"]), "{name}");
            assert_eq!(Some(letterbox.left as u64), case["left"].as_u64(), "{name}");
            assert_eq!(Some(letterbox.top as u64), case["top"].as_u64(), "{name}");
            letterbox.apply(&input)
        };
        assert_eq!((made.width, made.height), (expected.width, expected.height), "{name}");
        let worst = made.rgb.iter().zip(&expected.rgb).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        println!("{name}: largest difference {worst}");
        largest = largest.max(worst);
    }
    assert!(!cases.is_empty());
    // The same whole-number arithmetic, so nothing is left to rounding.
    assert_eq!(largest, 0);
}

#[test]
fn rectangular_batches_have_the_reference_shapes_and_order() {
    let manifest = manifest("letterbox.safetensors");
    for case in manifest["rect_batches"].as_array().unwrap() {
        let sizes: Vec<[usize; 2]> = case["shapes_hw_in"]
            .as_array()
            .unwrap()
            .iter()
            .map(|hw| [numbers(hw)[1], numbers(hw)[0]])
            .collect();
        let whole = |key: &str| usize::try_from(case[key].as_u64().unwrap()).unwrap();
        let plan = rect_plan(&sizes, whole("imgsz"), whole("batch"));
        let shapes: Vec<Vec<usize>> = plan.shapes.iter().map(|wh| vec![wh[1], wh[0]]).collect();
        let expected: Vec<Vec<usize>> =
            case["batch_shapes_hw"].as_array().unwrap().iter().map(numbers).collect();
        assert_eq!(shapes, expected);
        // The reference leaves the order of equal ratios to its sort, so ratios are compared.
        let ratios = |order: &[usize]| -> Vec<f64> {
            order.iter().map(|index| sizes[*index][1] as f64 / sizes[*index][0] as f64).collect()
        };
        assert_eq!(ratios(&plan.order), ratios(&numbers(&case["order"])));
    }
}
