"""What is said of a transfer: a line now and then, to whoever has asked for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

#: Takes one line: "sending: 1.2 GiB of 3.4 GiB, 112.0 MiB/s".
Progress = Callable[[str], object]

_LOG = logging.getLogger("trainyard")
#: Seconds between two lines of one transfer.
_LINE_EVERY = 5.0


def shown_bytes(count: float) -> str:
    """`10.2 GiB`, as `yard` has it."""
    if count < 1024:
        return f"{count:.0f} B"
    unit = "B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):  # noqa: B007 (the last one is wanted)
        count /= 1024
        if count < 1024:
            break
    return f"{count:.1f} {unit}"


def warn(texts: Iterable[str]) -> None:
    """Says what a person should know of what was done all the same, as log messages."""
    for text in texts:
        _LOG.warning("%s", text)


class Report:
    """Passes lines on. Without anybody who listens only warnings are said, as log messages."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        """Says something."""
        if self._progress is not None:
            # Lines come from several threads.
            with self._lock:
                self._progress(text)

    def warning(self, text: str) -> None:
        """Says something that should not be missed."""
        if self._progress is None:
            _LOG.warning("%s", text)
        else:
            self.line(f"warning: {text}")


class Meter:
    """How far a transfer is: `what` is "hashing", "sending" or "fetching"."""

    def __init__(self, report: Report, what: str, total: int) -> None:
        self._report, self._what, self._total = report, what, total
        self._done = 0
        self._begun = self._told = time.monotonic()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """So many bytes more are done."""
        with self._lock:
            self._done += count
            now, done = time.monotonic(), self._done
            if now - self._told < _LINE_EVERY:
                return
            self._told = now
        rate = shown_bytes(done / (now - self._begun))
        self._report.line(f"{self._what}: {shown_bytes(done)} of {shown_bytes(self._total)}, {rate}/s")
