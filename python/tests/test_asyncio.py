"""The client for asyncio does what the other one does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cluster import TINY, Cluster
from trainyard import AsyncClient, InvalidArgument, JobFailed, JobState, Metrics, StateChange, Unauthenticated


def test_a_job_trains_to_its_end(cluster: Cluster, tmp_path: Path) -> None:
    async def train() -> None:
        async with AsyncClient(cluster.address) as client:
            job = await client.train(cluster.data, epochs=2, **TINY)
            cursors = [event.cursor async for event in job.watch()]
            assert cursors == list(range(1, len(cursors) + 1))
            assert (await job.refresh()).state is JobState.SUCCEEDED
            assert [row["epoch"] for row in await job.metrics()] == [1, 2]
            path = await job.download("best", tmp_path)
            [best] = [one for one in await job.artifacts() if one.name.endswith(path.name)]
            assert path.stat().st_size == best.size_bytes
            assert "epoch 2/2" in await job.progress()
            assert job in await client.jobs(limit=None)
            assert await client.job(job.id[:13]) == job
            assert [agent.name for agent in await client.agents()] == ["bench"]
            assert (await client.whoami()).user == ""

    asyncio.run(train())


def test_several_jobs_are_watched_at_once_and_one_is_cancelled(cluster: Cluster) -> None:
    async def follow() -> None:
        async with AsyncClient(cluster.address) as client:
            long = await client.train(cluster.data, epochs=1000, **TINY)
            short = await client.train(cluster.data, epochs=1, **TINY)

            async def cancel_after_an_epoch() -> None:
                async for event in long.watch():
                    if isinstance(event, Metrics):
                        await long.cancel()

            _, ended = await asyncio.gather(cancel_after_an_epoch(), short.wait())
            assert ended.state is JobState.SUCCEEDED
            with pytest.raises(JobFailed, match="was cancelled"):
                await long.wait()
            assert not (await long.retry()).state.is_final
            await long.cancel()

    asyncio.run(follow())


def test_a_watch_goes_on_after_a_kill_and_a_restart(cluster: Cluster) -> None:
    async def follow() -> None:
        async with AsyncClient(cluster.address) as client:
            job = await client.train(cluster.data, epochs=5, **TINY)
            cursors = []
            async for event in job.watch():
                cursors.append(event.cursor)
                if isinstance(event, StateChange) and event.state is JobState.RUNNING:
                    cluster.kill()
                    await asyncio.to_thread(cluster.start_scheduler)
            assert cursors == list(range(1, len(cursors) + 1))

    asyncio.run(follow())


def test_errors_are_the_same(cluster: Cluster, secure: Cluster) -> None:
    async def ask() -> None:
        async with AsyncClient(cluster.address) as client:
            with pytest.raises(InvalidArgument, match="epochs: is 0; use 1 to 100000"):
                await client.check(cluster.data, epochs=0)
        token = secure.first_login("yard login")
        async with AsyncClient(secure.url, token=token) as client:
            assert (await client.whoami()).role == 3
        unknown = f"{token.rpartition('.')[0]}.{'0' * 64}"
        async with AsyncClient(secure.url, token=unknown) as client:
            with pytest.raises(Unauthenticated):
                await client.jobs()

    asyncio.run(ask())
