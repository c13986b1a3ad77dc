use proptest::prelude::*;

use super::*;

fn minimal() -> pb::JobSpec {
    let train = pb::TrainSpec { model: "yolov8n".into(), data: "/data/d.yaml".into(), ..Default::default() };
    pb::JobSpec { train: Some(train), ..Default::default() }
}

fn with_train(change: impl FnOnce(&mut pb::TrainSpec)) -> pb::JobSpec {
    let mut spec = minimal();
    change(spec.train.as_mut().unwrap());
    spec
}

fn only_violation(spec: pb::JobSpec) -> String {
    match parse_job_spec(spec).unwrap_err().as_slice() {
        [one] => one.to_string(),
        others => panic!("{others:?}"),
    }
}

#[test]
fn what_is_left_out_takes_its_default() {
    let spec = parse_job_spec(minimal()).unwrap();
    assert_eq!(spec.train, TrainSpec::new(ModelScale::N, "/data/d.yaml"));
    assert_eq!(spec.resources, Resources::default());
    assert_eq!((spec.priority, spec.max_retries), (0, 3));
}

#[test]
fn an_explicit_zero_is_not_the_default() {
    let mut wire = with_train(|train| train.warmup_epochs = Some(0.0));
    wire.max_retries = Some(0);
    let spec = parse_job_spec(wire).unwrap();
    assert_eq!((spec.train.warmup_epochs, spec.max_retries), (0.0, 0));
}

#[test]
fn every_bad_field_is_named_at_once() {
    let train = pb::TrainSpec {
        model: "yolov9".into(),
        data: "d.yaml".into(),
        epochs: Some(0),
        imgsz: Some(100),
        batch: Some(-2.0),
        cache: Some("tape".into()),
        optimizer: Some("Lion".into()),
        ..Default::default()
    };
    let resources = pb::Resources {
        gpus: Some(2),
        device: Some("tpu".into()),
        gpu_models: vec![" ".into()],
        ..Default::default()
    };
    let spec = pb::JobSpec {
        name: "n".repeat(129),
        train: Some(train),
        resources: Some(resources),
        priority: 101,
        max_retries: Some(101),
        time_limit: Some(prost_types::Duration::default()),
        labels: [(String::new(), String::new())].into(),
    };
    let mut fields: Vec<String> =
        parse_job_spec(spec).unwrap_err().into_iter().map(|violation| violation.field).collect();
    fields.sort();
    let expected = [
        "labels[\"\"]",
        "max_retries",
        "name",
        "priority",
        "resources.device",
        "resources.gpu_models[0]",
        "resources.gpus",
        "time_limit",
        "train.batch",
        "train.cache",
        "train.data",
        "train.epochs",
        "train.imgsz",
        "train.model",
        "train.optimizer",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn a_bad_value_is_named_with_what_would_be_right() {
    let table = [
        (
            with_train(|train| train.model = "yolov5n".into()),
            "train.model: is `yolov5n`; use one of yolov8n, yolov8s, yolov8m, yolov8l, yolov8x",
        ),
        (
            with_train(|train| train.optimizer = Some("Lion".into())),
            "train.optimizer: is `Lion`; use SGD, AdamW or auto",
        ),
        (
            with_train(|train| train.cache = Some("tape".into())),
            "train.cache: is `tape`; use `disk`, `ram` or `none`",
        ),
        (
            with_train(|train| train.batch = Some(-2.0)),
            "train.batch: is -2; use -1 (auto), a share of the GPU's memory such as 0.7, or a whole number from 1 to 4096",
        ),
        (
            with_train(|train| train.batch = Some(1.5)),
            "train.batch: is 1.5; use -1 (auto), a share of the GPU's memory such as 0.7, or a whole number from 1 to 4096",
        ),
        (pb::JobSpec::default(), "train: is missing; give at least `model` and `data`"),
    ];
    for (spec, expected) in table {
        assert_eq!(only_violation(spec), expected);
    }
}

#[test]
fn states_and_reasons_read_back() {
    for state in JobState::ALL {
        assert_eq!(JobState::try_from(pb::JobState::from(state)), Ok(state));
        assert_eq!(pb::JobState::from(state).as_str_name(), state.name());
    }
    for number in 1..=10 {
        let wire = pb::attempt::EndReason::try_from(number).unwrap();
        let plain = EndReason::try_from(wire).unwrap();
        assert_eq!((pb::attempt::EndReason::from(plain), plain.name()), (wire, wire.as_str_name()));
    }
    assert_eq!(JobState::try_from(pb::JobState::Unspecified), Err(Unspecified));
}

#[test]
fn a_time_before_1970_counts_as_1970() {
    let before = prost_types::Timestamp { seconds: -5, nanos: 7_000_000 };
    assert_eq!(parse_timestamp(before), Time(7));
}

prop_compose! {
    fn any_train()(
        model in prop::sample::select(&ModelScale::ALL[..]),
        batch in prop_oneof![
            Just(Batch::Auto),
            (1u32..=4096).prop_map(Batch::Size),
            (0.01..0.99).prop_map(Batch::Share),
        ],
        cache in prop::sample::select(vec![Cache::Disk, Cache::Ram, Cache::None]),
        whole in (1u32..1000, 1u32..=128, 0u32..=64, 0u32..100, 0u32..100, 0u32..=22, 1u32..100, 0u64..1 << 53),
        flags in any::<[bool; 4]>(),
        pretrained in prop::sample::select(vec!["", "/data/n.pt"]),
        share in prop::array::uniform12(0.001f64..0.9),
    ) -> TrainSpec {
        TrainSpec {
            epochs: whole.0, imgsz: whole.1 * 32, workers: whole.2, close_mosaic: whole.3,
            patience: whole.4, freeze: whole.5, nbs: whole.6, seed: whole.7,
            amp: flags[0], cos_lr: flags[1], single_cls: flags[2], deterministic: flags[3],
            pretrained: pretrained.into(), bn_group: u32::from(flags[3]),
            time: share[10] * 30.0, checkpoint_minutes: share[11] * 30.0,
            batch, cache,
            lr0: share[0], lrf: share[1], momentum: share[2], weight_decay: share[3],
            warmup_epochs: share[4] * 10.0, warmup_momentum: share[5], warmup_bias_lr: share[6],
            fraction: share[7], box_gain: share[8] * 9.0, cls: share[9], dfl: share[10], fliplr: share[11],
            hsv_h: share[0] / 2.0, hsv_s: share[1] / 2.0, hsv_v: share[2] / 2.0,
            ..TrainSpec::new(model, "/data/some where/d.yaml")
        }
    }
}

prop_compose! {
    fn any_spec()(
        name in "[a-zé ]{0,20}",
        train in any_train(),
        gpu in (prop::collection::vec("[a-z0-9]{1,8}", 0..3), any::<u64>()),
        cpu in any::<bool>(),
        priority in -100i32..=100,
        max_retries in 0u32..=100,
        time_limit in prop::option::of((1000..1_000_000_u64).prop_map(Duration::from_millis)),
        labels in prop::collection::btree_map("[a-z]{1,9}", "[a-z]{0,9}", 0..4),
    ) -> JobSpec {
        let resources = if cpu {
            Resources { device: DeviceKind::Cpu, ..Resources::default() }
        } else {
            Resources { gpu_models: gpu.0, min_vram_mib: gpu.1, ..Resources::default() }
        };
        JobSpec { name, train, resources, priority, max_retries, time_limit, labels }
    }
}

proptest! {
    #[test]
    fn a_spec_reads_back_from_the_wire(spec in any_spec()) {
        prop_assert_eq!(parse_job_spec(pb::JobSpec::from(&spec)), Ok(spec));
    }

    #[test]
    fn a_time_reads_back_from_the_wire(millis in any::<u64>()) {
        prop_assert_eq!(parse_timestamp(timestamp(Time(millis))), Time(millis));
    }
}

#[test]
fn a_spec_on_the_wire_sets_every_field() {
    let spec = parse_job_spec(minimal()).unwrap();
    let json = format!("{:?}", pb::TrainSpec::from(&spec.train));
    assert!(!json.contains("None"), "{json}");
}
