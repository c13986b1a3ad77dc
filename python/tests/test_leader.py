"""Of jobs the leader knows more than a standby: it is asked, wherever it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from trainyard import AsyncClient, Client, _methods
from trainyard.v1 import jobs_pb2

ID = "019ab3c4-1f2e-7000-8000-000000000001"


@dataclass
class Scheduler(grpc.GenericRpcHandler):
    """Knows one job, and why it waits; names a leader where it stands by."""

    reason: str
    leader: str = ""
    url: str = ""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = next((one for one in _methods.ALL if one.path == details.method), None)
        if method is None:
            return None

        def answer(request: object, context: grpc.ServicerContext) -> object:
            if self.leader:
                context.send_initial_metadata((("trainyard-leader", self.leader),))
            job = jobs_pb2.Job(id=ID, state=jobs_pb2.QUEUED, waiting_for=self.reason)
            return job if method is _methods.GET_JOB else jobs_pb2.ListJobsResponse(jobs=[job])

        return grpc.unary_unary_rpc_method_handler(answer, method.request.FromString, method.response.SerializeToString)


@pytest.fixture
def pair() -> Iterator[tuple[Scheduler, Scheduler]]:
    """A standby that names nobody yet, and a leader."""
    schedulers = Scheduler("only the leader knows"), Scheduler("it is busy")
    servers = []
    for scheduler in schedulers:
        server = grpc.server(futures.ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers((scheduler,))
        scheduler.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        servers.append(server)
    yield schedulers
    for server in servers:
        server.stop(None)


def _reasons(servers: str) -> set[str]:
    """What is said of the job, however it is asked for."""

    async def ask() -> set[str]:
        async with AsyncClient(servers) as client:
            return {(await client.job(ID)).message.waiting_for, (await client.jobs())[0].message.waiting_for}

    with Client(servers) as client:
        blocking = {client.job(ID).message.waiting_for, client.jobs()[0].message.waiting_for}
    return blocking | asyncio.run(ask())


def test_why_a_job_waits_is_asked_of_the_leader(pair: tuple[Scheduler, Scheduler]) -> None:
    standby, leader = pair
    standby.leader = leader.url
    assert _reasons(standby.url) == {leader.reason}
    assert _reasons(f"{standby.url},{leader.url}") == {leader.reason}
    with Client(standby.url) as client:
        client.job(ID)
        assert client.server == leader.url


def test_a_leader_is_looked_for_among_the_servers_and_what_is_stored_is_told_without_one(
    pair: tuple[Scheduler, Scheduler],
) -> None:
    standby, leader = pair
    standby.leader = "http://127.0.0.1:1"
    assert _reasons(f"{standby.url},{leader.url}") == {leader.reason}
    assert _reasons(standby.url) == {standby.reason}
