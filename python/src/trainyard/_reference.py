"""What data sets and weights in the cluster's store are called: ``cells``, ``cells@3f9a``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from trainyard._checks import is_text, shown
from trainyard.errors import InvalidArgument

_LONGEST_NAME = 64
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{_LONGEST_NAME - 1}}}")
_VERSION = re.compile(r"[0-9a-f]{4,64}")
#: A name that ends so is a file's.
_FILE_ENDINGS = (".yaml", ".yml", ".pt", ".safetensors")
#: Digits of a version that people are shown.
SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Reference:
    """A name, and a version of what has it."""

    name: str
    #: Its first digits, or all 64; empty for the newest.
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


def parse(field: str, value: Any) -> Reference:
    """Reads ``cells`` or ``cells@3f9a``; says what is wrong with anything else."""
    text = value if is_text(value) else ""
    name, at, version = text.partition("@")
    checked_name(field, name if text else value)
    if at and not _VERSION.fullmatch(version):
        raise InvalidArgument.of(
            field, f"is `{value}`; a version has 4 to 64 hexadecimal digits in small letters: `{name}@3f9a`"
        )
    return Reference(name, version)


def of_word(value: Any) -> Reference | None:
    """What a word names, if it is a name of the store: a path has a slash, and a file's name an ending."""
    if not is_text(value):
        return None
    name, at, version = value.partition("@")
    is_it = _is_name(name) and (not at or _VERSION.fullmatch(version) is not None)
    return Reference(name, version) if is_it else None


def checked_name(field: str, name: Any) -> str:
    """A name that something in the store may have."""
    if is_text(name) and _is_name(name):
        return str(name)
    if is_text(name) and _NAME.fullmatch(name):
        raise InvalidArgument.of(field, f"is `{name}`, which is the name of a file; leave the ending out")
    given = name if is_text(name) else shown(name)
    raise InvalidArgument.of(
        field,
        f"is `{given}`; a name has up to {_LONGEST_NAME} letters, digits, `.`, `_` and `-`, and begins with a "
        "letter or digit",
    )


def made_valid(field: str, text: str) -> str:
    """A folder's or file's name as a name of the store: other characters become dashes, as `yard` has it."""
    dashed = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-")
    cut = re.sub(r"^[^A-Za-z0-9]+", "", dashed)[:_LONGEST_NAME]
    name = cut if _is_name(cut) else cut.replace(".", "-")
    if not _is_name(name):
        raise InvalidArgument.of(field, f"`{text}` cannot be made a name; give one: `name=...`")
    return name


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and not text.lower().endswith(_FILE_ENDINGS)
