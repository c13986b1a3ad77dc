//! Non-maximum suppression as a part of an ONNX graph, for programs that have none of their own.

use super::graph::Graph;
use super::proto::{AttributeProto, FLOAT};

/// How detections are selected inside the file; as `predict` does, by each box's best class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NmsOptions {
    /// Scores must be greater than this.
    pub conf: f32,
    /// A box is left out when its IoU with a surer one of its class is greater than this.
    pub iou: f32,
    /// Rows of the output.
    pub max_det: i64,
}

/// Adds `output0`, `[N, rows, 6]`: corners x1, y1, x2, y2 in pixels of the input, score, class; surest first,
/// then rows of zeros. Returns how many rows there are: [`NmsOptions::max_det`], unless there are fewer candidates.
///
/// `boxes`: `[N, 4, A]` centre and size in pixels. `scores`: `[N, classes, A]`.
pub fn select(
    graph: &mut Graph,
    [boxes, scores]: [&str; 2],
    [classes, anchors]: [i64; 2],
    options: NmsOptions,
) -> i64 {
    let rows = options.max_det.min(classes * anchors);
    let by_anchor = |graph: &mut Graph, value: &str| {
        graph.add("Transpose", &[value], vec![AttributeProto::ints("perm", &[0, 2, 1])])
    };
    let best = best_class(graph, scores, classes);
    let kept = keep(graph, boxes, &best, options);
    // The candidates that were kept, surest first; the others have a score of zero.
    let flat = graph.reshape(&kept, &[0, -1]);
    let count = graph.ints(&[rows]);
    let [values, places] = graph.add_pair("TopK", &[&flat, &count], vec![AttributeProto::int("axis", 1)]);
    let width = graph.ints(&[anchors]);
    let class = graph.add("Div", &[&places, &width], Vec::new());
    let before = graph.add("Mul", &[&class, &width], Vec::new());
    let anchor = graph.add("Sub", &[&places, &before], Vec::new());

    let corners = corners(graph, boxes);
    let corners = by_anchor(graph, &corners);
    let anchor = graph.reshape(&anchor, &[0, -1, 1]);
    let anchor = graph.concat(&[anchor.as_str(); 4], 2);
    let corners = graph.add("GatherElements", &[&corners, &anchor], vec![AttributeProto::int("axis", 1)]);
    let to_float = || vec![AttributeProto::int("to", FLOAT.into())];
    let class = graph.add("Cast", &[&class], to_float());
    let [values, class] = [values, class].map(|column| graph.reshape(&column, &[0, -1, 1]));
    let found = graph.concat(&[&corners, &values, &class], 2);
    let zero = graph.floats(&[], &[0.0]);
    let is_found = graph.add("Greater", &[&values, &zero], Vec::new());
    let is_found = graph.add("Cast", &[&is_found], to_float());
    graph.named("output0", "Mul", &[&found, &is_found], Vec::new());
    rows
}

/// The scores, with zero for every class but an anchor's best.
fn best_class(graph: &mut Graph, scores: &str, classes: i64) -> String {
    let best = graph.add("ArgMax", &[scores], vec![AttributeProto::int("axis", 1)]);
    let ids: Vec<i64> = (0..classes).collect();
    let ids = graph.ints(&ids);
    let ids = graph.reshape(&ids, &[1, -1, 1]);
    let is_best = graph.add("Equal", &[&best, &ids], Vec::new());
    let zero = graph.floats(&[], &[0.0]);
    graph.add("Where", &[&is_best, scores, &zero], Vec::new())
}

/// The scores, with zero for everything that is not selected.
fn keep(graph: &mut Graph, boxes: &str, scores: &str, options: NmsOptions) -> String {
    let boxes = graph.add("Transpose", &[boxes], vec![AttributeProto::ints("perm", &[0, 2, 1])]);
    let most = graph.ints(&[options.max_det]);
    let [iou, conf] = [options.iou, options.conf].map(|limit| graph.floats(&[1], &[limit]));
    let centres = vec![AttributeProto::int("center_point_box", 1)];
    let selected = graph.add("NonMaxSuppression", &[&boxes, scores, &most, &iou, &conf], centres);
    let values = graph.add("GatherND", &[scores, &selected], Vec::new());
    let shape = graph.add("Shape", &[scores], Vec::new());
    let nothing = graph.add("ConstantOfShape", &[&shape], Vec::new());
    graph.add("ScatterND", &[&nothing, &selected, &values], Vec::new())
}

/// `[N, 4, A]` centre and size to corners.
fn corners(graph: &mut Graph, boxes: &str) -> String {
    let [centre, sides] = graph.halves(boxes, 1, 2);
    let two = graph.floats(&[], &[2.0]);
    let half = graph.add("Div", &[&sides, &two], Vec::new());
    let [near, far] = ["Sub", "Add"].map(|operator| graph.add(operator, &[&centre, &half], Vec::new()));
    graph.concat(&[&near, &far], 1)
}
