//! Of which model the weights of the store are, where that is cheap to know: a file of ours says so at its beginning.

use std::sync::Arc;

use serde::Deserialize;
use trainyard_types::ModelScale;

use crate::content::Content;
use crate::content_records::VersionRecord;

/// Bytes of a header that are looked at; that of the largest model has a tenth of them.
const MAX_HEADER: usize = 1 << 20;

/// The header of a safetensors file, as far as it matters here.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    model: String,
}

/// The model that stored weights are of. `None` where their file does not say so, or cannot be read now: then the
/// training finds out.
pub(super) async fn of_stored(content: &Content, version: &VersionRecord) -> Option<ModelScale> {
    let manifest = content.manifest(version).await.ok()?;
    if !manifest.get(0)?.path.ends_with(".safetensors") {
        return None;
    }
    let mut reader = content.reader(Arc::clone(&manifest), std::iter::once(0..1).collect(), 0).await.ok()?;
    // The first bytes of a file are as many as a header may have, or all.
    let beginning = reader.next().await.ok()??;
    of_header(&beginning)
}

/// The model that the beginning of a safetensors file names: eight bytes of length, then JSON.
fn of_header(beginning: &[u8]) -> Option<ModelScale> {
    let (length, rest) = beginning.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|length| *length <= MAX_HEADER)?;
    let header: Header = serde_json::from_slice(rest.get(..length)?).ok()?;
    header.metadata.model.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), b"tensors"].concat()
    }

    #[test]
    fn a_file_of_ours_says_of_which_model_it_is_and_others_say_nothing() {
        let tensors = r#""model.0.conv.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let ours = file(&format!(r#"{{"__metadata__":{{"model":"yolov8s","nc":"3"}},{tensors}}}"#));
        assert_eq!(of_header(&ours), Some(ModelScale::S));
        for other in [
            file(&format!("{{{tensors}}}")),
            file(r#"{"__metadata__":{"model":"resnet"}}"#),
            file(r#"{"__metadata__":{"format":"pt"}}"#),
            file("no JSON"),
            ours[..40].to_vec(),
            b"PK\x03\x04".to_vec(),
            vec![0xff; 64],
        ] {
            assert_eq!(of_header(&other), None, "{other:?}");
        }
    }
}
