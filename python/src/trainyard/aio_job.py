"""A job, for asyncio: `AsyncJob`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

from trainyard import _download, _operations
from trainyard._asynchronous import AsyncRunner
from trainyard._job_view import JobView, table_of
from trainyard._watch import OutOfTime, Watch, get_for_a_last_word
from trainyard.artifact import Artifact
from trainyard.errors import Unavailable, WaitTimeout
from trainyard.events import JobState, LogLine, Metrics, StateChange
from trainyard.table import MetricsTable
from trainyard.v1 import jobs_pb2


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
        """What the job has left behind; until it has succeeded, the pictures that its trainer has drawn."""
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
