"""The same for asyncio: `AsyncClient`."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TypeVar

from typing_extensions import Self, Unpack

from trainyard import _operations, _settings, _spec, _store, _transfers
from trainyard._asynchronous import AsyncRunner
from trainyard._blocking import BlockingRunner
from trainyard._report import Progress
from trainyard._session import Session, no_pickle
from trainyard._settings import DEFAULT_TIMEOUT
from trainyard._stopping import Stop
from trainyard.agent import Agent, Agents
from trainyard.aio_job import AsyncJob
from trainyard.dataset import Dataset, Datasets, reference_of
from trainyard.events import JobState
from trainyard.fields import TrainFields
from trainyard.v1 import access_pb2, datasets_pb2

T = TypeVar("T")


class AsyncClient:
    """A cluster, as `Client` has it. Of one event loop."""

    def __init__(
        self,
        server: str | None = None,
        *,
        token: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        act_as: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        session = Session(_settings.load(server, token, ca, act_as, timeout))
        self._runner = AsyncRunner(session)
        # Transfers block, in threads of their own; connections open with the first call.
        self._blocking = BlockingRunner(session)

    @property
    def server(self) -> str:
        """The server that the next call goes to."""
        return self._runner.session.target

    async def train(
        self,
        data: str | os.PathLike[str] | Dataset,
        *,
        model: str | os.PathLike[str] = "yolov8n",
        name: str | None = None,
        device: str | int | None = None,
        gpus: int | None = None,
        gpu_models: Sequence[str] = (),
        min_vram_mib: int | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        time_limit: timedelta | float | None = None,
        labels: Mapping[str, str] | None = None,
        **fields: Unpack[TrainFields],
    ) -> AsyncJob:
        """Queues a job, as `Client.train` does."""
        placement = _spec.Placement(
            name, device, gpus, gpu_models, min_vram_mib, priority, max_retries, time_limit, labels
        )
        spec = _spec.job_spec(data, model, placement, fields)
        submission = _operations.submit(self._runner.session, spec, validate_only=False)
        return AsyncJob(self._runner, await self._runner.run(submission))

    async def check(
        self,
        data: str | os.PathLike[str] | Dataset,
        *,
        model: str | os.PathLike[str] = "yolov8n",
        name: str | None = None,
        device: str | int | None = None,
        gpus: int | None = None,
        gpu_models: Sequence[str] = (),
        min_vram_mib: int | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        time_limit: timedelta | float | None = None,
        labels: Mapping[str, str] | None = None,
        **fields: Unpack[TrainFields],
    ) -> None:
        """Has a job checked that `train` would queue, and queues nothing. Raises `InvalidArgument` with every wrong
        field."""
        placement = _spec.Placement(
            name, device, gpus, gpu_models, min_vram_mib, priority, max_retries, time_limit, labels
        )
        spec = _spec.job_spec(data, model, placement, fields)
        await self._runner.run(_operations.submit(self._runner.session, spec, validate_only=True))

    async def job(self, job_id: str | uuid.UUID) -> AsyncJob:
        """A job by its id, or by a beginning of it that only it has."""
        return AsyncJob(self._runner, await self._runner.run(_operations.get_job(self._runner.session, job_id)))

    async def jobs(
        self,
        *,
        states: Iterable[JobState | str] = (),
        user: str = "",
        labels: Mapping[str, str] | None = None,
        name_prefix: str = "",
        limit: int | None = 50,
    ) -> list[AsyncJob]:
        """Jobs that fit everything that is given, newest first. `limit=None` gives all."""
        listing = _operations.list_jobs(
            self._runner.session,
            states=states,
            user=user,
            labels={} if labels is None else labels,
            name_prefix=name_prefix,
            limit=limit,
        )
        return [AsyncJob(self._runner, message) for message in await self._runner.run(listing)]

    async def agents(self) -> Agents:
        """The machines of the cluster, by name, lost ones included."""
        listing = _operations.list_agents(self._runner.session)
        return Agents(Agent(message) for message in await self._runner.run(listing))

    async def push_dataset(
        self, path: str | os.PathLike[str], name: str | None = None, progress: Progress | None = None
    ) -> Dataset:
        """Stores a data set of this machine in the cluster, as `Client.push_dataset` does. It works in threads; a task
        that is cancelled ends the push. `progress` is called by a thread, too."""
        return await self._in_thread(lambda runner, stop: _transfers.push_dataset(runner, path, name, progress, stop))

    async def datasets(self, name: str | None = None) -> Datasets:
        """The newest version of each data set; with `name` all versions of that one."""
        return await self._versions(datasets_pb2.DATASET, name)

    async def dataset(self, reference: str | Dataset) -> Dataset:
        """One version: ``cells`` for the newest, or ``cells@3f9a`` with the version's first digits."""
        getting = _store.get(self._runner.session, datasets_pb2.DATASET, reference_of(reference))
        return Dataset(await self._runner.run(getting))

    async def remove_dataset(self, reference: str | Dataset) -> Datasets:
        """Removes a version, or a name with all its versions, as `Client.remove_dataset` does."""
        return await self._remove(datasets_pb2.DATASET, reference)

    async def pull_dataset(
        self, reference: str | Dataset, folder: str | os.PathLike[str], progress: Progress | None = None
    ) -> Path:
        """Fetches a version's files into a folder, as `Client.pull_dataset` does."""
        return await self._in_thread(
            lambda runner, stop: _transfers.pull_dataset(runner, reference, folder, progress, stop)
        )

    async def push_weights(
        self, path: str | os.PathLike[str], name: str | None = None, progress: Progress | None = None
    ) -> Dataset:
        """Stores weights to begin with in the cluster, as `Client.push_weights` does."""
        return await self._in_thread(lambda runner, stop: _transfers.push_weights(runner, path, name, progress, stop))

    async def weights(self, name: str | None = None) -> Datasets:
        """The newest version of all weights; with `name` all versions of those."""
        return await self._versions(datasets_pb2.WEIGHTS, name)

    async def remove_weights(self, reference: str | Dataset) -> Datasets:
        """Removes weights, as `Client.remove_dataset` removes data sets."""
        return await self._remove(datasets_pb2.WEIGHTS, reference)

    async def _versions(self, kind: datasets_pb2.DatasetKind, name: str | None) -> Datasets:
        return Datasets(map(Dataset, await self._runner.run(_store.list_versions(self._runner.session, kind, name))))

    async def _remove(self, kind: datasets_pb2.DatasetKind, reference: str | Dataset) -> Datasets:
        removing = _store.remove(self._runner.session, kind, reference_of(reference))
        return Datasets(map(Dataset, await self._runner.run(removing)))

    async def _in_thread(self, work: Callable[[BlockingRunner, Stop], T]) -> T:
        """Does what blocks. Whoever is cancelled waits until it has ended: at once, or when all
        files are listed."""
        stop = Stop()
        doing = asyncio.ensure_future(asyncio.to_thread(work, self._blocking, stop))
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([doing])
            # Nobody else looks at what it was ended with.
            doing.exception()
            raise

    async def whoami(self) -> access_pb2.Caller:
        """Who the scheduler takes you for, and until when."""
        return await self._runner.run(_operations.who_am_i(self._runner.session))

    async def close(self) -> None:
        """Closes the connections, for good."""
        self._blocking.close()
        await self._runner.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        raise no_pickle("a client", "its connections and its token", "make one in each process: `AsyncClient(...)`")

    def __repr__(self) -> str:
        return f"AsyncClient({self.server!r})"
