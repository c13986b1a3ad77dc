"""A data.yaml of the usual form: what it names, checked; and the normal form that a pushed one has."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from trainyard import _bounded, _plain_yaml
from trainyard._plain_yaml import NotPlain, Scalar, Value
from trainyard.errors import InvalidArgument

#: The name of the data.yaml at the top of a version.
DATA_YAML = "data.yaml"
SPLITS = ("train", "val", "test")
#: What to do where this package does not understand something, and `yard` may.
USE_YARD = "`yard data push` takes more forms; use it on Linux"
_KEYS = ("path", "train", "val", "valid", "test", "nc", "names", "kpt_shape")
_NULLS = ("", "~", "null", "Null", "NULL")
#: What YAML takes for something else than a text.
_NO_TEXT = re.compile(r"true|false|[-+]?\.?[0-9][0-9a-fxo_.+-]*|[-+]?\.inf|\.nan", re.IGNORECASE)
_MOST_KEYPOINTS = 10_000
#: That a count alone makes.
_MOST_CLASSES = 100_000


@dataclass(frozen=True)
class DataYaml:
    """What a data.yaml says."""

    file: Path
    #: Class names by id.
    names: list[str]
    #: Folders, lists and images of each split.
    entries: dict[str, list[str]]
    #: Numbers of each object's keypoints.
    kpt_shape: tuple[int, int] | None
    #: Folders that relative entries are looked for in, in this order.
    roots: list[Path]

    def base(self, folder: Path) -> Path | None:
        """The folder of the data set that `folder` lies in, if it does."""
        return next((root for root in self.roots if folder == root or root in folder.parents), None)


def read(file: Path) -> DataYaml:
    """Reads a data.yaml; refuses what is not plain, and what cannot be meant."""
    try:
        text = _bounded.read(file, _bounded.DATA_YAML).decode("utf-8-sig")
    except OSError as error:
        raise InvalidArgument.of("path", f"`{file}` cannot be read: {error.strerror}; give a data.yaml") from None
    except UnicodeDecodeError:
        raise InvalidArgument.of("path", f"`{file}` is no text in UTF-8; save it as such") from None
    try:
        found = _plain_yaml.read(text, _KEYS)
        names = _names(found.get("names"), found.get("nc"))
        val = "val" if found.get("val") is not None else "valid"
        entries = {key: _entries(key, found.get(val if key == "val" else key)) for key in SPLITS}
        kpt_shape = _kpt_shape(found.get("kpt_shape"))
        path = _path(found.get("path"))
    except NotPlain as error:
        place = f"{file}:{error.line}" if error.line else str(file)
        raise InvalidArgument.of("path", f"{place}: {error.what}. Write it plainer, or: {USE_YARD}") from None
    for key in ("train", "val"):
        if not entries[key]:
            raise InvalidArgument.of("path", f"{file}: `{key}` is missing; add `{key}: images/{key}`")
    folder = file.parent
    roots = [folder] if path in ("", ".") else [folder / path, folder]
    return DataYaml(file, names, entries, kpt_shape, roots)


def normal_form(yaml: DataYaml, splits: list[str]) -> bytes:
    """The text of a version's data.yaml, for a data set that has these splits."""
    lines = [f"{split}: {split}.txt" for split in splits]
    lines += ["names:", *(f"  {id}: {_quoted(name)}" for id, name in enumerate(yaml.names))]
    if yaml.kpt_shape is not None:
        lines.append(f"kpt_shape: [{yaml.kpt_shape[0]}, {yaml.kpt_shape[1]}]")
    return "".join(f"{line}\n" for line in lines).encode()


def _quoted(text: str) -> str:
    def escaped(letter: str) -> str:
        if letter in '"\\':
            return f"\\{letter}"
        is_odd = letter in "\u2028\u2029\ufeff" or unicodedata.category(letter) == "Cc"
        return f"\\u{ord(letter):04x}" if is_odd else letter

    return f'"{"".join(map(escaped, text))}"'


def _is_null(value: Value) -> bool:
    return value is None or (isinstance(value, Scalar) and value.is_plain and value.text in _NULLS)


def _path(value: Value) -> str:
    if value is None or _is_null(value):
        return ""
    if not isinstance(value, Scalar):
        raise NotPlain(0, "`path` is no text")
    path = value.text.strip()
    if os.name != "nt" and ("\\" in path or re.match(r"[A-Za-z]:", path)):
        raise NotPlain(0, f"`path: {path}` is a path of Windows; remove it, or write one of this machine")
    return path


def _entries(key: str, value: Value) -> list[str]:
    if value is None or _is_null(value):
        return []
    if isinstance(value, Scalar):
        if value.is_plain and _NO_TEXT.fullmatch(value.text):
            raise NotPlain(0, f"`{key}: {value.text}` may be no text; put it in quotes")
        return [value.text.strip()] if value.text.strip() else []
    texts = [one.text.strip() for one in value if isinstance(one, Scalar)]
    if len(texts) != len(value):
        raise NotPlain(0, f"`{key}` is no folder, list of images, or list of these")
    return [text for text in texts if text]


def _names(value: Value, nc: Value) -> list[str]:
    count = None if nc is None or _is_null(nc) else _count("nc", nc)
    names: list[str] = []
    if value is None or _is_null(value):
        if (count or 0) > _MOST_CLASSES:
            raise NotPlain(
                0, f"`nc` is {count}, and a data set has at most {_MOST_CLASSES} classes; correct it, or write `names`"
            )
        # Old files have only a count.
        names = [f"class{id}" for id in range(count or 0)]
    elif isinstance(value, Scalar):
        raise NotPlain(0, f"`names: {value.text}` is one text; write a list: `names: [first, second]`")
    else:
        pairs = [one if isinstance(one, tuple) else (Scalar(str(id)), one) for id, one in enumerate(value)]
        by_id: dict[int, str] = {}
        for key, name in pairs:
            id = int(key.text) if re.fullmatch(r"\+?[0-9]{1,9}", key.text.strip()) else -1
            if id < 0 or id in by_id or not name.text.strip():
                raise NotPlain(0, f"`names` has `{key.text}: {name.text}`; give each class id from 0 on one name")
            by_id[id] = name.text
        if sorted(by_id) != list(range(len(by_id))):
            raise NotPlain(0, "`names` leaves class ids out; number the classes from 0 without gaps")
        names = [by_id[id] for id in range(len(by_id))]
    if not names:
        raise NotPlain(0, "`names` is missing; add `names: [first, second]`")
    if count is not None and count != len(names):
        raise NotPlain(0, f"`nc` is {count}, but `names` has {len(names)} names; make them agree, or remove `nc`")
    return names


def _count(key: str, value: Value) -> int:
    text = value.text.strip().removesuffix(".0") if isinstance(value, Scalar) else ""
    if not re.fullmatch(r"\+?[0-9]{1,9}", text):
        raise NotPlain(0, f"`{key}` is not a whole number from 0")
    return int(text)


def _kpt_shape(value: Value) -> tuple[int, int] | None:
    if value is None or _is_null(value):
        return None
    numbers = [_count("kpt_shape", one) for one in value if isinstance(one, Scalar)] if isinstance(value, list) else []
    if len(numbers) != 2 or not (1 <= numbers[0] <= _MOST_KEYPOINTS and 2 <= numbers[1] <= 3):
        raise NotPlain(0, "`kpt_shape` is not the number of keypoints and 2 or 3 numbers for each: `[17, 3]`")
    return numbers[0], numbers[1]
