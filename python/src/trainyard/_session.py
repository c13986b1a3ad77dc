"""Calls that outlast a lost connection and a change of the leader. Pure: it yields steps."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from trainyard._answer import Answer
from trainyard._methods import Method, RequestT, ResponseT
from trainyard._route import Route
from trainyard._settings import Settings
from trainyard._steps import CallFailed, Operation, Sleep, invoke
from trainyard.errors import TrainyardError, error_of

T = TypeVar("T")

#: Seconds before the retries of one call; there are as many retries as entries.
_RETRY_DELAYS = (0.1, 0.3, 0.7, 1.4)
#: Seconds that a cluster that answers may take to have a leader.
_ELECTION_TIMEOUT = 15.0


class Session:
    """Which scheduler is asked now, and what is sent with each call."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._route = Route(settings.servers)

    @property
    def target(self) -> str:
        """The server that the next call goes to."""
        return self._route.target

    def metadata(self, target: str) -> tuple[tuple[str, str], ...]:
        """Who is calling, as `target` may know it."""
        metadata: list[tuple[str, str]] = []
        # A name that is not ASCII cannot travel; the scheduler then says "unknown".
        if self.settings.user.isascii():
            metadata.append(("trainyard-user", self.settings.user))
        if self.settings.act_as is not None:
            metadata.append(("trainyard-as", self.settings.act_as))
        credential = self.settings.credential
        secret = credential.reveal_to(target) if credential else None
        if secret is not None:
            metadata.append(("authorization", f"Bearer {secret}"))
        return tuple(metadata)

    def succeeded(self) -> None:
        """A call was answered: later calls go to the same server."""
        self._route.worked()

    def fail_over(self, answer: Answer) -> tuple[bool, float | None]:
        """A call has failed for now: later calls go to the next server, or to the leader that a standby names."""
        return self._route.failed(answer)

    def call(self, method: Method[RequestT, ResponseT], request: RequestT) -> Operation[ResponseT]:
        """Makes a call that is safe to repeat, until it is answered or has failed for good."""
        return self._retrying(lambda answer: answer.is_temporary, method, request)

    def call_once(self, method: Method[RequestT, ResponseT], request: RequestT) -> Operation[ResponseT]:
        """Makes a call that must not be made twice: it is made again only where a standby has refused it."""
        return self._retrying(lambda answer: bool(answer.leader), method, request)

    def _retrying(
        self, may_pass: Callable[[Answer], bool], method: Method[RequestT, ResponseT], request: RequestT
    ) -> Operation[ResponseT]:
        begun = time.monotonic()
        delays = iter(_RETRY_DELAYS)
        while True:
            target = self.target
            try:
                response = yield from invoke(target, method, request)
            except CallFailed as failed:
                answer = failed.answer
            else:
                self.succeeded()
                return response
            # What is said of a failure names the server that failed.
            error = error_of(answer, target)
            if not may_pass(answer):
                raise error
            at_once, asked = self.fail_over(answer)
            if at_once:
                continue
            wait = asked if asked is not None and time.monotonic() - begun < _ELECTION_TIMEOUT else next(delays, None)
            if wait is None:
                raise error
            yield Sleep(jittered(wait))

    def error(self, answer: Answer) -> TrainyardError:
        """The exception for a stream that has failed."""
        return error_of(answer, self.target)


def jittered(seconds: float) -> float:
    """Give or take a quarter, so that many clients do not come back together."""
    return seconds * random.uniform(0.75, 1.25)
