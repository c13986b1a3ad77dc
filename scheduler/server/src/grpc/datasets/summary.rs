//! What is in a data set, on the wire.

use trainyard_proto::pb;

use crate::content::{Sample, Summary, SummaryError};
use crate::grpc::status::ApiError;

pub(super) fn shown(summary: Summary) -> pb::DatasetSummary {
    let Summary { images, classes, samples, partial, .. } = summary;
    let images = images.into_iter().map(|split| pb::SplitImages { split: split.split, count: split.count });
    let classes = (0..).zip(classes).map(|(id, class)| pb::ClassCount {
        id,
        name: class.name,
        boxes: class.boxes,
        images: class.images,
    });
    let samples = samples.into_iter().map(sample);
    pb::DatasetSummary {
        images: images.collect(),
        classes: classes.collect(),
        samples: samples.collect(),
        partial,
    }
}

fn sample(Sample { path, split, boxes }: Sample) -> pb::SampleImage {
    let boxes = boxes.into_iter().map(|marked| pb::LabelBox {
        class_id: marked.class,
        x: marked.x,
        y: marked.y,
        width: marked.width,
        height: marked.height,
    });
    pb::SampleImage { path, split, boxes: boxes.collect() }
}

impl From<SummaryError> for ApiError {
    fn from(error: SummaryError) -> Self {
        match error {
            SummaryError::Content(cause) => cause.into(),
            SummaryError::Read(cause) => cause.into(),
        }
    }
}
