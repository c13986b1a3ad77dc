"""The Python of docs/how-to/use-from-python.md and of the README does what it says. It is run as it stands: only the
address and the data set are those of a test, and every training is the smallest that there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import trainyard
from build_parts.version import ROOT
from tests.cluster import TINY, Cluster
from trainyard import _spec
from trainyard.v1 import jobs_pb2

PAGES = ("docs/how-to/use-from-python.md", "python/README.md")


def _blocks(page: str) -> list[tuple[int, str]]:
    text = (ROOT / page).read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, block.start()) + 2, block[1]) for block in found]


@pytest.fixture
def _smallest_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is checked as it was written; then it is made small."""
    job_spec = _spec.job_spec

    def small(data: Any, model: Any, placement: Any, fields: Any) -> jobs_pb2.JobSpec:
        spec = job_spec(data, model, placement, fields)
        # The weights of the small trainings are of this model, too.
        spec.train.model = "yolov8n"
        if spec.train.epochs != 0:
            spec.train.epochs = 1000 if spec.train.epochs == 1000 else 1
            spec.train.imgsz, spec.train.batch, spec.train.workers = TINY["imgsz"], TINY["batch"], TINY["workers"]
            spec.resources.device = TINY["device"]
        return spec

    monkeypatch.setattr(_spec, "job_spec", small)


@pytest.mark.usefixtures("_smallest_trainings")
@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(
    page: str, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YARD_SERVER", cluster.address)
    names: dict[str, Any] = {}
    blocks = _blocks(page)
    assert blocks
    for line, block in blocks:
        code = block.replace("lab:7433", cluster.address).replace("/data/cells", str(cluster.data))
        # With its place in the page, for messages.
        exec(compile("\n" * (line - 1) + code, page, "exec"), names)
    printed = capsys.readouterr().out
    assert "SUCCEEDED" in printed
    assert Path("cells.safetensors").stat().st_size > 1_000_000
    if page == PAGES[0]:
        assert "epochs is 0; use 1 to 100000" in printed
        assert "was cancelled" in printed


def test_the_page_names_every_exception_and_every_method() -> None:
    text = (ROOT / PAGES[0]).read_text()
    errors = [name for name in trainyard.__all__ if name.endswith(("Error", "Failed", "Download", "Found"))]
    errors += ["InvalidArgument", "Unavailable", "Unauthenticated", "PermissionDenied", "UntrustedServer"]
    for name in errors:
        assert f"`{name}`" in text or f"`trainyard.{name}`" in text, name
    for kind, of in ((trainyard.Job, "job"), (trainyard.Client, "client")):
        for method in vars(kind):
            known = method.startswith("_") or method in ("history", "refresh", "close")
            assert known or f"{of}.{method}" in text or f".{method}(" in text, f"{of}.{method}"
