"""Downloads of artifacts: resumed where they stopped, verified, renamed into place. Yields steps."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from trainyard._answer import Answer
from trainyard._checks import checked_text, shown
from trainyard._methods import DOWNLOAD_ARTIFACT
from trainyard._session import Session, jittered
from trainyard._steps import CallFailed, Close, Open, Operation, Read, Sleep, work
from trainyard.errors import DamagedDownload, InvalidArgument, NotFound
from trainyard.v1 import artifacts_pb2

#: How often a download that broke off is taken up again without any progress in between.
_TRIES = 5


def choose(artifacts: Sequence[artifacts_pb2.Artifact], name: str, job_id: str) -> artifacts_pb2.Artifact:
    """The artifact that `name` means: by its whole name, its file's name, or that without its ending: ``best``."""
    name = checked_text("name", name)
    for of in (str, lambda path: path.name, lambda path: path.stem):
        found = [artifact for artifact in artifacts if of(PurePosixPath(artifact.name)) == name]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(f"`{artifact.name}`" for artifact in found)
            raise InvalidArgument.of("name", f"is `{name}`, which may be {several}; give the whole name")
    if not artifacts:
        raise NotFound(f"job {job_id} has no artifacts; it has some once it succeeded", reason="ARTIFACT_NOT_FOUND")
    known = ", ".join(f"`{artifact.name}`" for artifact in artifacts)
    raise NotFound(f"job {job_id} has no artifact `{name}`; it has {known}", reason="ARTIFACT_NOT_FOUND")


def target_of(artifact: artifacts_pb2.Artifact, path: str | os.PathLike[str] | None) -> Path:
    """Where an artifact goes: into `path` if that is a folder, and there under its file's name."""
    # Only the last part: no name leads out of the folder.
    file_name = PurePosixPath(artifact.name).name
    if file_name in ("", ".", ".."):
        raise InvalidArgument.of("name", f"is `{artifact.name}`, which is no file's name; nothing was fetched")
    if path is None:
        return Path(file_name)
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else b""
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidArgument.of("path", f"is `{shown(path)}`; give a file or a folder on this machine")
    return Path(text) / file_name if text.endswith(("/", os.sep)) or Path(text).is_dir() else Path(text)


def download(
    session: Session, job_id: str, artifact: artifacts_pb2.Artifact, target: Path, *, overwrite: bool
) -> Operation[Path]:
    """Fetches an artifact, unless it lies there already. What is there has its SHA-256, always."""
    try:
        return (yield from _download(session, job_id, artifact, target, overwrite=overwrite))
    except OSError as error:
        # What has come stays, and the next download goes on from there.
        where, why = error.filename or target, error.strerror or error
        raise InvalidArgument.of("path", f"{where} cannot be written: {why}; give another, or make room") from error


def _download(
    session: Session, job_id: str, artifact: artifacts_pb2.Artifact, target: Path, *, overwrite: bool
) -> Operation[Path]:
    present = yield from work(lambda: _sha256(target) if target.is_file() else "")
    if present == artifact.sha256:
        return target
    if not overwrite and target.exists():
        raise InvalidArgument.of("path", f"{target} is there with other content; give another, or `overwrite=True`")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{artifact.sha256[:16]}.part")
    yield from _fetch(session, job_id, artifact, part)
    found = yield from work(lambda: _sha256(part))
    if found != artifact.sha256:
        # What lies there is worth nothing as a beginning either.
        part.unlink()
        raise DamagedDownload(
            f"artifact `{artifact.name}`: its SHA-256 is {found}, not {artifact.sha256}; nothing was kept, try again"
        )
    part.replace(target)
    return target


def _fetch(session: Session, job_id: str, artifact: artifacts_pb2.Artifact, part: Path) -> Operation[None]:
    """Appends to `part` until it is complete; what breaks off is taken up again."""
    tries = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        if before > artifact.size_bytes:
            part.unlink()
            continue
        if before == artifact.size_bytes and part.exists():
            return
        try:
            yield from _append(session, job_id, artifact, part, before)
        except CallFailed as failed:
            answer = failed.answer
        else:
            session.succeeded()
            return
        after = part.stat().st_size if part.exists() else 0
        tries = 1 if after > before else tries + 1
        error = session.error(answer)
        if not answer.is_temporary or tries >= _TRIES:
            raise error
        at_once, _ = session.fail_over(answer)
        if not at_once:
            yield Sleep(jittered(0.2 * 2**tries))


def _append(
    session: Session, job_id: str, artifact: artifacts_pb2.Artifact, part: Path, offset: int
) -> Operation[None]:
    """One stream from `offset` to its end."""
    request = artifacts_pb2.DownloadArtifactRequest(job_id=job_id, name=artifact.name, offset=offset)
    stream: Any = yield Open(session.target, DOWNLOAD_ARTIFACT, request)
    with part.open("ab") as file:
        while True:
            message: artifacts_pb2.DownloadArtifactResponse | None = yield Read(stream)
            if message is None:
                break
            if message.offset != offset or offset + len(message.data) > artifact.size_bytes:
                yield Close(stream)
                raise DamagedDownload(f"artifact `{artifact.name}`: the server sent other bytes than announced")
            file.write(message.data)
            offset += len(message.data)
        file.flush()
        os.fsync(file.fileno())
    if offset != artifact.size_bytes:
        raise CallFailed(Answer("UNAVAILABLE", "the download ended early", is_answer=False))


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()
