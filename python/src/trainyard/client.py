"""The cluster, for programs that wait for each answer."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from typing_extensions import Self, Unpack

from trainyard import _operations, _settings, _spec, _store, _transfers
from trainyard._blocking import BlockingRunner
from trainyard._report import Progress
from trainyard._session import Session, no_pickle
from trainyard._settings import DEFAULT_TIMEOUT
from trainyard._stopping import Stop
from trainyard.agent import Agent, Agents
from trainyard.dataset import Dataset, Datasets, reference_of
from trainyard.events import JobState
from trainyard.fields import TrainFields
from trainyard.job import Job, Jobs
from trainyard.v1 import access_pb2, datasets_pb2


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
    ) -> Job:
        """Queues a job. Once this returns, the job survives the loss of every process.

        `data` is the data set's data.yaml as the agents see it, or a data set of the cluster's store: ``cells``,
        ``cells@3f9a``, a `Dataset`. `time_limit` is in seconds, or a timedelta. All other
        fields are those of `TrainFields`: ``epochs``, ``imgsz``, ``lr0`` ..."""
        placement = _spec.Placement(
            name, device, gpus, gpu_models, min_vram_mib, priority, max_retries, time_limit, labels
        )
        spec = _spec.job_spec(data, model, placement, fields)
        return Job(self._runner, self._runner.run(_operations.submit(self._runner.session, spec, validate_only=False)))

    def check(
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

    def push_dataset(
        self, path: str | os.PathLike[str], name: str | None = None, progress: Progress | None = None
    ) -> Dataset:
        """Stores a data set of this machine in the cluster, and returns its version. Only what the cluster lacks is
        sent; a push that broke off goes on where it was when it is made again.

        `path` is a data.yaml, or a folder with one; the name is the folder's unless `name` gives another. `progress`
        gets a line now and then, from another thread: ``progress=print``.

        Where the program `yard` of this package's version is at hand (it is part of the wheel for Linux), it makes the
        push. It checks everything first, as a training would, and takes all forms of data sets.

        Elsewhere this package makes the push. It takes the usual form and refuses others. It looks at each image's
        first bytes and at no label, so that what is damaged is found when a job trains. Of a data set without damage
        both make the same version."""
        return _transfers.push_dataset(self._runner, path, name, progress, Stop())

    def datasets(self, name: str | None = None) -> Datasets:
        """The newest version of each data set; with `name` all versions of that one."""
        return self._versions(datasets_pb2.DATASET, name)

    def dataset(self, reference: str | Dataset) -> Dataset:
        """One version: ``cells`` for the newest, or ``cells@3f9a`` with the version's first digits."""
        return self._version(datasets_pb2.DATASET, reference)

    def remove_dataset(self, reference: str | Dataset) -> Datasets:
        """Removes a version, ``cells@3f9a``, or a name with all its versions. Refused while a job needs one. Returns
        what was removed."""
        return self._remove(datasets_pb2.DATASET, reference)

    def pull_dataset(
        self, reference: str | Dataset, folder: str | os.PathLike[str], progress: Progress | None = None
    ) -> Path:
        """Fetches a version's files into a folder that is empty or not there, and checks each by its hash. A pull that
        broke off goes on in the same folder. Returns the folder."""
        return _transfers.pull_dataset(self._runner, reference, folder, progress, Stop())

    def push_weights(
        self, path: str | os.PathLike[str], name: str | None = None, progress: Progress | None = None
    ) -> Dataset:
        """Stores weights to begin with, a .pt or .safetensors file, in the cluster. The name is the file's unless
        `name` gives another; ``train(..., pretrained=...)`` takes it."""
        return _transfers.push_weights(self._runner, path, name, progress, Stop())

    def weights(self, name: str | None = None) -> Datasets:
        """The newest version of all weights; with `name` all versions of those."""
        return self._versions(datasets_pb2.WEIGHTS, name)

    def remove_weights(self, reference: str | Dataset) -> Datasets:
        """Removes weights, as `remove_dataset` does."""
        return self._remove(datasets_pb2.WEIGHTS, reference)

    def _versions(self, kind: datasets_pb2.DatasetKind, name: str | None) -> Datasets:
        listing = _store.list_versions(self._runner.session, kind, name)
        return Datasets(map(Dataset, self._runner.run(listing)))

    def _version(self, kind: datasets_pb2.DatasetKind, reference: str | Dataset) -> Dataset:
        wanted = reference_of(reference)
        return Dataset(self._runner.run(_store.get(self._runner.session, kind, wanted)))

    def _remove(self, kind: datasets_pb2.DatasetKind, reference: str | Dataset) -> Datasets:
        wanted = reference_of(reference)
        return Datasets(map(Dataset, self._runner.run(_store.remove(self._runner.session, kind, wanted))))

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
