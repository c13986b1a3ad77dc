"""Paths as the agents see them: those run Linux, whatever this machine runs, and are in other folders."""

from __future__ import annotations

import os
import posixpath
from pathlib import PurePath
from typing import Any

from trainyard._checks import is_text, shown
from trainyard.errors import InvalidArgument

#: Whether a path of this machine can be one of the agents', too.
_IS_POSIX = os.name == "posix"


def agent_path(field: str, value: Any, what: str) -> str:
    """An absolute path. A relative one is meant from this folder, and must be there: a slip would wait for ever, since
    no agent has it."""
    text = text_of(field, value, what)
    if text.startswith("/"):
        return posixpath.normpath(text)
    if not _IS_POSIX:
        raise InvalidArgument.of(field, f"is `{text}`; give {what} as the agents see it, which begins with `/`")
    path = os.path.abspath(text)
    if not os.path.exists(path):
        raise InvalidArgument.of(
            field,
            f"is `{text}`, and there is no `{path}` on this machine; give the absolute path of {what}, as the agents "
            "see it",
        )
    return path


def is_here(path: str) -> bool:
    """Whether this machine can look at a path of the agents' and find the same."""
    return _IS_POSIX and os.path.exists(path)


def text_of(field: str, value: Any, what: str) -> str:
    """A path as a text; on Windows, too, ``Path("/data")`` is ``/data``."""
    text = value.as_posix() if isinstance(value, PurePath) else value
    if isinstance(text, os.PathLike):
        text = os.fspath(text)
    if not is_text(text) or not text:
        raise InvalidArgument.of(field, f"is `{shown(value)}`; give the path of {what}, as the agents see it")
    return str(text)
