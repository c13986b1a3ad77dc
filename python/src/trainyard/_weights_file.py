"""Whether a file is weights, and all of them, as `yard weights push` looks: a copy that broke off fails when the
training begins, hours later."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

from trainyard.errors import InvalidArgument

#: The most bytes that the header of a safetensors file may have, as its readers have it.
_MAX_HEADER = 100_000_000
#: Where the end of an archive's list of files may lie: 22 bytes and a remark.
_MAX_ARCHIVE_END = 22 + 65_535


def check(file: Path) -> None:
    """Refuses a file that is no weights, or not whole."""
    try:
        with file.open("rb") as opened:
            wrong = _wrong(opened, file.suffix.lower())
    except OSError as error:
        raise InvalidArgument.of("path", f"`{file}` cannot be read: {error.strerror}; give a weights file") from None
    if wrong is None:
        raise InvalidArgument.of(
            "path", f"`{file}` holds no weights; give a .pt file as PyTorch writes it, or a .safetensors file"
        )
    if wrong:
        raise InvalidArgument.of("path", f"`{file}` is not whole: {wrong}; fetch or copy the file again")


def _wrong(opened: BinaryIO, ending: str) -> str | None:
    """How it is known that the file is not whole; empty for a whole one, None for one that is no weights."""
    length = os.fstat(opened.fileno()).st_size
    head = opened.read(9)
    if ending in (".pt", ".pth") and head.startswith(b"PK\x03\x04"):
        # An archive's list of files comes last.
        opened.seek(max(length - _MAX_ARCHIVE_END, 0))
        is_whole = b"PK\x05\x06" in opened.read(_MAX_ARCHIVE_END)
        return "" if is_whole else f"the list of contents at its end is missing, after {length} bytes"
    if ending in (".pt", ".pth") and head.startswith(b"\x80"):
        # A pickle, as old versions wrote it. Nothing in it tells its length.
        return ""
    if ending == ".safetensors" and head[8:] == b"{":
        opened.seek(8)
        return _wrong_tensors(opened, int.from_bytes(head[:8], "little"), length)
    return None


def _wrong_tensors(opened: BinaryIO, header: int, length: int) -> str | None:
    if header > _MAX_HEADER:
        return None
    wanted = header + 8
    if length < wanted:
        return f"its header ends at byte {wanted}, and it has {length}"
    try:
        tensors = json.loads(opened.read(header))
        ends = [int(tensor["data_offsets"][1]) for name, tensor in tensors.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None
    wanted += max(ends, default=0)
    return "" if length == wanted else f"by its header it has {wanted} bytes, and there are {length}"
