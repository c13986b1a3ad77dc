//! Letterbox, rectangular batches, NMS and mAP against tensors made with the reference implementation.
//! Nothing here knows the shapes of one particular set: parameters come from its manifest.

use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::Value;
use trainyard_data::loader::rect_batches::rect_batches;
use trainyard_data::resample::letterbox::{Fit, Letterbox};
use trainyard_data::resample::resize::load_resize;
use trainyard_data::{Image, Object};
use trainyard_trainer::eval::{ClassMetrics, Detection, Evaluator, NmsConfig, suppress};

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
        let plan = rect_batches(&sizes, whole("imgsz"), whole("batch"));
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

#[test]
fn nms_finds_the_same_boxes_in_the_same_order() {
    let (bytes, forward) = (read("nms.safetensors"), read("forward.safetensors"));
    let (tensors, forward) =
        (SafeTensors::deserialize(&bytes).unwrap(), SafeTensors::deserialize(&forward).unwrap());
    let (shape, decoded) = floats(&forward, "eval.decoded");
    let [images, rows, anchors] = shape[..] else { panic!("{shape:?}") };
    let decoded: Vec<f32> = decoded.into_iter().map(|value| value as f32).collect();
    let manifest = manifest("nms.safetensors");
    for case in manifest["cases"].as_array().unwrap() {
        let config = NmsConfig {
            conf: case["conf_thres"].as_f64().unwrap() as f32,
            iou: case["iou_thres"].as_f64().unwrap() as f32,
            multi_label: case["multi_label"].as_bool().unwrap(),
            agnostic: case["agnostic"].as_bool().unwrap_or(false),
            max_det: usize::try_from(case["max_det"].as_u64().unwrap()).unwrap(),
            max_nms: usize::try_from(manifest["max_nms"].as_u64().unwrap()).unwrap(),
            class_offset: manifest["class_offset_px"].as_f64().unwrap() as f32,
        };
        for (image, pred) in decoded.chunks_exact(rows * anchors).enumerate() {
            let name = format!("{}.img{image}", case["case"].as_str().unwrap());
            let (shape, expected) = floats(&tensors, &name);
            let found = suppress(pred, rows - 4, anchors, &config);
            assert_eq!(found.len(), shape[0], "{name}");
            assert!(found.is_sorted_by(|a, b| a.score >= b.score), "{name}");
            let row = |found: &Detection| {
                let [x1, y1, x2, y2] = found.xyxy;
                [x1, y1, x2, y2, found.score, found.class as f32].map(f64::from)
            };
            // The reference leaves the order of equal scores to its sort, so they are compared as a set.
            let by_score = |a: &[f64; 6], b: &[f64; 6]| b[4].total_cmp(&a[4]).then(a.partial_cmp(b).unwrap());
            let mut found: Vec<[f64; 6]> = found.iter().map(row).collect();
            let mut expected: Vec<[f64; 6]> =
                expected.chunks_exact(6).map(|row| row.try_into().unwrap()).collect();
            found.sort_by(by_score);
            expected.sort_by(by_score);
            // The same single-precision sums in the same order: equal to the last bit.
            assert_eq!(found, expected, "{name}");
        }
    }
    assert!(images > 0);
}

#[test]
fn map_agrees_with_both_references() {
    let bytes = read("map.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let manifest = manifest("map.safetensors");
    let images = usize::try_from(manifest["n_images"].as_u64().unwrap()).unwrap();
    let classes = manifest["n_gt_per_class"].as_array().unwrap().len();
    let (_, truths) = floats(&tensors, "gt");
    let (_, predictions) = floats(&tensors, "pred");
    let mut evaluator = Evaluator::new(classes);
    let mut limited = Evaluator::new(classes);
    for image in 0..images {
        let of_image = |row: &&[f64]| row[0] == image as f64;
        let corners = |row: &[f64]| [row[0] as f32, row[1] as f32, row[2] as f32, row[3] as f32];
        let truths: Vec<Object> = truths
            .chunks_exact(6)
            .filter(of_image)
            .map(|row| Object { class: row[1] as u32, xyxy: corners(&row[2..]) })
            .collect();
        let detections: Vec<Detection> = predictions
            .chunks_exact(7)
            .filter(of_image)
            .map(|row| Detection { xyxy: corners(&row[1..]), score: row[5] as f32, class: row[6] as u32 })
            .collect();
        evaluator.add(&detections, &truths);
        // pycocotools takes the surest 100 of each class and image; `pred` is sorted by score.
        let mut taken = vec![0; classes];
        let surest = detections.into_iter().filter(|detection| {
            taken[detection.class as usize] += 1;
            taken[detection.class as usize] <= 100
        });
        limited.add(&surest.collect::<Vec<_>>(), &truths);
    }

    let (_, expected) = floats(&tensors, "ultralytics.tp");
    let hits: Vec<f64> = evaluator.hits().flatten().map(f64::from).collect();
    assert_eq!(hits, expected, "true positives");

    let metrics = evaluator.metrics();
    let (_, expected) = floats(&tensors, "ultralytics.ap");
    let found: Vec<f64> = metrics.classes.iter().flat_map(|class| class.ap).collect();
    close("ap", &found, &expected, 1e-9);
    for (name, value) in [
        ("p", (|class| class.precision) as fn(&ClassMetrics) -> f64),
        ("r", |class| class.recall),
        ("f1", |class| class.f1),
    ] {
        let (_, expected) = floats(&tensors, &format!("ultralytics.{name}"));
        close(name, &metrics.classes.iter().map(value).collect::<Vec<_>>(), &expected, 1e-9);
    }
    let summary = &manifest["ultralytics"];
    close("map50", &[metrics.map50], &[summary["map50"].as_f64().unwrap()], 1e-9);
    close("map50-95", &[metrics.map50_95], &[summary["map50_95"].as_f64().unwrap()], 1e-9);

    let (_, expected) = floats(&tensors, "pycocotools.ap");
    let found: Vec<f64> =
        (0..classes).flat_map(|class| limited.curves(class).map(|curve| curve.area_steps())).collect();
    close("pycocotools ap", &found, &expected, 1e-9);
}

fn close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(difference <= tolerance, "{what} {index}: {found} is not {expected}, off by {difference:e}");
    }
}
