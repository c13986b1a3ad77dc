"""Tokens: ``ty1.PIN.ID.SECRET``. `PIN` names the authority of the cluster, so that a server is checked first."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainyard.errors import InvalidArgument

_PARTS = (("PIN", 16), ("ID", 8), ("SECRET", 32))


@dataclass(frozen=True)
class Credential:
    """A token of Trainyard's, or another secret. The secret is not part of its `repr`."""

    secret: str = field(repr=False)
    #: First half of the SHA-256 of the authority's public key; None for whatever a proxy in front asks for.
    pin: bytes | None

    def reveal_to(self, server: str) -> str | None:
        """What is sent to `server`; None where it must not be: a token never travels in plaintext."""
        return self.secret if self.pin is None or server.startswith("https://") else None


def parse(text: str, source: str) -> Credential:
    """Reads a token that comes from `source`. The text is never repeated: it may be secret."""
    if not text.startswith("ty1."):
        if not (text.isascii() and text.isprintable()):
            raise InvalidArgument.of("token", f"the one from {source} has characters that cannot be sent")
        return Credential(text, None)
    parts = text.split(".")[1:]
    if len(parts) != len(_PARTS):
        raise InvalidArgument.of("token", f"the one from {source} is none: one looks like `ty1.PIN.ID.SECRET`")
    for part, (name, length) in zip(parts, _PARTS, strict=True):
        if len(part) != 2 * length or any(letter not in "0123456789abcdefABCDEF" for letter in part):
            raise InvalidArgument.of(
                "token", f"in the one from {source} the part {name} is damaged: copy the whole token again"
            )
    return Credential(text, bytes.fromhex(parts[0]))
