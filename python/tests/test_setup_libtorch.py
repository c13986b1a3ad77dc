"""trainyard-setup-libtorch fetches by the pip that a machine has: its own, or that of virtual environments."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from build_parts.version import ROOT

SCRIPT = ROOT / "deploy" / "deb" / "trainyard-trainer" / "trainyard-setup-libtorch"
#: Says who it is, and where it copies through.
PIP = "import os, sys\nif 'download' in sys.argv: sys.exit(f'{NAME} fetches through {os.environ[\"TMPDIR\"]}')\n"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without pip."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


def _wheel(folder: Path, version: str) -> None:
    with zipfile.ZipFile(folder / f"pip-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pip/__init__.py", "")
        wheel.writestr("pip/__main__.py", f"NAME = 'pip {version}'\n{PIP}")


def _download(bare: Path, wheels: Path, into: Path) -> tuple[int, str]:
    environment = {
        "PATH": os.environ["PATH"],
        "TRAINYARD_PIP_WHEELS": str(wheels),
        "TRAINYARD_LIBTORCH_LOCKS": str(ROOT / "deploy" / "libtorch"),
    }
    command: list[str | Path] = [bare / "bin" / "python", SCRIPT, "cpu", "--download", into]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_pip_of_virtual_environments_will_do(bare: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    code, said = _download(bare, wheels, tmp_path / "into")
    assert code == 1
    assert said == (
        "trainyard-setup-libtorch: pip is missing: apt-get install python3-pip-whl, or give a folder of wheels with "
        "--wheelhouse\n"
    )
    _wheel(wheels, "22.0")
    assert f"pip 22.0 fetches through {tmp_path}/into" in _download(bare, wheels, tmp_path / "into")[1]


def test_a_pip_that_is_installed_comes_first(bare: Path, tmp_path: Path) -> None:
    _wheel(tmp_path, "22.0")
    [packages] = (bare / "lib").glob("python3*/site-packages")
    (packages / "pip").mkdir()
    (packages / "pip" / "__main__.py").write_text(f"NAME = 'its own pip'\n{PIP}")
    assert "its own pip fetches through" in _download(bare, tmp_path, tmp_path / "into")[1]


def test_the_package_recommends_that_pip_and_no_compilers() -> None:
    control = (SCRIPT.parent / "control").read_text()
    assert "\nRecommends: python3-pip-whl\n" in control
