"""Reads the plain part of YAML that a data.yaml is written in: keys with a text, a list or a map of texts. All scalars
stay texts, so that a class may be called ``no`` or ``1.10``. What is not plain is refused, never guessed.

Must not know what the keys mean.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scalar:
    """One text, and whether it stood there without quotes."""

    text: str
    is_plain: bool = True


#: What a key has; None where nothing is behind it.
Value = Scalar | list[Scalar] | list[tuple[Scalar, Scalar]] | None


class NotPlain(Exception):
    """Something that this reader does not know: the line, from 1, and what it is."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line
        self.what = what


@dataclass
class _Entry:
    """A key of the file's top, with all lines that belong to it."""

    key: str
    line: int
    #: What stands behind the colon.
    rest: str
    below: list[tuple[int, str]] = field(default_factory=list)


_KEY = re.compile(r"""(?:"([^"\\]*)"|'([^']*)'|([A-Za-z_][\w .-]*?))\s*:(?:[ \t]+(.*))?$""")
_ESCAPES = dict(zip('0abtnvfre "/\\N_LP', '\0\a\b\t\n\v\f\r\x1b "/\\\x85\xa0\u2028\u2029', strict=True))
_HEX = {"x": 2, "u": 4, "U": 8}
_QUOTED = re.compile(r"""'((?:[^'\n]|'')*)'|"((?:[^"\\\n]|\\[^\n])*)\"""")
#: In lists with brackets; a comma ends it, a colon does only before a blank.
_PLAIN_IN_FLOW = re.compile(
    r"(?:[^\s,\[\]{}:#]|:(?=[^\s,\[\]{}])|(?<=\S)#|[ \t]+(?=[^\s,\[\]{}#:]|:(?=[^\s,\[\]{}])))+"
)
_BLANK = re.compile(r"(?:\s|(?:^|(?<=\s))#[^\n]*)*", re.MULTILINE)
#: No text begins so without quotes.
_MARKS = tuple("&*!|>%@`[]{},#'\"")


def read(text: str, wanted: Collection[str]) -> dict[str, Value]:
    """The values of the keys that are `wanted`; others are passed over, whatever they have."""
    found: dict[str, Value] = {}
    for entry in _entries(text):
        if entry.key not in wanted:
            continue
        if entry.key in found:
            raise NotPlain(entry.line, f"`{entry.key}` comes twice")
        found[entry.key] = _value(entry)
    return found


def _entries(text: str) -> Iterator[_Entry]:
    entry: _Entry | None = None
    has_begun = has_ended = False
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            if entry is not None:
                entry.below.append((number, line))
            continue
        if line.rstrip() in ("---", "..."):
            has_ended = has_begun or line.startswith(".")
            has_begun = True
            continue
        if has_ended:
            raise NotPlain(number, "a second document begins; a data.yaml has one")
        has_begun = True
        if line[0] == " " or line.startswith("- ") or line.rstrip() == "-" or (entry and line[0] in "]}"):
            if entry is None:
                raise NotPlain(number, "the first line is indented")
            entry.below.append((number, line))
            continue
        matched = _KEY.match(line)
        if matched is None:
            raise NotPlain(number, "it is no `key: value`")
        if entry is not None:
            yield entry
        entry = _Entry(matched[1] or matched[2] or matched[3] or "", number, (matched[4] or "").strip())
    if entry is not None:
        yield entry


def _value(entry: _Entry) -> Value:
    if entry.rest[:1] in ("[", "{"):
        lines = [entry.rest, *(line for _, line in entry.below)]
        return _flow("\n".join(lines), entry.line)
    content = [(number, line) for number, line in entry.below if not line.lstrip().startswith("#") and line.strip()]
    if entry.rest and not entry.rest.startswith("#"):
        if content:
            raise NotPlain(content[0][0], "the value goes on over several lines")
        return _scalar(entry.rest, entry.line)
    return _block(content) if content else None


def _block(lines: list[tuple[int, str]]) -> Value:
    indent = _indent(*lines[0])
    items: list[Scalar] = []
    pairs: list[tuple[Scalar, Scalar]] = []
    for number, line in lines:
        if _indent(number, line) != indent:
            raise NotPlain(number, "it is indented in another way than the lines around it")
        body = line.strip()
        if body.startswith("- "):
            items.append(_scalar(body[2:].strip(), number))
            continue
        quoted = _QUOTED.match(body)
        key, colon, rest = (
            (body[: quoted.end()], body[quoted.end() :].lstrip()[:1], body[quoted.end() :].lstrip()[1:])
            if quoted
            else re.match(r"(.*?)(:(?=\s|$)|$)(.*)", body).groups()  # type: ignore[union-attr]
        )
        if colon != ":":
            raise NotPlain(number, "it is neither `- value` nor `key: value`")
        pairs.append((_scalar(key.strip(), number), _scalar(rest.strip(), number)))
    if items and pairs:
        raise NotPlain(lines[0][0], "a list and a map are mixed")
    return items or pairs


def _indent(number: int, line: str) -> int:
    indent = len(line) - len(line.lstrip())
    if "\t" in line[:indent]:
        raise NotPlain(number, "the line begins with a tab, and YAML indents with blanks")
    return indent


def _scalar(text: str, line: int) -> Scalar:
    """One text on a line, with a comment behind it or not."""
    quoted = _QUOTED.match(text)
    if quoted is not None:
        rest = text[quoted.end() :]
        if rest.strip() and not re.match(r"\s+#", rest):
            raise NotPlain(line, "something follows the closing quote")
        return _unquoted(quoted, line)
    plain = re.split(r"\s#", text, maxsplit=1)[0].strip()
    if plain.startswith(_MARKS) or re.match(r"[-?:](\s|$)", plain):
        raise NotPlain(line, f"`{plain}` is no plain text; put it in quotes if it is meant as one")
    if not plain:
        raise NotPlain(line, "there is no text")
    if re.search(r":(\s|$)", plain):
        raise NotPlain(line, f"`{plain}` has a colon; put it in quotes")
    return Scalar(plain)


def _unquoted(quoted: re.Match[str], line: int) -> Scalar:
    if quoted[1] is not None:
        return Scalar(quoted[1].replace("''", "'"), is_plain=False)

    def escaped(found: re.Match[str]) -> str:
        letter, digits = found[1], found[2]
        try:
            return _ESCAPES[letter] if letter in _ESCAPES else chr(int(digits, 16))
        except (ValueError, OverflowError):
            raise NotPlain(line, "in double quotes a backslash begins an escape: write slashes") from None

    pattern = "|".join(rf"(?<=\\{letter})[0-9A-Fa-f]{{{count}}}" for letter, count in _HEX.items())
    return Scalar(re.sub(rf"\\(.)({pattern}|)", escaped, quoted[2]), is_plain=False)


def _flow(text: str, line: int) -> Value:
    """A list or map in brackets, over one line or several."""

    def wrong(at: int) -> NotPlain:
        return NotPlain(line + text.count("\n", 0, at), "the list or map in brackets has something else than texts")

    def skip(at: int) -> int:
        blank = _BLANK.match(text, at)
        return blank.end() if blank else at

    def scalar(at: int) -> tuple[Scalar, int]:
        quoted = _QUOTED.match(text, at)
        if quoted is not None:
            return _unquoted(quoted, line + text.count("\n", 0, at)), quoted.end()
        plain = _PLAIN_IN_FLOW.match(text, at)
        if plain is None or plain[0].startswith(_MARKS) or re.match(r"[-?:](\s|$)", plain[0]):
            raise wrong(at)
        return Scalar(plain[0].strip()), plain.end()

    is_map = text[0] == "{"
    items: list[Scalar] = []
    pairs: list[tuple[Scalar, Scalar]] = []
    at = skip(1)
    while text[at : at + 1] != ("}" if is_map else "]"):
        one, at = scalar(at)
        at = skip(at)
        if is_map:
            if text[at : at + 1] != ":":
                raise wrong(at)
            value, at = scalar(skip(at + 1))
            pairs.append((one, value))
            at = skip(at)
        else:
            items.append(one)
        if text[at : at + 1] == ",":
            at = skip(at + 1)
        elif text[at : at + 1] not in ("]", "}"):
            raise wrong(at)
    if skip(at + 1) != len(text):
        raise wrong(at + 1)
    return pairs if is_map else items
