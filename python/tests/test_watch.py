"""A watch outlasts the death of the scheduler, and goes on at another leader."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trainyard
from tests.cluster import TINY, Cluster, free_port, until
from trainyard import Client, JobState, Metrics, StateChange, TrainyardError, Unavailable, _watch
from trainyard.v1 import jobs_pb2


def _is_epoch(event: object) -> bool:
    return isinstance(event, Metrics) and event.epoch_end


def _until_first_epoch(watch: Iterator[trainyard.Event], seen: list[trainyard.Event]) -> None:
    for event in watch:
        seen.append(event)
        if _is_epoch(event):
            return


def test_a_watch_goes_on_after_a_kill_and_a_restart(cluster: Cluster) -> None:
    client = cluster.client()
    job = client.train(cluster.data, epochs=6, **TINY)
    seen: list[trainyard.Event] = []
    watch = job.watch()
    _until_first_epoch(watch, seen)
    cluster.kill()
    with pytest.raises(Unavailable):
        Client(cluster.address).jobs()
    cluster.start_scheduler()
    seen += list(watch)
    # No event is missing and none comes twice.
    assert [event.cursor for event in seen] == list(range(1, len(seen) + 1))
    assert isinstance(seen[-1], StateChange)
    assert seen[-1].state is JobState.SUCCEEDED
    assert sum(map(_is_epoch, seen)) == 6
    # The client from before asks the new process.
    assert job.state is JobState.SUCCEEDED


def test_a_watch_of_a_server_that_never_was_there_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "_CONNECT_TIMEOUT", 0.5)
    client = Client(f"127.0.0.1:{free_port()}")
    job = trainyard.Job(client._runner, jobs_pb2.Job(id="00000000-0000-0000-0000-000000000000"))
    with pytest.raises(Unavailable, match="cannot be reached: Connection refused"):
        list(job.watch())


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[Cluster]]:
    """Two schedulers on one Redis; the first one leads."""
    redis_socket = tmp_path / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(redis_socket), "--save", "", "--dir", str(tmp_path)]
    redis = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    members = [Cluster(tmp_path / name, redis_url=f"unix://{redis_socket}") for name in ("one", "two")]
    try:
        until(redis_socket.exists, lambda: "redis-server does not start")
        for member in members:
            member.folder.mkdir()
            member.start_scheduler()
        members[0].start_agent(",".join(member.url for member in members))
        yield members
    finally:
        for member in members:
            member.stop()
        redis.terminate()
        redis.wait()


def test_a_client_finds_the_leader_and_goes_on_when_it_dies(pair: list[Cluster]) -> None:
    leader, standby = pair
    # It knows the standby only, which names the leader.
    job = Client(standby.address).train(leader.data, epochs=6, **TINY)
    with Client(f"{leader.address},{standby.address}") as client:
        seen: list[trainyard.Event] = []
        watch = client.job(job.id).watch()
        _until_first_epoch(watch, seen)
        leader.kill()
        seen += list(watch)
        assert [event.cursor for event in seen] == list(range(1, len(seen) + 1))
        assert client.server == standby.url
        # An order reaches the new leader, too.
        assert client.job(job.id).cancel().state is JobState.SUCCEEDED
        assert client.train(leader.data, epochs=1, **TINY).wait().state is JobState.SUCCEEDED


def test_ctrl_c_ends_a_watch_and_not_the_job(cluster: Cluster) -> None:
    job = cluster.client().train(cluster.data, epochs=1000, **TINY)
    # Whoever is started in the background ignores Ctrl-C, and so would the program.
    script = f"""
import signal
import trainyard
signal.signal(signal.SIGINT, signal.default_int_handler)
for event in trainyard.Client("{cluster.address}").job("{job.id}").watch():
    if isinstance(event, trainyard.Metrics):
        print("it trains", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == b"it trains\n"
        watching.send_signal(signal.SIGINT)
        _, error = watching.communicate()
    assert watching.returncode == -signal.SIGINT, error.decode()
    assert b"KeyboardInterrupt" in error
    assert job.progress().startswith("RUNNING")
    job.cancel()


def test_a_watch_that_is_left_ends_its_stream(cluster: Cluster) -> None:
    job = cluster.client().train(cluster.data, epochs=1000, **TINY)
    watch = job.watch()
    _until_first_epoch(watch, [])
    watch.close()  # type: ignore[attr-defined]
    assert next(watch, None) is None
    assert job.progress().startswith("RUNNING  epoch ")
    job.cancel()
    with pytest.raises(TrainyardError, match="was cancelled"):
        job.wait()
