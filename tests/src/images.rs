//! Images that are large on disk.

/// A square BMP of three bytes a pixel, each as `next` draws it.
pub fn bitmap(side: u32, mut next: impl FnMut() -> u8) -> Vec<u8> {
    let pixels = 3 * side * side;
    let mut bytes = b"BM".to_vec();
    for word in [54 + pixels, 0, 54, 40, side, side, 1 | 24 << 16, 0, pixels, 2835, 2835, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend((0..pixels).map(|_| next()));
    bytes
}
