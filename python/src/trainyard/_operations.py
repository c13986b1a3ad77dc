"""What a client can ask of a scheduler, without I/O. Both clients take these steps."""

from __future__ import annotations

import math
import string
import uuid
from collections.abc import Iterable, Mapping

from trainyard import _methods, _spec
from trainyard._checks import checked_labels, checked_text, is_text, shown
from trainyard._inputs import JOB_WEIGHTS
from trainyard._report import warn
from trainyard._session import Session
from trainyard._steps import Operation
from trainyard.errors import InvalidArgument
from trainyard.events import JobState
from trainyard.v1 import access_pb2, artifacts_pb2, cluster_pb2, jobs_pb2

_PAGE = 1000
_LONGEST_ID = 36


def submit(session: Session, spec: jobs_pb2.JobSpec, *, validate_only: bool) -> Operation[jobs_pb2.Job]:
    """Queues a job. Repeats are safe: they carry one request id."""
    if spec.train.pretrained.startswith(JOB_WEIGHTS):
        # The spec has the whole id, of which people write the beginning.
        of = yield from get_job(session, spec.train.pretrained.removeprefix(JOB_WEIGHTS))
        spec.train.pretrained = JOB_WEIGHTS + of.id
    request = jobs_pb2.SubmitJobRequest(request_id=str(uuid.uuid4()), spec=spec, validate_only=validate_only)
    try:
        answer = yield from session.call(_methods.SUBMIT_JOB, request)
    except InvalidArgument as error:
        raise _spec.as_arguments(error) from None
    warn(answer.warnings)
    return answer.job


def get_job(session: Session, job_id: str | uuid.UUID, timeout: float | None = None) -> Operation[jobs_pb2.Job]:
    """A job by its id or a prefix that only it has."""
    request = jobs_pb2.GetJobRequest(job_id=check_id(job_id))
    return (yield from session.call_leader(_methods.GET_JOB, request, math.inf if timeout is None else timeout))


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
    _check_limit(limit)
    wanted = _state_names(states)
    user, name_prefix = checked_text("user", user), checked_text("name_prefix", name_prefix)
    labels = checked_labels(labels)
    jobs: list[jobs_pb2.Job] = []
    page_token = ""
    while True:
        size = _PAGE if limit is None else min(_PAGE, limit - len(jobs))
        request = jobs_pb2.ListJobsRequest(
            page_size=size, page_token=page_token, states=wanted, user=user, labels=labels, name_prefix=name_prefix
        )
        answer = yield from session.call_leader(_methods.LIST_JOBS, request)
        jobs.extend(answer.jobs)
        page_token = answer.next_page_token
        if not page_token or (limit is not None and len(jobs) >= limit):
            return jobs[:limit]


def cancel(session: Session, job_id: str) -> Operation[jobs_pb2.Job]:
    """Ends a job; repeating is harmless."""
    return (yield from session.call(_methods.CANCEL_JOB, jobs_pb2.CancelJobRequest(job_id=job_id)))


def retry(session: Session, job_id: str) -> Operation[jobs_pb2.Job]:
    """Queues a job that has ended badly again. A repeat would be refused, so there is none."""
    job = yield from session.call_once(_methods.RETRY_JOB, jobs_pb2.RetryJobRequest(job_id=job_id))
    warn(job.warnings)
    return job


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


def check_id(text: str | uuid.UUID) -> str:
    """Refuses what cannot begin an id, before a server is asked."""
    job_id = str(text).strip().lower() if isinstance(text, (str, uuid.UUID)) else ""
    allowed = set(string.hexdigits.lower() + "-")
    if not job_id or len(job_id) > _LONGEST_ID or not allowed.issuperset(job_id):
        given = text if is_text(text) else shown(text)
        way_out = "give a job's id or its beginning, `Client.jobs()` lists them"
        raise InvalidArgument.of("job_id", f"is `{given}`; {way_out}")
    return job_id


def _check_limit(limit: int | None) -> None:
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise InvalidArgument.of("limit", f"is {shown(limit)}; give 1 or more, or None for all")


def _state_names(states: Iterable[JobState | str]) -> list[str]:
    # One state is a text, and texts can be iterated, too.
    several = [states] if isinstance(states, str) else states
    if not isinstance(several, Iterable):
        raise InvalidArgument.of("states", f"is `{shown(states)}`; give a list of states")
    return [_state_name(state) for state in several]


def _state_name(state: JobState | str) -> str:
    name = str(state).upper() if is_text(state) else ""
    if name not in jobs_pb2.JobState.DESCRIPTOR.values_by_name or name not in JobState.__members__:
        known = ", ".join(one for one in JobState.__members__ if one != "UNSPECIFIED")
        raise InvalidArgument.of("states", f"is `{state if is_text(state) else shown(state)}`; use one of {known}")
    return name
