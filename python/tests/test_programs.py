"""What starts the programs of the wheel: which torch it finds, and what it says where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from build_parts import programs
from build_parts.version import ROOT

NAMES = {"yard": "yard", "scheduler": "trainyard-scheduler", "agent": "trainyard-agent", "trainer": "trainyard-trainer"}
#: Prints how it was started.
PROGRAM = '#!/bin/sh\necho "$0 $*|$LD_LIBRARY_PATH"\n'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of packages with the entry points and programs that tell how they were started."""
    site = tmp_path / "site"
    (site / "trainyard" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "python" / "src" / "trainyard_programs.py", site)
    for name in NAMES.values():
        program = site / "trainyard" / "bin" / name
        program.write_text(PROGRAM)
        program.chmod(0o755)
    return site


def _install_torch(site: Path, version: str) -> Path:
    libraries = site / "torch" / "lib"
    libraries.mkdir(parents=True)
    (libraries / "libtorch_cpu.so").touch()
    (site / "torch" / "__init__.py").write_text("raise SystemExit('torch was imported')\n")
    (site / "torch" / "version.py").write_text(f"__version__ = '{version}'\n")
    return libraries


def _start(site: Path, entry: str, *arguments: str, more: Path | None = None) -> tuple[int, str]:
    path = os.pathsep.join(map(str, [site, *([more] if more else [])]))
    script = f"import trainyard_programs; trainyard_programs.{entry}()"
    command = [sys.executable, "-c", script, *arguments]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


def test_a_client_and_a_scheduler_need_no_torch(site: Path) -> None:
    bin_folder = site / "trainyard" / "bin"
    assert _start(site, "yard", "jobs", "-o", "json") == (0, f"{bin_folder}/yard jobs -o json|")
    assert _start(site, "scheduler") == (0, f"{bin_folder}/trainyard-scheduler |")
    assert _start(site, "agent", "join", "lab")[0] == 0
    assert _start(site, "agent", "--help")[0] == 0
    assert _start(site, "yard", "--server", "up", "jobs")[0] == 0


@pytest.mark.parametrize(("entry", "arguments"), [("yard", ["-o", "json", "up"]), ("agent", []), ("trainer", ["info"])])
def test_what_trains_says_in_one_line_that_torch_is_missing(site: Path, entry: str, arguments: list[str]) -> None:
    install = 'run `pip install "trainyard[trainer]"`'
    text = f"{NAMES[entry]}: training needs torch 2.13.0, which is not installed; {install}"
    assert _start(site, entry, *arguments) == (1, text)
    _install_torch(site, "2.12.1+cu130")
    text = f"{NAMES[entry]}: training needs torch 2.13.0, and torch 2.12.1+cu130 is installed; {install}"
    assert _start(site, entry, *arguments) == (1, text)


def test_torch_beside_the_package_is_found_by_the_trainer_and_elsewhere_by_the_loader(
    site: Path, tmp_path: Path
) -> None:
    elsewhere = _install_torch(tmp_path / "other", "2.13.0+cpu")
    assert _start(site, "agent", more=tmp_path / "other") == (0, f"{site}/trainyard/bin/trainyard-agent |{elsewhere}")
    _install_torch(site, "2.13.0")
    assert _start(site, "agent") == (0, f"{site}/trainyard/bin/trainyard-agent |")


def test_a_program_of_another_machine_and_one_that_is_missing_are_told(site: Path) -> None:
    program = site / "trainyard" / "bin" / "yard"
    # The header of a program for ARM.
    program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(44))
    code, text = _start(site, "yard")
    assert (code, text.count("\n")) == (1, 0)
    assert "cannot be started (Exec format error); it needs a Linux with glibc" in text
    # On a system without glibc its loader is not there.
    program.write_text("#!/lib64/ld-linux-of-another-system.so\n")
    assert "cannot be started (No such file or directory); it needs a Linux with glibc" in _start(site, "yard")[1]
    program.unlink()
    assert "is missing; install the package again: `pip install --force-reinstall trainyard`" in _start(site, "yard")[1]


def test_another_system_is_told_what_works_there(site: Path) -> None:
    (site / "platform.py").write_text(
        "def system(): return 'Darwin'\ndef machine(): return 'arm64'\ndef libc_ver(): return ('', '')\n"
    )
    code, text = _start(site, "yard", "jobs")
    assert (code, text.count("\n")) == (1, 0)
    assert "for Linux on x86-64 with glibc 2.35 or newer, and this is Darwin on arm64; the client works here" in text


def test_the_wheel_for_every_system_says_where_the_programs_are(site: Path) -> None:
    shutil.rmtree(site / "trainyard" / "bin")
    for entry, name in NAMES.items():
        code, text = _start(site, entry)
        assert (code, text.count("\n")) == (1, 0)
        assert text.startswith(f"{name}: this is the Python client alone: the programs are for Linux on x86-64 with")
        assert text.endswith(
            "the client works here: `import trainyard`; the wheel with `manylinux` in its name has the programs"
        )
    (site / "platform.py").write_text(
        "def system(): return 'Linux'\ndef machine(): return 'aarch64'\ndef libc_ver(): return ('', '')\n"
    )
    assert _start(site, "yard")[1].endswith(
        "and this is Linux on aarch64 without glibc; the client works here: `import trainyard`"
    )


def test_a_program_that_needs_what_pip_does_not_install_stops_the_build() -> None:
    none: dict[str, programs.Version] = {"GLIBC": (2, 2, 5)}
    trainer = programs.Needs(frozenset({"libc.so.6", "libtorch_cpu.so"}), none)
    assert programs.oldest_glibc("trainyard-trainer", trainer) == (2, 35)
    for name, library in (("yard", "libtorch_cpu.so"), ("trainyard-trainer", "libssl.so.3")):
        with pytest.raises(SystemExit, match=f"{name} needs {library}, which pip does not install"):
            programs.oldest_glibc(name, programs.Needs(frozenset({library}), none))


def test_the_tag_names_a_system_that_has_the_libraries() -> None:
    def of(**versions: programs.Version) -> programs.Version:
        return programs.oldest_glibc("yard", programs.Needs(frozenset(), versions))

    assert of(GLIBC=(2, 41), GLIBCXX=(3, 4, 11)) == (2, 41)
    assert of(GLIBC=(2, 34), GLIBCXX=(3, 4, 32)) == (2, 38)
    assert of(GLIBC=(2, 34), CXXABI=(1, 3, 15)) == (2, 39)
    with pytest.raises(SystemExit, match=r"needs GLIBCXX_3\.4\.99, which is newer than any system that is known"):
        of(GLIBCXX=(3, 4, 99))
