"""The programs that go into a wheel: stripped, told where libtorch is, and checked for what they need."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from build_parts.version import ROOT

NAMES = ("yard", "trainyard-scheduler", "trainyard-agent", "trainyard-trainer")
#: Another folder than target/release.
VARIABLE = "TRAINYARD_PROGRAMS"
#: From `trainyard/bin` to where pip puts torch, if it is the same folder of packages.
_RUNPATH = "$ORIGIN/../../torch/lib"

#: What each Linux with glibc has, as the rules of manylinux say (PEP 600).
_SYSTEM = {
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libstdc++.so.6",
}
#: What the package torch brings.
_TORCH = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1"}
#: Newest versions of the other libraries that a system with glibc 2.35 has: Ubuntu 22.04.
_NEWEST = {"GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13), "GCC": (12, 0, 0), "GOMP": (5, 0)}


@dataclass(frozen=True)
class Needs:
    """What one program needs of the system that it runs on."""

    libraries: frozenset[str]
    #: Versions of symbols by the library's prefix: GLIBC, GLIBCXX ...
    versions: dict[str, tuple[int, ...]]


def folder() -> Path:
    """Where the programs were built."""
    return Path(os.environ.get(VARIABLE) or ROOT / "target" / "release").resolve()


def stage(built: Path, staged: Path) -> str:
    """Copies the programs, stripped; returns the wheel's platform tag. SystemExit says what a program must not need."""
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    glibc: tuple[int, ...] = (2, 17)
    for name in NAMES:
        if not (built / name).is_file():
            raise SystemExit(f"{built / name} is missing; run `make build`, or name the programs' folder by {VARIABLE}")
        program = staged / name
        _run("strip", "--strip-all", "-o", str(program), str(built / name))
        _place_libtorch(program)
        program.chmod(0o755)
        needs = needs_of(program)
        check(name, needs)
        glibc = max(glibc, needs.versions.get("GLIBC", glibc)[:2])
    return f"manylinux_{glibc[0]}_{glibc[1]}_x86_64"


def check(name: str, needs: Needs) -> None:
    """Refuses a program that needs what neither every system nor torch has."""
    allowed = _SYSTEM | _TORCH if name == "trainyard-trainer" else _SYSTEM
    foreign = sorted(needs.libraries - allowed)
    if foreign:
        raise SystemExit(f"{name} needs {', '.join(foreign)}, which pip does not install; link it statically")
    for library, newest in _NEWEST.items():
        found = needs.versions.get(library, (0,))
        if found > newest:
            shown = ".".join(map(str, found))
            raise SystemExit(f"{name} needs {library}_{shown}, which Ubuntu 22.04 lacks; build it on an older system")


def needs_of(program: Path) -> Needs:
    """Reads the dynamic section and the versions of symbols."""
    dynamic = _run("readelf", "--wide", "--dynamic", str(program))
    versions: dict[str, tuple[int, ...]] = {}
    for line in _run("readelf", "--wide", "--version-info", str(program)).splitlines():
        found = re.search(r"Name: ([A-Z]+)_([0-9.]+)\s+Flags: (\S+)", line)
        # What is weak is used where it is there.
        if found and "WEAK" not in found[3]:
            version = tuple(int(part) for part in found[2].split("."))
            versions[found[1]] = max(versions.get(found[1], version), version)
    return Needs(frozenset(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)), versions)


def _place_libtorch(program: Path) -> None:
    """Says where libtorch is, instead of the folder that the program was built in."""
    found = re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.+)\]", _run("readelf", "--wide", "--dynamic", str(program)))
    if found:
        _run("patchelf", "--set-rpath", _RUNPATH, str(program))


def _run(*command: str) -> str:
    try:
        environment = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} was not found; run `make setup`") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(command)} failed: {error.stderr.strip()}") from None
