"""What is known of a job, for both clients: its fields, its line, its look in a notebook. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from typing import NoReturn

from trainyard._session import no_pickle
from trainyard.errors import JobFailed, Unavailable, WaitTimeout
from trainyard.events import JobState, LogLine, Metrics, StateChange, figures, is_per_class, state_of, utc
from trainyard.table import MetricsTable
from trainyard.v1 import jobs_pb2


class JobView:
    """A job as it stood when the scheduler last said so."""

    def __init__(self, message: jobs_pb2.Job) -> None:
        #: All that the scheduler says of the job: `trainyard.v1.Job`.
        self.message = message

    @property
    def id(self) -> str:
        """Its id, a UUID."""
        return self.message.id

    @property
    def name(self) -> str:
        """Its name, for people."""
        return self.message.spec.name

    @property
    def user(self) -> str:
        """Who submitted it."""
        return self.message.user

    @property
    def known_state(self) -> JobState:
        """How it stood then."""
        return state_of(self.message.state)

    @property
    def reason(self) -> str:
        """Why it stood so, or what it waits for: one sentence."""
        return self.message.state_reason or self.message.waiting_for

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return dict(self.message.spec.labels)

    @property
    def created(self) -> datetime:
        """When it was submitted, in UTC."""
        return utc(self.message.create_time)

    @property
    def ended(self) -> datetime | None:
        """When it ended, in UTC; None while it has not."""
        return utc(self.message.end_time) if self.message.HasField("end_time") else None

    @property
    def device(self) -> str:
        """What it was last placed on: "NVIDIA GeForce RTX 4090 on lab-1"; empty before."""
        attempts = self.message.attempts
        return f"{attempts[-1].device} on {attempts[-1].agent_name}" if attempts else ""

    @property
    def line(self) -> str:
        """How far it was, on one line."""
        parts = [str(self.known_state)]
        message = self.message
        if message.HasField("progress"):
            progress = message.progress
            where = f"epoch {progress.epoch}/{progress.epochs}"
            if not self.known_state.is_final and progress.batches:
                where += f" batch {progress.batch}/{progress.batches}"
            parts += [where, figures(dict(progress.metrics)), f"{progress.images_per_second:.1f} images/s"]
            if not self.known_state.is_final and progress.HasField("eta"):
                parts.append(f"{_span(progress.eta.seconds)} left")
        if self.known_state in (JobState.QUEUED, JobState.FAILED, JobState.CANCELLED):
            parts.append(self.reason)
        return "  ".join(part for part in parts if part)

    def failure(self) -> JobFailed:
        """The exception for a job that did not succeed."""
        how = "was cancelled" if self.known_state is JobState.CANCELLED else "failed"
        return JobFailed(
            f"job {self.id} {how}: {self.reason}; `yard logs {self.id}` says more",
            job_id=self.id,
            state=str(self.known_state),
        )

    def overdue(self, timeout: float | None, unknown: Unavailable | None) -> WaitTimeout:
        """The exception for a job that has not ended in time, or of which nothing was heard since `unknown`."""
        how = f"has not ended within {timeout or 0:.6g} s"
        more = f"and goes on: {self.line}" if unknown is None else f"as far as is known: {unknown}"
        return WaitTimeout(
            f"job {self.id} {how}, {more}",
            job_id=self.id,
            state=str(self.known_state),
        )

    def __reduce__(self) -> NoReturn:
        raise no_pickle("a job", "its client's connections", "hand on its `id`, and ask `client.job(id)` there")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.name!r} {self.line}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobView) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def _repr_html_(self) -> str:
        return jobs_html([self])


def jobs_html(jobs: Sequence[JobView]) -> str:
    """A table of jobs, for a notebook."""
    head = "".join(f"<th>{title}</th>" for title in ("job", "name", "user", "state", "device", "progress"))
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(text)}</td>"
            for text in (job.id, job.name, job.user, str(job.known_state), job.device, job.line)
        )
        + "</tr>"
        for job in jobs
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def table_of(events: Iterable[StateChange | Metrics | LogLine]) -> MetricsTable:
    """The finished epochs among events as a table."""
    rows: dict[int, dict[str, float]] = {}
    for event in events:
        if not isinstance(event, Metrics) or not event.epoch_end:
            continue
        # The figures of each class come once, at the end, and are no row of their own.
        values = {name: value for name, value in event.values.items() if not is_per_class(name)}
        if values:
            # An attempt that resumed repeats epochs; the later figures are of the weights that went on.
            rows[event.epoch] = {"epoch": event.epoch, **values, "images_per_second": event.images_per_second}
    return MetricsTable(rows[epoch] for epoch in sorted(rows))


def _span(seconds: int) -> str:
    minutes, hours = seconds // 60, seconds // 3600
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min" if minutes else f"{seconds} s"
