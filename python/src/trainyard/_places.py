"""Where folders of images lie in a version: at their paths relative to the data set's folder, or under ``outside/``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trainyard._data_yaml import USE_YARD, DataYaml
from trainyard._label_search import ImageFolder, Parts, label_folders
from trainyard.errors import InvalidArgument


class Places:
    """The places of all folders of images. `yard` has the same rules, so that both make one version."""

    def __init__(self, yaml: DataYaml, folders: Iterable[ImageFolder]) -> None:
        bases = [(base, base.resolve()) for base in dict.fromkeys([yaml.file.parent, *yaml.roots])]
        self._bases = [whole for _, whole in bases]
        #: Folders elsewhere that a link makes look like the data set's own.
        self._linked: list[Path] = []
        self._places: dict[ImageFolder, Parts] = {}
        taken: dict[Parts, Path] = {}
        elsewhere: list[ImageFolder] = []
        for folder in folders:
            parts = _inside(folder, bases)
            if parts is not None and taken.setdefault(parts, folder.whole) == folder.whole:
                self._places[folder] = parts
                if not self._is_own(folder.whole):
                    self._linked.append(folder.whole)
            else:
                elsewhere.append(folder)
        tops = {parts[0].lower() for parts in taken if parts}
        name, count = "outside", 1
        while name in tops:
            count += 1
            name = f"outside-{count}"
        #: Folders elsewhere that are taken along, by their places in the version.
        self.outside: dict[Path, str] = {}
        for folder in elsewhere:
            above, rest = _cut(folder.whole)
            place = self.outside.setdefault(above, f"{name}/{len(self.outside)}")
            self._places[folder] = (*place.split("/"), *rest)
        for folder, parts in self._places.items():
            if not all(part.isprintable() or part.isascii() for part in parts):
                _check_text(folder.path, parts)

    def _is_own(self, whole: Path) -> bool:
        return any(whole.is_relative_to(base) for base in self._bases)

    def through_links(self, of_files: Iterable[str]) -> list[Path]:
        """The folders elsewhere that are reached through links, beside those of files; none inside of another. What
        comes under ``outside/`` is not among them."""
        found = list(self._linked)
        for folder in map(Path, of_files):
            if not self._is_own(folder) and not any(folder.is_relative_to(above) for above in self.outside):
                found.append(folder)
        folders: list[Path] = []
        for folder in sorted(found):
            if not folders or not folder.is_relative_to(folders[-1]):
                folders.append(folder)
        return folders

    def of(self, folder: ImageFolder) -> Parts:
        """The parts of a folder's path in the version."""
        return self._places[folder]

    def label_folders(self, folder: ImageFolder) -> list[str]:
        """The folders in the version that a trainer looks in for labels of this folder's images."""
        return ["/".join(parts) for parts in label_folders(self._places[folder], 0)]


def _inside(folder: ImageFolder, bases: list[tuple[Path, Path]]) -> Parts | None:
    # A link changes what `..` means.
    if ".." not in folder.path.parts:
        for written, _ in bases:
            if folder.path.is_relative_to(written):
                return folder.path.relative_to(written).parts
    for _, whole in bases:
        if folder.whole.is_relative_to(whole):
            return folder.whole.relative_to(whole).parts
    return None


def _cut(whole: Path) -> tuple[Path, Parts]:
    """A folder elsewhere: what lies above its last part `images`, or else above its name; and the rest."""
    parts = whole.parts
    last = next((at for at in range(len(parts) - 1, 0, -1) if parts[at] == "images"), len(parts) - 1)
    at = min(max(last, 1), len(parts))
    return Path(*parts[:at]), parts[at:]


def _check_text(folder: Path, parts: Parts) -> None:
    try:
        "/".join(parts).encode()
    except UnicodeEncodeError:
        raise InvalidArgument.of(
            "path", f"`{folder!a}` has a name that is not in UTF-8; rename it, or: {USE_YARD}"
        ) from None
