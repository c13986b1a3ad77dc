"""What came back of a call that failed: the scheduler's answer, or that there was none."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from trainyard.errors import Violation

#: What is said of a server that takes too long, whoever has noticed.
NO_ANSWER = "no answer in time"
_DETAILS = "grpc-status-details-bin"
_NOT_LEADER = "NOT_LEADER"
#: BoringSSL's words before it says what is wrong with a certificate.
_REFUSED_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"
#: gRPC's words for a connection that took too long.
_TOO_LATE = ("FD Shutdown", "before receiving SETTINGS frame")
#: Codes that gRPC itself gives a call whose connection broke.
_OF_A_CONNECTION = ("UNAVAILABLE", "UNKNOWN", "INTERNAL", "CANCELLED")


@dataclass(frozen=True)
class Answer:
    """A status with its details."""

    code: str
    message: str
    #: Whether a scheduler said so. Otherwise gRPC did, since there is no connection.
    is_answer: bool = True
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    #: Whether the server's certificate is why there is no connection.
    is_untrusted: bool = False
    #: Seconds that the scheduler asks to wait before the next try.
    retry_delay: float | None = None

    @property
    def is_temporary(self) -> bool:
        """Whether asking again may help."""
        if self.is_untrusted:
            return False
        return self.code == "UNAVAILABLE" or (not self.is_answer and self.code in _OF_A_CONNECTION)

    @property
    def is_timeout(self) -> bool:
        """Whether the time of the call was up before anybody answered."""
        return self.code == "DEADLINE_EXCEEDED" and not self.is_answer

    @property
    def leader(self) -> str:
        """The leader's URL, if a standby refused; empty otherwise."""
        return self.metadata.get("leader", "") if self.reason == _NOT_LEADER else ""


def answer_of(error: grpc.RpcError) -> Answer:
    """Reads the status and its details from gRPC's exception."""
    # Both kinds of calls raise errors with the methods of `grpc.Call`; the base class has none.
    code = getattr(error, "code", lambda: None)()
    details = getattr(error, "details", lambda: None)() or ""
    name = code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
    trailers = getattr(error, "trailing_metadata", lambda: None)() or ()
    packed = next((value for key, value in trailers if key == _DETAILS), None)
    # What a scheduler refuses has details, but for methods that it does not have.
    if not isinstance(packed, bytes):
        is_answer = name not in (*_OF_A_CONNECTION, "DEADLINE_EXCEEDED")
        is_untrusted = not is_answer and _REFUSED_CERTIFICATE in details
        return Answer(name, _one_line(details), is_answer=is_answer, is_untrusted=is_untrusted)
    try:
        return _with_details(name, status_pb2.Status.FromString(packed))
    except DecodeError:
        return Answer(name, _one_line(details))


def _with_details(name: str, status: status_pb2.Status) -> Answer:
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for packed in status.details:
        for message in (info, bad, retry):
            packed.Unpack(message)
    violations = tuple(Violation(one.field, one.description) for one in bad.field_violations)
    delay = retry.retry_delay
    return Answer(
        name,
        status.message,
        reason=info.reason,
        metadata=dict(info.metadata),
        violations=violations,
        retry_delay=delay.seconds + delay.nanos / 1e9 if retry.HasField("retry_delay") else None,
    )


def _one_line(text: str) -> str:
    """What gRPC says of a connection, without all that it was for: "Connection refused"."""
    text = " ".join(text.split())
    _, _, cause = text.rpartition("last error: ")
    _, _, cause = cause.rpartition("Failed to connect to remote host: ")
    if "DNS resolution failed" in cause:
        return "its name cannot be looked up"
    if any(words in cause for words in _TOO_LATE):
        return NO_ANSWER
    # "UNKNOWN: ipv4:10.0.0.1:7433: connect: Network is unreachable (101)"
    noise = r"([A-Z_]+: )?(ipv[46]:\S+: )?(connect: |getsockopt\(SO_ERROR\): )?"
    cause = re.sub(rf"^{noise}(.+?)( \(\d+\))?$", r"\4", cause)
    return cause.rpartition(f"{_REFUSED_CERTIFICATE}: ")[2].removesuffix(": OK")
