"""Where the label files of a folder of images lie: with `labels` for `images` in its path, and beside the images. The
trainer has the same rules."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from trainyard._data_yaml import USE_YARD
from trainyard.errors import InvalidArgument

#: Names of folders of images, in small letters, and of the folders of labels beside them.
_IMAGE_FOLDERS = ("images", "jpegimages", "image", "imgs", "img")
_LABEL_FOLDERS = ("labels", "Labels", "LABELS", "label")

Parts = tuple[str, ...]


def label_folders(parts: Sequence[str], above: int) -> list[Parts]:
    """The folders that are looked in for labels of the images in the folder of these `parts`, in this order. The first
    `above` of them lie above the data set."""

    def replaced(at: int, name: str) -> Parts:
        return (*parts[:at], name, *parts[at + 1 :])

    inside = range(len(parts) - 1, above - 1, -1)
    found = [replaced(at, _LABEL_FOLDERS[0]) for at in inside if parts[at] == "images"]
    found.append(tuple(parts))
    for at in inside:
        if parts[at].lower() in _IMAGE_FOLDERS:
            # `Images` has `Labels` beside it.
            order = (1, 2, 0, 3) if parts[at][:1].isupper() else (0, 1, 2, 3)
            found += [replaced(at, _LABEL_FOLDERS[kind]) for kind in order]
    found += [replaced(at, _LABEL_FOLDERS[0]) for at in range(above - 1, -1, -1) if parts[at] == "images"]
    return list(dict.fromkeys(found))


class ImageFolder:
    """A folder of this machine that has images of the data set. `base` is the data set's folder that it lies in."""

    def __init__(self, path: Path, base: Path | None) -> None:
        self.path = path
        above = len(base.parts) if base is not None else 0
        self._label_folders = [os.path.join(*parts) for parts in label_folders(path.parts, above)]

    @cached_property
    def whole(self) -> Path:
        """Its path without links."""
        return self.path.resolve()

    @cached_property
    def _oddly_named(self) -> list[dict[str, str]]:
        """In each folder of labels, the files that may be meant and are called otherwise, by their plain name."""
        return [_odd_names(folder) for folder in self._label_folders]

    def label_of(self, name: str) -> str | None:
        """The path of the label file of the image of this name."""
        label = os.path.splitext(name)[0] + ".txt"
        first = os.path.join(self._label_folders[0], label)
        if os.path.lexists(first):
            return first
        for folder, odd in zip(self._label_folders, self._oddly_named, strict=True):
            place = os.path.join(folder, label)
            if os.path.lexists(place):
                return place
            other = odd.get(unicodedata.normalize("NFC", label))
            if other is not None:
                raise InvalidArgument.of(
                    "path",
                    f"`{os.path.join(folder, other)}` may be the labels of `{self.path / name}`; call it `{label}`, or "
                    f"{USE_YARD}",
                )
        return None


def _odd_names(folder: str) -> dict[str, str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    odd: dict[str, str] = {}
    for name in names:
        stem, ending = os.path.splitext(name)
        if ending.lower() == ".txt" and (ending != ".txt" or not name.isascii()):
            odd[unicodedata.normalize("NFC", f"{stem}.txt")] = name
    return odd
