"""What users of other YOLO programs write by habit, and what it means here, as `yard train` takes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import PurePath, PurePosixPath
from typing import Any

from trainyard import _agent_path, _inputs
from trainyard._checks import is_text, shown
from trainyard.errors import InvalidArgument

_SCALES = ("yolov8n", "yolov8s", "yolov8m", "yolov8l", "yolov8x")
_WEIGHTS = (".pt", ".pth", ".safetensors")


def model(name: str | os.PathLike[str], pretrained: Any) -> tuple[str, Any]:
    """A model, and the weights that it begins with: ``/w/yolov8n.pt`` is both."""
    text = name.as_posix() if isinstance(name, PurePath) else name
    text = os.fspath(text) if isinstance(text, os.PathLike) else text
    if not is_text(text):
        raise InvalidArgument.of(
            "model", f"is `{shown(name)}`; give one of {', '.join(_SCALES)}, or the path of weights with such a name"
        )
    path = PurePosixPath(text)
    if path.suffix not in _WEIGHTS:
        return text, pretrained
    stem = path.stem.lower()
    if stem not in _SCALES:
        raise InvalidArgument.of(
            "model",
            f"is `{text}`, a weights file whose name is no model's; use `pretrained` for it, and for `model` what it "
            f"is of: one of {', '.join(_SCALES)}",
        )
    if pretrained is not None and pretrained is not True:
        return stem, pretrained
    if not path.is_absolute() and not _agent_path.is_here(os.path.abspath(text)):
        raise InvalidArgument.of(
            "model",
            f"is `{text}`, which is no file here, and nothing is downloaded; `{stem}` begins from scratch, "
            "`pretrained` names the weights to begin with",
        )
    return stem, _agent_path.agent_path("model", text, "a weights file")


def device(value: str | int | None) -> str | None:
    """The kind of device that a job asks for; which GPU is the scheduler's choice."""
    if value is None:
        return None
    # Other programs take the number of a GPU.
    text = value.strip().lower() if isinstance(value, str) and is_text(value) else shown(value)
    if text in ("gpu", "cuda", "cuda:0", "0"):
        return "gpu"
    if text == "cpu":
        return text
    if text.removeprefix("cuda:").isdecimal() or "," in text:
        raise InvalidArgument.of(
            "device", f"is `{text}`; write gpu: which one is the scheduler's choice, `gpu_models` says of what kind"
        )
    raise InvalidArgument.of("device", f"is `{text}`; write gpu or cpu")


def _batch(value: Any) -> Any:
    return -1 if isinstance(value, str) and value.strip().lower() in ("auto", "autobatch") else value


def _cache(value: Any) -> Any:
    # As in the reference, True is main memory.
    return ("ram" if value else "none") if isinstance(value, bool) else value


def _imgsz(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return value
    if value and all(one == value[0] for one in value):
        return value[0]
    raise InvalidArgument.of("imgsz", f"is `{shown(value)}`; training images are square: give one whole number")


_MEANINGS: dict[str, Callable[[Any], Any]] = {
    "batch": _batch,
    "cache": _cache,
    "imgsz": _imgsz,
    "pretrained": _inputs.weights,
}


def meaning(field: str, value: Any) -> Any:
    """What a field's value means; what is no habit stays as it is."""
    return _MEANINGS[field](value) if field in _MEANINGS else value
