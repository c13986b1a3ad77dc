"""Data sets and weights in the cluster's store: pushed, trained on, listed, fetched and removed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import trainyard
from tests.cluster import PROGRAMS, TINY, Cluster, yard
from trainyard import (
    AsyncClient,
    Client,
    DamagedDownload,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    _hashing,
    _push,
    _yard,
    aio,
)
from trainyard._stopping import Stop

#: What trainings take for weights of PyTorch: an archive by its first bytes, and by its end.
_PICKLE, _PICKLE_END = b"PK\x03\x04", b"PK\x05\x06" + bytes(18)


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


@pytest.fixture(autouse=True)
def _without_yard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is on this machine's PATH; tests that want `yard` say so."""
    monkeypatch.setattr(_yard, "at_hand", lambda: None)


@pytest.fixture
def cells(cluster: Cluster, tmp_path: Path) -> Path:
    """A copy of the cluster's data set, with a name of its own; its images are nobody else's."""
    folder = Path(shutil.copytree(cluster.data, tmp_path / f"cells-{os.urandom(4).hex()}"))
    for image in folder.glob("images/*/*"):
        # What follows a picture's end is not read.
        image.write_bytes(image.read_bytes() + os.urandom(8))
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_a_pushed_data_set_is_trained_on_by_its_name_and_kept_while_a_job_needs_it(client: Client, cells: Path) -> None:
    lines: list[str] = []
    pushed = client.push_dataset(cells, progress=lines.append)
    assert any(line.startswith("27 files, ") for line in lines)
    assert (pushed.name, pushed.description, pushed.is_newest) == (cells.name, "12 images, 3 classes", True)
    assert (pushed.files, str(pushed)) == (27, f"{cells.name}@{pushed.version[:12]}")
    job = client.train(cells.name, epochs=1, **TINY)
    assert job.message.spec.train.data == pushed.reference
    assert job.name == cells.name
    assert job.wait().state == "SUCCEEDED"
    # Weights of that job, and those of a file, to begin with.
    path = job.download("best", cells.parent / "best.safetensors")
    weights = client.push_weights(path, f"w-{cells.name}")
    assert weights.is_weights
    assert weights in client.weights()
    for pretrained in (weights, weights.name, f"job:{job.id[:18]}"):
        client.check(pushed, pretrained=pretrained, **TINY)
    later = client.train(pushed, pretrained=f"job:{job.id[:18]}", epochs=1000, **TINY)
    with pytest.raises(FailedPrecondition, match=later.id):
        client.remove_dataset(pushed)
    later.cancel()
    assert [str(one) for one in client.remove_weights(weights.name)] == [str(weights)]


def test_only_what_the_cluster_lacks_is_sent_and_yard_makes_the_same_version(
    cluster: Cluster, client: Client, cells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = client.push_dataset(str(cells / "data.yaml"))
    image = min(cells.glob("images/train/*"))
    image.write_bytes(image.read_bytes() + b"\0")
    lines: list[str] = []
    second = client.push_dataset(cells, progress=lines.append)
    assert any("the cluster lacks 1 of them" in line for line in lines)
    assert client.push_dataset(cells, progress=lines.append) == second
    assert any("everything is stored already" in line for line in lines)
    both = client.datasets(cells.name)
    assert [one.version for one in both] == [second.version, first.version]
    assert cells.name in both._repr_html_()
    assert [one.version for one in client.datasets() if one.name == cells.name] == [second.version]
    assert client.dataset(f"{cells.name}@{first.version[:9]}").version == first.version
    text = yard("--server", cluster.url, "data", "push", cells, config=cells.parent)
    assert text.strip() == str(second)
    monkeypatch.setattr(_yard, "at_hand", lambda: str(PROGRAMS / "yard"))
    assert client.push_dataset(cells, name=f"by-{cells.name}", progress=lines.append).version == second.version
    assert {one.version for one in client.remove_dataset(cells.name)} == {first.version, second.version}
    with pytest.raises(NotFound):
        client.dataset(cells.name)


def test_a_push_goes_on_when_the_scheduler_was_killed(
    cluster: Cluster, client: Client, cells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: list[int] = []

    def pieces(bundle: trainyard._packing.Bundle, at: int) -> Iterator[bytes]:
        if at == 9 and not broken:
            broken.append(at)
            cluster.kill()
            cluster.start_scheduler()
        yield from _hashing.pieces(bundle, at)

    monkeypatch.setattr(_push, "pieces", pieces)
    lines: list[str] = []
    pushed = client.push_dataset(cells, progress=lines.append)
    assert broken
    assert "the connection is lost; trying again" in lines
    assert client.dataset(cells.name).version == pushed.version


def test_a_file_that_changes_meanwhile_stops_the_push(
    client: Client, cells: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = min(cells.glob("images/val/*"))
    # What the cluster has already is not sent.
    content = image.read_bytes() + b"behind its end"
    for changed in (content + b"x", content[:-1], content[:-1] + b"x"):
        image.write_bytes(content)
        name = f"changed-{len(changed)}"

        def pieces(bundle: trainyard._packing.Bundle, at: int, changed: bytes = changed) -> Iterator[bytes]:
            image.write_bytes(changed)
            yield from _hashing.pieces(bundle, at)

        monkeypatch.setattr(_push, "pieces", pieces)
        with pytest.raises(FailedPrecondition, match=r"`/.*` changed while it was pushed; push again"):
            client.push_dataset(cells, name)
        with pytest.raises(NotFound):
            client.dataset(name)
    # gRPC says nothing of its own.
    assert not caplog.records


def test_a_large_file_travels_in_pieces(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "Large one.pt"
    file.write_bytes(_PICKLE + os.urandom(5 * (1 << 20) // 2) + _PICKLE_END)
    pushed = client.push_weights(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    text = f"trainyard weights 1\n{digest} {file.stat().st_size} {file.name}\n"
    assert (pushed.name, pushed.version) == ("Large-one", hashlib.sha256(text.encode()).hexdigest())
    assert pushed.description == "2.5 MiB"
    file.write_text("<html>")
    with pytest.raises(InvalidArgument, match=r"Large one.pt` holds no weights; give a \.pt file"):
        client.push_weights(file)


def test_names_are_refused_where_they_are_wrong(client: Client, cells: Path) -> None:
    for wrong in ("a b", "x.yaml", "", "-x"):
        with pytest.raises(InvalidArgument, match="name: is "):
            client.push_dataset(cells, wrong)
    for wrong in ("cells@xyz", "cells@", "a/b"):
        with pytest.raises(InvalidArgument, match="reference: is "):
            client.dataset(wrong)
    with pytest.raises(InvalidArgument, match=r"data: is `cells@newest`; a version has 4 to 64"):
        client.train("cells@newest")
    with pytest.raises(InvalidArgument, match="there is no data set `nobodys`"):
        client.train("nobodys")
    (cells / "images" / "train" / "Twice.jpg").write_bytes(min(cells.glob("images/train/*")).read_bytes())
    (cells / "images" / "train" / "twice.jpg").write_bytes(min(cells.glob("images/train/*")).read_bytes())
    with pytest.raises(InvalidArgument, match=r"twice\.jpg` is the same as `images/train/Twice\.jpg`"):
        client.push_dataset(cells)


def test_yard_is_asked_first_where_it_is_and_its_errors_are_exceptions(
    cluster: Cluster, secure: Cluster, cells: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_yard, "at_hand", lambda: str(PROGRAMS / "yard"))
    # Others' settings do not count, and nor does a token that is not for this cluster.
    monkeypatch.setenv("YARD_SERVER", "http://127.0.0.1:1")
    label = min(cells.glob("labels/train/*"))
    with secure.client() as client:
        label.write_text("9 .5 .5 .1 .1\n")
        with pytest.raises(InvalidArgument, match=r"labels/train/.*:1: class 9.*; correct what is named") as raised:
            client.push_dataset(cells)
        assert len(raised.value.violations) == 1
        label.unlink()
        assert client.push_dataset(cells).description == "12 images, 3 classes"
        assert any("without a label file" in record.getMessage() for record in caplog.records)
    with cluster.client() as client:
        assert client.push_dataset(cells / ".").name == cells.name
    with Client("http://127.0.0.1:1", timeout=1) as nowhere, pytest.raises(trainyard.Unavailable):
        nowhere.push_dataset(cells)


def test_a_cluster_with_tokens_takes_a_push_without_yard(secure: Cluster, cells: Path, tmp_path: Path) -> None:
    with secure.client() as client:
        pushed = client.push_dataset(cells)
        assert pushed.user == client.whoami().user
        client.pull_dataset(pushed, tmp_path / "copy")
    unknown = f"{secure.first_login('yard login').rpartition('.')[0]}.{'0' * 64}"
    with Client(secure.url, token=unknown) as nobody:
        with pytest.raises(trainyard.Unauthenticated):
            nobody.push_dataset(cells)
        with pytest.raises(trainyard.Unauthenticated):
            nobody.pull_dataset(pushed, tmp_path / "other")


def test_only_a_yard_of_this_version_is_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    program = tmp_path / "yard"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def at_hand(says: str) -> str | None:
        program.write_text(f"#!/bin/sh\n{says}\n")
        program.chmod(0o755)
        _yard.at_hand.cache_clear()
        found = _yard.at_hand()
        _yard.at_hand.cache_clear()
        return found

    assert at_hand(f"echo yard {trainyard.__version__}") == str(program)
    assert at_hand("echo yard 0.0.1") is None
    assert at_hand("echo this is the client alone >&2; exit 1") is None


def test_a_pull_is_what_was_pushed_and_goes_on(client: Client, cells: Path, tmp_path: Path) -> None:
    pushed = client.push_dataset(cells)
    copy = client.pull_dataset(pushed, tmp_path / "copy")
    files = _files(copy)
    assert len(files) == pushed.files
    assert {path: files[path] for path in files if "/" in path} == {
        path: content for path, content in _files(cells).items() if "/" in path
    }
    # What is pulled is the same version, and what is there is not fetched again.
    assert client.push_dataset(copy, cells.name).version == pushed.version
    lines: list[str] = []
    client.pull_dataset(cells.name, copy, progress=lines.append)
    assert lines == ["27 files, 0 of them to fetch, 0 B"]
    image = copy / min(path for path in files if path.startswith("images/"))
    image.unlink()
    text = yard("--server", client.server, "data", "pull", cells.name, "-d", copy, config=tmp_path)
    assert text.strip() == str(copy)
    assert _files(copy) == files
    image.write_text("mine")
    with pytest.raises(InvalidArgument, match=r"folder: `.*copy`: `images/.*` has other content; name another folder"):
        client.pull_dataset(pushed, copy)
    assert image.read_text() == "mine"
    with pytest.raises(InvalidArgument, match=r"folder: `.*` is not empty; name a folder that is empty"):
        client.pull_dataset(pushed, cells)


def test_a_large_pull_goes_on_where_it_was_and_damage_is_noticed(
    cluster: Cluster, client: Client, cells: Path, tmp_path: Path
) -> None:
    image = min(cells.glob("images/train/*"))
    image.write_bytes(image.read_bytes() + os.urandom(3 << 20))
    pushed = client.push_dataset(cells)
    copy = tmp_path / "copy"
    client.pull_dataset(pushed, copy)
    whole = copy / image.relative_to(cells)
    content = whole.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    part = whole.with_name(f".{digest}-{hashlib.sha256(whole.name.encode()).hexdigest()[:8]}.part")
    for begun, is_damaged in ((content[: 1 << 20], False), (b"x" * 1000, True), (content + b"x", False)):
        whole.unlink()
        part.write_bytes(begun)
        if is_damaged:
            with pytest.raises(DamagedDownload, match="nothing was kept"):
                client.pull_dataset(pushed, copy)
            assert not whole.exists()
        client.pull_dataset(pushed, copy)
        assert whole.read_bytes() == content
        assert not part.exists()


def test_asyncio_has_the_same(cluster: Cluster, cells: Path, tmp_path: Path) -> None:
    async def use() -> None:
        async with AsyncClient(cluster.address) as client:
            pushed = await client.push_dataset(cells)
            assert await client.dataset(pushed.reference) == pushed
            assert pushed in await client.datasets(cells.name)
            await client.check(pushed, **TINY)
            copy = await client.pull_dataset(cells.name, tmp_path / "copy")
            assert len(_files(copy)) == pushed.files
            file = tmp_path / "w.pt"
            file.write_bytes(_PICKLE + os.urandom(8) + _PICKLE_END)
            weights = await client.push_weights(file, name=f"w-{cells.name}")
            assert weights in await client.weights()
            assert await client.remove_weights(weights) == [weights]
            assert await client.remove_dataset(cells.name) == [pushed]

    asyncio.run(use())


def test_a_task_that_is_cancelled_ends_the_push(cluster: Cluster, cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()

    class Watched(Stop):
        def set(self) -> None:
            super().set()
            stopped.set()

    monkeypatch.setattr(aio, "Stop", Watched)

    async def use() -> None:
        async with AsyncClient(cluster.address) as client:
            loop = asyncio.get_running_loop()

            def progress(line: str) -> None:
                if "the cluster " in line:
                    loop.call_soon_threadsafe(push.cancel)
                    assert stopped.wait(120)

            push = asyncio.create_task(client.push_dataset(cells, progress=progress))
            with pytest.raises(asyncio.CancelledError):
                await push
            assert await client.datasets(cells.name) == []
            assert (await client.push_dataset(cells)).name == cells.name

    asyncio.run(use())


def test_whoever_listens_may_fail(client: Client, cells: Path) -> None:
    def progress(line: str) -> None:
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match="the cluster "):
        client.push_dataset(cells, progress=progress)
    assert client.push_dataset(cells).name == cells.name
