"""Hashes of a bundle's files, in the order of the files and by several threads."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from trainyard._data_yaml import USE_YARD
from trainyard._image_listing import IMAGE_ENDINGS
from trainyard._packing import Bundle
from trainyard._report import Meter, Report
from trainyard._stopping import Stop
from trainyard.errors import FailedPrecondition, InvalidArgument
from trainyard.v1 import datasets_pb2

DIGEST_BYTES = 32
_PIECE_BYTES = 256 << 10
#: Files, and bytes, that one thread hashes before it takes others.
_RUN_FILES = 256
_RUN_BYTES = 16 << 20
#: Seconds after which whoever waits looks whether it is to go on waiting.
_POLL = 0.5
_KINDS = {datasets_pb2.DATASET: "dataset", datasets_pb2.WEIGHTS: "weights"}
#: How images begin that a training reads, whatever they are called.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"RIFF")


class Hashing:
    """Digests as they come. It hashes until the end, or until it is closed."""

    def __init__(self, bundle: Bundle, report: Report, stop: Stop) -> None:
        self._bundle, self._stop = bundle, stop
        self._meter = Meter(report, "hashing", bundle.total_bytes)
        #: Those that are known, one after the other.
        self._digests = bytearray()
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._is_closed = False
        threading.Thread(target=self._hash_all, name="trainyard-hashing", daemon=True).start()

    @property
    def known(self) -> int:
        """How many of the first files have their digest."""
        return len(self._digests) // DIGEST_BYTES

    def of(self, at: int) -> bytes:
        """The digest of a file by its place; it is known."""
        return bytes(self._digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES])

    def wait_for(self, count: int, is_over: Callable[[], bool], timeout: float) -> bool:
        """Waits until so many digests are known; false when that takes longer, or nobody waits any more."""
        with self._changed:
            while self.known < count and self._failure is None and timeout > 0 and not is_over():
                self._changed.wait(min(_POLL, timeout))
                timeout -= _POLL
            if self._failure is not None:
                raise self._failure
            return self.known >= count

    def version(self) -> str:
        """The id of the version; all digests are known."""
        bundle, hasher = self._bundle, hashlib.sha256(f"trainyard {_KINDS[self._bundle.kind]} 1\n".encode())
        for at, path in enumerate(bundle.paths):
            hasher.update(f"{self.of(at).hex()} {bundle.sizes[at]} {path}\n".encode())
        return hasher.hexdigest()

    def close(self) -> None:
        """Ends it early."""
        self._is_closed = True

    def _hash_all(self) -> None:
        threads = os.cpu_count() or 2
        try:
            with ThreadPoolExecutor(threads, "trainyard-hash") as pool:
                runs = self._runs()
                waiting: deque[Future[bytes]] = deque()
                try:
                    waiting.extend(pool.submit(self._hash_run, run) for run in islice(runs, 2 * threads))
                    while waiting:
                        digests = waiting.popleft().result()
                        with self._changed:
                            self._digests += digests
                            self._changed.notify_all()
                        waiting.extend(pool.submit(self._hash_run, run) for run in islice(runs, 1))
                finally:
                    # Whoever hashes still, need not.
                    self._is_closed = True
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _runs(self) -> Iterator[range]:
        sizes, first, total = self._bundle.sizes, 0, 0
        for at, size in enumerate(sizes):
            if self._is_closed:
                return
            total += size
            if total >= _RUN_BYTES or at + 1 - first >= _RUN_FILES:
                yield range(first, at + 1)
                first, total = at + 1, 0
        if first < len(sizes):
            yield range(first, len(sizes))

    def _hash_run(self, run: range) -> bytes:
        return b"".join(map(self._hash, run))

    def _hash(self, at: int) -> bytes:
        path, hasher, is_first = self._bundle.paths[at], hashlib.sha256(), True
        for piece in pieces(self._bundle, at):
            if self._is_closed:
                break
            self._stop.check()
            if is_first and path.lower().endswith(IMAGE_ENDINGS):
                _check_is_image(self._bundle.sources[at], piece)
            is_first = False
            hasher.update(piece)
            self._meter.add(len(piece))
        return hasher.digest()


def pieces(bundle: Bundle, at: int) -> Iterator[bytes]:
    """The content of a file, in pieces of 256 KiB at most; an empty one has one. Refuses one whose size changed."""
    source, size = bundle.sources[at], bundle.sizes[at]
    if isinstance(source, bytes):
        yield from (source[begin : begin + _PIECE_BYTES] for begin in range(0, max(len(source), 1), _PIECE_BYTES))
        return
    try:
        with open(source, "rb", buffering=0) as file:
            length = 0
            while True:
                # One byte more than there should be: a file that has grown is noticed.
                piece = file.read(min(_PIECE_BYTES, size - length + 1))
                length += len(piece)
                if length > size or (not piece and length < size):
                    raise changed(source)
                if piece or size == 0:
                    yield piece
                if length == size and len(piece) < _PIECE_BYTES:
                    return
                if not piece:
                    return
    except OSError as error:
        raise InvalidArgument.of("path", f"`{source}` cannot be read: {error.strerror}; make it readable") from None


def changed(source: str) -> FailedPrecondition:
    """A file is not the one any more that was looked at."""
    return FailedPrecondition(f"`{source}` changed while it was pushed; push again when nothing writes to it")


def _check_is_image(source: str | bytes, head: bytes) -> None:
    is_webp = not head.startswith(b"RIFF") or head[8:12] == b"WEBP"
    if not head.startswith(_SIGNATURES) or not is_webp:
        raise InvalidArgument.of(
            "path", f"`{source!s}` is no image, by its first bytes; remove it. {USE_YARD}: it leaves such files out"
        )
