"""The methods of the scheduler that this package calls, with the types that they take and give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from trainyard.v1 import access_pb2, artifacts_pb2, cluster_pb2, jobs_pb2

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)


@dataclass(frozen=True)
class Method(Generic[RequestT, ResponseT]):
    """One method: ``/package.Service/Name``."""

    path: str
    request: type[RequestT]
    response: type[ResponseT]


_JOBS = "/trainyard.v1.JobService"
_ARTIFACTS = "/trainyard.v1.ArtifactService"
_CLUSTER = "/trainyard.v1.ClusterService"
_ACCESS = "/trainyard.v1.AccessService"

SUBMIT_JOB = Method(f"{_JOBS}/SubmitJob", jobs_pb2.SubmitJobRequest, jobs_pb2.SubmitJobResponse)
GET_JOB = Method(f"{_JOBS}/GetJob", jobs_pb2.GetJobRequest, jobs_pb2.Job)
LIST_JOBS = Method(f"{_JOBS}/ListJobs", jobs_pb2.ListJobsRequest, jobs_pb2.ListJobsResponse)
CANCEL_JOB = Method(f"{_JOBS}/CancelJob", jobs_pb2.CancelJobRequest, jobs_pb2.Job)
RETRY_JOB = Method(f"{_JOBS}/RetryJob", jobs_pb2.RetryJobRequest, jobs_pb2.Job)
WATCH_JOB = Method(f"{_JOBS}/WatchJob", jobs_pb2.WatchJobRequest, jobs_pb2.JobEvent)
LIST_ARTIFACTS = Method(
    f"{_ARTIFACTS}/ListArtifacts", artifacts_pb2.ListArtifactsRequest, artifacts_pb2.ListArtifactsResponse
)
DOWNLOAD_ARTIFACT = Method(
    f"{_ARTIFACTS}/DownloadArtifact", artifacts_pb2.DownloadArtifactRequest, artifacts_pb2.DownloadArtifactResponse
)
LIST_AGENTS = Method(f"{_CLUSTER}/ListAgents", cluster_pb2.ListAgentsRequest, cluster_pb2.ListAgentsResponse)
WHO_AM_I = Method(f"{_ACCESS}/WhoAmI", access_pb2.WhoAmIRequest, access_pb2.Caller)

ALL: tuple[Method[Any, Any], ...] = (
    SUBMIT_JOB,
    GET_JOB,
    LIST_JOBS,
    CANCEL_JOB,
    RETRY_JOB,
    WATCH_JOB,
    LIST_ARTIFACTS,
    DOWNLOAD_ARTIFACT,
    LIST_AGENTS,
    WHO_AM_I,
)
