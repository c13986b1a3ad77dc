"""What can go wrong, as exceptions. Each message says what, which, why, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainyard._answer import Answer


@dataclass(frozen=True)
class Violation:
    """One field that is wrong, and why."""

    field: str
    description: str

    def __str__(self) -> str:
        return f"{self.field}: {self.description}"


class TrainyardError(Exception):
    """The scheduler refused something, or could not be asked."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        #: The scheduler's word for it, in capitals: ``JOB_NOT_FOUND``. Empty for what failed on this machine.
        self.reason = reason
        #: What the refusal is about, by name.
        self.metadata = dict(metadata or {})
        #: Every bad field.
        self.violations = list(violations)


class InvalidArgument(TrainyardError):
    """Something that was given cannot be right; ``violations`` names every field."""

    @classmethod
    def of(cls, field: str, description: str) -> InvalidArgument:
        """One bad field."""
        violation = Violation(field, description)
        return cls(str(violation), violations=[violation])


class Unauthenticated(TrainyardError):
    """The scheduler does not know who asks: no token, a wrong one, or one that was revoked or has expired."""


class PermissionDenied(TrainyardError):
    """The scheduler knows who asks, and does not allow it."""


class NotFound(TrainyardError):
    """There is no such job, agent or artifact."""


class AlreadyExists(TrainyardError):
    """The name is taken."""


class FailedPrecondition(TrainyardError):
    """Not in this state."""


class ResourceExhausted(TrainyardError):
    """A limit is reached: of jobs in the queue, of a disk."""


class Unavailable(TrainyardError):
    """The scheduler cannot be reached, or cannot answer now."""


class UntrustedServer(Unavailable):
    """The server is not the one that the token or the file of authorities is for. Nothing secret was sent."""


class DeadlineExceeded(Unavailable):
    """The scheduler did not answer in time."""


class Unimplemented(TrainyardError):
    """The scheduler does not know the call: it is older than this package, or newer."""


class DamagedDownload(TrainyardError):
    """What came is not what was announced."""


class JobFailed(TrainyardError):
    """A job ended without success; ``job_id`` and ``state`` say which and how."""

    # Whoever unpickles it has the message only, at first: exceptions come from other processes so.
    def __init__(self, message: str, *, job_id: str = "", state: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id
        self.state = state


class WaitTimeout(TrainyardError, TimeoutError):
    """A job has not ended in the seconds that were given; it goes on. ``job_id`` and ``state`` say which and how it
    stood."""

    def __init__(self, message: str, *, job_id: str = "", state: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id
        self.state = state


class MissingPackage(TrainyardError, ImportError):
    """Something needs a package that is not installed."""


_BY_CODE: dict[str, type[TrainyardError]] = {
    "INVALID_ARGUMENT": InvalidArgument,
    "OUT_OF_RANGE": InvalidArgument,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "FAILED_PRECONDITION": FailedPrecondition,
    "RESOURCE_EXHAUSTED": ResourceExhausted,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "UNIMPLEMENTED": Unimplemented,
}


def error_of(answer: Answer, server: str) -> TrainyardError:
    """The exception for what `server` answered, or for its silence."""
    kind = _BY_CODE.get(answer.code, TrainyardError)
    if not answer.is_answer:
        return _unreachable(answer, server)
    message = answer.message
    hint = _hint(answer, server)
    # An answer that says what to do needs no second advice.
    if hint and "`yard " not in message:
        message = f"{message}; {hint}"
    return kind(message, reason=answer.reason, metadata=answer.metadata, violations=answer.violations)


def _unreachable(answer: Answer, server: str) -> TrainyardError:
    if answer.is_timeout:
        return DeadlineExceeded(
            f"the server at {server} did not answer in time; try again, or give `Client(timeout=...)` more seconds"
        )
    if answer.is_untrusted:
        return UntrustedServer(
            f"the server at {server} shows a certificate that is not to be trusted: {answer.message}; the token was "
            "not sent. Check the address, this machine's clock, and `Client(ca=...)` if it was given"
        )
    return Unavailable(
        f"the server at {server} cannot be reached: {answer.message}; is it running? `yard up` starts one on this "
        'machine, `Client("HOST:7433")` or YARD_SERVER names another'
    )


def _hint(answer: Answer, server: str) -> str:
    address = server.partition("://")[2] or server
    if answer.reason == "TLS_REQUIRED":
        return f"`yard login {address}` logs in with a token"
    if answer.code == "UNAUTHENTICATED":
        if answer.reason in ("TOKEN_EXPIRED", "TOKEN_REVOKED", "TOKEN_INVALID"):
            return f"ask an admin for a new token, then run `yard login {address}`"
        return f"run `yard login {address}`, or give a token with `Client(token=...)` or YARD_TOKEN"
    if answer.reason == "NOT_OWNER":
        owner = answer.metadata.get("owner") or "its owner"
        return f'an admin may act with `Client(act_as="{owner}")`'
    if answer.code == "UNIMPLEMENTED":
        return "scheduler and this package are of different versions; upgrade the older one"
    return ""
