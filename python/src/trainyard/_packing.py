"""What a data set consists of when it is pushed: a tree of its images and labels, with a data.yaml in one form. The
same folder makes the same tree, and so the same version, as `yard data push`."""

from __future__ import annotations

import os
import stat
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from trainyard import _bounded, _data_yaml, _inputs, _reference, _weights_file
from trainyard._data_yaml import DATA_YAML, SPLITS, USE_YARD
from trainyard._image_listing import Image, Listing
from trainyard._places import Places
from trainyard._report import shown_bytes
from trainyard.errors import InvalidArgument
from trainyard.v1 import datasets_pb2

#: Where the bytes of a file come from: a file of this machine, or made here.
Source = str | bytes
#: Notes of one kind that are shown; the others are counted.
_MOST_SHOWN = 20


@dataclass
class Bundle:
    """A version that is to be pushed: about 300 bytes of memory a file."""

    kind: datasets_pb2.DatasetKind
    name: str
    #: For people.
    description: str
    #: In the order of a version's files.
    paths: list[str]
    sources: list[Source]
    sizes: array[int]
    #: What the user should know of it: sentences.
    notes: list[str] = field(default_factory=list)

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(self.sizes)


def data_set(path: str | os.PathLike[str], name: str | None) -> Bundle:
    """Packs the data set of a data.yaml, or of a folder with one. Reads no image."""
    file = data_yaml(path)
    chosen = name_of(file, name)
    yaml = _data_yaml.read(file)
    listing = Listing(yaml)
    images = {split: listing.split(split) for split in SPLITS}
    for split in ("train", "val"):
        if not images[split]:
            raise InvalidArgument.of("path", f"{file}: `{split}` has no image; correct `{split}`")
    folders = dict.fromkeys(folder for split in SPLITS for folder, _ in images[split])
    tree = _Tree(Places(yaml, folders))
    used = [split for split in SPLITS if images[split]]
    for split in used:
        tree.add_split(split, images[split])
    tree.check()
    tree.files[DATA_YAML] = _data_yaml.normal_form(yaml, used)
    count, classes = sum(map(len, images.values())), len(yaml.names)
    description = f"{count} images, {classes} class{'' if classes == 1 else 'es'}"
    notes = [f"taken along from {folder}, as {place}/" for folder, place in tree.places.outside.items()]
    linked = tree.places.through_links(tree.linked)
    notes += [f"taken along from {folder}, through links" for folder in linked[:_MOST_SHOWN]]
    if len(linked) > _MOST_SHOWN:
        notes.append(f"… and {len(linked) - _MOST_SHOWN} more")
    bundle = _bundle(datasets_pb2.DATASET, chosen, description, tree.files, notes)
    _check_sizes(bundle)
    return bundle


def weights(path: str | os.PathLike[str], name: str | None) -> Bundle:
    """Packs a weights file."""
    file = Path(os.fspath(path))
    chosen = _reference.made_valid("name", file.stem) if name is None else _reference.checked_name("name", name)
    _weights_file.check(file)
    bundle = _bundle(datasets_pb2.WEIGHTS, chosen, "", {file.name: str(file.absolute())}, [])
    bundle.description = shown_bytes(bundle.total_bytes)
    return bundle


def data_yaml(path: str | os.PathLike[str]) -> Path:
    """The data.yaml that a path of this machine means: itself, or the one in that folder."""
    given = Path(os.fspath(path)).absolute()
    if given.is_dir():
        return given / _inputs.data_yaml_of(str(given), sorted(os.listdir(given)))
    return given


def name_of(file: Path, name: str | None) -> str:
    """The name that was given, or that of the data.yaml's folder."""
    if name is not None:
        return _reference.checked_name("name", name)
    folder = file.parent.resolve() if ".." in file.parts else file.parent
    return _reference.made_valid("name", folder.name)


class _Tree:
    """The files of a version, by path."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.files: dict[str, Source] = {}
        #: Folders that links of files lead to.
        self.linked: set[str] = set()
        self._lists = {f"{split}.txt" for split in SPLITS}
        #: Where images without labels lie, in which folders of the version a trainer looks, and for which name.
        self._unlabelled: list[tuple[str, list[str], str]] = []

    def add_split(self, split: str, images: list[Image]) -> None:
        """Adds the images of a split, their labels, and its list."""
        lines: list[str] = []
        has_labels = False
        last = None
        for folder, name in images:
            if folder is not last:
                last = folder
                prefix = "".join(f"{part}/" for part in self.places.of(folder))
                label_folders = [f"{one}/" if one else "" for one in self.places.label_folders(folder)]
                machine_prefix = os.path.join(folder.path, "")
            self._add(prefix + name, machine_prefix + name)
            lines.append(f"./{prefix}{name}\n")
            label = folder.label_of(name)
            label_name = os.path.splitext(name)[0] + ".txt"
            if label is None:
                self._unlabelled.append((machine_prefix, label_folders, label_name))
            else:
                has_labels = True
                self._add(label_folders[0] + label_name, label)
        if split == "train" and not has_labels:
            raise InvalidArgument.of(
                "path", f"no image of `train` has a label file, such as for `{machine_prefix}{name}`; {USE_YARD}"
            )
        self.files[f"{split}.txt"] = "".join(lines).encode()

    def _add(self, path: str, file: str) -> None:
        known = self.files.setdefault(path, file)
        if os.path.islink(file):
            self.linked.add(os.path.dirname(os.path.realpath(file)))
        if path in self._lists or (known is not file and known != file and not _is_same(known, file)):
            raise InvalidArgument.of(
                "path",
                f"`{file}` would be `{path}` in the data set, as another file is; rename one of them. {USE_YARD}",
            )

    def check(self) -> None:
        """Refuses an image without labels that would find those of another one in the tree."""
        for folder, label_folders, name in self._unlabelled:
            if any(one + name in self.files for one in label_folders):
                raise InvalidArgument.of(
                    "path",
                    f"the image `{folder}{name.removesuffix('.txt')}` has no labels, and would get another one's; "
                    f"rename it. {USE_YARD}",
                )


def _is_same(one: Source, other: str) -> bool:
    return (
        isinstance(one, str)
        and os.path.realpath(os.path.dirname(one)) == os.path.realpath(os.path.dirname(other))
        and os.path.basename(one) == os.path.basename(other)
    )


def _bundle(
    kind: datasets_pb2.DatasetKind, name: str, description: str, files: dict[str, Source], notes: list[str]
) -> Bundle:
    # Code points sort as their bytes in UTF-8 do.
    paths = sorted(files)
    sources = [files[path] for path in paths]
    sizes = array("Q", (len(one) if isinstance(one, bytes) else _size(one) for one in sources))
    return Bundle(kind, name, description, paths, sources, sizes, notes)


def _check_sizes(bundle: Bundle) -> None:
    """Refuses images and label files that no training reads for their size."""
    for path, source, size in zip(bundle.paths, bundle.sources, bundle.sizes, strict=True):
        if isinstance(source, str):
            (_bounded.LABELS if path.endswith(".txt") else _bounded.IMAGE).check(source, size)


def _size(file: str) -> int:
    try:
        status = os.stat(file)
    except OSError as error:
        raise InvalidArgument.of("path", f"`{file}` cannot be read: {error.strerror}; correct or remove it") from None
    if not stat.S_ISREG(status.st_mode):
        raise InvalidArgument.of("path", f"`{file}` is no regular file; remove it, or copy what it stands for")
    return status.st_size
