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


def _build(built: Path, out: Path, **more: str) -> Path:
    """A wheel into `out`, where wheels may lie already."""
    before = set(out.glob("*.whl"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(out), programs.VARIABLE: str(built), **more}
    done = subprocess.run(
        [*command, str(ROOT / "python")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = set(out.glob("*.whl")) - before
    return wheel


def _small_programs(folder: Path) -> Path:
    """Packing them is quick."""
    built = folder / "built"
    built.mkdir()
    for name in programs.NAMES:
        shutil.copy(shutil.which("true") or "", built / name)
    return built


def _pip(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both wheels, as `make wheel` makes them."""
    folder = tmp_path_factory.mktemp("wheels")
    built = _small_programs(folder)
    _build(built, folder)
    # It needs no programs.
    client = _build(folder / "nothing", folder, TRAINYARD_WHEEL="client")
    assert client.name == f"trainyard-{__version__}-py3-none-any.whl"
    return folder


@pytest.mark.parametrize(
    ("platform", "wanted"),
    [
        ("manylinux_2_39_x86_64", "manylinux"),
        ("macosx_11_0_arm64", "any"),
        ("win_amd64", "any"),
        ("manylinux_2_39_aarch64", "any"),
        ("musllinux_1_2_x86_64", "any"),
        ("manylinux_2_31_x86_64", "any"),
    ],
)
def test_pip_takes_the_wheel_that_fits_the_system(wheels: Path, tmp_path: Path, platform: str, wanted: str) -> None:
    # pip for another system takes the tags that it is told, and no older ones.
    platforms = [platform] if "2_39_x86" not in platform else [f"manylinux_2_{minor}_x86_64" for minor in range(17, 40)]
    options = [f"--platform={one}" for one in platforms]
    _pip(
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-index",
        f"--find-links={wheels}",
        "--dest",
        tmp_path,
        *options,
        "trainyard",
    )
    [taken] = tmp_path.glob("*.whl")
    assert wanted in taken.name


def test_the_wheel_for_every_system_is_the_client_without_programs(wheels: Path, tmp_path: Path) -> None:
    [client] = wheels.glob("*-any.whl")
    with zipfile.ZipFile(client) as content:
        names = content.namelist()
    assert not [name for name in names if name.startswith("trainyard/bin")]
    assert {"trainyard/v1/jobs_pb2.py", "trainyard/_version.py", "trainyard/LICENSE"} <= set(names)
    _pip("install", "--quiet", "--no-deps", "--no-index", "--target", tmp_path, client)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    asked = run(
        sys.executable, "-c", "import trainyard; print(trainyard.__version__, trainyard.Client('lab', token=''))"
    )
    assert (asked.stdout, asked.stderr) == (f"{__version__} Client('http://lab:7433')\n", "")
    started = run(tmp_path / "bin" / "yard", "jobs")
    assert (started.returncode, started.stderr.count("\n")) == (1, 1)
    assert "this is the Python client alone: the programs are for Linux on x86-64" in started.stderr


def test_a_wheel_that_is_not_known_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="TRAINYARD_WHEEL is `macos`; use `client`"):
        _build(tmp_path, tmp_path, TRAINYARD_WHEEL="macos")


def test_a_wheel_has_everything_and_the_same_input_makes_the_same_bytes(tmp_path: Path) -> None:
    built = _small_programs(tmp_path)
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
