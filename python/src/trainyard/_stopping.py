"""How a transfer is ended from outside, while its threads wait for disks and servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """Somebody has ended the transfer; whoever did catches it."""


class Stop:
    """Whether a transfer is to end."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], object]] = []

    def set(self) -> None:
        """Ends the transfer. May be called by any thread."""
        with self._lock:
            self._event.set()
            wakers = list(self._wakers)
        for wake in wakers:
            wake()

    def check(self) -> None:
        """Raises `Stopped` once the transfer is to end."""
        if self._event.is_set():
            raise Stopped

    def sleep(self, seconds: float) -> None:
        """Waits, unless the transfer is to end."""
        self._event.wait(seconds)
        self.check()

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """While this lasts, `wake` is called when the transfer is to end: it ends a call or a program."""
        with self._lock:
            self._wakers.append(wake)
            is_set = self._event.is_set()
        if is_set:
            wake()
        try:
            yield
        finally:
            with self._lock:
                self._wakers.remove(wake)
