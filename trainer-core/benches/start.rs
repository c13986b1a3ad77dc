//! What a training costs beside its steps: time from the start of the process until its first batch has trained and
//! is drawn, and the most memory that it held. yolov8n, 320 pixels, batch 16, the real program. One line
//! `name value unit`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};

const IMAGES: u32 = 64;
const SIDE: u32 = 320;
/// The first one brings libtorch's files into memory.
const RUNS: usize = 4;

fn main() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    write_data(folder.path());
    let mut found: Vec<(f64, u64)> =
        (0..RUNS).filter_map(|at| measure(folder.path(), &format!("run{at}"))).skip(1).collect();
    assert_eq!(found.len(), RUNS - 1, "a training failed");
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    println!("train_first_step_yolov8n_320_b16 {:.2} s", found[found.len() / 2].0);
    found.sort_by_key(|(_, peak)| *peak);
    println!("train_peak_memory_yolov8n_320_b16 {} MiB", found[found.len() / 2].1);
}

/// Seconds until the first batch is trained and drawn, and MiB at most, of a run of one epoch.
fn measure(folder: &Path, name: &str) -> Option<(f64, u64)> {
    let run_dir = folder.join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-trainer"));
    command.args(["train", "--device", "cpu", "--model", "yolov8n", "--epochs", "1", "--batch", "16"]);
    command.args(["--imgsz", "320", "--data"]).arg(folder.join("data.yaml"));
    command.arg("--cache-dir").arg(folder.join("cache")).arg("--run-dir").arg(&run_dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut child = command.spawn().ok()?;
    let (mut first, mut peak) = (None, 0);
    loop {
        if first.is_none() && run_dir.join("train_batch0.jpg").exists() {
            first = Some(began.elapsed().as_secs_f64());
        }
        // The kernel forgets it with the process.
        peak = high_water(child.id()).unwrap_or(peak);
        if let Some(status) = child.try_wait().ok()? {
            return first.filter(|_| status.success()).map(|first| (first, peak));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The most memory that a process has held so far, in MiB.
fn high_water(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

/// Images with a bright rectangle each.
fn write_data(folder: &Path) {
    for part in ["images", "labels"] {
        std::fs::create_dir_all(folder.join(part)).expect("the folder can be written");
    }
    for at in 0..IMAGES {
        let (left, top) = (at * 37 % 200, at * 61 % 200);
        let image = RgbImage::from_fn(SIDE, SIDE, |x, y| {
            let inside = (left..left + 100).contains(&x) && (top..top + 80).contains(&y);
            let grey = u8::try_from((x * 7 + y * 13 + at) % 60).unwrap_or(0);
            if inside { Rgb([220, 180, grey]) } else { Rgb([grey; 3]) }
        });
        image.save(folder.join(format!("images/{at:03}.jpg"))).expect("the image can be written");
        let [cx, cy] = [left + 50, top + 40].map(|place| f64::from(place) / f64::from(SIDE));
        let (w, h) = (100.0 / f64::from(SIDE), 80.0 / f64::from(SIDE));
        let label = format!("0 {cx} {cy} {w} {h}\n");
        std::fs::write(folder.join(format!("labels/{at:03}.txt")), label).expect("the label can be written");
    }
    let yaml = "train: images\nval: images\nnames: [thing]\n";
    std::fs::write(folder.join("data.yaml"), yaml).expect("the data.yaml can be written");
}
