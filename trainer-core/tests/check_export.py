#!/usr/bin/env python3
"""Compares what `export` wrote with ONNX Runtime, PyTorch and Ultralytics, as far as they are installed.

`make test-export` runs it with ONNX Runtime. By hand, with all of them:

    TRAINYARD_EXPORT_DIR=/tmp/export cargo test -p trainyard-trainer --test trainer -- export::
    python3 trainer-core/tests/check_export.py /tmp/export
"""

import ast
import json
import struct
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

TYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64}


def safetensors(path: Path) -> dict:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    body = raw[8 + length :]
    return {
        name: np.frombuffer(body[slice(*about["data_offsets"])], TYPES[about["dtype"]]).reshape(about["shape"])
        for name, about in header.items()
        if name != "__metadata__"
    }


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest, relative to sizes above 1: boxes are pixels, scores are shares."""
    return float((np.abs(found - expected) / np.maximum(np.abs(expected), 1)).max())


folder = Path(sys.argv[1])
for name, expected, limit in [("model", "model", 1e-4), ("dynamic", "dynamic", 1e-4), ("half", "model", 3e-2)]:
    path = folder / f"{name}.onnx"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image,), (output,) = session.get_inputs(), session.get_outputs()
    assert (image.name, output.name) == ("images", "output0")
    data = safetensors(folder / f"{expected}.expected")
    given = data["input"].astype(np.float16 if image.type == "tensor(float16)" else np.float32)
    found = session.run(None, {"images": given})[0]
    assert found.shape == data["output"].shape, found.shape
    worst = difference(found, data["output"])
    spread = data["output"][:, 4:].min(), data["output"][:, 4:].max()
    print(f"{name}.onnx {found.shape}: largest difference {worst:.2e} (scores {spread[0]:.3g} to {spread[1]:.3g})")
    assert worst <= limit, worst
    meta = session.get_modelmeta().custom_metadata_map
    assert ast.literal_eval(meta["names"]) == {0: "red cell", 1: "it's", 2: "猫"}, meta
    assert ast.literal_eval(meta["imgsz"]) == list(image.shape[2:]), meta
    assert (meta["stride"], meta["task"]) == ("32", "detect"), meta
    assert isinstance(ast.literal_eval(meta["args"]), dict), meta



def selected(output: np.ndarray, conf: float, iou: float, most: int) -> np.ndarray:
    """The plain definition of non-maximum suppression, for one image's `[4 + classes, anchors]`."""
    scores = output[4:].max(0)
    classes = output[4:].argmax(0)
    centre, half = output[:2].T, output[2:4].T / 2
    corners = np.concatenate([centre - half, centre + half], 1)
    kept: list[int] = []
    for at in np.argsort(-scores, kind="stable"):
        if scores[at] <= conf or len(kept) == most:
            break
        others = corners[[other for other in kept if classes[other] == classes[at]]]
        low, high = np.maximum(others[:, :2], corners[at, :2]), np.minimum(others[:, 2:], corners[at, 2:])
        common = np.clip(high - low, 0, None).prod(1)
        area = lambda boxes: (boxes[..., 2:] - boxes[..., :2]).prod(-1)
        if not (common / (area(others) + area(corners[at]) - common) > iou).any():
            kept.append(at)
    rows = np.concatenate([corners[kept], scores[kept, None], classes[kept, None]], 1)
    return np.pad(rows, [(0, most - len(rows)), (0, 0)])


session = onnxruntime.InferenceSession(folder / "nms.onnx", providers=["CPUExecutionProvider"])
data = safetensors(folder / "dynamic.expected")
found = session.run(None, {"images": data["input"]})[0]
assert found.shape == (3, 50, 6), found.shape
for rows, output in zip(found, data["output"]):
    wanted = selected(output, 0.002, 0.7, 50)
    assert 0 < (wanted[:, 4] > 0).sum(), "the test's model finds nothing"
    worst = difference(rows, wanted)
    print(f"nms.onnx: {(rows[:, 4] > 0).sum()} detections, largest difference {worst:.2e}")
    assert worst <= 1e-3, worst
assert ast.literal_eval(session.get_modelmeta().custom_metadata_map["args"])["nms"] is True

expected = safetensors(folder / "model.safetensors")


def compare(name: str, state: dict, kind: type) -> None:
    assert list(state)[0] == "model.0.conv.weight" and set(state) == set(expected)
    for key, tensor in state.items():
        wanted = expected[key] if expected[key].dtype == np.int64 else expected[key].astype(kind)
        assert np.array_equal(tensor.numpy(), wanted), key
    print(f"{name}: {len(state)} equal tensors")


try:
    import torch
except (ImportError, OSError):
    print("model.pth, model.pt: not tried, PyTorch is not installed")
    sys.exit()
compare("model.pth", torch.load(folder / "model.pth", weights_only=True), np.float32)
try:
    import ultralytics
except ImportError:
    print("model.pt: not tried, Ultralytics is not installed")
    sys.exit()
for name, kind in [("model.pt", np.float32), ("half.pt", np.float16)]:
    model = torch.load(folder / name, weights_only=False)["model"]
    compare(name, model.state_dict(), kind)
data = safetensors(folder / "model.expected")
yolo = ultralytics.YOLO(folder / "model.pt")
assert yolo.names == {0: "red cell", 1: "it's", 2: "猫"}, yolo.names
with torch.no_grad():
    output = yolo.model.eval()(torch.from_numpy(data["input"].copy()))[0].numpy()
worst = difference(output, data["output"])
print(f"model.pt in Ultralytics {ultralytics.__version__}: largest difference {worst:.2e}")
assert worst <= 1e-4, worst
