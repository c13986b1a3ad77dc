"""Pushes, as both clients have them. They block; a thread of its own runs them for asyncio."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trainyard import _operations, _packing, _pull, _push, _store, _yard
from trainyard._blocking import BlockingRunner
from trainyard._checks import is_text, shown
from trainyard._report import Progress, Report
from trainyard._stopping import Stop
from trainyard.dataset import Dataset, reference_of
from trainyard.errors import InvalidArgument
from trainyard.v1 import datasets_pb2


def push_dataset(
    runner: BlockingRunner, path: str | os.PathLike[str], name: str | None, progress: Progress | None, stop: Stop
) -> Dataset:
    """Pushes a data set by `yard` where it is at hand, or else by this package."""
    _check_path("path", path, "a data.yaml, or a folder with one")
    report = Report(progress)
    if _yard.at_hand() is None:
        return Dataset(_push.push(runner, _packing.data_set(path, name), report, stop))
    file = _packing.data_yaml(path)
    chosen = _packing.name_of(file, name)
    # Whoever may not, or cannot reach the cluster, gets the exception of all other calls.
    runner.run(_operations.who_am_i(runner.session))
    return Dataset(_yard.push_data(runner.session.settings, file, chosen, report, stop))


def push_weights(
    runner: BlockingRunner, path: str | os.PathLike[str], name: str | None, progress: Progress | None, stop: Stop
) -> Dataset:
    """Pushes a weights file."""
    _check_path("path", path, "a weights file")
    return Dataset(_push.push(runner, _packing.weights(path, name), Report(progress), stop))


def pull_dataset(
    runner: BlockingRunner,
    reference: str | Dataset,
    folder: str | os.PathLike[str],
    progress: Progress | None,
    stop: Stop,
) -> Path:
    """Fetches a data set's version into a folder."""
    wanted = reference_of(reference)
    _check_path("folder", folder, "a folder")
    dataset = runner.run(_store.get(runner.session, datasets_pb2.DATASET, wanted))
    target = Path(os.fspath(folder))
    _pull.pull(runner, dataset, target, Report(progress), stop)
    return target


def _check_path(field: str, value: Any, what: str) -> None:
    """Refuses what is no path of this machine."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text or not is_text(text):
        raise InvalidArgument.of(field, f"is `{shown(value)}`; give {what} on this machine")
