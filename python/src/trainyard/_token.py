"""Tokens: ``ty1.PIN.ID.SECRET``. `PIN` names the authority of the cluster, so that a server is checked first."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from trainyard import _address
from trainyard.errors import InvalidArgument

_START = "ty1."
_PARTS = (("PIN", 16), ("ID", 8), ("SECRET", 32))
#: A token is meant where its beginning stands as a word, in whatever case, or has digits of a pin after it.
_MEANT = re.compile(r"(?<![^\W_])ty1\.|ty1\.[0-9a-f]{16}", re.IGNORECASE)
#: Names of hosts may begin with ``ty1.``, too.
_MEANT_IN_ADDRESS = re.compile(r"ty1\.[0-9a-f]{16}", re.IGNORECASE)


@dataclass(frozen=True)
class Credential:
    """A token of Trainyard's, or another secret. The secret is not part of its `repr`."""

    secret: str = field(repr=False)
    #: First half of the SHA-256 of the authority's public key; None for whatever a proxy in front asks for.
    pin: bytes | None

    def reveal_to(self, server: str) -> str | None:
        """What is sent to `server`; None where it must not be. A token never travels in plaintext, and no other secret
        leaves this machine so."""
        may_see = server.startswith("https://") or (self.pin is None and _address.is_here(server))
        return self.secret if may_see else None


def parse(text: str, source: str) -> Credential:
    """Reads a token that comes from `source`. The text is never repeated: it may be secret."""
    if not _MEANT.search(text):
        if not (text.isascii() and text.isprintable()):
            raise InvalidArgument.of("token", f"the one from {source} has characters that cannot be sent")
        return Credential(text, None)
    if not text.startswith(_START):
        raise InvalidArgument.of(
            "token",
            f"the one from {source} has more in it than a token, or other letters: a token begins with `{_START}` and "
            "has nothing around it, no quotes and no `Bearer`",
        )
    parts = text.split(".")[1:]
    if len(parts) != len(_PARTS):
        raise InvalidArgument.of("token", f"the one from {source} is none: one looks like `ty1.PIN.ID.SECRET`")
    for part, (name, length) in zip(parts, _PARTS, strict=True):
        if len(part) != 2 * length or any(letter not in "0123456789abcdefABCDEF" for letter in part):
            raise InvalidArgument.of(
                "token", f"in the one from {source} the part {name} is damaged: copy the whole token again"
            )
    return Credential(text, bytes.fromhex(parts[0]))


def refuse_in(field: str, text: str, wanted: str) -> None:
    """Refuses a token where something else belongs, which would be shown, looked up or sent as it is."""
    if _MEANT_IN_ADDRESS.search(text):
        raise InvalidArgument.of(field, f"holds a token, which is not repeated here; give {wanted}")
