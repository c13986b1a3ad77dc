"""Arguments of the wrong type, told as all others are: before protobuf has its own words for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainyard.errors import InvalidArgument

#: Characters of a value that a message repeats.
_LONGEST = 80


def shown(value: Any) -> str:
    """A value in a message, on one line and not too long."""
    try:
        text = repr(value)
    except ValueError:
        # Python refuses to print integers of many thousand digits.
        return f"<{type(value).__name__}>"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def is_text(value: Any) -> bool:
    """Whether it is a text that can be sent: names of files in other encodings cannot."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def checked_text(name: str, value: Any) -> str:
    """A text that can be sent."""
    if is_text(value):
        return str(value)
    raise InvalidArgument.of(name, f"is `{shown(value)}`; give a text")


def checked_labels(labels: Any) -> dict[str, str]:
    """Labels, as a dict of texts."""
    if not isinstance(labels, Mapping):
        raise InvalidArgument.of("labels", f"is `{shown(labels)}`; give a dict of texts")
    return {checked_text("labels", key): checked_text("labels", value) for key, value in labels.items()}
