"""The wheel: what is in it, for which systems it is, and that the same input makes the same bytes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from build_parts import programs
from build_parts.version import ROOT, __version__
from tests.cluster import PROGRAMS


def _build(built: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(out), programs.VARIABLE: str(built)}
    done = subprocess.run(
        [*command, str(ROOT / "python")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = out.glob("*.whl")
    return wheel


def test_a_wheel_has_everything_and_the_same_input_makes_the_same_bytes(tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.mkdir()
    # Small ones, so that packing them twice is quick.
    for name in programs.NAMES:
        shutil.copy(shutil.which("true") or "", built / name)
    wheel = _build(built, tmp_path / "one")
    assert re.fullmatch(rf"trainyard-{__version__}-py3-none-manylinux_2_\d+_x86_64\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        modes = {one.filename: one.external_attr >> 16 & 0o777 for one in content.infolist()}
        entries = content.read(f"trainyard-{__version__}.dist-info/entry_points.txt").decode()
    for name in programs.NAMES:
        assert modes[f"trainyard/bin/{name}"] == 0o755
        assert f"{name} = trainyard_programs:" in entries
    sources = [path.relative_to(ROOT / "python" / "src") for path in (ROOT / "python" / "src").rglob("*.py")]
    assert {str(path) for path in sources} <= set(names)
    assert {"trainyard/py.typed", "trainyard/LICENSE", "trainyard/v1/jobs_pb2.pyi"} <= set(names)
    for path in built.iterdir():
        path.touch()
    again = _build(built, tmp_path / "two")
    assert (again.name, again.read_bytes()) == (wheel.name, wheel.read_bytes())


def test_the_real_programs_need_nothing_that_pip_does_not_install(tmp_path: Path) -> None:
    staged = tmp_path / "bin"
    platform = programs.stage(PROGRAMS, staged)
    assert re.fullmatch(r"manylinux_2_\d+_x86_64", platform)
    # Where they were built is nobody's business.
    dynamic = subprocess.run(
        ["readelf", "--dynamic", staged / "trainyard-trainer"], capture_output=True, text=True, check=True
    )
    assert "[$ORIGIN/../../torch/lib]" in dynamic.stdout
    assert str(ROOT) not in dynamic.stdout
    with pytest.raises(SystemExit, match="is missing; run `make build`, or name the programs' folder by TRAINYARD_"):
        programs.stage(tmp_path, staged)
