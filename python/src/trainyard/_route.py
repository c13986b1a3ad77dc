"""Which of several schedulers to ask: one after the other, or where a standby says that the leader is.

Must not know connections and clocks: it is told what came of a try, and says what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainyard._answer import Answer

#: No wait that a server asks for is longer, in seconds.
_LONGEST_WAIT = 5.0


class Route:
    """The schedulers that a client knows, and which of them is next."""

    def __init__(self, known: list[str]) -> None:
        self._known = known
        self._at = 0
        # Named by a standby; counts before the known ones.
        self._leader = ""
        # Of the known ones, since the last wait or success.
        self._tried = 0
        # Whether a standby's word was followed, since then.
        self._followed = False
        self._asked: float | None = None

    @property
    def target(self) -> str:
        """Whom to ask."""
        return self._leader or self._known[self._at]

    def turn_to(self, target: str) -> None:
        """Somebody else is the target from now on: one of the known ones, or a leader that a standby has named."""
        if target in self._known:
            self._at, self._leader = self._known.index(target), ""
        else:
            self._leader = target
        self.worked()

    def worked(self) -> None:
        """The target did what was asked: it stays."""
        self._tried, self._followed, self._asked = 0, False, None

    def failed(self, answer: Answer) -> tuple[bool, float | None]:
        """The target did not. Whether to ask the next target at once, or how long to wait, if anybody said."""
        target = self.target
        if self._asked is None and answer.retry_delay is not None:
            self._asked = min(answer.retry_delay, _LONGEST_WAIT)
        if not self._leader:
            self._at = (self._at + 1) % len(self._known)
            self._tried += 1
        self._leader = ""
        if answer.leader and answer.leader != target and not self._followed:
            self._leader, self._followed = answer.leader, True
            return True, None
        if self._tried < len(self._known) and self.target != target:
            return True, None
        asked = self._asked
        self.worked()
        return False, asked
