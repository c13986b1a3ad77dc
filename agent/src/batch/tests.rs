use super::*;

const SIZES: [u32; 6] = [320, 416, 512, 640, 1024, 1280];

fn load(model: ModelScale, imgsz: u32) -> Load {
    Load { model, imgsz, multi_scale: false, amp: true }
}

/// A card that only a desktop uses.
fn card(total_mib: u64) -> Memory {
    Memory::Gpu { total_mib, free_mib: Some(total_mib - 400) }
}

fn row(total_mib: u64, model: ModelScale) -> [u32; 6] {
    SIZES.map(|imgsz| auto(card(total_mib), load(model, imgsz), None))
}

#[test]
fn on_a_free_card_small_models_get_exactly_the_table() {
    for model in [ModelScale::N, ModelScale::S] {
        assert_eq!(row(24564, model), [64, 64, 32, 32, 16, 10], "4090, {model}");
        assert_eq!(row(12227, model), [48, 48, 24, 24, 12, 7], "5070, {model}");
        assert_eq!(row(8188, model), [32, 32, 16, 16, 8, 5], "8 GB card, {model}");
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
            let sizes = ModelScale::ALL.map(|model| auto(card(total_mib), load(model, imgsz), None));
            assert!(sizes.is_sorted_by(|smaller, larger| smaller >= larger), "{sizes:?}");
            let table = table(nominal_gib(total_mib), imgsz);
            assert!(sizes.iter().all(|size| *size == table || LADDER.contains(size)), "{sizes:?}");
        }
    }
    assert_eq!(row(12227, ModelScale::X)[3], 8);
    assert_eq!(row(24564, ModelScale::X)[3], 16);
}

#[test]
fn a_card_that_others_use_gets_less() {
    let busy = |free_mib| Memory::Gpu { total_mib: 24564, free_mib: Some(free_mib) };
    let sizes = [23000, 6000, 3000, 1000, 0].map(|free| auto(busy(free), load(ModelScale::S, 640), None));
    assert_eq!(sizes, [32, 16, 8, 1, 1]);
}

#[test]
fn a_driver_that_does_not_tell_what_is_free_leaves_the_table() {
    let memory = Memory::Gpu { total_mib: 12227, free_mib: None };
    assert_eq!(auto(memory, load(ModelScale::N, 640), None), 24);
}

#[test]
fn without_mixed_precision_an_image_takes_twice_the_room() {
    let size = |amp| auto(card(12227), Load { amp, ..load(ModelScale::M, 640) }, None);
    assert_eq!([size(true), size(false)], [16, 8]);
}

#[test]
fn what_the_card_once_ran_out_of_memory_at_is_remembered() {
    assert_eq!(auto(card(12227), load(ModelScale::N, 640), Some(12)), 12);
    assert_eq!(auto(card(12227), load(ModelScale::N, 640), Some(48)), 24);
}

#[test]
fn a_cpu_slot_uses_16_and_fewer_if_memory_says_so() {
    let cpu = |available_mib, imgsz| auto(Memory::Cpu { available_mib }, load(ModelScale::N, imgsz), None);
    assert_eq!(
        [cpu(16_000, 640), cpu(4_000, 320), cpu(4_000, 640), cpu(1_500, 640), cpu(100, 640)],
        [16, 16, 8, 3, 1]
    );
}

#[test]
fn multi_scale_keeps_the_table_and_counts_with_the_largest_image() {
    let size = |model| {
        let train = TrainSpec { multi_scale: true, ..TrainSpec::new(model, "/d.yaml") };
        auto(card(12227), Load::from(&train), None)
    };
    assert_eq!([size(ModelScale::N), size(ModelScale::S), size(ModelScale::M)], [24, 16, 8]);
}
