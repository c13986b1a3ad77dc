"""A push: the list of files goes first, the scheduler answers which contents it lacks, these follow. A connection that
breaks is opened again, and the push goes on with what is not stored yet. It blocks; a thread of its own runs it for
asyncio."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc

from trainyard._answer import Answer, answer_of
from trainyard._blocking import BlockingRunner
from trainyard._hashing import Hashing, changed, pieces
from trainyard._methods import PUSH_DATASET
from trainyard._packing import Bundle
from trainyard._reconnect import Reconnect
from trainyard._report import Meter, Report, shown_bytes
from trainyard._steps import CallFailed
from trainyard._stopping import Stop
from trainyard.errors import TrainyardError
from trainyard.v1 import datasets_pb2

#: Bytes of contents in one message: small files share one. A slow uplink sends one within the time that the scheduler
#: waits for the next.
_MESSAGE_BYTES = 256 << 10
#: Bytes of the list of files in one message.
_LIST_BYTES = 512 << 10
#: While a large file is hashed, an empty message says so often, in seconds, that this end is there.
_SIGN_OF_LIFE = 60.0


def push(runner: BlockingRunner, bundle: Bundle, report: Report, stop: Stop) -> datasets_pb2.Dataset:
    """Stores a bundle as a version of its name."""
    for note in bundle.notes:
        report.line(note)
    hashing = Hashing(bundle, report, stop)
    reconnect = Reconnect(runner.session, stop)
    least_missing: int | None = None
    try:
        while True:
            attempt = _Attempt(bundle, hashing, report, least_missing)
            try:
                dataset = attempt.run(runner, stop)
            except CallFailed as failed:
                answer = _come_again(failed.answer)
            else:
                runner.session.succeeded()
                break
            stop.check()
            least_missing = attempt.least_missing
            if attempt.has_progressed:
                report.line("the connection is lost; trying again")
                reconnect.progressed()
            reconnect.wait(answer)
    finally:
        hashing.close()
    own = hashing.version()
    if dataset.version != own:
        raise TrainyardError(f"the server stored version {dataset.version}, and not {own}")
    return dataset


def _come_again(answer: Answer) -> Answer:
    """A push that the scheduler has ended since nothing came for a while is begun anew."""
    is_too_slow = answer.is_answer and answer.code == "DEADLINE_EXCEEDED"
    return replace(answer, code="UNAVAILABLE") if is_too_slow else answer


class _Attempt:
    """One connection. The requests come from a thread of gRPC's, the answers are read by the caller's."""

    def __init__(self, bundle: Bundle, hashing: Hashing, report: Report, least_missing: int | None) -> None:
        self._bundle, self._hashing, self._report = bundle, hashing, report
        #: The fewest bytes that the scheduler has lacked until now; None before it has said so.
        self.least_missing = least_missing
        #: Whether more is stored than before it.
        self.has_progressed = False
        self._ranges: list[range] = []
        self._call: Any = None
        self._has_begun = threading.Event()
        self._is_asked = threading.Event()
        self._is_over = False
        self._failure: BaseException | None = None
        self._meter: Meter | None = None

    def run(self, runner: BlockingRunner, stop: Stop) -> datasets_pb2.Dataset:
        """Pushes. Raises `CallFailed` where the connection or the server ends it."""
        call = self._call = runner.converse(PUSH_DATASET, self._requests())
        self._has_begun.set()
        try:
            with stop.waking(call.cancel):
                for answer in call:
                    if answer.HasField("missing"):
                        self._take_missing(answer.missing)
                    elif answer.HasField("progress"):
                        self.has_progressed |= answer.progress.stored_bytes > 0
                    elif answer.HasField("dataset"):
                        dataset: datasets_pb2.Dataset = answer.dataset
                        return dataset
        except grpc.RpcError as error:
            if self._failure is not None:
                raise self._failure from None
            raise CallFailed(answer_of(error)) from None
        finally:
            self._is_over = True
            self._is_asked.set()
            call.cancel()
        raise CallFailed(Answer("UNAVAILABLE", "the server ended the push before it was stored", is_answer=False))

    def _take_missing(self, missing: datasets_pb2.MissingFiles) -> None:
        bundle = self._bundle
        for one in missing.ranges:
            if one.first + one.count > len(bundle.paths):
                raise TrainyardError("the server asked for files that the version does not have")
            self._ranges.append(range(one.first, one.first + one.count))
        if missing.more:
            return
        count = sum(map(len, self._ranges))
        total = sum(bundle.sizes[at] for run in self._ranges for at in run)
        if self.least_missing is None:
            everything = f"{len(bundle.paths)} files, {shown_bytes(bundle.total_bytes)}"
            lacks = f"lacks {count} of them, {shown_bytes(total)}"
            lacks = "has none of them" if count == len(bundle.paths) else lacks
            self._report.line(f"{everything}: " + (f"the cluster {lacks}" if count else "everything is stored already"))
        if self.least_missing is None or total < self.least_missing:
            self.least_missing, self.has_progressed = total, True
        self._meter = Meter(self._report, "sending", total)
        self._is_asked.set()

    def _requests(self) -> Iterator[datasets_pb2.PushDatasetRequest]:
        self._has_begun.wait()
        try:
            yield from self._messages()
        except GeneratorExit:
            # The call has ended, and its end says why.
            raise
        except BaseException as failure:
            # gRPC would log it as a fault of its user's.
            self._failure = failure
            self._call.cancel()

    def _messages(self) -> Iterator[datasets_pb2.PushDatasetRequest]:
        bundle = self._bundle
        header = datasets_pb2.PushHeader(
            kind=bundle.kind, name=bundle.name, files=len(bundle.paths), description=bundle.description
        )
        yield datasets_pb2.PushDatasetRequest(header=header)
        sent = 0
        while sent < len(bundle.paths):
            self._hashing.wait_for(sent + 1, lambda: self._is_over, _SIGN_OF_LIFE)
            if self._is_over:
                return
            files = self._known_files(sent)
            sent += len(files.files)
            yield datasets_pb2.PushDatasetRequest(files=files)
        self._is_asked.wait()
        for data in self._contents():
            if self._is_over:
                return
            yield datasets_pb2.PushDatasetRequest(data=data)
            if self._meter is not None:
                self._meter.add(len(data))

    def _known_files(self, first: int) -> datasets_pb2.DatasetFiles:
        """The files from a place on whose digests are known, as many as one message takes."""
        bundle, files, total = self._bundle, datasets_pb2.DatasetFiles(), 0
        for at in range(first, self._hashing.known):
            path = bundle.paths[at]
            total += len(path.encode()) + 64
            if total > _LIST_BYTES and files.files:
                break
            files.files.add(path=path, size_bytes=bundle.sizes[at], sha256=self._hashing.of(at))
        return files

    def _contents(self) -> Iterator[bytes]:
        """The bytes of all files that were asked for, one after the other. The last ones of a file are given out only
        if it is the one that was hashed."""
        waiting = bytearray()
        for at in (at for run in self._ranges for at in run):
            hasher = hashlib.sha256()
            for piece in pieces(self._bundle, at):
                if waiting and len(waiting) + len(piece) > _MESSAGE_BYTES:
                    yield bytes(waiting)
                    waiting.clear()
                waiting += piece
                hasher.update(piece)
            if hasher.digest() != self._hashing.of(at):
                raise changed(str(self._bundle.sources[at]))
        if waiting:
            yield bytes(waiting)
