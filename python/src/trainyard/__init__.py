"""Trainyard for Python: submit training jobs to the lab's GPUs, follow them, fetch their weights.

    import trainyard

    client = trainyard.Client("lab:7433")
    job = client.train("/data/cells/data.yaml", model="yolov8s", epochs=50)
    for event in job.watch():
        print(event)
    job.download("best", "cells.safetensors")

Without an address it is the cluster that `yard login` has logged in to.
"""

from trainyard._version import __version__
from trainyard.agent import Agent
from trainyard.aio import AsyncClient
from trainyard.aio_job import AsyncJob
from trainyard.artifact import Artifact
from trainyard.client import Client
from trainyard.dataset import Dataset
from trainyard.errors import (
    AlreadyExists,
    DamagedDownload,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    JobFailed,
    MissingPackage,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    TrainyardError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    UntrustedServer,
    Violation,
    WaitTimeout,
)
from trainyard.events import Event, JobState, LogLine, Metrics, StateChange
from trainyard.fields import TrainFields
from trainyard.job import Job
from trainyard.table import MetricsTable

__all__ = [
    "Agent",
    "AlreadyExists",
    "Artifact",
    "AsyncClient",
    "AsyncJob",
    "Client",
    "DamagedDownload",
    "Dataset",
    "DeadlineExceeded",
    "Event",
    "FailedPrecondition",
    "InvalidArgument",
    "Job",
    "JobFailed",
    "JobState",
    "LogLine",
    "Metrics",
    "MetricsTable",
    "MissingPackage",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "StateChange",
    "TrainFields",
    "TrainyardError",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "UntrustedServer",
    "Violation",
    "WaitTimeout",
    "__version__",
]
