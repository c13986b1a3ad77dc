"""Figures by epoch, as a list of rows that pandas understands."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from trainyard.errors import MissingPackage

if TYPE_CHECKING:
    import pandas

#: What a notebook has room for; `to_pandas` has all.
_SHOWN = (
    "epoch",
    "train/box_loss",
    "train/cls_loss",
    "train/dfl_loss",
    "metrics/precision(B)",
    "metrics/recall(B)",
    "metrics/mAP50(B)",
    "metrics/mAP50-95(B)",
    "images_per_second",
)


class MetricsTable(list[dict[str, float]]):
    """One row for each finished epoch, oldest first: ``epoch``, ``images_per_second`` and the names of results.csv."""

    def to_pandas(self) -> pandas.DataFrame:
        """The same as a pandas data frame, with the epoch as its index."""
        try:
            import pandas
        except ImportError:
            raise MissingPackage("`to_pandas` needs pandas; run `pip install pandas`") from None
        frame = pandas.DataFrame(list(self))
        return frame.set_index("epoch") if len(self) else frame

    def best(self, name: str = "metrics/mAP50-95(B)") -> dict[str, float]:
        """The row where a figure is highest; empty if no epoch has it. Of equal rows it is the first, but the newest
        while the figure is 0: so the trainer chooses the epoch of `best.safetensors`."""
        best: dict[str, float] = {}
        for row in self:
            if name in row and (not best or row[name] > best[name] or row[name] == best[name] == 0):
                best = row
        return best

    def _repr_html_(self) -> str:
        shown = [name for name in _SHOWN if any(name in row for row in self)]
        head = "".join(f"<th>{escape(name)}</th>" for name in shown)
        rows = "".join(
            "<tr>" + "".join(f"<td>{_cell(name, row.get(name))}</td>" for name in shown) + "</tr>" for row in self
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if name == "epoch" else f"{value:.4g}"
