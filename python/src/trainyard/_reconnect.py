"""When a transfer that broke off goes on: after growing pauses, until the server has stayed away too long."""

from __future__ import annotations

import time

from trainyard._answer import Answer
from trainyard._session import Session, jittered
from trainyard._stopping import Stop

#: Seconds that a server which has answered may be away, and one that has not.
_RECONNECT_TIMEOUT = 300.0
_CONNECT_TIMEOUT = 3.0
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0


class Reconnect:
    """The pauses of one transfer."""

    def __init__(self, session: Session, stop: Stop) -> None:
        self._session, self._stop = session, stop
        self._away_since: float | None = None
        self._has_answered = False
        self._pause = _FIRST_PAUSE

    def progressed(self) -> None:
        """Something came that brings the transfer on."""
        self._away_since, self._has_answered, self._pause = None, True, _FIRST_PAUSE
        self._session.succeeded()

    def wait(self, answer: Answer) -> None:
        """Waits before the next connection; raises what `answer` means when that does not help."""
        error = self._session.error(answer)
        if not answer.is_temporary:
            raise error
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        # A standby that answers is part of a cluster that will have a leader soon.
        self._has_answered |= answer.is_answer
        left = self._away_since + (_RECONNECT_TIMEOUT if self._has_answered else _CONNECT_TIMEOUT) - now
        if left <= 0:
            raise error
        at_once, _ = self._session.fail_over(answer)
        if at_once:
            self._stop.check()
            return
        self._stop.sleep(min(jittered(self._pause), left))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
