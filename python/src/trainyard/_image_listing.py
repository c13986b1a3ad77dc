"""Which images a data set has, in the order in which a training has them: those in folders, and those that lists name.
Unusual entries are refused, so that what is sent is what the trainer would read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from trainyard import _bounded
from trainyard._data_yaml import USE_YARD, DataYaml
from trainyard._label_search import ImageFolder
from trainyard.errors import InvalidArgument

#: Endings of images, and of those that the trainer knows and does not read.
IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")
_UNREAD = (".avif", ".dng", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".pfm")
#: What systems and file managers leave in folders, beside names that begin with a dot; in small letters.
_SYSTEM_NAMES = frozenset(
    (
        "$recycle.bin",
        "#recycle",
        "#snapshot",
        "@eadir",
        "@recycle",
        "__macosx",
        "lost+found",
        "system volume information",
        "thumbs.db",
    )
)

#: Control characters, and bytes that are no text.
_UNSENDABLE = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")

#: An image: its folder, and its name there.
Image = tuple[ImageFolder, str]


class Listing:
    """Lists the images of a data set; folders that several splits have are the same objects."""

    def __init__(self, yaml: DataYaml) -> None:
        self._yaml = yaml
        self._folders: dict[str, ImageFolder] = {}

    def split(self, key: str) -> list[Image]:
        """All images of a split."""
        return [image for entry in self._yaml.entries[key] for image in self._of_entry(key, entry)]

    def _of_entry(self, key: str, entry: str) -> Iterator[Image]:
        place = self._find(key, entry)
        if place is None:
            return
        if place.is_dir():
            base = self._yaml.base(place)
            for inside, name in _walk(place):
                yield self._image(os.path.join(place, inside) if inside else str(place), name, base)
        elif place.suffix.lower() == ".txt":
            yield from self._of_list(place)
        else:
            yield self._image(str(place.parent), place.name, self._yaml.base(place))

    def _find(self, key: str, entry: str) -> Path | None:
        tried = [root / inner for root in self._yaml.roots for inner in _meanings(entry, ("../",))]
        found = next((place for place in tried if place.exists()), None)
        # Trainings do not read the test split, and many a data.yaml names one that is not there.
        if found is not None or (key == "test" and not _is_odd(entry)):
            return found
        if _is_odd(entry):
            raise _refused(f"{self._yaml.file}: `{key}: {entry}` is a pattern, or a path of Windows; {USE_YARD}")
        several = ", ".join(f"`{place}`" for place in dict.fromkeys(tried))
        raise _refused(f"{self._yaml.file}: `{key}: {entry}` was not found; tried {several}; correct `{key}` or `path`")

    def _of_list(self, file: Path) -> Iterator[Image]:
        try:
            text = _bounded.read(file, _bounded.LIST).decode("utf-8-sig")
            lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        except OSError as error:
            raise _refused(f"`{file}` cannot be read: {error.strerror}; give a list of images") from None
        except UnicodeDecodeError:
            raise _refused(f"`{file}` is no text in UTF-8; save it as such, or: {USE_YARD}") from None
        bases = [file.parent, *self._yaml.roots]
        for number, line in enumerate(lines, 1):
            written = line.strip()
            if len(written) > 1 and written[0] == written[-1] and written[0] in "\"'":
                written = written[1:-1]
            if not written:
                continue
            tried = [base / written for base in bases]
            tried += [base / inner for inner in _meanings(written, ("data/", "../"))[1:] for base in bases]
            found = next((place for place in tried if place.is_file()), None)
            if found is None:
                if written.startswith("#"):
                    continue
                what = "is a folder or a pattern, or" if _is_odd(written) or tried[0].is_dir() else "is an image that"
                raise _refused(f"{file}:{number}: `{written}` {what} is not there; correct the list, or: {USE_YARD}")
            base = self._yaml.base(found.parent)
            base = base or (file.parent if file.parent in found.parents else None)
            yield self._image(str(found.parent), found.name, base)

    def _image(self, folder: str, name: str, base: Path | None) -> Image:
        # There may be a million of them: texts are much quicker than paths.
        if os.path.splitext(name)[1].lower() not in IMAGE_ENDINGS:
            raise _refused(
                f"`{os.path.join(folder, name)}` is no image that a training reads; take it out, or make it one of "
                f"{', '.join(IMAGE_ENDINGS)}. {USE_YARD}: it leaves such files out"
            )
        if _UNSENDABLE.search(name):
            raise _refused(
                f"`{os.path.join(folder, name)!a}` has a name with control characters, or none in UTF-8; rename it"
            )
        known = self._folders.get(folder)
        if known is None:
            known = self._folders[folder] = ImageFolder(Path(folder), base)
        return known, name


def _walk(top: Path) -> Iterator[tuple[str, str]]:
    """The images in a folder and those inside of it, each with its folder inside, as the trainer sorts them. Follows
    links, but none to a folder above."""
    whole = top.resolve()
    above = {_identity(folder) for folder in whole.parents}
    found: list[str] = []
    _descend(str(top), "", above, found)
    found.sort(key=lambda path: path.split("/"))
    for path in found:
        inside, _, name = path.rpartition("/")
        yield inside, name


def _descend(folder: str, inside: str, above: set[tuple[int, int]], found: list[str]) -> None:
    try:
        identity = _identity(folder)
        if identity in above:
            return
        with os.scandir(folder) as entries:
            folders = []
            for entry in entries:
                name = entry.name
                if name.startswith(".") or name.lower() in _SYSTEM_NAMES:
                    continue
                if entry.is_dir():
                    folders.append(name)
                elif os.path.splitext(name)[1].lower() in (*IMAGE_ENDINGS, *_UNREAD):
                    found.append(inside + name)
    except OSError as error:
        raise _refused(
            f"the folder `{folder}` cannot be read: {error.strerror}; make it readable, or move it away"
        ) from None
    for name in folders:
        _descend(os.path.join(folder, name), f"{inside}{name}/", {*above, identity}, found)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _meanings(written: str, starts: tuple[str, ...]) -> list[str]:
    """A path as it is written, and without a beginning that other programs write and do not mean."""
    inner = next((written.removeprefix(start) for start in starts if written.startswith(start)), None)
    return [written] if inner is None or os.path.isabs(written) else [written, inner]


def _is_odd(written: str) -> bool:
    return any(mark in written for mark in "*?[") or (os.name != "nt" and "\\" in written)


def _refused(text: str) -> InvalidArgument:
    return InvalidArgument.of("path", text)
