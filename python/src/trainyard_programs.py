"""Starts the programs that lie in the package `trainyard`. Apart from it, so that `yard` starts at once.

Each entry point becomes its program: same process, same arguments. Machines that train need libtorch, which is part of
the package torch.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
from pathlib import Path
from typing import NoReturn

_PACKAGE = Path(__file__).resolve().parent / "trainyard"
#: The version that the trainer is linked against; libtorch promises nothing to others.
_TORCH = "2.13.0"
_INSTALL = 'run `pip install "trainyard[trainer]"`'
#: Options of `yard` that take the word after them.
_WITH_VALUE = {"--server", "--token", "--ca", "--as", "--output", "-o", "--color"}


def yard() -> NoReturn:
    """`yard`. Only `yard up` trains on this machine."""
    _become("yard", trains=_command(sys.argv[1:]) == "up")


def scheduler() -> NoReturn:
    """`trainyard-scheduler`."""
    _become("trainyard-scheduler", trains=False)


def agent() -> NoReturn:
    """`trainyard-agent`. It tells its configuration and joins a cluster without libtorch."""
    _become("trainyard-agent", trains=_command(sys.argv[1:]) not in ("config", "join", "help"))


def trainer() -> NoReturn:
    """`trainyard-trainer`."""
    _become("trainyard-trainer", trains=True)


def _command(words: list[str]) -> str:
    """The command among the words of a command line; empty for none, or where only help is wanted."""
    if any(word in ("--help", "-h", "--version", "-V") for word in words):
        return "help"
    rest = iter(words)
    for word in rest:
        if word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return ""


def _become(name: str, *, trains: bool) -> NoReturn:
    program = _PACKAGE / "bin" / name
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        _fail(
            name,
            f"the programs of this package are for Linux on x86-64, and this is {platform.system()} on "
            f"{platform.machine()}; the Python client works here, the cluster needs such a machine",
        )
    environment = dict(os.environ)
    libraries = _libtorch()
    if trains:
        problem = _torch_problem(libraries)
        if problem:
            _fail(name, problem)
    # The trainer finds it by itself where it is beside this package. Elsewhere the loader is told.
    if libraries is not None and libraries != _PACKAGE.parent / "torch" / "lib":
        known = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = f"{libraries}:{known}" if known else str(libraries)
    try:
        os.execve(program, [name, *sys.argv[1:]], environment)
    except OSError as error:
        if program.is_file():
            _fail(
                name,
                f"{program} cannot be started ({error.strerror}); it needs a Linux with glibc, "
                "which Alpine, for one, is not",
            )
        _fail(name, f"{program} is missing; install the package again: `pip install --force-reinstall trainyard`")


def _libtorch() -> Path | None:
    """Where libtorch is; None where torch is not installed. Nothing of torch is run."""
    found = importlib.util.find_spec("torch")
    folders = list(found.submodule_search_locations or ()) if found else []
    return Path(folders[0]) / "lib" if folders else None


def _torch_problem(libraries: Path | None) -> str:
    if libraries is None or not (libraries / "libtorch_cpu.so").exists():
        return f"training needs torch {_TORCH}, which is not installed; {_INSTALL}"
    try:
        text = (libraries.parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        text = ""
    version = re.search(r"__version__ = '([^']+)'", text)
    found = version[1] if version else "of an unknown version"
    if found.partition("+")[0] == _TORCH:
        return ""
    return f"training needs torch {_TORCH}, and torch {found} is installed; {_INSTALL}"


def _fail(name: str, text: str) -> NoReturn:
    sys.exit(f"{name}: {text}")
