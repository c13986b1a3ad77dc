"""Reads text files of data sets whole: regular files alone, and none that is larger than its kind may be. The trainer
has the same limits (``proto/types/src/size_limit.rs``)."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from trainyard._report import shown_bytes
from trainyard.errors import InvalidArgument


@dataclass(frozen=True)
class SizeLimit:
    """The most bytes that a file of one kind may have, and what to do about a larger one."""

    most: int
    of: str
    way_out: str

    def check(self, file: str | os.PathLike[str], size: int) -> None:
        """Refuses a file that is too large."""
        if size > self.most:
            raise InvalidArgument.of(
                "path",
                f"`{os.fspath(file)}` has {shown_bytes(size)}, more than the {shown_bytes(self.most)} that are read of "
                f"{self.of}; {self.way_out}",
            )


IMAGE = SizeLimit(256 << 20, "an image", "convert it to a JPEG or PNG, or make it smaller")
LABELS = SizeLimit(16 << 20, "a label file", "write a row for each object, and nothing else")
LIST = SizeLimit(256 << 20, "a list of images", "name folders instead of images, or make several lists")
DATA_YAML = SizeLimit(
    4 << 20, "a data.yaml", "give the path of the data set's data.yaml, and name folders or lists of images in it"
)


def read(file: Path, limit: SizeLimit) -> bytes:
    """All bytes of a file; a pipe does not hold it up, and a file that grows is read up to the limit."""
    # Where a system has no such flags it opens files like that anyway.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(file, flags), "rb") as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InvalidArgument.of("path", f"`{file}` is no regular file; remove it, or copy what it stands for")
        limit.check(file, status.st_size)
        content = opened.read(limit.most + 1)
    limit.check(file, len(content))
    return content
