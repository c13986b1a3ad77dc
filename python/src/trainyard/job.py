"""A job, for programs that wait."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainyard import _download, _operations
from trainyard._blocking import BlockingRunner
from trainyard._job_view import JobView, jobs_html, table_of
from trainyard._watch import OutOfTime, Watch, get_for_a_last_word
from trainyard.artifact import Artifact
from trainyard.errors import Unavailable, WaitTimeout
from trainyard.events import JobState, LogLine, Metrics, StateChange
from trainyard.table import MetricsTable
from trainyard.v1 import jobs_pb2

#: Seconds for which a state that may change is taken as known: a list of jobs prints without more calls.
_FRESH_SECONDS = 1.0


class Job(JobView):
    """A job of the cluster. `Client.train`, `Client.job` and `Client.jobs` give them."""

    def __init__(self, runner: BlockingRunner, message: jobs_pb2.Job) -> None:
        super().__init__(message)
        self._runner = runner
        self._known_since = time.monotonic()

    def _take(self, message: jobs_pb2.Job) -> Job:
        self.message = message
        self._known_since = time.monotonic()
        return self

    @property
    def state(self) -> JobState:
        """How it stands. Asks the scheduler, unless the job has ended or was asked about this very second."""
        if not self.known_state.is_final and time.monotonic() - self._known_since > _FRESH_SECONDS:
            self.refresh()
        return self.known_state

    def refresh(self) -> Job:
        """Asks the scheduler how the job stands."""
        return self._take(self._runner.run(_operations.get_job(self._runner.session, self.id)))

    def watch(self, cursor: int = 0, *, timeout: float | None = None) -> Iterator[StateChange | Metrics | LogLine]:
        """All events after a cursor: those of the past, then live ones, until the job ends. Lost connections and
        other leaders are waited for, five minutes at most; no event is missed and none comes twice. Raises
        `WaitTimeout` after `timeout` seconds, if they are given."""
        yield from self._events(cursor, history_only=False, timeout=timeout)

    def history(self) -> Iterator[StateChange | Metrics | LogLine]:
        """The events that there are already."""
        yield from self._events(0, history_only=True)

    def _events(
        self, cursor: int, *, history_only: bool, timeout: float | None = None
    ) -> Iterator[StateChange | Metrics | LogLine]:
        watch = Watch(self._runner.session, self.id, cursor, history_only=history_only, timeout=timeout)
        try:
            while (event := self._runner.run(watch.next())) is not None:
                yield event
        except OutOfTime:
            unknown: Unavailable | None = None
            try:
                self._take(self._runner.run(get_for_a_last_word(self._runner.session, self.id)))
            except Unavailable as error:
                unknown = error
            raise self.overdue(timeout, unknown) from None
        finally:
            self._runner.run(watch.close())

    def wait(self, *, timeout: float | None = None, check: bool = True) -> Job:
        """Waits until the job ends. Raises `JobFailed` if it did not succeed, unless `check` is False, and
        `WaitTimeout` after `timeout` seconds, if they are given. The job goes on then."""
        try:
            for _ in self.watch(timeout=timeout):
                pass
            self.refresh()
        except WaitTimeout:
            # It may have ended in the last moment.
            if not self.known_state.is_final:
                raise
        if check and self.known_state is not JobState.SUCCEEDED:
            raise self.failure()
        return self

    def progress(self) -> str:
        """How far it is, on one line."""
        if not self.known_state.is_final:
            self.refresh()
        return self.line

    def metrics(self) -> MetricsTable:
        """The figures of every finished epoch, as rows; `to_pandas()` makes a data frame of them."""
        return table_of(self.history())

    def artifacts(self) -> list[Artifact]:
        """What the job has left behind; until it has succeeded, the pictures that its trainer has drawn."""
        found = self._runner.run(_operations.list_artifacts(self._runner.session, self.id))
        return [Artifact.of(one) for one in found]

    def download(
        self, name: str = "best", path: str | os.PathLike[str] | None = None, *, overwrite: bool = False
    ) -> Path:
        """Fetches an artifact and verifies its SHA-256. `name` is a whole name, a file's name, or that without its
        ending. `path` is a file or a folder; without one it is the current folder."""
        session = self._runner.session
        found = self._runner.run(_operations.list_artifacts(session, self.id))
        artifact = _download.choose(found, name, self.id)
        target = _download.target_of(artifact, path)
        return self._runner.run(_download.download(session, self.id, artifact, target, overwrite=overwrite))

    def cancel(self) -> Job:
        """Ends the job. One that has ended stays as it is."""
        return self._take(self._runner.run(_operations.cancel(self._runner.session, self.id)))

    def retry(self) -> Job:
        """Queues a job that failed or was cancelled again; it resumes from its newest checkpoint."""
        return self._take(self._runner.run(_operations.retry(self._runner.session, self.id)))


class Jobs(list[Job]):
    """Jobs, newest first."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        super().__init__(jobs)

    def _repr_html_(self) -> str:
        return jobs_html(self)
