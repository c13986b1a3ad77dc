//! What data sheets say of GPU models: how fast they multiply and read, at best.
//!
//! Dense tensor throughput from NVIDIA's architecture papers and data sheets. GeForce GPUs accumulate in 32 bits at
//! half the advertised rate, which is what counts in training.

/// A GPU model, or a family of models.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sheet {
    /// Part of a model's name, in small letters and digits alone.
    part: &'static str,
    /// The whole names, without `NVIDIA` and `GeForce`, of which the figures are exact.
    names: &'static [&'static str],
    /// 10^12 operations a second in fp16 or bf16.
    pub half_tflops: f64,
    /// 10^12 operations a second in TF32; 0 where there is none, or where it is not known.
    pub tf32_tflops: f64,
    /// 10^9 bytes a second to and from its memory.
    pub gigabytes_per_second: f64,
}

const fn sheet(part: &'static str, names: &'static [&'static str], figures: (f64, f64, f64)) -> Sheet {
    let (half_tflops, tf32_tflops, gigabytes_per_second) = figures;
    Sheet { part, names, half_tflops, tf32_tflops, gigabytes_per_second }
}

/// The first part that a name contains counts, so that longer ones come first.
const SHEETS: [Sheet; 38] = [
    sheet("5090", &["RTX 5090"], (209.5, 104.8, 1792.0)),
    sheet("5080", &["RTX 5080"], (112.6, 56.3, 960.0)),
    sheet("5070ti", &["RTX 5070 Ti"], (87.9, 43.9, 896.0)),
    sheet("5070", &["RTX 5070"], (61.7, 30.9, 672.0)),
    sheet("5060", &[], (47.0, 0.0, 448.0)),
    sheet("4090", &["RTX 4090"], (165.2, 82.6, 1008.0)),
    sheet("4080", &["RTX 4080"], (97.5, 48.7, 717.0)),
    sheet("4070ti", &["RTX 4070 Ti"], (80.2, 40.1, 504.0)),
    sheet("4070", &["RTX 4070"], (58.3, 29.1, 504.0)),
    sheet("4060ti", &["RTX 4060 Ti"], (44.1, 22.1, 288.0)),
    sheet("4060", &[], (30.2, 0.0, 288.0)),
    sheet("3090", &["RTX 3090"], (71.0, 35.6, 936.0)),
    sheet("3080", &["RTX 3080"], (59.5, 29.8, 760.0)),
    sheet("3070", &["RTX 3070"], (40.6, 20.3, 448.0)),
    sheet("3060", &[], (25.6, 0.0, 360.0)),
    sheet("2080ti", &["RTX 2080 Ti"], (53.8, 0.0, 616.0)),
    sheet("2080", &[], (44.8, 0.0, 448.0)),
    sheet("6000ada", &["RTX 6000 Ada Generation"], (364.2, 182.1, 960.0)),
    sheet("a6000", &["RTX A6000"], (154.8, 77.4, 768.0)),
    sheet("a5000", &["RTX A5000"], (111.1, 55.6, 768.0)),
    sheet("a4000", &["RTX A4000"], (76.7, 38.3, 448.0)),
    sheet(
        "a100",
        &["A100-SXM4-40GB", "A100-SXM4-80GB", "A100-PCIE-40GB", "A100 80GB PCIe"],
        (312.0, 156.0, 1555.0),
    ),
    sheet("a40", &["A40"], (149.7, 74.8, 696.0)),
    sheet("a30", &["A30"], (165.0, 82.0, 933.0)),
    sheet("a10", &["A10"], (125.0, 62.5, 600.0)),
    sheet("a2", &["A2"], (18.0, 9.0, 200.0)),
    sheet("h200", &["H200"], (989.4, 494.7, 4800.0)),
    sheet("h100pcie", &["H100 PCIe"], (756.0, 378.0, 2000.0)),
    sheet("h100", &["H100 80GB HBM3"], (989.4, 494.7, 3350.0)),
    sheet("b200", &["B200"], (2250.0, 1125.0, 8000.0)),
    sheet("l40s", &["L40S"], (362.0, 183.0, 864.0)),
    sheet("l40", &["L40"], (181.0, 90.5, 864.0)),
    sheet("l4", &["L4"], (121.0, 60.0, 300.0)),
    sheet("v100sxm2", &["Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB"], (125.0, 0.0, 900.0)),
    sheet("v100", &["Tesla V100-PCIE-16GB", "Tesla V100-PCIE-32GB"], (112.0, 0.0, 900.0)),
    sheet("t4", &["Tesla T4", "T4"], (65.0, 0.0, 320.0)),
    sheet("titanv", &["TITAN V"], (110.0, 0.0, 653.0)),
    sheet("titanrtx", &["TITAN RTX"], (65.2, 0.0, 672.0)),
];

/// The sheet of exactly this model, as the driver names it. A laptop's or a `SUPER` is another one.
pub fn exact(model: &str) -> Option<&'static Sheet> {
    let short = model.trim_start_matches("NVIDIA ").trim_start_matches("GeForce ");
    SHEETS.iter().find(|sheet| sheet.names.contains(&short))
}

/// The sheet that a model is probably like, by a part of its name.
pub fn nearest(model: &str) -> Option<&'static Sheet> {
    let name = plain(model);
    SHEETS.iter().find(|sheet| name.contains(sheet.part))
}

/// A name's letters and digits, small.
pub fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exact_name_leads_to_its_own_sheet_by_its_parts_as_well() {
        for sheet in &SHEETS {
            for name in sheet.names {
                assert_eq!(exact(&format!("NVIDIA {name}")), Some(sheet));
                assert_eq!(nearest(name), Some(sheet), "{name}");
            }
        }
    }

    #[test]
    fn a_relative_of_a_model_is_near_it_and_not_the_same() {
        let laptop = "NVIDIA GeForce RTX 4090 Laptop GPU";
        assert_eq!(exact(laptop), None);
        assert_eq!(nearest(laptop), exact("NVIDIA GeForce RTX 4090"));
        assert_eq!(nearest("A GPU of tomorrow"), None);
    }
}
