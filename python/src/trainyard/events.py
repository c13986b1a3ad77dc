"""What happens to a job, as `Job.watch` tells it, and how jobs stand."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING

from trainyard.v1 import jobs_pb2

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp


class JobState(str, Enum):
    """How a job stands. Equal to its name: ``job.state == "RUNNING"``."""

    UNSPECIFIED = "UNSPECIFIED"
    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    def __str__(self) -> str:
        return self.value

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Event:
    """Something that happened. `cursor` counts a job's events from 1; `attempt` is 0 where it belongs to none."""

    cursor: int
    time: datetime
    attempt: int


@dataclass(frozen=True)
class StateChange(Event):
    """The job has another state now."""

    state: JobState
    reason: str

    def __str__(self) -> str:
        return f"{self.state}  {self.reason}".rstrip()


@dataclass(frozen=True)
class Metrics(Event):
    """Figures of training: of a finished epoch if `epoch_end`, and of where it stands otherwise."""

    epoch: int
    epochs: int
    epoch_end: bool
    batch: int
    batches: int
    images_per_second: float
    loader_wait_ratio: float
    #: Under the names of results.csv: ``metrics/mAP50(B)``.
    values: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        head = f"epoch {self.epoch}/{self.epochs}"
        if not self.epoch_end:
            head += f"  batch {self.batch}/{self.batches}"
        return "  ".join(
            part for part in (head, figures(self.values), f"{self.images_per_second:.1f} images/s") if part
        )


@dataclass(frozen=True)
class LogLine(Event):
    """A line of the trainer's log; `level` is INFO, WARNING or ERROR."""

    level: str
    message: str

    def __str__(self) -> str:
        return self.message if self.level == "INFO" else f"{self.level.lower()}: {self.message}"


_FIGURES = (
    ("box", "train/box_loss"),
    ("cls", "train/cls_loss"),
    ("dfl", "train/dfl_loss"),
    ("P", "metrics/precision(B)"),
    ("R", "metrics/recall(B)"),
    ("mAP50", "metrics/mAP50(B)"),
    ("mAP50-95", "metrics/mAP50-95(B)"),
)


def figures(values: dict[str, float]) -> str:
    """What a line has room for: ``box 1.234 cls 2.345 dfl 0.987 mAP50 0.467``."""
    return " ".join(f"{label} {values[name]:.3f}" for label, name in _FIGURES if name in values)


def is_per_class(name: str) -> bool:
    """Whether a figure belongs to one class: ``metrics/mAP50(B)/cat``."""
    return name.startswith(("metrics/mAP50(B)/", "metrics/mAP50-95(B)/"))


def utc(stamp: Timestamp) -> datetime:
    """A time as Python has it."""
    return stamp.ToDatetime(tzinfo=timezone.utc)


def state_of(state: int) -> JobState:
    """A state by its number on the wire; a state of a newer scheduler is UNSPECIFIED."""
    try:
        return JobState(jobs_pb2.JobState.Name(state))
    except ValueError:
        return JobState.UNSPECIFIED


def event_of(event: jobs_pb2.JobEvent) -> StateChange | Metrics | LogLine | None:
    """An event as it came; None for a kind that this package does not know yet."""
    cursor, time, attempt = event.cursor, utc(event.time), event.attempt
    match event.WhichOneof("event"):
        case "state_change":
            change = event.state_change
            return StateChange(cursor, time, attempt, state_of(change.state), change.reason)
        case "metrics":
            metrics = event.metrics
            return Metrics(
                cursor,
                time,
                attempt,
                metrics.epoch,
                metrics.epochs,
                metrics.epoch_end,
                metrics.batch,
                metrics.batches,
                metrics.images_per_second,
                metrics.loader_wait_ratio,
                dict(metrics.values),
            )
        case "log_line":
            level = jobs_pb2.LogLine.Level.Name(event.log_line.level)
            return LogLine(cursor, time, attempt, level, event.log_line.message)
    return None
