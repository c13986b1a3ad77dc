"""What the cluster's store has: data sets, and weights to begin with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from html import escape

from trainyard import _reference
from trainyard._reference import SHOWN_DIGITS, Reference
from trainyard.v1 import datasets_pb2


@dataclass(frozen=True, eq=False)
class Dataset:
    """A version of a data set, or of weights. `Client.train` takes it as ``data`` or ``pretrained``."""

    #: All that the scheduler says of it: `trainyard.v1.Dataset`.
    message: datasets_pb2.Dataset

    @property
    def name(self) -> str:
        """What it is called."""
        return self.message.name

    @property
    def version(self) -> str:
        """Its id: the hash of its list of files, 64 digits."""
        return self.message.version

    @property
    def reference(self) -> str:
        """Name and whole version: names these very files for good."""
        return f"{self.name}@{self.version}"

    @property
    def is_weights(self) -> bool:
        """Whether it is weights, and no data set."""
        return self.message.kind == datasets_pb2.WEIGHTS

    @property
    def is_newest(self) -> bool:
        """Whether it is the newest version of its name."""
        return self.message.newest

    @property
    def user(self) -> str:
        """Who has pushed it first."""
        return self.message.user

    @property
    def created(self) -> datetime:
        """When it was pushed first."""
        return self.message.create_time.ToDatetime(timezone.utc)

    @property
    def files(self) -> int:
        """How many files it has."""
        return self.message.files

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return self.message.size_bytes

    @property
    def description(self) -> str:
        """What it is, for people: "874 images, 3 classes"."""
        return self.message.description

    def __eq__(self, other: object) -> bool:
        """The same version under the same name. Whether it is the newest by now makes no other one of it."""
        return isinstance(other, Dataset) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[bool, str, str]:
        return self.is_weights, self.name, self.version

    def __str__(self) -> str:
        return f"{self.name}@{self.version[:SHOWN_DIGITS]}"

    def __repr__(self) -> str:
        return f"<Dataset {self} {self.description!r}>"

    def _repr_html_(self) -> str:
        return _html([self])


class Datasets(list[Dataset]):
    """Versions, by name, the newest of a name first."""

    def _repr_html_(self) -> str:
        return _html(self)


def reference_of(value: str | Dataset) -> Reference:
    """What is named by a version itself, or by its reference."""
    return _reference.parse("reference", value.reference if isinstance(value, Dataset) else value)


def _html(datasets: list[Dataset]) -> str:
    """A table, for a notebook."""
    head = "".join(f"<th>{title}</th>" for title in ("version", "what", "files", "bytes", "pushed", "by"))
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(text)}</td>"
            for text in (
                str(one),
                one.description,
                str(one.files),
                f"{one.size_bytes:,}",
                f"{one.created:%Y-%m-%d %H:%M}",
                one.user,
            )
        )
        + "</tr>"
        for one in datasets
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
