"""What a client can ask of a scheduler, without I/O. Both clients take these steps."""

from __future__ import annotations

import string
import uuid
from collections.abc import Iterable, Mapping

from trainyard import _methods, _spec
from trainyard._session import Session
from trainyard._steps import Operation
from trainyard.errors import InvalidArgument
from trainyard.events import JobState
from trainyard.v1 import access_pb2, artifacts_pb2, cluster_pb2, jobs_pb2

_PAGE = 1000
_LONGEST_ID = 36


def submit(session: Session, spec: jobs_pb2.JobSpec, *, validate_only: bool) -> Operation[jobs_pb2.Job]:
    """Queues a job. Repeats are safe: they carry one request id."""
    request = jobs_pb2.SubmitJobRequest(request_id=str(uuid.uuid4()), spec=spec, validate_only=validate_only)
    try:
        answer = yield from session.call(_methods.SUBMIT_JOB, request)
    except InvalidArgument as error:
        raise _spec.as_arguments(error) from None
    return answer.job


def get_job(session: Session, job_id: str) -> Operation[jobs_pb2.Job]:
    """A job by its id or a prefix that only it has."""
    return (yield from session.call(_methods.GET_JOB, jobs_pb2.GetJobRequest(job_id=check_id(job_id))))


def list_jobs(
    session: Session,
    *,
    states: Iterable[JobState | str],
    user: str,
    labels: Mapping[str, str],
    name_prefix: str,
    limit: int | None,
) -> Operation[list[jobs_pb2.Job]]:
    """Jobs, newest first, page by page until there are `limit`."""
    wanted = [_state_name(state) for state in states]
    jobs: list[jobs_pb2.Job] = []
    page_token = ""
    while True:
        size = _PAGE if limit is None else min(_PAGE, limit - len(jobs))
        request = jobs_pb2.ListJobsRequest(
            page_size=size, page_token=page_token, states=wanted, user=user, labels=labels, name_prefix=name_prefix
        )
        answer = yield from session.call(_methods.LIST_JOBS, request)
        jobs.extend(answer.jobs)
        page_token = answer.next_page_token
        if not page_token or (limit is not None and len(jobs) >= limit):
            return jobs[:limit]


def cancel(session: Session, job_id: str) -> Operation[jobs_pb2.Job]:
    """Ends a job; repeating is harmless."""
    return (yield from session.call(_methods.CANCEL_JOB, jobs_pb2.CancelJobRequest(job_id=job_id)))


def retry(session: Session, job_id: str) -> Operation[jobs_pb2.Job]:
    """Queues a job that has ended badly again. A repeat would be refused, so there is none."""
    return (yield from session.call_once(_methods.RETRY_JOB, jobs_pb2.RetryJobRequest(job_id=job_id)))


def list_artifacts(session: Session, job_id: str) -> Operation[list[artifacts_pb2.Artifact]]:
    """All artifacts of a job, by name."""
    artifacts: list[artifacts_pb2.Artifact] = []
    page_token = ""
    while True:
        request = artifacts_pb2.ListArtifactsRequest(job_id=job_id, page_size=_PAGE, page_token=page_token)
        answer = yield from session.call(_methods.LIST_ARTIFACTS, request)
        artifacts.extend(answer.artifacts)
        page_token = answer.next_page_token
        if not page_token:
            return artifacts


def list_agents(session: Session) -> Operation[list[cluster_pb2.Agent]]:
    """All agents by name, lost ones included."""
    agents: list[cluster_pb2.Agent] = []
    page_token = ""
    while True:
        request = cluster_pb2.ListAgentsRequest(page_size=_PAGE, page_token=page_token)
        answer = yield from session.call(_methods.LIST_AGENTS, request)
        agents.extend(answer.agents)
        page_token = answer.next_page_token
        if not page_token:
            return agents


def who_am_i(session: Session) -> Operation[access_pb2.Caller]:
    """Who the scheduler takes the caller for."""
    return (yield from session.call(_methods.WHO_AM_I, access_pb2.WhoAmIRequest()))


def check_id(text: str) -> str:
    """Refuses what cannot begin an id, before a server is asked."""
    job_id = text.strip().lower()
    allowed = set(string.hexdigits.lower() + "-")
    if not job_id or len(job_id) > _LONGEST_ID or not allowed.issuperset(job_id):
        raise InvalidArgument.of("job_id", f"is `{text}`; give a job's id or its beginning, `Client.jobs()` lists them")
    return job_id


def _state_name(state: JobState | str) -> str:
    name = str(state).upper()
    if name not in jobs_pb2.JobState.DESCRIPTOR.values_by_name or name not in JobState.__members__:
        known = ", ".join(one for one in JobState.__members__ if one != "UNSPECIFIED")
        raise InvalidArgument.of("states", f"is `{state}`; use one of {known}")
    return name
