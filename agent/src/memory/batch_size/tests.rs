//! The batch sizes that are chosen, layer by layer.

use super::*;

const SIZES: [u32; 6] = [320, 416, 512, 640, 1024, 1280];

fn workload(model: ModelScale, imgsz: u32) -> Workload {
    Workload { model, imgsz, multi_scale: false, amp: true }
}

fn gpu(total_mib: u64, free_mib: Option<u64>) -> DeviceMemory {
    DeviceMemory::Gpu { total_mib, free_mib, reserved_mib: None, others_mib: None }
}

/// A GPU that only a desktop uses.
fn idle_gpu(total_mib: u64) -> DeviceMemory {
    gpu(total_mib, Some(total_mib - 400))
}

fn request(memory: DeviceMemory, workload: Workload) -> BatchRequest<'static> {
    BatchRequest {
        memory,
        workload,
        batch: Batch::Auto,
        nominal: 64,
        record: None,
        cuda_state_mib: None,
        former_limit: None,
    }
}

fn auto(memory: DeviceMemory, workload: Workload) -> u32 {
    choose(&request(memory, workload)).batch_size
}

/// What runs of yolov8m at 640 pixels were seen to need.
fn record(fixed_mib: u64, per_image_mib: f64, validation_mib: u64, failed: Option<u32>) -> FitRecord {
    let key = trainyard_types::FitKey {
        model: ModelScale::M,
        imgsz: 640,
        multi_scale: false,
        precision: "fp16".into(),
        device: "a GPU".into(),
        libtorch: "2.13.0".into(),
    };
    FitRecord { key, fixed_mib, per_image_mib, validation_mib, batch_size: 8, failed_batch_size: failed }
}

fn sizes(chosen: &BatchChosen) -> Vec<(&str, u32)> {
    chosen.layers.iter().map(|layer| (layer.name.as_str(), layer.batch_size)).collect()
}

fn row(total_mib: u64, model: ModelScale) -> [u32; 6] {
    SIZES.map(|imgsz| auto(idle_gpu(total_mib), workload(model, imgsz)))
}

#[test]
fn on_a_free_gpu_small_models_get_exactly_the_table() {
    for model in [ModelScale::N, ModelScale::S] {
        assert_eq!(row(24564, model), [64, 64, 32, 32, 16, 10], "4090, {model}");
        assert_eq!(row(12227, model), [48, 48, 24, 24, 12, 7], "5070, {model}");
        assert_eq!(row(8188, model), [32, 32, 16, 16, 8, 5], "8 GB GPU, {model}");
    }
}

#[test]
fn rows_begin_at_nominal_sizes() {
    // 20475 MiB round to 20.0 GiB and 10240 to 10.0; 19.5 and 9.5 belong to the row below.
    let at = |mib| table(nominal_gib(mib), 640);
    assert_eq!([at(20475), at(19968), at(10240), at(9728)], [32, 24, 24, 16]);
}

#[test]
fn above_1024_the_last_column_shrinks_with_the_area_down_to_one() {
    assert_eq!([table(24.0, 2048), table(12.0, 2048), table(8.0, 2048)], [4, 3, 2]);
    assert_eq!(table(8.0, 4096), 1);
}

#[test]
fn larger_models_get_less_and_what_they_get_is_on_the_ladder() {
    for total_mib in [24564, 12227, 8188] {
        for imgsz in SIZES {
            let sizes = ModelScale::ALL.map(|model| auto(idle_gpu(total_mib), workload(model, imgsz)));
            assert!(sizes.is_sorted_by(|smaller, larger| smaller >= larger), "{sizes:?}");
            let table = table(nominal_gib(total_mib), imgsz);
            assert!(sizes.iter().all(|size| *size == table || LADDER.contains(size)), "{sizes:?}");
        }
    }
    assert_eq!(row(12227, ModelScale::X)[3], 8);
    assert_eq!(row(24564, ModelScale::X)[3], 16);
}

#[test]
fn a_gpu_that_others_use_gets_less() {
    let busy = |free_mib| gpu(24564, Some(free_mib));
    let sizes = [23000, 6000, 3000, 1000, 0].map(|free| auto(busy(free), workload(ModelScale::S, 640)));
    assert_eq!(sizes, [32, 16, 8, 1, 1]);
}

#[test]
fn a_driver_that_does_not_tell_what_is_free_leaves_the_table() {
    assert_eq!(auto(gpu(12227, None), workload(ModelScale::N, 640)), 24);
}

#[test]
fn without_mixed_precision_an_image_takes_twice_the_room() {
    let size = |amp| auto(idle_gpu(12227), Workload { amp, ..workload(ModelScale::M, 640) });
    assert_eq!([size(true), size(false)], [16, 8]);
}

#[test]
fn every_layer_lowers_the_one_before_and_says_why() {
    let memory = DeviceMemory::Gpu {
        total_mib: 12227,
        free_mib: Some(6000),
        reserved_mib: Some(300),
        others_mib: Some(5900),
    };
    let record = record(900, 250.0, 2000, Some(12));
    let chosen =
        choose(&BatchRequest { record: Some(&record), ..request(memory, workload(ModelScale::M, 640)) });
    let wanted = [("table", 24), ("model", 24), ("memory free now", 16), ("fit record", 8)];
    assert_eq!(sizes(&chosen), wanted, "{chosen:#?}");
    let reasons: Vec<&str> = chosen.layers.iter().map(|layer| layer.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "12.0 GB GPU, imgsz 640",
            "yolov8m at 640 px takes 1.5 GB and 250 MiB an image as measured, and the 12.0 GB GPU has room for \
             37 images",
            "5.9 GB are free, 5.8 GB held by others, 0.3 GB by the driver: room for 16 images",
            "measured with 8 images, validation and some headroom included; 12 images ran out of memory with all \
             of it",
        ]
    );
}

#[test]
fn a_measurement_replaces_the_estimate_in_both_directions() {
    let size = |record: &FitRecord| {
        choose(&BatchRequest {
            record: Some(record),
            ..request(idle_gpu(12227), workload(ModelScale::M, 640))
        })
        .batch_size
    };
    assert_eq!(auto(idle_gpu(12227), workload(ModelScale::M, 640)), 16, "by the estimate");
    assert_eq!(size(&record(900, 250.0, 2000, None)), 24);
    assert_eq!(size(&record(900, 1000.0, 2000, None)), 8);
    assert_eq!(size(&record(900, 250.0, 900 + 8 * 1000, None)), 8, "validation takes more than training");
    let estimate = FitRecord { batch_size: 0, ..record(800, 1000.0, 0, None) };
    assert_eq!(size(&estimate), 8, "what is known to be too little counts even without a measurement");
    assert_eq!(size(&FitRecord { failed_batch_size: Some(1), ..estimate }), 1);
}

#[test]
fn what_cuda_takes_beside_the_allocator_counts_as_it_was_seen_and_is_estimated_before() {
    let record = record(900, 300.0, 2000, None);
    let size = |cuda_state_mib| {
        let request = request(gpu(12227, Some(6000)), workload(ModelScale::M, 640));
        choose(&BatchRequest { record: Some(&record), cuda_state_mib, ..request }).batch_size
    };
    // 92 % of 6000 MiB are 5520: with 300 MiB an image 12 are left room for by 1020, and 8 by 2220.
    assert_eq!([size(None), size(Some(600)), size(Some(900)), size(Some(1500))], [12, 12, 12, 8]);
}

#[test]
fn what_a_former_version_noted_is_a_limit() {
    let size = |former_limit| {
        choose(&BatchRequest { former_limit, ..request(idle_gpu(12227), workload(ModelScale::N, 640)) })
            .batch_size
    };
    assert_eq!([size(Some(12)), size(Some(48))], [12, 24]);
}

#[test]
fn a_share_aims_at_that_much_of_the_gpu_and_keeps_the_nominal_batch() {
    let size = |memory, share, nominal| {
        let batch = Batch::Share(share);
        choose(&BatchRequest { batch, nominal, ..request(memory, workload(ModelScale::N, 640)) })
    };
    let half = size(idle_gpu(12227), 0.5, 64);
    assert_eq!(sizes(&half), [("asked for", 64), ("model", 32), ("memory free now", 32), ("fit record", 32)]);
    assert_eq!(size(idle_gpu(12227), 0.9, 64).batch_size, 64, "more would be another training");
    assert_eq!(size(idle_gpu(24564), 0.9, 256).batch_size, 160, "above the ladder in steps of 16");
    assert_eq!(size(gpu(12227, Some(3000)), 0.9, 64).batch_size, 16, "what others hold is not there");
    assert_eq!(size(idle_gpu(12227), 0.01, 64).batch_size, 1);
}

#[test]
fn a_size_that_is_given_is_used_as_it_is() {
    let batch = Batch::Size(200);
    let chosen = choose(&BatchRequest {
        batch,
        former_limit: Some(1),
        ..request(idle_gpu(8188), workload(ModelScale::X, 1280))
    });
    assert_eq!(sizes(&chosen), [("asked for", 200)]);
}

#[test]
fn a_desktop_leaves_a_gpu_to_a_run_and_another_program_does_not() {
    let alone = |free_mib| gpu(12227, Some(free_mib)).is_undivided();
    assert_eq!([alone(12000), alone(11500), alone(11000)], [true, true, false]);
}

#[test]
fn a_cpu_slot_uses_16_and_fewer_if_memory_says_so() {
    let cpu = |available_mib, imgsz| {
        auto(DeviceMemory::Cpu { total_mib: 16_000, available_mib }, workload(ModelScale::N, imgsz))
    };
    assert_eq!(
        [cpu(16_000, 640), cpu(4_000, 320), cpu(4_000, 640), cpu(1_500, 640), cpu(100, 640)],
        [16, 16, 8, 3, 1]
    );
}

#[test]
fn multi_scale_keeps_the_table_and_counts_with_the_largest_image() {
    let size = |model| {
        let train = TrainSpec { multi_scale: true, ..TrainSpec::new(model, "/d.yaml") };
        auto(idle_gpu(12227), Workload::from(&train))
    };
    assert_eq!([size(ModelScale::N), size(ModelScale::S), size(ModelScale::M)], [24, 16, 8]);
}
