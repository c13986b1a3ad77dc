"""From the arguments of `train` to a job's spec. What is right in itself is for the scheduler to say; what cannot
travel is refused here, under the same names."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from trainyard import _habit, _inputs
from trainyard._checks import is_text, shown
from trainyard.dataset import Dataset
from trainyard.errors import InvalidArgument, Violation
from trainyard.v1 import jobs_pb2, train_pb2

_TYPES = {
    FieldDescriptor.CPPTYPE_UINT32: "a whole number from 0 on",
    FieldDescriptor.CPPTYPE_UINT64: "a whole number from 0 on",
    FieldDescriptor.CPPTYPE_INT32: "a whole number",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_BOOL: "True or False",
    FieldDescriptor.CPPTYPE_STRING: "a text",
}
_LARGEST = {
    FieldDescriptor.CPPTYPE_UINT32: 2**32 - 1,
    FieldDescriptor.CPPTYPE_UINT64: 2**64 - 1,
    FieldDescriptor.CPPTYPE_INT32: 2**31 - 1,
}


@dataclass(frozen=True)
class Placement:
    """Where a job may run, and how it is treated."""

    name: str | None = None
    device: str | int | None = None
    gpus: int | None = None
    gpu_models: Sequence[str] = ()
    min_vram_mib: int | None = None
    priority: int | None = None
    max_retries: int | None = None
    time_limit: timedelta | float | None = None
    labels: Mapping[str, str] | None = None


_PLACEMENT = frozenset(one.name for one in fields(Placement))


def job_spec(
    data: str | os.PathLike[str] | Dataset,
    model: str | os.PathLike[str],
    placement: Placement,
    training: Mapping[str, Any],
) -> jobs_pb2.JobSpec:
    """The job that the arguments describe. Names every argument that cannot be sent."""
    wrong: list[Violation] = []
    file, usual_name = _inputs.data_and_name(data)
    model, pretrained = _habit.model(model, training.get("pretrained"))
    spec = jobs_pb2.JobSpec(train=train_pb2.TrainSpec(data=file, model=model))
    spec.name = usual_name if placement.name is None else _text("name", placement.name, wrong)
    for name, value in {**training, "pretrained": pretrained}.items():
        _set(spec.train, name, _habit.meaning(name, value), wrong)
    _set(spec.resources, "device", _habit.device(placement.device), wrong)
    _set(spec.resources, "gpus", placement.gpus, wrong)
    _set(spec.resources, "min_vram_mib", placement.min_vram_mib, wrong)
    _set(spec, "priority", placement.priority, wrong)
    _set(spec, "max_retries", placement.max_retries, wrong)
    models = [placement.gpu_models] if isinstance(placement.gpu_models, str) else placement.gpu_models
    if isinstance(models, Iterable):
        spec.resources.gpu_models.extend(_text("gpu_models", one, wrong) for one in models)
    else:
        wrong.append(Violation("gpu_models", f"is `{shown(models)}`; give a list of texts"))
    labels = {} if placement.labels is None else placement.labels
    if isinstance(labels, Mapping):
        for key, value in labels.items():
            spec.labels[_text("labels", key, wrong)] = _text("labels", value, wrong)
    else:
        wrong.append(Violation("labels", f"is `{shown(labels)}`; give a dict of texts"))
    _set_time_limit(spec, placement.time_limit, wrong)
    if wrong:
        raise _invalid(wrong)
    return spec


def as_arguments(error: InvalidArgument) -> InvalidArgument:
    """The scheduler's refusal of a spec, with its fields named as the arguments: `epochs`, not `spec.train.epochs`."""
    if not error.violations:
        return error
    bare = [Violation(_argument(one.field), one.description) for one in error.violations]
    return _invalid(bare, reason=error.reason)


def _argument(field: str) -> str:
    for prefix in ("spec.train.", "spec.resources.", "spec."):
        if field.startswith(prefix):
            return field.removeprefix(prefix)
    return field


def _invalid(wrong: Sequence[Violation], reason: str = "") -> InvalidArgument:
    text = str(wrong[0]) if len(wrong) == 1 else f"{len(wrong)} fields are wrong: {'; '.join(map(str, wrong))}"
    return InvalidArgument(text, reason=reason, violations=wrong)


def _text(name: str, value: Any, wrong: list[Violation]) -> str:
    if is_text(value):
        return str(value)
    wrong.append(Violation(name, f"is `{shown(value)}`; give a text"))
    return ""


def _set(message: Any, name: str, value: Any, wrong: list[Violation]) -> None:
    """Sets a field that is not None."""
    if value is None:
        return
    known = {one.name: one for one in message.DESCRIPTOR.fields}
    if name not in known:
        takes = {*known, *_PLACEMENT} - {"data"}
        nearest = difflib.get_close_matches(name, takes, n=1)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"the fields are: {', '.join(sorted(takes))}"
        wrong.append(Violation(name, f"is no field of a training job; {hint}"))
        return
    kind = known[name].cpp_type
    # Python's True is the number 1, and gRPC would send it as such.
    is_mistaken = isinstance(value, bool) != (kind == FieldDescriptor.CPPTYPE_BOOL)
    try:
        if is_mistaken:
            raise TypeError
        setattr(message, name, value)
    except (TypeError, ValueError, OverflowError):
        is_too_large = isinstance(value, int) and not isinstance(value, bool) and value > _LARGEST.get(kind, value)
        wanted = f"{_LARGEST[kind]} at most" if is_too_large else _TYPES.get(kind, "another value")
        wrong.append(Violation(name, f"is `{shown(value)}`; give {wanted}"))


def _set_time_limit(spec: jobs_pb2.JobSpec, limit: timedelta | float | None, wrong: list[Violation]) -> None:
    if limit is None:
        return
    try:
        if isinstance(limit, bool):
            raise TypeError
        spec.time_limit.FromTimedelta(limit if isinstance(limit, timedelta) else timedelta(seconds=limit))
    except (TypeError, ValueError, OverflowError):
        wrong.append(Violation("time_limit", f"is `{shown(limit)}`; give seconds, or a `datetime.timedelta`"))
