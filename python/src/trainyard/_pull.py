"""A pull: the files of a version into a folder, several at a time, each checked by its hash before it gets its name.
What is there already is not fetched again, and nothing of another content is replaced. It blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainyard import _manifest
from trainyard._answer import Answer
from trainyard._blocking import BlockingRunner
from trainyard._manifest import Manifest
from trainyard._methods import READ_DATASET
from trainyard._pull_folder import PullFolder, Unfinished
from trainyard._reconnect import Reconnect
from trainyard._report import Meter, Report, shown_bytes
from trainyard._steps import CallFailed, Close, Open, Read
from trainyard._stopping import Stop
from trainyard.errors import DamagedDownload, InvalidArgument
from trainyard.v1 import datasets_pb2

#: Streams at once.
_STREAMS = 4
#: Bytes and files that one stream fetches; a larger file has a stream of its own.
_STREAM_BYTES = 32 << 20
_STREAM_FILES = 4096


def pull(runner: BlockingRunner, dataset: datasets_pb2.Dataset, target: Path, report: Report, stop: Stop) -> None:
    """Fetches the files of a data set's version into a folder."""
    manifest = _manifest.fetch(runner, dataset, stop)
    try:
        folder = PullFolder(target, dataset)
        missing = _missing(folder, manifest, stop)
        total = sum(manifest.sizes[at] for at in missing)
        report.line(f"{len(manifest.paths)} files, {len(missing)} of them to fetch, {shown_bytes(total)}")
        fetch = _Fetch(runner, dataset, manifest, folder, Meter(report, "fetching", total), stop)
        _in_threads(fetch, list(_runs(manifest, missing)))
    except OSError as error:
        # What has come stays, and the next pull goes on from there.
        where, why = error.filename or target, error.strerror or error
        raise InvalidArgument.of("folder", f"{where} cannot be written: {why}; give another, or make room") from error


def _missing(folder: PullFolder, manifest: Manifest, stop: Stop) -> list[int]:
    def is_missing(at: int) -> bool:
        stop.check()
        return not folder.has(manifest.paths[at], manifest.sizes[at], manifest.digest(at))

    count = len(manifest.paths)
    with ThreadPoolExecutor(os.cpu_count() or 2, "trainyard-look") as pool:
        # A thousand at a time: each that waits takes memory.
        return [
            at
            for first in range(0, count, 1000)
            for at, is_it in zip(
                range(first, min(first + 1000, count)),
                pool.map(is_missing, range(first, min(first + 1000, count))),
                strict=True,
            )
            if is_it
        ]


def _runs(manifest: Manifest, missing: list[int]) -> Iterator[list[int]]:
    """Missing files, in portions that one stream fetches."""
    run: list[int] = []
    total = 0
    for at in missing:
        size = manifest.sizes[at]
        if run and (total + size > _STREAM_BYTES or len(run) == _STREAM_FILES):
            yield run
            run, total = [], 0
        run.append(at)
        total += size
    if run:
        yield run


def _in_threads(fetch: _Fetch, runs: list[list[int]]) -> None:
    """Fetches all runs, some at once. The first that fails ends the others."""
    with ThreadPoolExecutor(_STREAMS, "trainyard-pull") as pool:
        streams = [pool.submit(fetch.run, run) for run in runs]
        try:
            ended, going_on = wait(streams, return_when=FIRST_EXCEPTION)
            failures = [failure for one in ended if (failure := one.exception()) is not None]
            if going_on or failures:
                raise failures[0]
        except BaseException:
            fetch.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass(frozen=True)
class _Fetch:
    """What all streams share."""

    runner: BlockingRunner
    dataset: datasets_pb2.Dataset
    manifest: Manifest
    folder: PullFolder
    meter: Meter
    stop: Stop

    def run(self, run: list[int]) -> None:
        """Fetches some files, over as many connections as it takes."""
        writer = _Writer(self.manifest, self.folder, run)
        total = sum(self.manifest.sizes[at] for at in run)
        self.meter.add(writer.offset)
        reconnect = Reconnect(self.runner.session, self.stop)
        try:
            while writer.offset < total:
                before = writer.offset
                try:
                    self._stream(run, writer, total)
                except CallFailed as failed:
                    self.stop.check()
                    if writer.offset > before:
                        reconnect.progressed()
                    reconnect.wait(failed.answer)
        finally:
            writer.close()

    def _stream(self, run: list[int], writer: _Writer, total: int) -> None:
        dataset, session = self.dataset, self.runner.session
        request = datasets_pb2.ReadDatasetRequest(
            kind=dataset.kind, name=dataset.name, version=dataset.version, ranges=_ranges(run), offset=writer.offset
        )
        stream: Any = self.runner.take(Open(session.target, READ_DATASET, request))
        try:
            with self.stop.waking(stream.cancel):
                while writer.offset < total:
                    message: datasets_pb2.ReadDatasetResponse | None = self.runner.take(Read(stream))
                    if message is None:
                        raise CallFailed(Answer("UNAVAILABLE", "the server ended the stream early", is_answer=False))
                    if message.offset != writer.offset or len(message.data) > total - writer.offset:
                        raise DamagedDownload("the server sent other bytes than were asked for")
                    writer.write(message.data)
                    self.meter.add(len(message.data))
        finally:
            self.runner.take(Close(stream))


class _Writer:
    """Bytes of several files, one after the other, on their way to the disk."""

    def __init__(self, manifest: Manifest, folder: PullFolder, run: list[int]) -> None:
        self._manifest, self._folder = manifest, folder
        self._left = iter(run)
        self._at = 0
        self._unfinished: Unfinished | None = None
        #: Bytes of all these files that are there.
        self.offset = 0
        self._next(goes_on=True)
        self.offset = self._unfinished.length if self._unfinished is not None else 0
        self._place_whole_ones()

    def write(self, data: bytes) -> None:
        """Takes the next bytes."""
        rest = memoryview(data)
        self.offset += len(rest)
        while rest and self._unfinished is not None:
            count = self._manifest.sizes[self._at] - self._unfinished.length
            self._unfinished.write(rest[:count])
            rest = rest[count:]
            self._place_whole_ones()

    def close(self) -> None:
        """Leaves what is there for the next pull."""
        if self._unfinished is not None:
            self._unfinished.close()

    def _next(self, *, goes_on: bool = False) -> None:
        self._unfinished = None
        at = next(self._left, None)
        if at is not None:
            self._at = at
            manifest = self._manifest
            path = self._folder.unfinished(manifest.paths[at], manifest.digest(at))
            self._unfinished = Unfinished(path, manifest.sizes[at], goes_on=goes_on)

    def _place_whole_ones(self) -> None:
        """Gives files their names that are whole; empty ones are at once."""
        manifest = self._manifest
        while self._unfinished is not None and self._unfinished.length == manifest.sizes[self._at]:
            unfinished, path = self._unfinished, manifest.paths[self._at]
            if unfinished.close() != manifest.digest(self._at):
                unfinished.path.unlink()
                self._unfinished = None
                raise DamagedDownload(f"`{path}`: what came has another SHA-256 than was announced; nothing was kept")
            self._folder.place(unfinished.path, path)
            self._next()


def _ranges(run: list[int]) -> list[datasets_pb2.FileRange]:
    """The files of a run, neighbours together."""
    ranges: list[datasets_pb2.FileRange] = []
    for at in run:
        if ranges and ranges[-1].first + ranges[-1].count == at:
            ranges[-1].count += 1
        else:
            ranges.append(datasets_pb2.FileRange(first=at, count=1))
    return ranges
