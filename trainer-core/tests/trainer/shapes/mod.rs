//! A tiny data set of drawn rectangles, and a spec that learns it in seconds.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use trainyard_types::{Batch, Cache, ModelScale, TrainSpec};

/// Side of the images, and of training.
pub const SIDE: u32 = 64;

/// A number that looks random, from two.
fn noise(a: u32, b: u32) -> u32 {
    let mut x = a.wrapping_mul(0x9e37_79b1) ^ b.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 15;
    x = x.wrapping_mul(0x2c1b_3c6d);
    x ^ (x >> 13)
}

/// Writes so many images, each with a bright rectangle of class `wide` or `tall`; validates on the same.
pub fn write(folder: &Path, images: u32) -> PathBuf {
    for part in ["images", "labels"] {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    for at in 0..images {
        let mut image = RgbImage::from_fn(SIDE, SIDE, |x, y| {
            let grey = 40 + (noise(x + 64 * at, y) % 30) as u8;
            Rgb([grey; 3])
        });
        let class = at % 2;
        let (w, h) = if class == 0 { (32, 16) } else { (16, 32) };
        let (x, y) = (4 + noise(at, 1) % (SIDE - w - 8), 4 + noise(at, 2) % (SIDE - h - 8));
        let colour = if class == 0 { Rgb([230, 60, 40]) } else { Rgb([40, 90, 230]) };
        for (dx, dy) in (0..h).flat_map(|dy| (0..w).map(move |dx| (dx, dy))) {
            image.put_pixel(x + dx, y + dy, colour);
        }
        let stem = format!("{at:03}");
        image.save(folder.join("images").join(format!("{stem}.jpg"))).unwrap();
        let mut label = String::new();
        let share = |pixels: f64| pixels / f64::from(SIDE);
        let (cx, cy) = (f64::from(x) + f64::from(w) / 2.0, f64::from(y) + f64::from(h) / 2.0);
        let (cx, cy, w, h) = (share(cx), share(cy), share(w.into()), share(h.into()));
        writeln!(label, "{class} {cx} {cy} {w} {h}").unwrap();
        fs::write(folder.join("labels").join(format!("{stem}.txt")), label).unwrap();
    }
    let yaml = folder.join("data.yaml");
    fs::write(&yaml, "train: images\nval: images\nnames: [wide, tall]\n").unwrap();
    yaml
}

/// Few epochs, small images, no cache, and augmentation that leaves shapes recognisable.
pub fn spec(data: &Path, epochs: u32) -> TrainSpec {
    TrainSpec {
        epochs,
        imgsz: SIDE,
        batch: Batch::Size(4),
        workers: 1,
        cache: Cache::None,
        mosaic: 0.0,
        scale: 0.0,
        translate: 0.0,
        ..TrainSpec::new(ModelScale::N, data)
    }
}
