"""What users of other YOLO programs write by habit, and what it means here, as `yard train` takes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from trainyard.errors import InvalidArgument

_SCALES = ("yolov8n", "yolov8s", "yolov8m", "yolov8l", "yolov8x")
_WEIGHTS = (".pt", ".pth", ".safetensors")


def model(name: str | os.PathLike[str], pretrained: Any) -> tuple[str, Any]:
    """A model, and the weights that it begins with: ``/w/yolov8n.pt`` is both."""
    text = os.fspath(name)
    path = PurePath(text)
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
    if not path.is_absolute() and not os.path.isfile(text):
        raise InvalidArgument.of(
            "model",
            f"is `{text}`, which is no file here, and nothing is downloaded; `{stem}` begins from scratch, "
            "`pretrained` names the weights to begin with",
        )
    return stem, os.path.abspath(text)


def weights(value: Any) -> Any:
    """Weights as an absolute path: a relative one is meant from this folder, where agents are not."""
    if value is False:
        return ""
    if value is True:
        raise InvalidArgument.of("pretrained", "is True; give the path of a weights file, or leave it out")
    if isinstance(value, (str, os.PathLike)) and os.fspath(value):
        return os.path.abspath(value)
    return value


def device(value: str | int | None) -> str | None:
    """The kind of device that a job asks for; which GPU is the scheduler's choice."""
    if value is None:
        return None
    text = str(value).strip().lower()
    if text in ("gpu", "cuda", "cuda:0", "0"):
        return "gpu"
    if text == "cpu":
        return text
    if text.removeprefix("cuda:").isdecimal() or "," in text:
        raise InvalidArgument.of(
            "device", f"is `{value}`; write gpu: which one is the scheduler's choice, `gpu_models` says of what kind"
        )
    raise InvalidArgument.of("device", f"is `{value}`; write gpu or cpu")


def _batch(value: Any) -> Any:
    return -1 if isinstance(value, str) and value.strip().lower() in ("auto", "autobatch") else value


def _cache(value: Any) -> Any:
    # As in the reference, True is main memory.
    return ("ram" if value else "none") if isinstance(value, bool) else value


def _imgsz(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return value
    if len(set(value)) == 1:
        return value[0]
    raise InvalidArgument.of("imgsz", f"is `{value}`; training images are square: give one whole number")


_MEANINGS: dict[str, Callable[[Any], Any]] = {
    "batch": _batch,
    "cache": _cache,
    "imgsz": _imgsz,
    "pretrained": weights,
}


def meaning(field: str, value: Any) -> Any:
    """What a field's value means; what is no habit stays as it is."""
    return _MEANINGS[field](value) if field in _MEANINGS else value
