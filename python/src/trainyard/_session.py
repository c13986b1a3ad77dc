"""Calls that outlast a lost connection and a change of the leader. Pure: it yields steps."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from trainyard._answer import Answer
from trainyard._methods import Method, RequestT, ResponseT
from trainyard._route import Route
from trainyard._settings import Settings
from trainyard._steps import CallFailed, Operation, Sleep, invoke
from trainyard.errors import FailedPrecondition, InvalidArgument, TrainyardError, error_of

T = TypeVar("T")

#: Seconds before the retries of one call; there are as many retries as entries.
_RETRY_DELAYS = (0.1, 0.3, 0.7, 1.4)
#: Seconds that a cluster that answers may take to have a leader.
_ELECTION_TIMEOUT = 15.0
#: With it a standby names the leader beside each of its answers: some know less than the leader's would.
_LEADER = "trainyard-leader"
#: Seconds in which a leader that did not answer is not asked for again.
_LEADER_AWAY = 60.0
#: Seconds that one connection may take to be made, at most.
_LONGEST_CONNECT = 5.0
#: How much of a call's time may pass before its connection is there, so that there is time to say what was wrong.
_CONNECT_SHARE = 0.8


class Session:
    """Which scheduler is asked now, and what is sent with each call."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._route = Route(settings.servers)
        self._leader_away_until = -math.inf

    @property
    def target(self) -> str:
        """The server that the next call goes to."""
        return self._route.target

    @property
    def connect_timeout(self) -> float:
        """Seconds that one connection may take to be made: each server has its part of a call's time."""
        return min(_LONGEST_CONNECT, self.settings.timeout * _CONNECT_SHARE / len(self.settings.servers))

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

    def call(
        self, method: Method[RequestT, ResponseT], request: RequestT, timeout: float = math.inf
    ) -> Operation[ResponseT]:
        """Makes a call that is safe to repeat, until it is answered or has failed for good. All of it takes no longer
        than the client's timeout, or than `timeout` seconds."""
        return self._retrying(lambda answer: answer.is_temporary, method, request, timeout)

    def call_leader(
        self, method: Method[RequestT, ResponseT], request: RequestT, timeout: float = math.inf
    ) -> Operation[ResponseT]:
        """Makes a call that is safe to repeat, of which only the leader has the whole answer: a standby knows what is
        stored, and names the leader, whose answer counts. Where no leader answers, the standby's does."""
        deadline = time.monotonic() + min(timeout, self.settings.timeout)
        beside: dict[str, str] = {}
        stored = yield from self._retrying(lambda answer: answer.is_temporary, method, request, timeout, beside)
        leader = beside.get(_LEADER, "")
        if not leader or time.monotonic() < self._leader_away_until:
            return stored
        standby = self.target
        others = (server for server in self.settings.servers if server not in (leader, standby))
        for server in (leader, *others):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            beside = {}
            try:
                whole = yield from invoke(server, method, request, left, beside)
            except CallFailed:
                continue
            if not beside:
                self._route.turn_to(server)
                return whole
        self._leader_away_until = time.monotonic() + _LEADER_AWAY
        return stored

    def call_once(self, method: Method[RequestT, ResponseT], request: RequestT) -> Operation[ResponseT]:
        """Makes a call that must not be made twice: it is made again only where a standby has refused it."""
        return self._retrying(lambda answer: bool(answer.leader), method, request)

    def _retrying(
        self,
        may_pass: Callable[[Answer], bool],
        method: Method[RequestT, ResponseT],
        request: RequestT,
        timeout: float = math.inf,
        beside: dict[str, str] | None = None,
    ) -> Operation[ResponseT]:
        begun = time.monotonic()
        deadline = begun + min(timeout, self.settings.timeout)
        delays = iter(_RETRY_DELAYS)
        known: TrainyardError | None = None
        while True:
            target = self.target
            left = deadline - time.monotonic()
            if left <= 0 and known is not None:
                raise known
            try:
                response = yield from invoke(target, method, request, max(left, 0.0), beside)
            except CallFailed as failed:
                answer = failed.answer
            else:
                self.succeeded()
                return response
            # What is said of a failure names the server that failed.
            error = error_of(answer, target)
            if answer.is_timeout:
                # The next call begins elsewhere. What was wrong before the time was up says more than that it is up.
                self.fail_over(answer)
                raise known or error
            if not may_pass(answer):
                raise error
            known = error
            at_once, asked = self.fail_over(answer)
            if at_once:
                continue
            now = time.monotonic()
            wait = asked if asked is not None and now - begun < _ELECTION_TIMEOUT else next(delays, None)
            pause = math.inf if wait is None else jittered(wait)
            if now + pause >= deadline:
                raise error
            yield Sleep(pause)

    def error(self, answer: Answer) -> TrainyardError:
        """The exception for a stream that has failed."""
        return error_of(answer, self.target)


def leader_beside(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """Of what comes beside an answer, the leader that a standby names."""
    return {key: value for key, value in metadata or () if key == _LEADER and isinstance(value, str) and value}


def closed() -> TrainyardError:
    """The exception for who uses a client after its end."""
    return FailedPrecondition("the client is closed; make another one: `Client(...)`")


def no_pickle(what: str, holds: str, way_out: str) -> InvalidArgument:
    """The exception for who wants to hand something to another process, or copy it."""
    return InvalidArgument(f"{what} cannot be pickled or copied: it holds {holds}; {way_out}")


def jittered(seconds: float) -> float:
    """Give or take a quarter, so that many clients do not come back together."""
    return seconds * random.uniform(0.75, 1.25)
