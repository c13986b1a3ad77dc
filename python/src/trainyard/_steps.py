"""What both clients do, as steps without I/O: an operation yields steps and gets their results.

`_blocking` takes them with threads, `_asynchronous` with an event loop. So what is done, and what is tried again, is
written once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from google.protobuf.message import Message

from trainyard._answer import Answer
from trainyard._methods import Method, RequestT, ResponseT

T = TypeVar("T")


@dataclass(frozen=True)
class Invoke:
    """Makes a call of `target` that has one answer. The result is the answer."""

    target: str
    method: Method[Any, Any]
    request: Message
    #: Seconds that it may take, with the connection that it needs.
    timeout: float
    #: Filled with what comes beside the answer: a standby names the leader there.
    beside: dict[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Open:
    """Makes a call of `target` whose answer is a stream. The result is the stream."""

    target: str
    method: Method[Any, Any]
    request: Message
    #: Seconds after which the stream ends; None for one that may go on.
    timeout: float | None = None


@dataclass(frozen=True)
class Read:
    """Waits for a stream's next message. The result is the message, or None at the end."""

    stream: Any


@dataclass(frozen=True)
class Close:
    """Ends a stream before its end."""

    stream: Any


@dataclass(frozen=True)
class Sleep:
    """Waits."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Does something that blocks: disks, hashes. The result is what it returns."""

    function: Callable[[], Any]


Step = Invoke | Open | Read | Close | Sleep | Work
#: An operation: yields steps, gets their results or a `CallFailed`, returns what it was for.
Operation = Generator[Step, Any, T]


class CallFailed(Exception):
    """A call or a stream has failed. Operations catch it; users never see it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message)
        self.answer = answer


def invoke(
    target: str,
    method: Method[RequestT, ResponseT],
    request: RequestT,
    timeout: float,
    beside: dict[str, str] | None = None,
) -> Operation[ResponseT]:
    """`Invoke` with its types."""
    beside = {} if beside is None else beside
    return cast("ResponseT", (yield Invoke(target, method, request, timeout, beside)))


def work(function: Callable[[], T]) -> Operation[T]:
    """`Work` with its types."""
    return cast("T", (yield Work(function)))
