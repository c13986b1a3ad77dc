"""The files of a version, as the scheduler lists them: checked before anything is written by their names."""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from dataclasses import dataclass, field
from typing import Any

from trainyard import _methods
from trainyard._blocking import BlockingRunner
from trainyard._hashing import DIGEST_BYTES
from trainyard._reconnect import Reconnect
from trainyard._steps import CallFailed, Close, Open, Operation, Read
from trainyard._stopping import Stop
from trainyard.errors import DamagedDownload, InvalidArgument
from trainyard.v1 import datasets_pb2

_LONGEST_PATH = 1024
#: The file by which a pull knows its folder again, at the top of it: no version has one.
PULL_MARKER = ".trainyard-pull"
_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f]")
#: What no name may have on Windows, and names of its devices.
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\\]|[. ](/|$)|(^|/)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|/|$)', re.IGNORECASE)


@dataclass
class Manifest:
    """The files of a data set's version, in order: about 200 bytes of memory each."""

    paths: list[str] = field(default_factory=list)
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    digests: bytearray = field(default_factory=bytearray)

    def digest(self, at: int) -> bytes:
        """The SHA-256 of a file by its place."""
        return bytes(self.digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES])

    def version(self) -> str:
        """The version that has these files: the hash of their list."""
        hasher = hashlib.sha256(b"trainyard dataset 1\n")
        for at, path in enumerate(self.paths):
            hasher.update(f"{self.digest(at).hex()} {self.sizes[at]} {path}\n".encode())
        return hasher.hexdigest()


def fetch(runner: BlockingRunner, dataset: datasets_pb2.Dataset, stop: Stop) -> Manifest:
    """Asks for the files of a version. Their hash must be the version."""
    reconnect = Reconnect(runner.session, stop)
    while True:
        try:
            manifest = runner.run(_fetch(runner, dataset))
            break
        except CallFailed as failed:
            reconnect.wait(failed.answer)
    runner.session.succeeded()
    if manifest.version() != dataset.version:
        raise DamagedDownload(
            f"`{dataset.name}`: the server listed other files than those of version {dataset.version}"
        )
    for path in manifest.paths:
        _check_path(path)
    return manifest


def _fetch(runner: BlockingRunner, dataset: datasets_pb2.Dataset) -> Operation[Manifest]:
    request = datasets_pb2.ListDatasetFilesRequest(kind=dataset.kind, name=dataset.name, version=dataset.version)
    stream: Any = yield Open(runner.session.target, _methods.LIST_DATASET_FILES, request)
    manifest = Manifest()
    while True:
        message: datasets_pb2.ListDatasetFilesResponse | None = yield Read(stream)
        if message is None:
            return manifest
        for one in message.files:
            if len(one.sha256) != DIGEST_BYTES:
                yield Close(stream)
                raise DamagedDownload(f"`{one.path}`: its SHA-256 has {len(one.sha256)} bytes")
            manifest.paths.append(one.path)
            manifest.sizes.append(one.size_bytes)
            manifest.digests += one.sha256


def _check_path(path: str) -> None:
    """Refuses a path that leaves the folder, whoever has sent it, and one that this machine cannot make."""
    parts = path.split("/")
    if (
        len(path.encode()) > _LONGEST_PATH
        or _CONTROL.search(path)
        or not {"", ".", ".."}.isdisjoint(parts)
        or parts[0].lower() == PULL_MARKER
    ):
        raise DamagedDownload(f"the server listed a file that no version may have: {path!a}")
    if os.name == "nt" and _NOT_ON_WINDOWS.search(path):
        raise InvalidArgument.of("reference", f"has the file `{path}`, which Windows cannot have; pull it on Linux")
