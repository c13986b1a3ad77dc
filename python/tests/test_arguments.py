"""Whatever is wrong with an argument or a use, it is told as a `TrainyardError` on one line."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import trainyard
from build_parts.version import ROOT, __version__
from tests.cluster import TINY, Cluster
from trainyard import AsyncClient, Client, FailedPrecondition, InvalidArgument, JobFailed, MetricsTable, TrainyardError
from trainyard.v1 import jobs_pb2

NOWHERE = "127.0.0.1:1"
#: Of no kind that anything takes.
ODD: tuple[Any, ...] = (5, 1.5, b"x", ["x"], object(), "\udc80", 10**5000)


@pytest.mark.parametrize("argument", ["server", "token", "ca", "act_as"])
def test_a_client_of_odd_arguments_is_refused(argument: str) -> None:
    for kind in (Client, AsyncClient):
        for value in ODD:
            if argument == "ca" and isinstance(value, str):
                continue
            with pytest.raises(InvalidArgument, match=argument) as raised:
                kind(**{argument: value})
            assert "\n" not in str(raised.value)
            assert len(str(raised.value)) < 300


def _job(client: Client) -> trainyard.Job:
    return trainyard.Job(client._runner, jobs_pb2.Job(id="00000000-0000-0000-0000-000000000000"))


ODD_QUESTIONS: list[tuple[str, Callable[[Client, Any], object]]] = [
    ("job_id", lambda client, value: client.job(value)),
    ("limit", lambda client, value: client.jobs(limit=value)),
    ("states", lambda client, value: client.jobs(states=value)),
    ("states", lambda client, value: client.jobs(states=[value])),
    ("user", lambda client, value: client.jobs(user=value)),
    ("name_prefix", lambda client, value: client.jobs(name_prefix=value)),
    ("labels", lambda client, value: client.jobs(labels=value)),
    ("labels", lambda client, value: client.jobs(labels={"a": value})),
    ("data", lambda client, value: client.train(value)),
    ("model", lambda client, value: client.train("/d/data.yaml", model=value)),
    ("pretrained", lambda client, value: client.train("/d/data.yaml", pretrained=value)),
    ("name", lambda client, value: client.train("/d/data.yaml", name=value)),
    ("device", lambda client, value: client.check("/d/data.yaml", device=value)),
    ("gpu_models", lambda client, value: client.train("/d/data.yaml", gpu_models=value)),
    ("labels", lambda client, value: client.train("/d/data.yaml", labels=value)),
    ("labels", lambda client, value: client.train("/d/data.yaml", labels={value: "a"})),
    ("time_limit", lambda client, value: client.train("/d/data.yaml", time_limit=value)),
    ("epochs", lambda client, value: client.train("/d/data.yaml", epochs=value)),
    ("imgsz", lambda client, value: client.train("/d/data.yaml", imgsz=value)),
    ("lr0", lambda client, value: client.train("/d/data.yaml", lr0=value)),
    ("optimizer", lambda client, value: client.train("/d/data.yaml", optimizer=value)),
    ("cursor", lambda client, value: next(_job(client).watch(value))),
    ("name", lambda client, value: _job(client).download(value)),
    ("path", lambda client, value: _job(client).download("best", value)),
]


@pytest.mark.parametrize(("field", "ask"), ODD_QUESTIONS)
def test_an_odd_question_is_refused_or_goes_to_the_scheduler(field: str, ask: Callable[[Client, Any], object]) -> None:
    client = Client(NOWHERE, timeout=0.05)
    for value in ODD:
        with pytest.raises(TrainyardError) as raised:
            ask(client, value if not isinstance(value, list) or field != "labels" else ("x",))
        assert "\n" not in str(raised.value)
        assert isinstance(raised.value, trainyard.Unavailable) or field in str(raised.value)


def test_a_job_is_known_by_its_uuid_and_one_state_needs_no_list(cluster: Cluster) -> None:
    client = cluster.client()
    job = client.train(cluster.data, name="known", **{**TINY, "device": "gpu"})
    assert client.job(uuid.UUID(job.id)) == job
    assert job in client.jobs(states="QUEUED", name_prefix="known")
    assert job in client.jobs(states=trainyard.JobState.QUEUED)
    assert job.cancel() not in client.jobs(states="QUEUED", limit=None)


def test_what_may_be_trained_may_be_checked(cluster: Cluster) -> None:
    arguments: dict[str, Any] = {
        "name": "n", "device": "cpu", "gpus": None, "gpu_models": ["A100"], "min_vram_mib": 1, "priority": 0,
        "max_retries": 1, "time_limit": timedelta(hours=1), "labels": {"a": "b"}, "epochs": 3,
    }  # fmt: skip
    cluster.client().check(cluster.data, **{**arguments, "gpu_models": (), "min_vram_mib": None})
    with pytest.raises(InvalidArgument, match="priority: "):
        cluster.client().check(cluster.data, **{**arguments, "priority": 10**6})

    async def check() -> None:
        async with AsyncClient(cluster.address) as client:
            await client.check(cluster.data, labels={"a": "b"}, time_limit=60)
            with pytest.raises(InvalidArgument, match="lables: is no field of a training job; did you mean `labels`"):
                await client.check(cluster.data, lables={"a": "b"})  # type: ignore[call-arg]

    asyncio.run(check())


def test_a_number_that_is_too_large_is_told_with_the_largest() -> None:
    with pytest.raises(
        InvalidArgument, match=r"^epochs: is `1000000000000000000000000000000`; give 4294967295 at most$"
    ):
        Client(NOWHERE).train("/d/data.yaml", epochs=10**30)
    with pytest.raises(InvalidArgument, match="priority: is `2147483648`; give 2147483647 at most"):
        Client(NOWHERE).train("/d/data.yaml", priority=2**31)
    with pytest.raises(InvalidArgument, match="lr0: is `<int>`; give a number"):
        Client(NOWHERE).train("/d/data.yaml", lr0=10**5000)


def test_a_relative_path_must_be_here_since_no_agent_would_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    client = Client(NOWHERE, timeout=0.05)
    for wrong in ("data.yaml", Path("cells/data.yaml"), "../data.yaml"):
        with pytest.raises(
            InvalidArgument, match=r"data: is `.*data.yaml`, and there is no `/.*data.yaml` on this mach"
        ):
            client.train(wrong)
    with pytest.raises(
        InvalidArgument, match=r"pretrained: is `w.pt`, and there is no `/.*; give the absolute path of a w"
    ):
        client.train("/d/data.yaml", pretrained="w.pt")
    (tmp_path / "data.yaml").touch()
    (tmp_path / "w.pt").touch()
    with pytest.raises(trainyard.Unavailable):
        client.train("data.yaml", pretrained="w.pt")
    assert trainyard._inputs.data_file("data.yaml") == str(tmp_path / "data.yaml")
    assert trainyard._inputs.data_file("/d/../e//data.yaml") == "/e/data.yaml"


def test_a_client_that_is_closed_says_so(cluster: Cluster) -> None:
    with cluster.client() as client:
        job = client.train(cluster.data, epochs=1000, **TINY)
        watch = job.watch()
        next(watch)
    for use in (client.jobs, job.refresh, lambda: list(watch), lambda: client.__enter__().agents()):
        with pytest.raises(FailedPrecondition, match=r"^the client is closed; make another one: `Client\(...\)`$"):
            use()
    client.close()
    cluster.client().job(job.id).cancel()

    async def use_closed() -> None:
        async with AsyncClient(cluster.address) as closed:
            await closed.jobs()
        with pytest.raises(FailedPrecondition, match="the client is closed"):
            await closed.jobs()

    asyncio.run(use_closed())


def test_what_holds_connections_says_what_to_hand_on_instead() -> None:
    client = Client(NOWHERE, token="")
    for what, way_out in (
        (client, r"a client cannot be pickled or copied: .*; make one in each process: `Client\(...\)`"),
        (AsyncClient(NOWHERE), r"a client cannot be .*: `AsyncClient\(...\)`"),
        (_job(client), r"a job cannot be pickled or copied: .*; hand on its `id`, and ask `client.job\(id\)` there"),
    ):
        for use in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(InvalidArgument, match=way_out):
                use(what)


def test_exceptions_come_back_from_other_processes() -> None:
    with pytest.raises(InvalidArgument) as raised:
        Client(NOWHERE).train("/d/data.yaml", epochs=-1)
    failed = JobFailed("failed", job_id="1", state="FAILED")
    for error in (raised.value, failed, trainyard.WaitTimeout("late", job_id="1", state="QUEUED")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_data_frame_without_pandas_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(trainyard.MissingPackage, match="`to_pandas` needs pandas; run `pip install pandas`") as raised:
        MetricsTable().to_pandas()
    assert isinstance(raised.value, ImportError)


def test_the_best_epoch_is_the_trainers() -> None:
    def best(*figures: float) -> float:
        rows = [{"epoch": epoch, "metrics/mAP50-95(B)": figure} for epoch, figure in enumerate(figures, 1)]
        return MetricsTable(rows).best().get("epoch", 0)

    assert best() == 0
    # While nothing is found at all, the newest weights are the best ones; later the first of equal ones stays.
    assert best(0, 0, 0) == 3
    assert best(0, 0.1, 0.1, 0) == 2
    assert best(0.1, 0.3, 0.2, 0.3) == 2
    assert MetricsTable([{"epoch": 1}]).best() == {}


def test_the_version_is_that_of_all_of_trainyard() -> None:
    assert trainyard.__version__ == __version__


def test_the_client_needs_nothing_that_only_unix_has(tmp_path: Path) -> None:
    """As on Windows, as far as Linux can pretend: no user ids, no `pwd`, and a mode that is open to everybody."""
    (tmp_path / "trainyard").mkdir()
    token = f"ty1.{'0' * 32}.{'0' * 16}.{'0' * 64}"
    file = tmp_path / "trainyard" / "cli.toml"
    file.write_text(f"server = 'https://lab:7433'\ntoken = '{token}'\n")
    file.chmod(0o666)
    script = """
import asyncio, sys
import grpc.aio
sys.platform, sys.modules["pwd"] = "win32", None
import os
del os.getuid
import pathlib
import trainyard
from trainyard import _agent_path, _habit, _inputs, _settings
_agent_path._IS_POSIX = False
settings = _settings.load(None, None, None, None)
print(settings.servers, settings.user)
print(_inputs.data_file(pathlib.PureWindowsPath("/data/cells/data.yaml")), _inputs.data_file("/data/x.yaml"))
print(_habit.model("/w/yolov8s.pt", None), _inputs.weights("/w/a.pt"))
for wrong in (r"C:\\data\\data.yaml", "data.yaml", pathlib.PureWindowsPath("C:/data/data.yaml")):
    try:
        trainyard.Client().train(wrong)
    except trainyard.InvalidArgument as error:
        print(error)
"""
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "python" / "src"), "USERNAME": "ada"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    first, second, third, *wrong = done.stdout.splitlines()
    assert first == "['https://lab:7433'] ada"
    assert second == "/data/cells/data.yaml /data/x.yaml"
    assert third == "('yolov8s', '/w/yolov8s.pt') /w/a.pt"
    assert len(wrong) == 3
    assert all("give a data.yaml as the agents see it, which begins with `/`" in line for line in wrong)
