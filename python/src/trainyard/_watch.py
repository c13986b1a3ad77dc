"""A job's events in order, each once, whatever happens to the connection. Pure: it yields steps."""

from __future__ import annotations

import time
from typing import Any

from trainyard import _operations
from trainyard._answer import Answer
from trainyard._checks import shown
from trainyard._methods import WATCH_JOB
from trainyard._session import Session, jittered
from trainyard._settings import LONGEST_TIMEOUT
from trainyard._steps import CallFailed, Close, Open, Operation, Read, Sleep
from trainyard.errors import InvalidArgument, Unavailable
from trainyard.events import JobState, LogLine, Metrics, StateChange, event_of, state_of
from trainyard.v1 import jobs_pb2

#: Seconds that a server that has answered may be away before a watch gives up.
_RECONNECT_TIMEOUT = 300.0
#: Seconds that a server that has not answered yet may take.
_CONNECT_TIMEOUT = 3.0
#: Seconds for asking why a job has not ended, when the time is up already.
_LAST_WORD_TIMEOUT = 1.0
_INITIAL_BACKOFF = 0.2
_MAX_BACKOFF = 5.0


class OutOfTime(Exception):
    """The seconds of a watch are over before the job is. Whoever watches makes an error for users of it."""


class Watch:
    """The events of one job after a cursor: those that are stored, and then the live ones until the job ends.

    With `timeout` it ends after so many seconds, by `OutOfTime`."""

    def __init__(
        self, session: Session, job_id: str, cursor: int, *, history_only: bool, timeout: float | None = None
    ) -> None:
        self._session = session
        self._job_id = job_id
        self._cursor = _checked_cursor(cursor)
        self._history_only = history_only
        self._deadline = None if timeout is None else time.monotonic() + _checked_timeout(timeout)
        self._stream: Any = None
        self._state = JobState.UNSPECIFIED
        # Since when there has been no connection.
        self._away_since: float | None = None
        # Whether the server has sent an event yet, or answered that it stands by.
        self._was_there = False
        self._backoff = _INITIAL_BACKOFF

    def next(self) -> Operation[StateChange | Metrics | LogLine | None]:
        """The next event; None when there are no more."""
        while True:
            try:
                message = yield from self._next_message()
            except CallFailed as failed:
                if failed.answer.code == "DEADLINE_EXCEEDED" and self._deadline is not None:
                    raise OutOfTime from None
                if not failed.answer.is_temporary:
                    raise self._session.error(failed.answer) from None
                yield from self._wait_to_reconnect(failed.answer)
                continue
            if message is None:
                if (yield from self._is_over()):
                    return None
                # The server ended the stream before the job: it is going down.
                yield from self._wait_to_reconnect(
                    Answer("UNAVAILABLE", "the server ended the stream", is_answer=False)
                )
            # What is not newer was sent before, by the connection that broke.
            elif message.cursor > self._cursor:
                self._note(message)
                event = event_of(message)
                if event is not None:
                    return event

    def close(self) -> Operation[None]:
        """Ends the watch before the job ends."""
        if self._stream is not None:
            yield Close(self._stream)
            self._stream = None

    def _next_message(self) -> Operation[jobs_pb2.JobEvent | None]:
        if self._stream is None:
            request = jobs_pb2.WatchJobRequest(
                job_id=self._job_id, cursor=self._cursor, history_only=self._history_only
            )
            self._stream = yield Open(self._session.target, WATCH_JOB, request, self._left())
        message: jobs_pb2.JobEvent | None = yield Read(self._stream)
        return message

    def _note(self, event: jobs_pb2.JobEvent) -> None:
        self._cursor = event.cursor
        if event.HasField("state_change"):
            self._state = state_of(event.state_change.state)
        self._away_since = None
        self._was_there = True
        self._backoff = _INITIAL_BACKOFF
        self._session.succeeded()

    def _is_over(self) -> Operation[bool]:
        """Whether a stream that ended did so because there is no more."""
        self._stream = None
        if self._history_only or self._state.is_final:
            return True
        # The last state change may lie before the cursor that this watch began at.
        try:
            job = yield from _operations.get_job(self._session, self._job_id, self._left())
        except Unavailable:
            return False
        return state_of(job.state).is_final

    def _wait_to_reconnect(self, answer: Answer) -> Operation[None]:
        """Waits before the next connection, or gives up."""
        self._stream = None
        error = self._session.error(answer)
        now = time.monotonic()
        self._away_since = now if self._away_since is None else self._away_since
        # A standby that answers is part of a cluster that will have a leader soon.
        self._was_there |= bool(answer.leader)
        left = self._away_since + (_RECONNECT_TIMEOUT if self._was_there else _CONNECT_TIMEOUT) - now
        if left <= 0:
            raise error
        at_once, _ = self._session.fail_over(answer)
        if not at_once:
            until_deadline = self._left()
            yield Sleep(min(jittered(self._backoff), left if until_deadline is None else min(left, until_deadline)))
            self._backoff = min(self._backoff * 2, _MAX_BACKOFF)

    def _left(self) -> float | None:
        """Seconds until the deadline, if there is one."""
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise OutOfTime
        return left


def get_for_a_last_word(session: Session, job_id: str) -> Operation[jobs_pb2.Job]:
    """How a job stands that was not waited for to its end: in no time, or not at all."""
    return (yield from _operations.get_job(session, job_id, _LAST_WORD_TIMEOUT))


def _checked_cursor(cursor: int) -> int:
    if not isinstance(cursor, int) or isinstance(cursor, bool) or not 0 <= cursor < 1 << 64:
        raise InvalidArgument.of("cursor", f"is `{shown(cursor)}`; give an event's `cursor`, or 0 for all events")
    return cursor


def _checked_timeout(timeout: float) -> float:
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not is_number or not timeout >= 0:
        raise InvalidArgument.of("timeout", f"is `{shown(timeout)}`; give seconds, or None to wait until the job ends")
    return min(timeout, LONGEST_TIMEOUT)
