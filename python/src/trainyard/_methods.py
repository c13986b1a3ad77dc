"""The methods of the scheduler that this package calls, with the types that they take and give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from trainyard.v1 import access_pb2, artifacts_pb2, cluster_pb2, datasets_pb2, jobs_pb2

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
_DATASETS = "/trainyard.v1.DatasetService"

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
PUSH_DATASET = Method(f"{_DATASETS}/PushDataset", datasets_pb2.PushDatasetRequest, datasets_pb2.PushDatasetResponse)
LIST_DATASETS = Method(f"{_DATASETS}/ListDatasets", datasets_pb2.ListDatasetsRequest, datasets_pb2.ListDatasetsResponse)
GET_DATASET = Method(f"{_DATASETS}/GetDataset", datasets_pb2.GetDatasetRequest, datasets_pb2.Dataset)
DELETE_DATASET = Method(
    f"{_DATASETS}/DeleteDataset", datasets_pb2.DeleteDatasetRequest, datasets_pb2.DeleteDatasetResponse
)
LIST_DATASET_FILES = Method(
    f"{_DATASETS}/ListDatasetFiles", datasets_pb2.ListDatasetFilesRequest, datasets_pb2.ListDatasetFilesResponse
)
READ_DATASET = Method(f"{_DATASETS}/ReadDataset", datasets_pb2.ReadDatasetRequest, datasets_pb2.ReadDatasetResponse)

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
    PUSH_DATASET,
    LIST_DATASETS,
    GET_DATASET,
    DELETE_DATASET,
    LIST_DATASET_FILES,
    READ_DATASET,
)
