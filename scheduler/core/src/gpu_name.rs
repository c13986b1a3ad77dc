//! A GPU model's name within a sentence.

/// Letters whose names begin with a vowel: an RTX, an H100, but a GTX.
const SPOKEN_WITH_VOWEL: &str = "AEFHILMNORSX";

/// A GPU model without its maker and after its article: `a GeForce RTX 4090`, `an H100 80GB HBM3`.
pub(crate) fn with_article(model: &str) -> String {
    let name = model.strip_prefix("NVIDIA ").unwrap_or(model);
    let word = name.split([' ', '-']).next().unwrap_or_default();
    // `RTX` and `A100` are spelled out, `GeForce` and `Orin` are spoken as words.
    let is_spelled = !word.contains(|letter: char| letter.is_ascii_lowercase());
    let vowels = if is_spelled { SPOKEN_WITH_VOWEL } else { "AEIOaeio" };
    let article = if word.starts_with(|first| vowels.contains(first)) { "an" } else { "a" };
    format!("{article} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_article_goes_by_how_a_name_is_spoken() {
        for (model, shown) in [
            ("NVIDIA GeForce RTX 4090", "a GeForce RTX 4090"),
            ("NVIDIA RTX 6000 Ada Generation", "an RTX 6000 Ada Generation"),
            ("NVIDIA A100-SXM4-40GB", "an A100-SXM4-40GB"),
            ("NVIDIA H100 80GB HBM3", "an H100 80GB HBM3"),
            ("NVIDIA L40S", "an L40S"),
            ("NVIDIA GH200 480GB", "a GH200 480GB"),
            ("Tesla V100-SXM2-16GB", "a Tesla V100-SXM2-16GB"),
            ("Quadro RTX 8000", "a Quadro RTX 8000"),
            ("Orin", "an Orin"),
            ("CPU", "a CPU"),
        ] {
            assert_eq!(with_article(model), shown);
        }
    }
}
