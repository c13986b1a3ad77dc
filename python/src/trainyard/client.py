"""The cluster, for programs that wait for each answer."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import NoReturn

from typing_extensions import Self, Unpack

from trainyard import _operations, _settings, _spec
from trainyard._blocking import BlockingRunner
from trainyard._session import Session, no_pickle
from trainyard._settings import DEFAULT_TIMEOUT
from trainyard.agent import Agent, Agents
from trainyard.events import JobState
from trainyard.fields import TrainFields
from trainyard.job import Job, Jobs
from trainyard.v1 import access_pb2


class Client:
    """A cluster. Without arguments it is the one that `yard` talks to: `YARD_SERVER`, `YARD_TOKEN` and `YARD_CA`, then
    what `yard login` has kept, then a scheduler on this machine.

    Connections open with the first call. Threads may share a client; a process that forks makes its own after that.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        token: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        act_as: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """`server` is ``lab:7433``, or several with commas between. `ca` is a PEM file of the authority that certifies
        the server, only where that is not the cluster's own. With `act_as` an admin acts for another user. `timeout` is
        how many seconds a call may take, with all its repeats; `Job.watch` and downloads have no end of that kind."""
        session = Session(_settings.load(server, token, ca, act_as, timeout))
        self._runner = BlockingRunner(session)

    @property
    def server(self) -> str:
        """The server that the next call goes to."""
        return self._runner.session.target

    def train(
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
    ) -> Job:
        """Queues a job. Once this returns, the job survives the loss of every process.

        `data` is the data set's data.yaml as the agents see it. `time_limit` is in seconds, or a timedelta. All other
        fields are those of `TrainFields`: ``epochs``, ``imgsz``, ``lr0`` ..."""
        placement = _spec.Placement(
            name, device, gpus, gpu_models, min_vram_mib, priority, max_retries, time_limit, labels
        )
        spec = _spec.job_spec(data, model, placement, fields)
        return Job(self._runner, self._runner.run(_operations.submit(self._runner.session, spec, validate_only=False)))

    def check(
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
        self._runner.run(_operations.submit(self._runner.session, spec, validate_only=True))

    def job(self, job_id: str | uuid.UUID) -> Job:
        """A job by its id, or by a beginning of it that only it has."""
        return Job(self._runner, self._runner.run(_operations.get_job(self._runner.session, job_id)))

    def jobs(
        self,
        *,
        states: Iterable[JobState | str] = (),
        user: str = "",
        labels: Mapping[str, str] | None = None,
        name_prefix: str = "",
        limit: int | None = 50,
    ) -> Jobs:
        """Jobs that fit everything that is given, newest first. `limit=None` gives all."""
        listing = _operations.list_jobs(
            self._runner.session,
            states=states,
            user=user,
            labels={} if labels is None else labels,
            name_prefix=name_prefix,
            limit=limit,
        )
        return Jobs(Job(self._runner, message) for message in self._runner.run(listing))

    def agents(self) -> Agents:
        """The machines of the cluster, by name, lost ones included."""
        return Agents(Agent(message) for message in self._runner.run(_operations.list_agents(self._runner.session)))

    def whoami(self) -> access_pb2.Caller:
        """Who the scheduler takes you for, and until when. Empty where it asks nobody who they are."""
        return self._runner.run(_operations.who_am_i(self._runner.session))

    def close(self) -> None:
        """Closes the connections, for good."""
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise no_pickle("a client", "its connections and its token", "make one in each process: `Client(...)`")

    def __repr__(self) -> str:
        return f"Client({self.server!r})"
