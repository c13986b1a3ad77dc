#!/usr/bin/env python3
"""Lays out libtorch for the image: the libraries that the trainer loads, with their licences, and no Python.

libtorch.py fetch FLAVOUR DIR          from PyPI's wheels, each checked by the SHA-256 in deploy/libtorch/FLAVOUR.lock
libtorch.py pick FLAVOUR FROM DIR      from a folder with torch/lib and nvidia/, such as a Python's site-packages
"""

import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent

# What the trainer needs of each flavour. The rest of torch is for Python, and for CUDA it has no use without a driver.
LIBRARIES = {
    "cpu": [
        "torch/lib/libc10.so",
        "torch/lib/libtorch_cpu.so",
        "torch/lib/libgomp*.so*",
        "nvidia/cu13/lib/libcudart.so*",
        "nvidia/cu13/lib/libcupti.so*",
    ],
    "cu130": ["torch/lib/lib*.so*", "nvidia/*/lib/*.so*", "nvidia/*/lib/*/*.so*"],
}
UNUSED = ["torch/lib/libtorch_python.so", "torch/lib/libshm*"]
LICENCES = ["torch-*.dist-info/*LICEN*", "nvidia_*.dist-info/*[Ll]icen*", "*.dist-info/licenses/*"]
# Every flavour has these; without one of them the folder is not what it was taken for.
NEEDED = {
    "cpu": ["torch/lib/libtorch_cpu.so", "nvidia/cu13/lib/libcudart.so.13"],
    "cu130": ["torch/lib/libtorch_cuda.so", "nvidia/cudnn/lib/libcudnn.so.9", "nvidia/cu13/lib/libcublas.so.13"],
}


def fail(message: str) -> None:
    """Ends with a sentence for people."""
    sys.exit(f"images: {message}")


def wanted(flavour: str, name: str) -> bool:
    """Whether the image has this file of a wheel."""
    if any(fnmatch.fnmatch(name, pattern) for pattern in UNUSED):
        return False
    return any(fnmatch.fnmatch(name, pattern) for pattern in LIBRARIES[flavour] + LICENCES)


def check(flavour: str, folder: Path, source: str) -> None:
    """Ends the program where the layout lacks what the trainer cannot start without."""
    missing = [name for name in NEEDED[flavour] if not (folder / name).exists()]
    if missing:
        fail(f"{source} has no {', '.join(missing)}, which the flavour {flavour} needs")


def fetch(flavour: str, target: Path) -> None:
    """Downloads the wheels and unpacks what is wanted. A layout of the same list is left as it is."""
    wheels = HERE.parent / "libtorch" / f"{flavour}.lock"
    digest = hashlib.sha256(wheels.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    stamp = target / "made-from"
    if stamp.exists() and stamp.read_text() == digest:
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    print(f"images: fetching libtorch ({flavour}) from PyPI", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=target.parent) as downloads:
        # The wheels of one Python, whatever the one that runs this: only C++ libraries are taken.
        platforms = [f"--platform={name}_x86_64" for name in ("manylinux_2_28", "manylinux_2_27", "manylinux_2_25",
                     "manylinux_2_18", "manylinux_2_17", "manylinux2014", "manylinux2010", "manylinux_2_5", "manylinux1")]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--require-hashes", "--only-binary=:all:", "--python-version=3.11", "--implementation=cp", *platforms,
                   "--dest", downloads, "--requirement", str(wheels)]
        if subprocess.run(command, check=False).returncode != 0:
            fail(f"pip cannot fetch the wheels of {wheels}")
        for wheel in sorted(Path(downloads).iterdir()):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if wanted(flavour, name):
                        archive.extract(name, target)
    check(flavour, target, "the list of wheels")
    stamp.write_text(digest)


def files(folder: Path) -> Iterator[str]:
    """Every file below a folder, by its path there. Links of folders are followed: site-packages may be one."""
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            yield str((Path(parent) / name).relative_to(folder))


def pick(flavour: str, source: Path, target: Path) -> None:
    """Takes what is wanted out of a folder; as links where the file system has them."""
    check(flavour, source, str(source))
    for top in source.iterdir():
        if not (top.name in ("torch", "nvidia") or top.name.endswith(".dist-info")):
            continue
        for inner in files(top) if top.is_dir() else ():
            name = f"{top.name}/{inner}"
            if not wanted(flavour, name):
                continue
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            real = (source / name).resolve()
            try:
                os.link(real, target / name)
            except OSError:
                shutil.copy2(real, target / name)


def main() -> None:
    """Does what the first argument says."""
    match sys.argv[1:]:
        case ["fetch", flavour, target] if flavour in LIBRARIES:
            fetch(flavour, Path(target))
        case ["pick", flavour, source, target] if flavour in LIBRARIES:
            pick(flavour, Path(source), Path(target))
        case _:
            sys.exit(__doc__)


main()
