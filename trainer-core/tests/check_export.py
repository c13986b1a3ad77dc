#!/usr/bin/env python3
"""Compares what `export` wrote with ONNX Runtime and PyTorch. Needs numpy, onnx, onnxruntime and torch.

    TRAINYARD_EXPORT_DIR=/tmp/export cargo test --release -p trainyard-trainer --test export
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
import torch

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

expected = safetensors(folder / "model.safetensors")
for name, kind in [("model.pt", np.float32), ("half.pt", np.float16)]:
    state = torch.load(folder / name, weights_only=True)
    assert list(state)[0] == "model.0.conv.weight" and set(state) == set(expected)
    for key, tensor in state.items():
        wanted = expected[key] if expected[key].dtype == np.int64 else expected[key].astype(kind)
        assert np.array_equal(tensor.numpy(), wanted), key
    print(f"{name}: torch.load(weights_only=True) gives {len(state)} equal tensors")
