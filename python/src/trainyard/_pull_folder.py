"""The folder of a pull: whose it is, what it has, and files on their way into it. `yard data pull` goes on in it,
too."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO

from trainyard._manifest import PULL_MARKER
from trainyard.errors import InvalidArgument
from trainyard.v1 import datasets_pb2

_PIECE_BYTES = 1 << 20


class PullFolder:
    """Where a version is pulled to."""

    def __init__(self, path: Path, dataset: datasets_pb2.Dataset) -> None:
        """Takes a folder that is empty or not there, or one of this version."""
        self.path = path
        self._made: set[str] = set()
        self._lock = threading.Lock()
        path.mkdir(parents=True, exist_ok=True)
        own = f"dataset {dataset.name}@{dataset.version}\n"
        marker = path / PULL_MARKER
        if marker.is_file():
            other = marker.read_text(encoding="utf-8", errors="replace")
            if other != own:
                raise InvalidArgument.of(
                    "folder", f"`{path}` is of {(other.split() or ['?'])[-1]}; name another folder"
                )
        elif any(path.iterdir()):
            raise InvalidArgument.of("folder", f"`{path}` is not empty; name a folder that is empty or not there")
        else:
            marker.write_text(own, encoding="utf-8", newline="\n")

    def has(self, path: str, size: int, digest: bytes) -> bool:
        """Whether a file is there with its content. Refuses a place where something else is."""
        target = self._target(path)
        if not os.path.lexists(target):
            return False
        if target.is_symlink() or not target.is_file():
            raise self._other(path, "is no file there")
        if target.stat().st_size != size or _sha256(target) != digest:
            raise self._other(path, "has other content")
        return True

    def unfinished(self, path: str, digest: bytes) -> Path:
        """The file that bytes go to until they are whole: hidden, in the same folder, and the same one as `yard`'s."""
        target = self._target(path)
        self._make(path.rpartition("/")[0])
        # Two files of the version may have one content.
        own = hashlib.sha256(target.name.encode()).hexdigest()[:8]
        return target.with_name(f".{digest.hex()}-{own}.part")

    def place(self, unfinished: Path, path: str) -> None:
        """Gives a whole file its name, where nothing has it."""
        target = self._target(path)
        if os.path.lexists(target):
            raise self._other(path, "is there by now")
        unfinished.rename(target)

    def _target(self, path: str) -> Path:
        return self.path.joinpath(*path.split("/"))

    def _make(self, folder: str) -> None:
        """Makes a folder inside; follows no link, which might lead out."""
        with self._lock:
            if folder in self._made or not folder:
                return
        parent = folder.rpartition("/")[0]
        self._make(parent)
        target = self._target(folder)
        target.mkdir(exist_ok=True)
        if target.is_symlink():
            raise self._other(folder, "is a link")
        with self._lock:
            self._made.add(folder)

    def _other(self, path: str, what: str) -> InvalidArgument:
        return InvalidArgument.of("folder", f"`{self.path}`: `{path}` {what}; name another folder, or move it away")


class Unfinished:
    """A file on its way, and the hash of what is there. Goes on with what an earlier pull has left."""

    def __init__(self, path: Path, size: int, *, goes_on: bool) -> None:
        self.path, self._hasher, self.length = path, hashlib.sha256(), 0
        left = path.stat().st_size if goes_on and path.is_file() else 0
        keeps = 0 < left <= size
        self._file: BinaryIO = path.open("r+b" if keeps else "wb")
        if keeps:
            while piece := self._file.read(_PIECE_BYTES):
                self._take(piece)

    def write(self, piece: Any) -> None:
        """Appends bytes."""
        self._file.write(piece)
        self._take(piece)

    def _take(self, piece: Any) -> None:
        self._hasher.update(piece)
        self.length += len(piece)

    def close(self) -> bytes:
        """Closes the file; returns its SHA-256."""
        self._file.close()
        return self._hasher.digest()


def _sha256(path: Path) -> bytes:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            hasher.update(piece)
    return hasher.digest()
