"""No call takes longer than its client's timeout, whatever does not answer. Who waits for a job may give a limit."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

import trainyard
from tests.cluster import TINY, Cluster
from tests.test_errors import TOKEN
from trainyard import AsyncClient, Client, InvalidArgument, JobState, Unavailable, WaitTimeout, _operations, _session
from trainyard._answer import NO_ANSWER, Answer
from trainyard._session import Session
from trainyard._settings import load
from trainyard._steps import CallFailed, Invoke, Operation, Sleep
from trainyard.v1 import jobs_pb2

AWAY = Answer("UNAVAILABLE", NO_ANSWER, is_answer=False)
LATE = Answer("DEADLINE_EXCEEDED", "Deadline Exceeded", is_answer=False)


class Clock:
    """Time that passes only when somebody says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_session, "time", clock)
    return clock


def _fail(operation: Operation[object], clock: Clock, answer: Answer, seconds: float) -> list[str]:
    """Has every try fail after so many seconds, or when its time is up; returns whom it asked until it gave up."""
    asked: list[str] = []
    step = operation.send(None)
    try:
        while True:
            if isinstance(step, Sleep):
                clock.now += step.seconds
                step = operation.send(None)
            else:
                assert isinstance(step, Invoke)
                asked.append(step.target)
                clock.now += min(step.timeout, seconds)
                step = operation.throw(CallFailed(answer if seconds < step.timeout else LATE))
    except Unavailable:
        return asked


@pytest.mark.parametrize("server", ["lab:1", "lab:1,lab:2,lab:3"])
@pytest.mark.parametrize("seconds", [0.0, 0.3, 3.0, 5.0])
@pytest.mark.parametrize("timeout", [0.01, 1, 5, 30])
def test_all_tries_of_a_call_share_its_time(clock: Clock, server: str, seconds: float, timeout: float) -> None:
    session = Session(load(server, None, None, None, timeout))
    begun = clock.now
    asked = _fail(_operations.list_agents(session), clock, AWAY, seconds)
    # But for rounding.
    assert clock.now - begun < timeout + 1e-6
    assert set(asked) == set(session.settings.servers) or seconds >= timeout / 3
    assert session.connect_timeout * len(session.settings.servers) < timeout


def test_what_was_wrong_before_the_time_was_up_is_said_and_the_next_call_begins_elsewhere(clock: Clock) -> None:
    session = Session(load("lab:1,lab:2", None, None, None, 4))
    operation = _operations.list_agents(session)
    operation.send(None)
    clock.now += 1
    refused = Answer("UNAVAILABLE", "Connection refused", is_answer=False)
    step = operation.throw(CallFailed(refused))
    assert isinstance(step, Invoke)
    assert (step.target, step.timeout) == ("http://lab:2", 3)
    clock.now += 3
    with pytest.raises(Unavailable, match="http://lab:1 cannot be reached: Connection refused"):
        operation.throw(CallFailed(LATE))
    assert session.target == "http://lab:1"


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_says_nothing_is_given_up(silent: str, scheme: str) -> None:
    async def ask() -> None:
        async with AsyncClient(f"{scheme}://{silent}", token=TOKEN, timeout=0.2) as client:
            await client.jobs()

    with pytest.raises(Unavailable, match=r"no answer in time|did not answer in time"):
        Client(f"{scheme}://{silent}", token=TOKEN, timeout=0.2).jobs()
    with pytest.raises(Unavailable, match=r"no answer in time|did not answer in time"):
        asyncio.run(ask())


@pytest.mark.parametrize("timeout", ["5", 0, -1, float("nan"), float("inf"), True, None])
def test_a_timeout_is_a_number_of_seconds(timeout: float) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidArgument, match=r"timeout: is `.*`; give seconds, a number above 0"):
            kind("lab", timeout=timeout)


def test_who_waits_with_a_limit_learns_why_the_job_has_not_ended(cluster: Cluster) -> None:
    client = cluster.client()
    # No machine of this cluster has one.
    job = client.train(cluster.data, **{**TINY, "device": "gpu"})
    with pytest.raises(WaitTimeout, match=f"{job.id} has not ended within 0.5 s, and goes on: QUEUED") as raised:
        job.wait(timeout=0.5)
    assert (raised.value.job_id, raised.value.state) == (job.id, "QUEUED")
    assert isinstance(raised.value, TimeoutError)
    with pytest.raises(WaitTimeout):
        list(job.watch(timeout=0.2))

    async def wait() -> None:
        async with AsyncClient(cluster.address) as waiting:
            await (await waiting.job(job.id)).wait(timeout=0.2)

    with pytest.raises(WaitTimeout, match="and goes on: QUEUED"):
        asyncio.run(wait())
    job.cancel()
    # One that has ended has ended in time, however short that is.
    assert job.wait(timeout=0, check=False).state is JobState.CANCELLED
    assert job.wait(timeout=60, check=False).state is JobState.CANCELLED


def test_a_limit_that_is_none_is_refused_and_an_absent_scheduler_is_named(silent: str) -> None:
    client = Client(f"http://{silent}", timeout=0.2)
    job = trainyard.Job(client._runner, jobs_pb2.Job(id="00000000-0000-0000-0000-000000000000"))
    for wrong in ("1", -1, float("nan"), True):
        with pytest.raises(InvalidArgument, match=r"timeout: is `.*`; give seconds, or None to wait until"):
            job.wait(timeout=wrong)  # type: ignore[arg-type]
    with pytest.raises(WaitTimeout, match=r"within 0.1 s, as far as is known: the server at http://.*"):
        job.wait(timeout=0.1)
    for cursor in ("1", -1, 1.5, 1 << 64, True):
        with pytest.raises(InvalidArgument, match=r"cursor: is `.*`; give an event's `cursor`, or 0 for all events"):
            next(job.watch(cursor))  # type: ignore[arg-type]
