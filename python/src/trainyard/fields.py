"""The fields of a training job, for type checkers and editors. `docs/reference/training-fields.md` has the ranges."""

from __future__ import annotations

from typing_extensions import TypedDict

from trainyard.dataset import Dataset


class TrainFields(TypedDict, total=False):
    """How to train, under the names that YOLO users know. What is left out takes the scheduler's default."""

    epochs: int
    imgsz: int
    batch: float
    workers: int
    cache: str
    amp: bool
    cos_lr: bool
    multi_scale: bool
    optimizer: str
    lr0: float
    lrf: float
    momentum: float
    weight_decay: float
    warmup_epochs: float
    close_mosaic: int
    patience: int
    seed: int
    fraction: float
    single_cls: bool
    freeze: int
    box: float
    cls: float
    dfl: float
    hsv_h: float
    hsv_s: float
    hsv_v: float
    degrees: float
    translate: float
    scale: float
    shear: float
    perspective: float
    flipud: float
    fliplr: float
    mosaic: float
    mixup: float
    warmup_momentum: float
    warmup_bias_lr: float
    nbs: int
    time: float
    pretrained: str | Dataset
    bn_group: int
    deterministic: bool
    checkpoint_minutes: float
