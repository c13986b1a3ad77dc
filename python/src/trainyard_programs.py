"""Starts the programs that lie in the package `trainyard`. Apart from it, so that `yard` starts at once. Where they
cannot run, the package has none, and this says what works there.

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
#: Of the oldest system that they may be built for; the wheel's name has the one that they need.
_OLDEST_GLIBC = "2.35"
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
    if not program.parent.is_dir() or not _has_the_right_processor():
        _fail(name, _where_programs_run())
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


def _has_the_right_processor() -> bool:
    return platform.system() == "Linux" and platform.machine() in ("x86_64", "AMD64")


def _where_programs_run() -> str:
    libc, version = platform.libc_ver()
    here = f"{platform.system()} on {platform.machine()}"
    if platform.system() == "Linux":
        here += f" with {libc} {version}" if libc else " without glibc"
    # Who has asked for the wrong file can have the other one.
    may_run = _has_the_right_processor() and libc == "glibc"
    other = "; the wheel with `manylinux` in its name has the programs" if may_run else ""
    return (
        f"this is the Python client alone: the programs are for Linux on x86-64 with glibc {_OLDEST_GLIBC} or newer, "
        f"and this is {here}; the client works here: `import trainyard`{other}"
    )


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
