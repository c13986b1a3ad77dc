//! What would fit where a run does not, even with one image at a time.

use trainyard_types::ModelScale;

use super::{Load, Memory, Need, gib};

/// Sizes of cards that are sold, in GiB.
const CARDS: [u32; 9] = [8, 10, 12, 16, 24, 32, 48, 80, 96];

/// A sentence on what would fit on `memory` instead of `load`, and which card would take `load` itself.
pub fn advice(memory: Memory, load: Load, record: Option<&trainyard_types::FitRecord>) -> String {
    let need = Need::of(memory, load, record);
    let fits = |load: Load| {
        let need = Need::of(memory, load, None);
        need.fitting(need.budget(memory.free_mib(), memory, None)) >= 1
    };
    let smaller_image = [1280, 1024, 896, 768, 640, 512, 416, 320, 256, 192, 128, 96, 64]
        .into_iter()
        .find(|&imgsz| imgsz < load.imgsz && fits(Load { imgsz, ..load }));
    let smaller_model =
        ModelScale::ALL.into_iter().rev().find(|&model| model < load.model && fits(Load { model, ..load }));
    let mut ways = Vec::new();
    ways.extend(smaller_image.map(|imgsz| format!("imgsz {imgsz}")));
    ways.extend(smaller_model.map(|model| model.to_string()));
    // Half again: the run has just failed with what there is.
    let wanted = need.least_mib().max(memory.free_mib()) * 3 / 2;
    match memory {
        Memory::Gpu { .. } => {
            let card = CARDS.into_iter().find(|&size| u64::from(size) * 1024 * 9 / 10 >= wanted);
            ways.extend(card.map(|size| format!("a card with {size} GB (`min_vram_mib: {}`)", size * 1000)));
        }
        Memory::Cpu { .. } => ways.push(format!("a machine with {} free", gib(wanted))),
    }
    match ways.pop() {
        Some(last) if ways.is_empty() => format!("what should fit: {last}"),
        Some(last) => format!("what should fit: {}, or {last}", ways.join(", ")),
        None => "no smaller image or model is expected to fit here".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_fit_is_named_from_the_image_to_the_card() {
        let memory =
            Memory::Gpu { total_mib: 8188, free_mib: Some(2700), reserved_mib: None, foreign_mib: None };
        let load = Load { model: ModelScale::X, imgsz: 1280, multi_scale: false, amp: true };
        assert_eq!(
            advice(memory, load, None),
            "what should fit: imgsz 512, yolov8s, or a card with 10 GB (`min_vram_mib: 10000`)"
        );
    }

    #[test]
    fn where_nothing_smaller_fits_a_larger_card_is_all_that_is_named() {
        let memory =
            Memory::Gpu { total_mib: 8188, free_mib: Some(500), reserved_mib: None, foreign_mib: None };
        let load = Load { model: ModelScale::N, imgsz: 64, multi_scale: false, amp: true };
        assert_eq!(advice(memory, load, None), "what should fit: a card with 8 GB (`min_vram_mib: 8000`)");
        let memory = Memory::Cpu { total_mib: 2048, available_mib: 300 };
        assert_eq!(advice(memory, load, None), "what should fit: a machine with 0.6 GB free");
    }
}
