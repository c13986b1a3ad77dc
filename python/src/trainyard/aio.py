"""The same for asyncio: `AsyncClient` and `AsyncJob`."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from typing_extensions import Self, Unpack

from trainyard import _download, _operations, _settings, _spec
from trainyard._asynchronous import AsyncRunner
from trainyard._job_view import JobView, table_of
from trainyard._session import Session, no_pickle
from trainyard._settings import DEFAULT_TIMEOUT
from trainyard._watch import OutOfTime, Watch, get_for_a_last_word
from trainyard.agent import Agent, Agents
from trainyard.artifact import Artifact
from trainyard.errors import Unavailable, WaitTimeout
from trainyard.events import JobState, LogLine, Metrics, StateChange
from trainyard.fields import TrainFields
from trainyard.table import MetricsTable
from trainyard.v1 import access_pb2, jobs_pb2


class AsyncJob(JobView):
    """A job of the cluster. `AsyncClient.train`, `AsyncClient.job` and `AsyncClient.jobs` give them."""

    def __init__(self, runner: AsyncRunner, message: jobs_pb2.Job) -> None:
        super().__init__(message)
        self._runner = runner

    @property
    def state(self) -> JobState:
        """How it stood when it was last refreshed."""
        return self.known_state

    async def refresh(self) -> AsyncJob:
        """Asks the scheduler how the job stands."""
        self.message = await self._runner.run(_operations.get_job(self._runner.session, self.id))
        return self

    async def watch(
        self, cursor: int = 0, *, timeout: float | None = None
    ) -> AsyncIterator[StateChange | Metrics | LogLine]:
        """All events after a cursor: those of the past, then live ones, until the job ends, as `Job.watch` has it."""
        async for event in self._events(cursor, history_only=False, timeout=timeout):
            yield event

    async def history(self) -> list[StateChange | Metrics | LogLine]:
        """The events that there are already."""
        return [event async for event in self._events(0, history_only=True)]

    async def _events(
        self, cursor: int, *, history_only: bool, timeout: float | None = None
    ) -> AsyncIterator[StateChange | Metrics | LogLine]:
        watch = Watch(self._runner.session, self.id, cursor, history_only=history_only, timeout=timeout)
        try:
            while (event := await self._runner.run(watch.next())) is not None:
                yield event
        except OutOfTime:
            unknown: Unavailable | None = None
            try:
                self.message = await self._runner.run(get_for_a_last_word(self._runner.session, self.id))
            except Unavailable as error:
                unknown = error
            raise self.overdue(timeout, unknown) from None
        finally:
            await self._runner.run(watch.close())

    async def wait(self, *, timeout: float | None = None, check: bool = True) -> AsyncJob:
        """Waits until the job ends, as `Job.wait` does."""
        try:
            async for _ in self.watch(timeout=timeout):
                pass
            await self.refresh()
        except WaitTimeout:
            # It may have ended in the last moment.
            if not self.known_state.is_final:
                raise
        if check and self.known_state is not JobState.SUCCEEDED:
            raise self.failure()
        return self

    async def progress(self) -> str:
        """How far it is, on one line."""
        if not self.known_state.is_final:
            await self.refresh()
        return self.line

    async def metrics(self) -> MetricsTable:
        """The figures of every finished epoch, as rows; `to_pandas()` makes a data frame of them."""
        return table_of(await self.history())

    async def artifacts(self) -> list[Artifact]:
        """What the job has left behind; empty until it has succeeded."""
        found = await self._runner.run(_operations.list_artifacts(self._runner.session, self.id))
        return [Artifact.of(one) for one in found]

    async def download(
        self, name: str = "best", path: str | os.PathLike[str] | None = None, *, overwrite: bool = False
    ) -> Path:
        """Fetches an artifact and verifies its SHA-256, as `Job.download` does."""
        session = self._runner.session
        found = await self._runner.run(_operations.list_artifacts(session, self.id))
        artifact = _download.choose(found, name, self.id)
        target = _download.target_of(artifact, path)
        return await self._runner.run(_download.download(session, self.id, artifact, target, overwrite=overwrite))

    async def cancel(self) -> AsyncJob:
        """Ends the job. One that has ended stays as it is."""
        self.message = await self._runner.run(_operations.cancel(self._runner.session, self.id))
        return self

    async def retry(self) -> AsyncJob:
        """Queues a job that failed or was cancelled again; it resumes from its newest checkpoint."""
        self.message = await self._runner.run(_operations.retry(self._runner.session, self.id))
        return self


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

    @property
    def server(self) -> str:
        """The server that the next call goes to."""
        return self._runner.session.target

    async def train(
        self,
        data: str | os.PathLike[str],
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
        data: str | os.PathLike[str],
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

    async def whoami(self) -> access_pb2.Caller:
        """Who the scheduler takes you for, and until when."""
        return await self._runner.run(_operations.who_am_i(self._runner.session))

    async def close(self) -> None:
        """Closes the connections, for good."""
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
