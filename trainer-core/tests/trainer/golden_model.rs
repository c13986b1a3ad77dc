//! The model, its loss, its optimiser and its schedule against tensors made with the reference
//! implementation.
//!
//! Tolerances: two computations in 32 bits differ by about as much as either differs from 64 bits, which
//! the manifest says per quantity; where it does, a test allows [`SLACK`] times that. The rest are
//! roundings of 32 bits, some units in the last place, and say so where they stand.

use serde_json::Value;
use tch::{IndexOp, Kind, Tensor};
use trainyard_trainer::libtorch::Precision;
use trainyard_trainer::loss::assign::{Assignment, Object, PixelObject, Targets, assign};
use trainyard_trainer::loss::{Gains, Loss, detection_loss, to_host};
use trainyard_trainer::model::head::{Anchors, Prediction};
use trainyard_trainer::model::plan::{BINS, LayerKind, Plan, STRIDES};
use trainyard_trainer::model::{Layout, Model};
use trainyard_trainer::optim::schedule::{Accumulation, Schedule};
use trainyard_trainer::optim::{Optimizer, Rates, Rule, ema};
use trainyard_trainer::train::precision::forward;
use trainyard_trainer::weights::{Entry, Role, Weights};
use trainyard_types::{ModelScale, TrainSpec};

use crate::golden::Golden;
use crate::golden::{CPU, alone, assert_close, assert_relative, assert_statistics, json, number, open};

/// How many times the manifest's difference between 32 and 64 bits is allowed.
const SLACK: f64 = 10.0;
/// Relative rounding of a few operations in 32 bits.
const ROUNDING: f64 = 1e-5;

/// The golden model, computed in the reference's order.
fn model() -> Model {
    in_layout(Layout::ChannelsFirst)
}

fn in_layout(layout: Layout) -> Model {
    Model::from_tensors(open("weights.safetensors").tensors(), layout, CPU).unwrap()
}

/// Levels of a prediction as the golden files have them: `[B, 64 + classes, H, W]`.
fn maps(prediction: &Prediction) -> Vec<Tensor> {
    let both = Tensor::cat(&[&prediction.boxes, &prediction.scores], 2);
    let mut from = 0;
    let level = |&(rows, columns): &(i64, i64)| {
        let part = both.narrow(1, from, rows * columns);
        from += rows * columns;
        part.transpose(1, 2).reshape([both.size()[0], both.size()[2], rows, columns])
    };
    prediction.anchors.grid.iter().map(level).collect()
}

fn objects(rows: &Tensor) -> Vec<Object> {
    let values = Vec::<f32>::try_from(rows.contiguous().view(-1)).unwrap();
    let object = |row: &[f32]| Object {
        image: row[0] as u32,
        class: row[1] as u32,
        cxcywh: [row[2], row[3], row[4], row[5]],
    };
    values.chunks_exact(6).map(object).collect()
}

/// `rounding`: how much of a component rounding may cost.
fn assert_components(what: &str, loss: &Loss, expected: &Tensor, rounding: f64) {
    for (at, found) in to_host(&loss.components).into_iter().enumerate() {
        let wanted = expected.double_value(&[at as i64]);
        let (difference, tolerance) = ((found - wanted).abs(), rounding * wanted.abs());
        println!("{what} {at}: {difference:e} of {tolerance:e}");
        assert!(difference <= tolerance, "{what} {at}: {found}, not {wanted}");
    }
}

#[test]
fn the_model_in_eval_mode_gives_the_golden_maps_boxes_and_scores() {
    let _alone = alone();
    let (golden, model) = (open("forward.safetensors"), model());
    let input = golden.get("input");
    let _no_grad = tch::no_grad_guard();
    let prediction = model.forward(&input, false);
    let differ = |name: &str| golden.number(&["f32_vs_f64_max_abs", name]) * SLACK;
    for (at, map) in maps(&prediction).iter().enumerate() {
        let expected = golden.get(&format!("eval.head.p{}", at + 3));
        assert_close("box logits", &map.i((.., ..64)), &expected.i((.., ..64)), differ("eval.box_logits"));
        assert_close(
            "class logits",
            &map.i((.., 64..)),
            &expected.i((.., 64..)),
            differ("eval.class_logits"),
        );
    }
    let (decoded, expected) = (model.head().decode(&prediction), golden.get("eval.decoded"));
    assert_close("boxes", &decoded.i((.., ..4)), &expected.i((.., ..4)), differ("eval.decoded_boxes_px"));
    assert_close("scores", &decoded.i((.., 4..)), &expected.i((.., 4..)), differ("eval.decoded_scores"));
    let features = model.features(&input, false);
    for (at, map) in features.iter().enumerate() {
        let name = format!("p{}", at + 3);
        // The set in the repository leaves the features out to be small.
        if let Some(expected) = golden.find(&format!("eval.feat.{name}")) {
            assert_relative(&name, map, &expected, ROUNDING);
        }
        let layer = [15, 18, 21][at].to_string();
        if let Some(expected) = golden.about["layer_stats_eval"].get(&layer) {
            assert_statistics(&format!("layer {layer}"), map, expected, ROUNDING * 10.0);
        }
    }
}

#[test]
fn the_model_in_train_mode_gives_the_golden_maps_and_statistics() {
    let _alone = alone();
    let (golden, model) = (open("forward.safetensors"), model());
    let _no_grad = tch::no_grad_guard();
    let prediction = model.forward(&golden.get("input"), true);
    let differ = |name: &str| golden.number(&["f32_vs_f64_max_abs", name]) * SLACK;
    for (at, map) in maps(&prediction).iter().enumerate() {
        let expected = golden.get(&format!("train.head.p{}", at + 3));
        assert_close("box logits", &map.i((.., ..64)), &expected.i((.., ..64)), differ("train.box_logits"));
        assert_close(
            "class logits",
            &map.i((.., 64..)),
            &expected.i((.., 64..)),
            differ("train.class_logits"),
        );
    }
    let mut compared = 0;
    for name in golden.under("bn_after_train_forward.") {
        let expected = golden.get(&format!("bn_after_train_forward.{name}"));
        assert_relative(name, model.weights().get(name).unwrap(), &expected, ROUNDING);
        compared += 1;
    }
    assert!(compared > 0);
}

#[test]
fn the_fast_layout_computes_the_same_as_the_references() {
    let _alone = alone();
    let input = open("forward.safetensors").get("input");
    let _no_grad = tch::no_grad_guard();
    for train in [false, true] {
        let [fast, plain] = [Layout::ChannelsLast, Layout::ChannelsFirst]
            .map(|layout| in_layout(layout).forward(&input, train));
        // With channels last, libtorch's CPU sums up a batch's statistics in plain 32 bits, without
        // the cascade that it has for the other layout: that costs a digit.
        assert_relative("boxes", &fast.boxes, &plain.boxes, 1e-3);
        assert_relative("scores", &fast.scores, &plain.scores, 1e-3);
    }
}

/// Height and width of the golden images.
fn image_size(golden: &Golden) -> [i64; 2] {
    match golden.find("input") {
        Some(input) => [input.size()[2], input.size()[3]],
        None => [0, 1].map(|at| golden.about["image_hw"][at].as_i64().unwrap()),
    }
}

/// The golden objects in pixels, and the number of images.
fn pixel_objects(golden: &Golden) -> (Vec<PixelObject>, usize) {
    let [real, labels] = ["tal.in.mask_gt", "tal.in.gt_labels"].map(|name| golden.get(name).squeeze_dim(-1));
    let boxes = golden.get("tal.in.gt_bboxes");
    let size = real.size();
    let places = (0..size[0]).flat_map(|image| (0..size[1]).map(move |at| [image, at]));
    let object = |at: [i64; 2]| PixelObject {
        image: at[0] as u32,
        class: labels.double_value(&at) as u32,
        xyxy: [0, 1, 2, 3].map(|side| boxes.double_value(&[at[0], at[1], side]) as f32),
    };
    (places.filter(|at| real.double_value(at) > 0.0).map(object).collect(), size[0] as usize)
}

fn assert_assignment(golden: &Golden, found: &Assignment) {
    let foreground = golden.get("tal.out.fg_mask").to_kind(Kind::Bool);
    assert_eq!(foreground.count_nonzero(None).int64_value(&[]), golden.number(&["n_foreground"]) as i64);
    let anchors = Vec::<i64>::try_from(&found.anchors).unwrap();
    let is_new =
        |at: usize| anchors[at] < foreground.numel() as i64 && (at == 0 || anchors[at] != anchors[at - 1]);
    let places: Vec<i64> = (0..anchors.len()).filter(|&at| is_new(at)).map(|at| at as i64).collect();
    let once = |of: &Tensor| of.index_select(0, &Tensor::from_slice(&places));
    let learning = foreground.view(-1).nonzero().squeeze_dim(-1);
    assert!(once(&found.anchors).equal(&learning), "other anchors learn an object");
    let expected = golden.get("tal.out.target_labels").to_kind(Kind::Int64).masked_select(&foreground);
    assert!(once(&found.labels).equal(&expected), "other labels");
    let expected = golden.get("tal.out.target_bboxes").view([-1, 4]).index_select(0, &learning);
    assert_close("target boxes", &once(&found.boxes), &expected, 0.0);
    // A sixth power and a quotient: some tens of roundings.
    assert_close("target scores", &found.scores, &golden.get("tal.out.target_scores"), ROUNDING * 10.0);
    let wanted = golden.number(&["target_scores_sum"]);
    for sum in [&found.scores, &found.weights].map(|all| all.sum(Kind::Double).double_value(&[])) {
        assert!((sum - wanted).abs() <= wanted * ROUNDING * 10.0, "scores sum to {sum}, not {wanted}");
    }
}

#[test]
fn the_assigner_gives_anchors_the_golden_objects_and_scores() {
    let _alone = alone();
    for file in ["loss_train.safetensors", "loss_synth.safetensors"] {
        let golden = open(file);
        let (objects, images) = pixel_objects(&golden);
        let targets = Targets::of_pixels(&objects, images, image_size(&golden), CPU);
        let logits = golden.get("tal.in.pd_scores").to_kind(Kind::Double).logit(None).to_kind(Kind::Float);
        let found = assign(&logits, &golden.get("tal.in.pd_bboxes"), &targets);
        assert_assignment(&golden, &found);
    }
}

#[test]
fn target_rows_become_the_golden_boxes() {
    let _alone = alone();
    for file in ["loss_train.safetensors", "loss_synth.safetensors"] {
        let golden = open(file);
        let (expected, images) = pixel_objects(&golden);
        let found = Targets::new(&objects(&golden.get("targets")), images, image_size(&golden), CPU);
        let expected: Vec<f32> = expected.iter().flat_map(|object| object.xyxy).collect();
        // Pixels up to some hundreds, rounded to 32 bits in another order.
        assert_close("boxes", found.tensors()[0], &Tensor::from_slice(&expected).view([-1, 4]), 1e-4);
    }
}

/// Forward in train mode, loss and backward pass on the golden batch.
fn train_batch(golden: &Golden, model: &Model) -> Loss {
    let input = golden.get("input");
    let size = input.size();
    let images = usize::try_from(size[0]).unwrap();
    let targets = Targets::new(&objects(&golden.get("targets")), images, [size[2], size[3]], CPU);
    let loss = detection_loss(&model.forward(&input, true), model.head().bins(), &targets, Gains::default());
    loss.total().backward();
    loss
}

#[test]
fn a_training_batch_gives_the_golden_losses_and_gradients() {
    let _alone = alone();
    let (golden, model) = (open("loss_train.safetensors"), model());
    let loss = train_batch(&golden, &model);
    // Logits that differ in the fourth digit give losses that do so in the fifth.
    assert_components("component", &loss, &golden.get("loss.components"), ROUNDING * 10.0);
    let wanted = golden.get("loss.total").double_value(&[0]);
    let total = loss.total().double_value(&[]);
    assert!((total - wanted).abs() <= wanted * ROUNDING * 10.0, "{total}, not {wanted}");

    let tolerance = golden.number(&["f32_vs_f64", "grad_rel_l2_max"]) * SLACK;
    for name in golden.under("grad.") {
        let gradient = model.weights().get(name).unwrap().grad();
        assert_relative(name, &gradient, &golden.get(&format!("grad.{name}")), tolerance);
    }
    let statistics = golden.about["grad_stats"].as_object().unwrap();
    assert_eq!(statistics.len(), model.weights().iter().filter(|entry| entry.is_trained()).count());
    for (name, expected) in statistics {
        let gradient = model.weights().get(name).unwrap().grad();
        assert_statistics(name, &gradient, expected, tolerance * SLACK);
    }
    let norm = Optimizer::new(model.weights(), Rule::Sgd).gradient_norm().double_value(&[]);
    let wanted = golden.number(&["grad_norm_before_clip"]);
    assert!((norm - wanted).abs() <= wanted * tolerance, "the norm is {norm}, not {wanted}");
}

#[test]
fn gradients_of_layers_in_bf16_point_where_the_golden_ones_do() {
    let _alone = alone();
    let (golden, model) = (open("loss_train.safetensors"), model());
    let input = golden.get("input");
    let size = input.size();
    let images = usize::try_from(size[0]).unwrap();
    let targets = Targets::new(&objects(&golden.get("targets")), images, [size[2], size[3]], CPU);
    let prediction = forward(&model, &input, true, Precision::Bf16);
    assert_eq!(prediction.scores.kind(), Kind::BFloat16);
    let loss = detection_loss(&prediction, model.head().bins(), &targets, Gains::default());
    assert_eq!(loss.total().kind(), Kind::Float);
    loss.total().backward();
    let wanted = golden.get("loss.total").double_value(&[0]);
    let total = loss.total().double_value(&[]);
    println!("loss {total}, golden {wanted}");
    // The model's statistics are random and its batch small: a hard case, in which the assigner decides
    // otherwise here and there.
    assert!((total / wanted - 1.0).abs() < 0.1, "{total}, not {wanted}");
    for name in golden.under("grad.") {
        let found = model.weights().get(name).unwrap().grad();
        assert_eq!(found.kind(), Kind::Float);
        let (found, expected) = (found.reshape([-1]), golden.get(&format!("grad.{name}")).reshape([-1]));
        let cosine = (found.dot(&expected) / (found.norm() * expected.norm())).double_value(&[]);
        println!("{name}: cosine {cosine}");
        // Class logits learn of every anchor; boxes only of those that the assigner chose.
        let least = if name.starts_with("model.22.cv3") { 0.99 } else { 0.4 };
        assert!(cosine > least, "{name}: {cosine}");
    }
}

/// The number that follows `key` in a sentence of the manifest.
fn number_after(text: &str, key: &str) -> f64 {
    let rest = &text[text.find(key).unwrap_or_else(|| panic!("no `{key}` in `{text}`")) + key.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    rest[..end].trim_end_matches('.').parse().unwrap()
}

/// Updates since the golden weights are compared, which are far smaller than the weights themselves.
fn assert_moved(golden: &Golden, model: &Model, start: &Golden, step: &str, tolerance: f64) {
    for name in golden.under(&format!("{step}.")) {
        let (found, before) = (model.weights().get(name).unwrap().detach(), start.get(name));
        let expected = golden.get(&format!("{step}.{name}"));
        // An update is the difference of two rounded weights.
        let rounding = before.norm().double_value(&[]) * 1e-7;
        let moved = (&expected - &before).norm().double_value(&[]);
        let difference = (found - expected).norm().double_value(&[]);
        println!("{step} {name}: {difference:e} of {:e}", moved * tolerance + rounding);
        assert!(difference <= moved * tolerance + rounding, "{step} {name}: {difference:e} of {moved:e}");
    }
    let key = format!("param_stats_after_step{}", &step[3..]);
    for (name, expected) in golden.about[&key].as_object().unwrap() {
        assert_statistics(name, model.weights().get(name).unwrap(), expected, ROUNDING * 10.0);
    }
}

#[test]
fn two_optimiser_steps_give_the_golden_weights() {
    let _alone = alone();
    let (golden, start, model) = (open("loss_train.safetensors"), open("weights.safetensors"), model());
    train_batch(&golden, &model);
    let mut sgd = Optimizer::new(model.weights(), Rule::Sgd);
    let gradients: Vec<(String, Tensor)> =
        sgd.gradients().map(|(name, gradient)| (name.to_owned(), gradient.copy())).collect();
    let tolerance = golden.number(&["f32_vs_f64", "grad_rel_l2_max"]) * SLACK;

    let groups = golden.about["param_groups_in_order"].as_array().unwrap();
    let lr = [0, 1, 2].map(|at: usize| number(&groups[at]["lr"]));
    let one = Tensor::from(1.0_f32);
    let decay = number(&groups[0]["weight_decay"]);
    let _ = sgd.step(&one, &Rates { lr, momentum: number(&groups[0]["momentum"]), accumulate: 1 }, decay);
    assert_moved(&golden, &model, &start, "sgd1", tolerance);

    let again = |wanted: &str| gradients.iter().find(|(name, _)| name == wanted);
    sgd.set_gradients(|name| again(name).map(|(_, gradient)| gradient.shallow_clone()));
    let name = golden.under("sgd2.").next().unwrap();
    let what = golden.about["tensors"][format!("sgd2.{name}")]["what"].as_str().unwrap();
    let (bias, others) = (number_after(what, "lr="), number_after(what, "bias group and "));
    let rates =
        Rates { lr: [others, others, bias], momentum: number_after(what, "momentum="), accumulate: 1 };
    let _ = sgd.step(&one, &rates, decay);
    assert_moved(&golden, &model, &start, "sgd2", tolerance);
}

#[test]
fn parameters_are_in_the_golden_groups() {
    let _alone = alone();
    let (golden, model) = (open("loss_train.safetensors"), model());
    let roles = [[Role::Weight, Role::Constant], [Role::Norm; 2], [Role::Bias; 2]];
    for (group, roles) in golden.about["param_groups_in_order"].as_array().unwrap().iter().zip(roles) {
        let names: Vec<&str> =
            group["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let found: Vec<&str> = model
            .weights()
            .iter()
            .filter(|entry| roles.contains(&entry.role))
            .map(|entry| entry.name.as_str())
            .collect();
        assert_eq!(found, names);
    }
}

#[test]
fn the_loss_of_near_correct_logits_has_the_golden_gradients() {
    let _alone = alone();
    let golden = open("loss_synth.safetensors");
    let rows = |name: &str| golden.get(name).transpose(1, 2).contiguous();
    let size = [0, 1].map(|at| golden.about["image_hw"][at].as_i64().unwrap());
    let grid = STRIDES.map(|stride| (size[0] / stride, size[1] / stride));
    let prediction = Prediction {
        boxes: rows("boxes").set_requires_grad(true),
        scores: rows("scores").set_requires_grad(true),
        anchors: Anchors::new(grid, CPU),
    };
    let images = usize::try_from(prediction.boxes.size()[0]).unwrap();
    let bins = Tensor::arange(BINS, (Kind::Float, CPU));
    let targets = Targets::new(&objects(&golden.get("targets")), images, size, CPU);
    let loss = detection_loss(&prediction, &bins, &targets, Gains::default());
    loss.total().backward();
    assert_components("component", &loss, &golden.get("loss.components"), ROUNDING);
    for (name, tensor) in [("grad.boxes", &prediction.boxes), ("grad.scores", &prediction.scores)] {
        // Near-correct boxes: differences of nearly equal numbers lose digits.
        assert_relative(name, &tensor.grad(), &rows(name), ROUNDING * 10.0);
    }

    let nothing = Targets::new(&[], images, size, CPU);
    let loss = detection_loss(&prediction, &bins, &nothing, Gains::default());
    assert_components("no targets", &loss, &golden.get("loss_no_targets.components"), ROUNDING);
}

#[test]
fn the_schedule_gives_the_golden_rates_and_steps() {
    let golden = open("schedule.safetensors");
    let count = |name: &str| golden.number(&[name]) as u32;
    for (name, cosine) in [("cos", true), ("linear", false)] {
        let spec = TrainSpec {
            epochs: count("epochs"),
            cos_lr: cosine,
            lr0: golden.number(&["lr0"]),
            lrf: golden.number(&["lrf"]),
            momentum: golden.number(&["momentum"]),
            warmup_epochs: golden.number(&["warmup_epochs"]),
            warmup_momentum: golden.number(&["warmup_momentum"]),
            warmup_bias_lr: golden.number(&["warmup_bias_lr"]),
            nbs: count("nbs"),
            ..TrainSpec::new(ModelScale::N, "/d/data.yaml")
        };
        let images = u64::from(count("iterations_per_epoch")) * u64::from(count("batch"));
        let schedule = Schedule::new(&spec, images, count("batch"));
        assert_eq!(schedule.warmup_units(), u64::from(count("warmup_iterations")));
        let mut accumulation = Accumulation::default();
        let rows = golden.get(name);
        for at in 0..rows.size()[0] {
            let row = Vec::<f64>::try_from(rows.get(at)).unwrap();
            let rates = schedule.at(row[0] as u64);
            let found = [rates.lr[0], rates.lr[1], rates.lr[2], rates.momentum, rates.accumulate as f64];
            for (found, wanted) in found.iter().zip(&row[2..]) {
                // 64 bits, computed in another order.
                assert!(
                    (found - wanted).abs() <= 1e-12,
                    "{name} iteration {}: {found}, not {wanted}",
                    row[0]
                );
            }
            assert_eq!(accumulation.add(rates.accumulate), row[7] == 1.0, "{name} iteration {}", row[0]);
        }
    }
}

#[test]
fn the_average_follows_the_golden_one() {
    let _alone = alone();
    let golden = open("schedule.safetensors");
    let decays = golden.get("ema_decay");
    for at in 0..decays.size()[0] {
        let row = Vec::<f64>::try_from(decays.get(at)).unwrap();
        assert!((ema::decay(row[0] as u64) - row[1]).abs() <= 1e-12);
    }
    let of = |tensor: Tensor| {
        let mut weights = Weights::default();
        weights.push(Entry { name: "w".into(), role: Role::Weight, frozen: false, tensor });
        weights
    };
    let average = of(golden.get("ema.w0"));
    for update in 1.. {
        let Some(newest) = golden.find(&format!("ema.model{update}")) else { break };
        ema::mix(&average, &of(newest), ema::decay(update));
        let expected = golden.get(&format!("ema.ema{update}"));
        assert_close("average", average.get("w").unwrap(), &expected, 1e-6);
    }
}

#[test]
fn a_fresh_head_is_biased_as_the_golden_one() {
    let _alone = alone();
    let golden = open("weights.safetensors");
    let (classes, biases) = golden
        .about
        .as_object()
        .unwrap()
        .iter()
        .find_map(|(key, value)| Some((key.strip_prefix("fresh_init_head_bias_nc")?, value)))
        .unwrap();
    let classes: i64 = classes.parse().unwrap();
    let model = Model::new(ModelScale::N, classes, 0, CPU);
    for (name, expected) in biases.as_object().unwrap() {
        let bias = model.weights().get(name).unwrap();
        let wanted =
            Tensor::full([expected["n"].as_i64().unwrap()], number(&expected["first"]), (Kind::Float, CPU));
        assert_close(name, bias, &wanted, 1e-6);
    }
}

#[test]
fn weights_have_the_golden_names_and_shapes() {
    let _alone = alone();
    let (golden, model) = (open("weights.safetensors"), model());
    assert_eq!(model.weights().len(), golden.tensors().len());
    for (name, expected) in golden.about["params"].as_object().unwrap() {
        let shape: Vec<i64> = serde_json::from_value(expected.clone()).unwrap();
        assert_eq!(model.weights().get(name).unwrap().size(), shape, "{name}");
    }
    assert_eq!(model.weights().parameters(), golden.number(&["n_params"]) as u64);
    let trained = model.weights().iter().filter(|entry| entry.is_trained());
    let trainable: usize = trained.map(|entry| entry.tensor.numel()).sum();
    assert_eq!(trainable, golden.number(&["n_trainable"]) as usize);
}

#[test]
fn every_scale_has_the_golden_layers_parameters_and_cost() {
    let _alone = alone();
    let golden = json("models.json");
    for scale in ModelScale::ALL {
        let expected = &golden[&scale.name()["yolov8".len()..]];
        let plan = Plan::new(scale, 80);
        let model = Model::new(scale, 80, 0, CPU);
        assert_eq!(model.weights().parameters() as f64, number(&expected["params"]));
        assert_eq!(plan.parameters() as f64, number(&expected["params"]));
        assert_eq!(Plan::new(scale, 3).parameters() as f64, number(&expected["params_nc3"]));
        assert_eq!(model.weights().len() as f64, number(&expected["n_state"]));
        assert!((plan.gflops(640) - number(&expected["gflops_exact"])).abs() < 1e-9);
        let counts = plan.parameters_by_layer();
        for (at, layer) in expected["layers"].as_array().unwrap().iter().enumerate() {
            assert_eq!(counts[at] as f64, number(&layer["params"]), "{scale} layer {at}");
            let Some(found) = plan.layers.get(at) else { continue };
            assert_eq!(found.kind.name(), layer["type"].as_str().unwrap(), "{scale} layer {at}");
            if let Some(output) = layer.get("cout") {
                assert_eq!(
                    (found.input as f64, found.output as f64),
                    (number(&layer["cin"]), number(output))
                );
            }
            if let LayerKind::C2f { hidden, repeats, shortcut } = found.kind {
                assert_eq!(Value::from(hidden), layer["hidden"]);
                assert_eq!(Value::from(repeats), layer["n"]);
                assert_eq!(Value::from(shortcut), layer["shortcut"]);
            }
        }
        let head = expected["layers"].as_array().unwrap().last().unwrap();
        assert_eq!(Value::from(plan.head.box_channels), head["c2_box"]);
        assert_eq!(Value::from(plan.head.class_channels), head["c3_cls"]);
    }
    let shapes = golden["n_nc80_param_shapes"].as_object().unwrap();
    let model = Model::new(ModelScale::N, 80, 0, CPU);
    let found = model.weights().iter().filter(|entry| entry.role.is_parameter());
    let found: Vec<(&str, Value)> =
        found.map(|entry| (entry.name.as_str(), entry.tensor.size().into())).collect();
    assert_eq!(found.len(), shapes.len());
    for (name, shape) in found {
        assert_eq!(&shape, &shapes[name], "{name}");
    }
}
