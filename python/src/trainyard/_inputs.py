"""What a training reads: its data set, and the weights that it begins with. Names of the store stay names, paths become
absolute."""

from __future__ import annotations

import os
import posixpath
from pathlib import PurePosixPath
from typing import Any

from trainyard import _reference
from trainyard._agent_path import agent_path, is_here
from trainyard._reference import Reference
from trainyard.dataset import Dataset
from trainyard.errors import InvalidArgument

#: Begins the name of a job's best weights: ``job:ID``.
JOB_WEIGHTS = "job:"
_NAMED = 8


def data_and_name(data: Any) -> tuple[str, str]:
    """What a job's spec says of its data set, and the name that the job has when nobody gives one."""
    named = _in_store("data", data, is_weights=False)
    if named is not None:
        return str(named), named.name
    file = data_file(data)
    return file, PurePosixPath(file).parent.name


def weights(value: Any) -> Any:
    """Weights as a name of the store, as those of a job, or as an absolute path; empty to begin from scratch."""
    if value is False:
        return ""
    if value is True:
        raise InvalidArgument.of("pretrained", "is True; give the path of a weights file, or leave it out")
    if isinstance(value, str) and value.startswith(JOB_WEIGHTS) and not os.path.exists(value):
        return value
    named = _in_store("pretrained", value, is_weights=True)
    if named is not None:
        return str(named)
    if isinstance(value, os.PathLike) or (isinstance(value, str) and value):
        return agent_path("pretrained", value, "a weights file")
    return value


def _in_store(field: str, value: Any, *, is_weights: bool) -> Reference | None:
    """What of the store is meant, if anything: a text without a slash and without a file's ending is a name, unless
    there is such a file. A `Path` is a path."""
    if isinstance(value, Dataset):
        if value.is_weights != is_weights:
            is_it, wanted = ("weights", "a data set") if value.is_weights else ("a data set", "weights")
            raise InvalidArgument.of(field, f"is `{value}`, which is {is_it}; give {wanted}")
        return Reference(value.name, value.version)
    if not isinstance(value, str):
        return None
    named = _reference.of_word(value)
    if named is not None:
        return None if os.path.isfile(value) else named
    is_bare = "@" in value and not {"/", os.sep}.intersection(value)
    if is_bare and not os.path.exists(value):
        return _reference.parse(field, value)
    return None


def data_file(data: str | os.PathLike[str]) -> str:
    """The data.yaml, as an absolute path; in a folder on this machine, the one that lies there."""
    path = agent_path("data", data, "a data.yaml")
    try:
        names = sorted(os.listdir(path)) if is_here(path) else None
    except OSError:
        # It is a file, or nobody's business here.
        names = None
    return path if names is None else posixpath.join(path, data_yaml_of(path, names))


def data_yaml_of(folder: str, names: list[str]) -> str:
    """Which of the files in a folder is the data.yaml."""
    yamls = [name for name in names if name.endswith((".yaml", ".yml"))]
    usual = [name for name in yamls if name in ("data.yaml", "data.yml")]
    if len(yamls) == 1 or usual:
        return (usual or yamls)[0]
    if yamls:
        several = ", ".join(yamls[:_NAMED])
        raise InvalidArgument.of(
            "data", f"`{folder}` is a folder with several descriptions: {several}; give the one that is meant"
        )
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    there = f"in it are {', '.join(names[:_NAMED])}{more}" if names else "it is empty"
    raise InvalidArgument.of(
        "data",
        f"`{folder}` is a folder without a data.yaml: {there}; give the file that names the images and classes",
    )
